if not plan.from_pictures:

    rule slides:
        input:
            every_tile_file(),
        localrule: True

    # For a cluster: many slides in one job, which runs this workflow on them as a workstation would. Every slide stays
    # a job of its own to Snakemake. What is to be done is listed before (take_slides_in_chunks).
    rule chunks:
        input:
            chunks_of_batch,
        output:
            touch(f"{OUT}/chunks/{{batch}}.done"),
        localrule: True

    rule chunk:
        input:
            f"{OUT}/chunks/{{batch}}/{{number}}.json",
        output:
            touch(f"{OUT}/chunks/{{batch}}/{{number}}.done"),
        log:
            f"{OUT}/logs/chunks/{{batch}}/{{number}}.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: plan.job("chunk").threads
        resources:
            mem_mb=plan.job("chunk").mem_mb,
            runtime=plan.job("chunk").runtime,
        params:
            python=sys.executable,
            snakefile=workflow.main_snakefile,
            options=options_of_chunk,
            target=f"{OUT}/chunks/{{batch}}/{{number}}.slides",
        shell:
            "{params.python:q} -m snakemake --snakefile {params.snakefile:q} --cores {threads} {params.options:q}"
            " --profile none --workflow-profile none --nolock --no-hooks --keep-going --rerun-incomplete"
            " --show-failed-logs -- {params.target:q} > {log:q} 2>&1"

    rule slides_of_chunk:
        input:
            files_of_chunk,
        output:
            touch(f"{OUT}/chunks/{{batch}}/{{number}}.slides"),
        localrule: True
