if not plan.from_pictures:

    # The verdicts come first by priority. `ancient(check.tsv)` in later rules would do so strictly, but Snakemake
    # then skips jobs with missing outputs whenever the table is made anew.
    rule inspect:
        input:
            slide=slide_file(),
        output:
            f"{OUT}/slides/{{slide}}.json",
        log:
            f"{OUT}/logs/inspect/{{slide}}.log",
        priority: 2
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=30,
        params:
            size=slide_size,
            mpp=by_slide(mpp_flag, "mpp"),
            magnification=plan.config.tiles.teacher,
            options=plan.options("check"),
            code=plan.code("check"),
        shell:
            "lowmag inspect --slide-id {wildcards.slide} --path {input.slide:q} {params.mpp}"
            " --magnification {params.magnification} --out {output:q} --options {params.options:q} > {log:q} 2>&1"

    rule check:
        input:
            sheet=plan.sheet,
            records=every_slide("slides/{slide}.json"),
        output:
            report(
                f"{OUT}/check.tsv",
                caption="../report/check.rst",
                category="1 Cohort",
                labels={"table": "verdict per slide"},
            ),
        log:
            f"{OUT}/logs/check.log",
        priority: 1
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=60,
        params:
            records=folder_of_records,
            magnification=plan.config.tiles.teacher,
            options=plan.options("check"),
            code=plan.code("check"),
        shell:
            "lowmag check --slides {input.sheet:q} --records {params.records:q} --out {output:q}"
            " --magnification {params.magnification} --options {params.options:q} > {log:q} 2>&1"

    rule tissue:
        input:
            record=f"{OUT}/slides/{{slide}}.json",
            slide=slide_file(),
            mask=by_slide(mask_of_slide, "mask"),
        output:
            outline=f"{OUT}/tissue/{{slide}}.geojson",
            overlay=report(
                f"{OUT}/tissue/{{slide}}.png",
                caption="../report/tissue.rst",
                category="1 Cohort",
                subcategory="tissue",
                labels={"slide": "{slide}"},
            ),
        log:
            f"{OUT}/logs/tissue/{{slide}}.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=plan.job("slide").mem_mb,
            runtime=plan.job("slide").runtime,
        params:
            options=by_slide(tissue_options, "tissue", plan.config.tissue),
            mask=mask_flag,
            origin=by_slide(origin_flag, "mask"),
            model=by_slide(tissue_model, "mask"),
            code=by_slide(tissue_code, "mask"),
        shell:
            "lowmag tissue --record {input.record:q} --outline {output.outline:q} --overlay {output.overlay:q}"
            " {params.mask} {params.origin} --options {params.options:q} > {log:q} 2>&1"
