"""A study whose labels are regions a person has drawn: to the teacher's predictions, and what reruns."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import h5py
import openslide
import pandas as pd
import pytest
from lowmag import cli
from lowmag.store import LABEL_OF_SLIDE, TileFile

from tests.workflow.study_folder import N_SLIDES, TINY, StudyFolder

N_ANNOTATED = 12
PLACES = [[100, 50], [400, 50], [100, 700]]
PREDICTIONS = "results/predictions/teacher/seed0/tiles.parquet"
CONFIG = {
    "slides": "cohort/regions.csv",
    "classes": ["normal", "tumour"],
    "annotations": {"classes": {"Normal": "normal", "Tumor": "tumour"}},
    "tiles": {"max_per_slide": 6},
}


def rectangle(name: str, x0: float, y0: float, x1: float, y1: float) -> dict:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}},
    }


def write_regions(path: Path, *regions: dict) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": regions}))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> StudyFolder:
    """Fifteen slides without a label, run to the teacher's predictions.

    Twelve have two regions, one has its tissue given, one its tiles.
    """
    study = StudyFolder(tmp_path_factory.mktemp("regions"))
    cohort = study.folder / "cohort"
    assert cli.main(["demo", "--out", str(cohort), "--options", json.dumps(TINY["demo"])]) == 0
    rows = list(csv.DictReader((cohort / "slides.csv").read_text().splitlines()))
    write_regions(cohort / "mask.geojson", rectangle("Tissue", 0, 0, 640, 1280))
    with h5py.File(cohort / "tiles.h5", "w") as file:
        coords = file.create_dataset("coords", data=PLACES)
        coords.attrs.update({"patch_size": 256, "level0_magnification": 10, "target_magnification": 10})
    lines = ["slide_id,path,patient_id,annotations,mask,coords"]
    for number, row in enumerate(rows):
        files = {N_ANNOTATED: ",mask.geojson,", N_ANNOTATED + 1: ",,tiles.h5"}.get(number, ",,")
        if number < N_ANNOTATED:
            files = f"{row['slide_id']}.geojson,,"
            width, height = openslide.OpenSlide(cohort / row["path"]).dimensions
            tumour = rectangle("Tumor", 0, 0, width / 2, height)
            normal = rectangle("Normal", width / 2, 0, width, height)
            write_regions(cohort / f"{row['slide_id']}.geojson", tumour, normal)
        lines.append(f"{row['slide_id']},{row['path']},P{number},{files}")
    (cohort / "regions.csv").write_text("\n".join(lines) + "\n")
    study.configure(**CONFIG)
    result = study.snakemake("--", PREDICTIONS)
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def test_regions_become_labels_and_patients_are_split_by_them(drawn):
    splits = list(csv.DictReader((drawn.folder / "results/splits.csv").read_text().splitlines()))
    assert len(splits) == N_SLIDES
    assert {row["label"] for row in splits} == {""}
    labels = {}
    for row in splits:
        with TileFile(drawn.folder / f"results/tiles/{row['slide_id']}.h5") as file:
            labels[row["slide_id"]] = Counter(file.column("label").tolist())
            is_annotated = set(labels[row["slide_id"]]) != {LABEL_OF_SLIDE}
            assert file.classes == (["normal", "tumour"] if is_annotated else [])
    annotated = [row for row in splits if set(labels[row["slide_id"]]) != {LABEL_OF_SLIDE}]
    assert len(annotated) == N_ANNOTATED
    assert all(set(labels[row["slide_id"]]) <= {0, 1} for row in annotated)
    assert Counter(row["split"] for row in annotated) == {"train": 4, "val": 4, "test": 4}
    assert all(row["split"] == "train" for row in splits if row not in annotated)


def test_tissue_and_tiles_may_be_given(drawn):
    tables = []
    for number in (N_ANNOTATED, N_ANNOTATED + 1):
        with TileFile(drawn.folder / f"results/tiles/D{number + 1:03}.h5") as file:
            tables.append((file.column("coords").tolist(), str(file.attributes.get("tiling"))))
    (masked, _), given = tables
    assert masked
    assert max(x for x, _ in masked) < 640
    assert given == (PLACES, "trident")


def test_predictions_are_of_the_tiles_in_regions(drawn):
    table = pd.read_parquet(drawn.folder / PREDICTIONS)
    assert set(table["label"]) == {"normal", "tumour"}
    assert table["slide_id"].nunique() == 8  # validation and test
    left = table["x"] < table.groupby("slide_id")["x"].transform("mean")
    assert (left == (table["label"] == "tumour")).mean() > 0.8  # but for tiles on the border


def test_a_changed_file_reruns_its_own_tiles(drawn):
    path = next((drawn.folder / "cohort").glob("*.geojson"))
    before = path.stat()
    try:
        path.write_text(path.read_text() + " ")
        planned = drawn.planned("--", PREDICTIONS)
    finally:
        path.write_text(path.read_text()[:-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert planned["tiles"] == 1
    assert planned["splits"] == planned["teacher"] == 1
    assert "tissue" not in planned


@pytest.mark.parametrize("change", ["annotations={min_overlap: 0.6}", "classes=[tumour, normal]"])
def test_options_rerun_the_tiles_of_annotated_slides_alone(drawn, change):
    assert drawn.planned("--config", change, "--", PREDICTIONS)["tiles"] == N_ANNOTATED


def test_the_whole_study_can_be_laid_out(drawn):
    planned = drawn.planned()
    assert planned["report"] == 1
    assert "tiles" not in planned
