"""A study on whole sections, as DiPalma et al.: from slides to the report, with no label in the loss."""

import json
from pathlib import Path

import h5py
import pytest
from lowmag.store import TileFile

from tests.workflow.study_folder import StudyFolder

WHOLE = {"epochs": 1, "batch_size": 4, "accumulate": 4}
METHODS = {
    "labels-only": None,
    "delamor2024": None,
    "dipalma2021": {"soft_labels": 1, "features": {"resize": "maxpool+bicubic"}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = StudyFolder(tmp_path_factory.mktemp("sections"))
    study.configure(
        tiles={"unit": "section", "max_per_slide": None, "teacher": 5, "students": [0.625]},
        teacher=WHOLE,
        students={**WHOLE, "unlabelled": [100]},
        methods=METHODS,
    )
    result = study.snakemake("--", "results/report.html")
    assert result.returncode == 0, result.stdout + result.stderr
    return study.folder / "results"


def test_sections_are_trained_on_labelled_and_unlabelled_together(finished: Path) -> None:
    run = json.loads((finished / "students/dipalma2021/0.625x/u100/seed0/run.json").read_text())
    assert set(run["method"]) == {"soft_labels", "features"}
    assert run["data"]["train_unlabelled"]["slides"] > 0
    with h5py.File(finished / "targets/seed0/0.625x/logits.h5") as file:
        slides = [name.decode() for name in file["slide_id"][()]]  # pyright: ignore
        cells = file["cells"][()].tolist()  # pyright: ignore
    expected = []
    for slide in slides:
        with TileFile(finished / "tiles" / f"{slide}.h5") as tiles:
            assert tiles.unit == "section"
            expected += [[-(-h // 8 // 32), -(-w // 8 // 32)] for w, h in tiles.column("size").tolist()]
    assert cells == expected


def test_the_report_says_what_a_picture_is(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "whole section of tissue" in page
    cost = (finished / "evaluation/cost.tsv").read_text().splitlines()
    assert len(cost) == 3
