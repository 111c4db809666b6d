import atexit
import gc
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

PACKAGE_FOLDER = str(Path(workflow.basedir, "workflow"))
sys.path.insert(0, PACKAGE_FOLDER)

from lowmag import chunks, gate, gpus, own_code, ownership
from lowmag.errors import UserError
from lowmag.magnification import name_of
from lowmag.plan import Plan
from lowmag.scores import FIGURES
from lowmag.study import Run

# The graph of a large cohort is millions of objects that stay; looking them through for garbage took a tenth of its time.
gc.set_threshold(100_000, 50, 100)

# A job that waited in a queue while Snakemake was begun anew would remove what that has made.
try:
    ownership.refuse_outlived(Path(config.get("outdir", "results")))
    plan = Plan(config)
    CLASSES, SLIDES = plan.classes, list(plan.slides)
except UserError as problem:
    raise WorkflowError(str(problem))

OUT = plan.outdir
STUDENT_MAGNIFICATIONS = plan.student_names()


wildcard_constraints:
    slide=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    seed=r"\d+",
    magnification=r"[0-9.]+x",
    share=r"\d+",
    batch=r"[0-9-]+",
    number=r"\d+",
    method=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    run=r"(teacher|students)/.+",


# In an environment made by `--sdm conda` there is no command `lowmag`.
IN_CONDA = "conda" in {
    method.name.lower() for method in workflow.deployment_settings.deployment_method
}
shell.prefix(own_code.shell_prefix(has_command=not IN_CONDA))

# To Snakemake `gpu` is a counter; which device is whose, the jobs settle among themselves (lowmag.gpus). On a cluster
# (--jobs) the scheduler counts, whatever the machine has that Snakemake was started on.
GPUS = gpus.visible() if workflow.is_main_process else []
is_cluster = workflow.resource_settings.nodes is not None
if GPUS and not is_cluster and "gpu" not in workflow.global_resources:
    workflow.global_resources["gpu"] = len(GPUS)


def say_device():
    if not GPUS and workflow.local_exec:
        logger.info(
            "No GPU was found here: teacher, targets, students and predictions run on the CPU."
        )


# Only of the teacher: with a rule of its own for it there would be two that make predictions.
def features_flag(wildcards):
    folder = plan.config.teacher.features
    is_teacher = wildcards.run.startswith("teacher/")
    return f"--features {shlex.quote(folder)}" if folder and is_teacher else ""


def patch_gmac_flag(wildcards):
    gmac = plan.config.teacher.patch_gmac
    return f"--patch-gmac {gmac}" if gmac and features_flag(wildcards) else ""


def features_digest(wildcards):
    return plan.features if features_flag(wildcards) else ""


def slide_head_of_run(wildcards):
    is_asked = plan.config.evaluation.slide_score == "attention"
    return f"{OUT}/{wildcards.run}/slide_head.safetensors" if is_asked else []


def slide_head_flag(wildcards, input):
    return f"--slide-head {shlex.quote(input.slide_head)}" if input.slide_head else ""


def seed_of_run(wildcards):
    return wildcards.run.rpartition("seed")[2]


def say_missing_features():
    if absent := plan.without_features:
        logger.warning(
            f"teacher.features: {len(absent)} of {len(plan.slides)} slides have no file there "
            f"({', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}); the study stops before it trains "
            "unless they have no tiles."
        )


def check_networks():
    try:
        gate.check_networks(plan.config)
    except UserError as problem:
        raise WorkflowError(str(problem))


def refuse_unwritable():
    if problem := gate.problem_of_writing(Path(OUT)):
        raise WorkflowError(problem)


def say_unwritable():
    if problem := gate.problem_of_writing(Path(OUT)):
        logger.error(problem)


def refuse_bad_slides():
    executed = (
        workflow.is_main_process
        and workflow.executor_plugin
        and not workflow.dryrun
        and not workflow.execution_settings.no_hooks  # within a chunk
    )
    if executed and plan.config.on_bad_slide == "fail":
        gate.exit_on_bad_slides(Path(OUT))


# Snakemake calls no handler when there is nothing to do, and a rule that failed would lose the table.
atexit.register(refuse_bad_slides)


# The plugin for slow disks (fs) takes paths, and recognises no address as its own.
def path_of_slide(wildcards):
    address = plan.address(wildcards.slide)
    if not address:
        return str(plan.slides[wildcards.slide].path)
    if address.startswith("fs://"):
        return storage.fs(address.removeprefix("fs://"))
    return storage(address)


# A cohort copied to another disk is still the same cohort: only a file of another size (rule inspect) is another slide.
def slide_file():
    return path_of_slide if plan.is_demo else ancient(path_of_slide)


# Snakemake calls a function anew for every slide, which is much of what laying out a large cohort takes. Where the
# sheet says nothing of the kind on any slide, what it says of one is said of all. Not for what is derived of `input`: a
# constant would be recorded as a reason to run again.
def by_slide(function, column, usual=None):
    has_any = any(getattr(slide, column) != usual for slide in plan.slides.values())
    return function if has_any else function(SimpleNamespace(slide=SLIDES[0]))


def mpp_flag(wildcards):
    mpp = plan.slides[wildcards.slide].mpp
    return f"--mpp {mpp}" if mpp else ""


