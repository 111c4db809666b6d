if plan.is_demo:

    rule demo_slide:
        output:
            f"{OUT}/demo/slides/{{slide}}.tiff",
        log:
            f"{OUT}/logs/demo/{{slide}}.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            folder=subpath(output[0], ancestor=2),
            options=plan.options("demo"),
            code=plan.code("demo"),
        shell:
            "lowmag demo --out {params.folder:q} --slide {wildcards.slide} --options {params.options:q} > {log:q} 2>&1"

    rule demo_sheet:
        output:
            f"{OUT}/demo/slides.csv",
        log:
            f"{OUT}/logs/demo_sheet.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            folder=subpath(output[0], parent=True),
            options=plan.options("demo"),
            code=plan.code("demo"),
        shell:
            "lowmag demo --out {params.folder:q} --sheet --options {params.options:q} > {log:q} 2>&1"
