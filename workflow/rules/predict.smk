rule slide_head:
    input:
        model=f"{OUT}/{{run}}/model.safetensors",
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
    output:
        f"{OUT}/{{run}}/slide_head.safetensors",
    log:
        f"{OUT}/logs/slide_head/{{run}}.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: plan.job("predictions").threads
    resources:
        gpu=1,
        mem_mb=plan.job("predictions").mem_mb,
        runtime=plan.job("predictions").runtime,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        seed=seed_of_run,
        features=features_flag,
        digest=features_digest,
        code=plan.code("slide_head"),
    shell:
        "lowmag slide-head --model {input.model:q} --tiles {params.tiles:q} --splits {input.splits:q}"
        " --seed {params.seed} --out {output:q} {params.features} --threads {threads} > {log:q} 2>&1"


rule predictions:
    input:
        model=f"{OUT}/{{run}}/model.safetensors",
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
        slide_head=slide_head_of_run,
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
        slide_head=slide_head_flag,
        features=features_flag,
        patch_gmac=patch_gmac_flag,
        digest=features_digest,
        code=plan.code("predict"),
    shell:
        "lowmag predict --model {input.model:q} --tiles {params.tiles:q} --splits {input.splits:q}"
        " --out {params.out:q} {params.features} {params.patch_gmac} {params.slide_head} --threads {threads}"
        " > {log:q} 2>&1"
