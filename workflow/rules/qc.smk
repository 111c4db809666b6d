if not plan.from_pictures:

    # The key says which number is which slide of an anonymised page. It is always made: for a rule that gains
    # an output Snakemake has no record to compare with, and the page with names would be kept.
    rule qc:
        input:
            check=check_table(),
            records=every_slide("slides/{slide}.json"),
            outlines=every_slide("tissue/{slide}.geojson"),
            overlays=overlays(),
            tiles=f"{OUT}/tiles.tsv",
        output:
            page=report(
                f"{OUT}/qc.html",
                caption="../report/qc.rst",
                category="0 Report",
                labels={"page": "slides of the cohort"},
            ),
            key=f"{OUT}/qc_key.tsv",
        log:
            f"{OUT}/logs/qc.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            results=subpath(output.page, parent=True),
            options=plan.options("qc"),
            template=plan.template(
                "qc.html.j2", "page.css", "qc.css", "sort.js", "qc.js"
            ),
            code=plan.code("qc"),
        shell:
            "lowmag qc --results {params.results:q} --out {output.page:q} --key {output.key:q}"
            " --options {params.options:q} > {log:q} 2>&1"
