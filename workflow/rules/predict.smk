rule predictions:
    input:
        model=f"{OUT}/{{run}}/model.safetensors",
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
    output:
        tiles=f"{OUT}/predictions/{{run}}/tiles.parquet",
        slides=f"{OUT}/predictions/{{run}}/slides.parquet",
        cost=f"{OUT}/predictions/{{run}}/cost.json",
    log:
        f"{OUT}/logs/predictions/{{run}}.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: plan.job("predictions").threads
    resources:
        gpu=1,
        mem_mb=plan.job("predictions").mem_mb,
        runtime=plan.job("predictions").runtime,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        out=subpath(output.tiles, parent=True),
        features=features_flag,
        digest=features_digest,
        code=plan.code("predict"),
    shell:
        "lowmag predict --model {input.model:q} --tiles {params.tiles:q} --splits {input.splits:q}"
        " --out {params.out:q} {params.features} --threads {threads} > {log:q} 2>&1"
