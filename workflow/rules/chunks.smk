if not plan.from_pictures:

    # For a cluster: many slides in one job, which runs this workflow on them as a workstation would. Every slide stays
    # a job of its own to Snakemake, so that chunks of another size, or none, find its files and records as they are.
    rule slides:
        input:
            every_chunk(),
        localrule: True

    rule chunk:
        output:
            touch(f"{OUT}/chunks/{{chunk}}.done"),
        log:
            f"{OUT}/logs/chunks/{{chunk}}.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: plan.job("chunk").threads
        resources:
            mem_mb=plan.job("chunk").mem_mb,
            runtime=plan.job("chunk").runtime,
        params:
            snakefile=workflow.main_snakefile,
            config=CHUNK_CONFIG,
            target=f"{OUT}/chunks/{{chunk}}.tiles",
            digest=chunk_digest,
        shell:
            "python -m snakemake --snakefile {params.snakefile:q} --configfile {params.config:q} --cores {threads}"
            " --profile none --workflow-profile none --nolock --no-hooks --keep-going --rerun-incomplete"
            " --show-failed-logs {params.target:q} > {log:q} 2>&1"

    rule chunk_of_tiles:
        input:
            tiles_of_chunk,
        output:
            touch(f"{OUT}/chunks/{{chunk}}.tiles"),
        localrule: True
