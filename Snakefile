from snakemake.utils import min_version

min_version("9.25")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


# Counted on a workstation alone: on a cluster the scheduler does.
resource_scopes:
    gpu="local",


include: "workflow/rules/common.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/tiles.smk"
include: "workflow/rules/batches.smk"
include: "workflow/rules/chunks.smk"
include: "workflow/rules/qc.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/students.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{OUT}/report.html",
        qc_page(),
        f"{OUT}/provenance.json",
    localrule: True


onstart:
    refuse_unwritable()
    say_device()
    say_missing_features()
    take_slides_in_chunks()
    ownership.begin(Path(OUT))
    check_networks()


onerror:
    say_unwritable()
