if plan.from_pictures:

    rule pictures:
        input:
            sheet=plan.sheet_files(),
        output:
            every_tile_file(),
        log:
            f"{OUT}/logs/pictures.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=plan.job("slide").mem_mb,
            runtime=plan.job("slide").runtime,
        params:
            images=plan.sheet,
            folder=subpath(output[0], parent=True),
            files=plan.pictures(),
            pictures=plan.options("pictures"),
            classes=plan.class_names,
            options=plan.options("tiles"),
            code=plan.code("pictures"),
        shell:
            "lowmag pictures --images {params.images:q} --out {params.folder:q} --pictures {params.pictures:q}"
            " --classes {params.classes:q} --options {params.options:q} > {log:q} 2>&1"

    rule splits:
        input:
            sheet=plan.sheet_files(),
        output:
            f"{OUT}/splits.csv",
        log:
            f"{OUT}/logs/splits.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            images=plan.sheet,
            pictures=plan.options("pictures"),
            options=plan.options("splits"),
            code=plan.code("splits", "pictures"),
        shell:
            "lowmag splits --images {params.images:q} --pictures {params.pictures:q} --out {output:q}"
            " --options {params.options:q} > {log:q} 2>&1"

else:

    rule tiles:
        input:
            record=f"{OUT}/slides/{{slide}}.json",
            outline=f"{OUT}/tissue/{{slide}}.geojson",
            slide=slide_file(),
            annotations=by_slide(annotations_of_slide, "annotations"),
            coords=by_slide(coords_of_slide, "coords"),
        output:
            f"{OUT}/tiles/{{slide}}.h5",
        log:
            f"{OUT}/logs/tiles/{{slide}}.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=plan.job("slide").mem_mb,
            runtime=plan.job("slide").runtime,
        params:
            options=plan.options("tiles"),
            labels=by_slide(labels_flags, "annotations"),
            files=tiles_flags,
            code=by_slide(tiles_code, "annotations"),
        shell:
            "lowmag tiles --record {input.record:q} --outline {input.outline:q} --out {output:q} {params.files}"
            " {params.labels} --options {params.options:q} > {log:q} 2>&1"

    rule splits:
        input:
            sheet=plan.sheet,
            check=f"{OUT}/check.tsv",
            annotations=every_annotation(),
        output:
            f"{OUT}/splits.csv",
        log:
            f"{OUT}/logs/splits.log",
        conda:
            "../../envs/lowmag.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            options=plan.options("splits"),
            regions=regions_flags(),
            code=plan.code("splits", "slides", *["tile_labels"] * plan.is_annotated),
        shell:
            "lowmag splits --slides {input.sheet:q} --check {input.check:q} --out {output:q} {params.regions}"
            " --options {params.options:q} > {log:q} 2>&1"


# What every run waits for in place of thousands of files. Without the code among its params: it makes no tile, and
# a change of it would train everything anew.
rule tile_table:
    input:
        splits=f"{OUT}/splits.csv",
        tiles=every_tile_file(),
    output:
        f"{OUT}/tiles.tsv",
    log:
        f"{OUT}/logs/tile_table.log",
    priority: 1
    conda:
        "../../envs/lowmag.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        tiles=subpath(output[0], strip_suffix=".tsv"),
    shell:
        "lowmag tile-table --tiles {params.tiles:q} --splits {input.splits:q} --out {output:q} > {log:q} 2>&1"
