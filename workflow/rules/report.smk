rule figures:
    input:
        tiles=every_prediction("tiles.parquet"),
        metrics=f"{OUT}/evaluation/metrics.tsv",
        comparisons=f"{OUT}/evaluation/comparisons.tsv",
        cost=f"{OUT}/evaluation/cost.tsv",
        added_terms=f"{OUT}/evaluation/added_terms.tsv",
    output:
        report(
            expand(f"{OUT}/figures/{{figure}}.svg", figure=FIGURES),
            caption="../report/figures.rst",
            category="2 Results",
        ),
    log:
        f"{OUT}/logs/figures.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        predictions=folder_of_predictions,
        evaluation=subpath(input.metrics, parent=True),
        out=subpath(output[0], parent=True),
        study=plan.study_options(),
        code=plan.code("figures"),
    shell:
        "lowmag figures --predictions {params.predictions:q} --evaluation {params.evaluation:q}"
        " --out {params.out:q} --study {params.study:q} > {log:q} 2>&1"


rule gallery:
    input:
        teacher=f"{OUT}/{plan.models[0]}/model.safetensors",
        students=[f"{OUT}/{model}/model.safetensors" for model in plan.gallery],
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
    output:
        report(
            f"{OUT}/figures/gallery.png",
            caption="../report/gallery.rst",
            category="2 Results",
            labels={"figure": "gallery"},
        ),
    log:
        f"{OUT}/logs/gallery.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        code=plan.code("gallery"),
    shell:
        "lowmag gallery --teacher {input.teacher:q} --students {input.students:q} --tiles {params.tiles:q}"
        " --splits {input.splits:q} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        check=check_table(),
        overlays=overlays(),
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
        runs=[f"{OUT}/{model}/run.json" for model in plan.models],
        metrics=f"{OUT}/evaluation/metrics.tsv",
        summary=f"{OUT}/evaluation/summary.json",
        figures=expand(f"{OUT}/figures/{{figure}}.svg", figure=FIGURES),
        gallery=f"{OUT}/figures/gallery.png",
    output:
        report(
            f"{OUT}/report.html",
            caption="../report/report.rst",
            category="0 Report",
            labels={"page": "whole report"},
        ),
    log:
        f"{OUT}/logs/report.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        results=subpath(output[0], parent=True),
        study=plan.study_options(),
        template=plan.template("report.html.j2", "page.css", "sort.js"),
        code=plan.code("report"),
    shell:
        "lowmag report --results {params.results:q} --out {output:q} --study {params.study:q} > {log:q} 2>&1"


# Last of all: it reads the records that Snakemake keeps of the others.
rule provenance:
    input:
        report=f"{OUT}/report.html",
        qc=qc_page(),
    output:
        f"{OUT}/provenance.json",
    log:
        f"{OUT}/logs/provenance.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        results=subpath(output[0], parent=True),
        sheet=plan.sheet,
        config=plan.whole_config(),
        study=plan.study_options(),
        code=plan.code("lineage"),
    shell:
        "lowmag provenance --results {params.results:q} --sheet {params.sheet:q} --out {output:q}"
        " --config {params.config:q} --study {params.study:q} > {log:q} 2>&1"