def annotations_of_slide(wildcards):
    return plan.slides[wildcards.slide].annotations or []


def coords_of_slide(wildcards):
    return plan.slides[wildcards.slide].coords or []


# Classes and names in files stand in the params of annotated slides alone: the others keep their tiles. Not of
# `input`, or Snakemake takes it for derived from the files and reruns nothing when it changes.
def labels_flags(wildcards):
    if not plan.slides[wildcards.slide].annotations:
        return ""
    return (
        f"{classes_flag()} --labels-options {shlex.quote(plan.options('annotations'))}"
    )


def classes_flag():
    return f"--classes {shlex.quote(plan.class_names)}"


def tiles_flags(wildcards, input):
    files = {"annotations": input.annotations, "coords": input.coords}
    return " ".join(f"--{k} {shlex.quote(str(v))}" for k, v in files.items() if v)


def tiles_code(wildcards):
    entry = plan.slides[wildcards.slide]
    return plan.code("tiles", *(["tile_labels"] if entry.annotations else []))


def mask_of_slide(wildcards):
    return plan.slides[wildcards.slide].mask or []


def mask_flag(wildcards, input):
    return f"--mask {shlex.quote(str(input.mask))}" if input.mask else ""


def origin_flag(wildcards):
    is_given = plan.slides[wildcards.slide].mask
    return f"--origin {plan.config.annotations.origin}" if is_given else ""


def tissue_options(wildcards):
    return plan.tissue_options(wildcards.slide)


def tissue_model(wildcards):
    return "" if plan.slides[wildcards.slide].mask else plan.tissue_model


# A slide depends on the code of masks or networks only where its tissue comes from one.
def tissue_code(wildcards):
    mask, model = plan.slides[wildcards.slide].mask, plan.config.tissue.model
    return plan.code("tissue", *(["masks"] if mask else ["segmenter"] if model else []))


def every_annotation():
    return [
        str(slide.annotations) for slide in plan.slides.values() if slide.annotations
    ]


def regions_flags():
    if not plan.is_annotated:
        return ""
    return f"{classes_flag()} --annotations {shlex.quote(plan.options('annotations'))}"


def slide_size(wildcards):
    return plan.slide_size(wildcards.slide)


def every_slide(pattern):
    return [f"{OUT}/{pattern.format(slide=slide)}" for slide in SLIDES]


def every_tile_file():
    return every_slide("tiles/{slide}.h5")


def every_prediction(table):
    return [f"{OUT}/predictions/{model}/{table}" for model in plan.models]


def method_terms(wildcards):
    return plan.method(wildcards.method)


def student_targets(wildcards):
    if not plan.reads_targets(wildcards.method):
        return []
    return f"{OUT}/targets/seed{wildcards.seed}/targets.json"


def student_run(wildcards):
    magnification = float(magnification_number(wildcards))
    share, seed = int(wildcards.share), int(wildcards.seed)
    return Run(wildcards.method, magnification, share, seed)


def student_initial(wildcards):
    folder = plan.initial(student_run(wildcards))
    return f"{OUT}/{folder}/model.safetensors" if folder else []


def initial_flag(wildcards, input):
    return f"--initial {shlex.quote(str(input.initial))}" if input.initial else ""


def student_options(wildcards):
    return plan.student_options(student_run(wildcards))


def student_weights(wildcards):
    return plan.student_weights(wildcards.method)


def student_teacher(wildcards):
    if not plan.needs_teacher(wildcards.method):
        return []
    return f"{OUT}/teacher/seed{wildcards.seed}/model.safetensors"


def teacher_flags(wildcards, input):
    flags = {"teacher": input.teacher}
    if input.targets:
        magnification = float(magnification_number(wildcards))
        folder = plan.targets_folder(wildcards.method, magnification, wildcards.seed)
        flags |= {"targets": f"{OUT}/{folder}", "asked": plan.target_options()}
    return " ".join(f"--{k} {shlex.quote(str(v))}" for k, v in flags.items() if v)


# Of `input`, and so no reason to write targets again: those that are there stay right.
def options_of_targets(wildcards, input):
    return plan.target_options()


# Of `input`, and so no reason to train again.
def tensorboard_flag(wildcards, input):
    return "--tensorboard" if plan.config.tensorboard else ""


def magnification_number(wildcards):
    return wildcards.magnification.removesuffix("x")


def folder_of_records(wildcards, input):
    return str(Path(input.records[0]).parent)


def folder_of_predictions(wildcards, input):
    return str(Path(input.tiles[0]).parents[2])


def check_table():
    return [] if plan.from_pictures else f"{OUT}/check.tsv"


def qc_page():
    return [] if plan.from_pictures else f"{OUT}/qc.html"


def overlays():
    return [] if plan.from_pictures else every_slide("tissue/{slide}.png")


# Reading is timed where the slides lie on this machine: a copy from a store would be timed as one that is here.
def reading_table():
    return (
        [] if plan.from_pictures or plan.is_remote else f"{OUT}/evaluation/reading.tsv"
    )


def reading_flag(wildcards, input):
    return f"--reading {shlex.quote(str(input.reading))}" if input.reading else ""
