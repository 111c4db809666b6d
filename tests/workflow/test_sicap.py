"""A folder as SICAPv2 is downloaded, from its pictures to the report, with del Amor's way of training."""

import json

import pandas
import pytest
import yaml
from synthetic_sicap import GRADES, make_sicap

from tests.workflow.study_folder import REPOSITORY, StudyFolder

PAPER = yaml.safe_load((REPOSITORY / "workflow/studies/delamor2024.yaml").read_text())
# Every value of the paper's study but for what takes time: another network, one epoch, one magnification.
SMALL = {"model": "resnet10gn", "stride": 8, "weights": None, "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> StudyFolder:
    study = StudyFolder(tmp_path_factory.mktemp("sicap"))
    make_sicap(study.folder / "SICAPv2", px=32)
    content = PAPER | {
        "outdir": "results",
        "images": "SICAPv2",
        "tiles": {"teacher": 10, "students": [2.5]},
        "teacher": PAPER["teacher"] | SMALL,
        "students": PAPER["students"] | SMALL | {"seeds": [22]},
        "evaluation": {"bootstrap": 100},
        "compute": {"teacher": {"threads": 1}, "students": {"threads": 1}, "predictions": {"threads": 1}},
    }
    (study.folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    result = study.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def test_students_learn_from_the_teacher_itself(finished: StudyFolder) -> None:
    folder = finished.folder / "results"
    run = json.loads((folder / "students/delamor2024/2.5x/u0/seed22/run.json").read_text())
    teacher = json.loads((folder / "teacher/seed22/run.json").read_text())
    assert run["teacher_sha256"] == teacher["weights_sha256"]
    assert run["options"]["augment"]["rotation"] == 45
    assert run["data"]["train_labelled"] == {"tiles": 12, "slides": 3, "patients": 2}
    assert not (folder / "targets").exists()


def test_every_test_picture_is_in_the_report(finished: StudyFolder) -> None:
    folder = finished.folder / "results"
    table = pandas.read_parquet(folder / "predictions/students/delamor2024/2.5x/u0/seed22/tiles.parquet")
    test = table[table["split"] == "test"]
    assert sorted(set(test["slide_id"])) == ["18B6", "18B7"]
    assert sorted(test["label"]) == sorted([*GRADES, *GRADES])
    assert "kappa" in (folder / "evaluation/metrics.tsv").read_text()
    assert (folder / "report.html").stat().st_size > 10_000


def test_provenance_tells_the_pictures_they_learned_from(finished: StudyFolder) -> None:
    inputs = json.loads((finished.folder / "results/provenance.json").read_text())["inputs"]
    assert inputs["pictures"]["n"] == len(list((finished.folder / "SICAPv2/images").iterdir()))
    assert "partition/Validation/Val1/Train.xlsx" in inputs["sheets"]


def test_nothing_is_left_to_do_and_another_fold_starts_with_its_pictures(finished: StudyFolder) -> None:
    assert finished.planned() == {}
    planned = finished.planned("--config", "pictures={fold: 2}")
    assert {"pictures", "splits", "teacher", "student"} <= set(planned)
