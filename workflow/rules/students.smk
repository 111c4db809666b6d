rule student:
    input:
        splits=f"{OUT}/splits.csv",
        tiles=f"{OUT}/tiles.tsv",
        targets=student_targets,
        initial=student_initial,
        teacher=student_teacher,
    output:
        model=f"{OUT}/students/{{method}}/{{magnification}}/u{{share}}/seed{{seed}}/model.safetensors",
        metrics=f"{OUT}/students/{{method}}/{{magnification}}/u{{share}}/seed{{seed}}/metrics.csv",
        run=f"{OUT}/students/{{method}}/{{magnification}}/u{{share}}/seed{{seed}}/run.json",
    log:
        f"{OUT}/logs/students/{{method}}/{{magnification}}/u{{share}}/seed{{seed}}.log",
    conda:
        "../../envs/lowmag.yaml"
    threads: plan.job("students").threads
    resources:
        gpu=1,
        mem_mb=plan.job("students").mem_mb,
        runtime=plan.job("students").runtime,
    params:
        tiles=subpath(input.tiles, strip_suffix=".tsv"),
        out=subpath(output.model, parent=True),
        tensorboard=tensorboard_flag,
        state=f"{OUT}/state/students/{{method}}/{{magnification}}/u{{share}}/seed{{seed}}",
        classes=plan.class_names,
        magnification=magnification_number,
        method=method_terms,
        said=teacher_flags,
        initial=initial_flag,
        options=student_options,
        weights=student_weights,
        code=plan.code("train"),
    shell:
        "lowmag student --method {params.method:q} --unlabelled {wildcards.share} {params.said} {params.initial}"
        " --tiles {params.tiles:q} --splits {input.splits:q} --classes {params.classes:q}"
        " --magnification {params.magnification} --seed {wildcards.seed} --out {params.out:q}"
        " --state {params.state:q} --budget {resources.runtime} --threads {threads} {params.tensorboard}"
        " --options {params.options:q} > {log:q} 2>&1"
