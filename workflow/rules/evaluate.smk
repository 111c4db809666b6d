if not plan.from_pictures:

    # Asks for the threads of a prediction, so that both halves of the seconds per slide are timed alike.
    rule reading:
        input:
            records=every_slide("slides/{slide}.json"),
            tiles=f"{OUT}/tiles.tsv",
            splits=f"{OUT}/splits.csv",
        output:
            f"{OUT}/evaluation/reading.tsv",
        log:
            f"{OUT}/logs/reading.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: plan.job("predictions").threads
        resources:
            mem_mb=plan.job("slide").mem_mb,
            runtime=plan.job("slide").runtime,
        params:
            records=folder_of_records,
            tiles=subpath(input.tiles, strip_suffix=".tsv"),
            slides=plan.config.evaluation.reading_slides,
            code=plan.code("reading"),
        shell:
            "lowmag reading --records {params.records:q} --tiles {params.tiles:q} --splits {input.splits:q}"
            " --slides {params.slides} --out {output:q} > {log:q} 2>&1"


rule evaluate:
    input:
        tiles=every_prediction("tiles.parquet"),
        slides=every_prediction("slides.parquet"),
        cost=every_prediction("cost.json"),
        reading=reading_table(),
    output:
        metrics=report(
            f"{OUT}/evaluation/metrics.tsv",
            caption="../report/metrics.rst",
            category="2 Results",
            labels={"table": "metrics with intervals"},
        ),
        comparisons=report(
            f"{OUT}/evaluation/comparisons.tsv",
            caption="../report/comparisons.rst",
            category="2 Results",
            labels={"table": "paired comparisons"},
        ),
        cost=report(
            f"{OUT}/evaluation/cost.tsv",
            caption="../report/cost.rst",
            category="2 Results",
            labels={"table": "cost per magnification"},
        ),
        how_low=f"{OUT}/evaluation/how_low.tsv",
        added_terms=f"{OUT}/evaluation/added_terms.tsv",
        summary=f"{OUT}/evaluation/summary.json",
    log:
        f"{OUT}/logs/evaluate.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        predictions=folder_of_predictions,
        out=subpath(output.metrics, parent=True),
        reading=reading_flag,
        study=plan.study_options(),
        code=plan.code("evaluate"),
    shell:
        "lowmag evaluate --predictions {params.predictions:q} {params.reading} --out {params.out:q}"
        " --study {params.study:q} > {log:q} 2>&1"
