# What most jobs wait for goes first.
rule teacher:
    input:
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
    output:
        model=f"{OUT}/teacher/seed{{seed}}/model.safetensors",
        metrics=f"{OUT}/teacher/seed{{seed}}/metrics.csv",
        run=f"{OUT}/teacher/seed{{seed}}/run.json",
    log:
        f"{OUT}/logs/teacher/seed{{seed}}.log",
    priority: 2
    conda:
        "../../envs/lowmag.yaml"
    threads: plan.job("teacher").threads
    resources:
        gpu=plan.config.teacher.gpus,
        nodes=1,
        mem_mb=plan.job("teacher").mem_mb,
        runtime=plan.job("teacher").runtime,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        out=subpath(output.model, parent=True),
        tensorboard=tensorboard_flag,
        state=f"{OUT}/state/teacher/seed{{seed}}",
        classes=plan.class_names,
        magnification=plan.config.tiles.teacher,
        options=plan.teacher_options(),
        weights=plan.teacher_weights(),
        features=plan.features,
        code=plan.teacher_code(),
    shell:
        "lowmag teacher --tiles {params.tiles:q} --splits {input.splits:q} --classes {params.classes:q}"
        " --magnification {params.magnification} --seed {wildcards.seed} --out {params.out:q}"
        " --state {params.state:q} --budget {resources.runtime} --threads {threads} {params.tensorboard}"
        " --gpus {resources.gpu}"
        " --options {params.options:q} > {log:q} 2>&1"


# The record stands for the files beside it, which are no outputs: what a method that is added reads beyond them, its
# students have written themselves, without a new record that would train all others again.
rule targets:
    input:
        teacher=f"{OUT}/teacher/seed{{seed}}/model.safetensors",
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
    output:
        record=f"{OUT}/targets/seed{{seed}}/targets.json",
    log:
        f"{OUT}/logs/targets/seed{{seed}}.log",
    priority: 1
    conda:
        "../../envs/lowmag.yaml"
    threads: plan.job("targets").threads
    resources:
        gpu=1,
        mem_mb=plan.job("targets").mem_mb,
        runtime=plan.job("targets").runtime,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        out=subpath(output.record, parent=True),
        options=options_of_targets,
        features=plan.features,
        code=plan.code("targets"),
    shell:
        "lowmag targets --teacher {input.teacher:q} --tiles {params.tiles:q} --splits {input.splits:q}"
        " --out {params.out:q} --threads {threads} --options {params.options:q} > {log:q} 2>&1"
