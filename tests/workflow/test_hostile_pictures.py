"""A study of pictures whose names try to get to a shell, a page or another folder, with a slide head."""

import csv
import shutil

import pytest

from tests.workflow.picture_study import PICTURES, write_pictures
from tests.workflow.study_folder import StudyFolder
from tests.workflow.test_hostile import CLASSES, FILES, IDS, OUTDIR, TRAP

SHEET = "pictures $(touch pwned); 'q'.csv"
COLUMN = "file $(touch pwned) 'of' \"it\""
SCORES = f"{OUTDIR}/predictions/teacher/seed0"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> StudyFolder:
    """The study, as far as the predictions of its teacher."""
    study = StudyFolder(tmp_path_factory.mktemp("study") / 'of $(touch pwned) it\'s; "odd"')
    study.folder.mkdir()
    write_pictures(study.folder)
    rows = list(csv.DictReader((study.folder / "images.csv").read_text().splitlines()))
    classes = dict(zip(("calm", "busy"), CLASSES.values(), strict=False))
    slides = {f"S{number}": slide for number, slide in enumerate(IDS)}
    names = [name.replace(".tiff", ".png") for name in FILES if "/" not in name]
    for row, name in zip(rows, names, strict=False):
        shutil.move(study.folder / row["image"], study.folder / name)
        row["image"] = name
    for row in rows:
        row["label"], row["slide_id"] = classes[row["label"]], slides.get(row["slide_id"], row["slide_id"])
        row["patient_id"] = f"$(touch pwned) <i>{row['slide_id']}</i>; 'P' é"
    with (study.folder / SHEET).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        file.write(",".join(f'"{name}"' for name in [COLUMN.replace('"', '""'), *list(rows[0])[1:]]) + "\n")
        writer.writerows(rows)
    (study.folder / "images.csv").unlink()
    options = {"pictures": {"mpp": 1.0, "columns": {"image": COLUMN}}, "images": SHEET, "outdir": OUTDIR}
    study.configure(**{**PICTURES, **options, "evaluation": {"slide_score": "attention"}})
    result = study.snakemake("--", f"{SCORES}/slides.parquet")
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def test_no_name_was_run(hostile):
    assert [path for path in hostile.folder.parent.rglob("*") if path.name == TRAP] == []


def test_every_rule_wrote_its_file(hostile):
    results = hostile.folder / OUTDIR
    assert {path.stem for path in (results / "tiles").glob("*.h5")} >= set(IDS)
    assert (results / "teacher/seed0/slide_head.safetensors").is_file()
    rows = list(csv.DictReader((results / "splits.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == set(list(CLASSES.values())[:2])
    assert {row["patient_id"] for row in rows} >= {f"$(touch pwned) <i>{slide}</i>; 'P' é" for slide in IDS}


def test_nothing_was_written_outside(hostile):
    pictures = {path.name for path in hostile.folder.glob("*.png")}
    assert len(pictures) == 24
    others = {path.name for path in hostile.folder.iterdir()} - pictures
    assert others == {OUTDIR, "tiny.yaml", SHEET, ".snakemake"}
