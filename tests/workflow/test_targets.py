"""What a teacher said is kept: methods that are added retrain none, a new teacher all that it teaches."""

import shutil
from pathlib import Path

import pytest

from tests.workflow.study_folder import StudyFolder

METHODS = {"labels-only": {"cross_entropy": 1}, "soft": {"soft_labels": 1}}
DROPPED = {"dipalma2021": None, "delamor2024": None}
MAPPED = {"features": {"resize": "area"}}
TRAINED = ("--until", "student")  # predicting and evaluating follow from the models, and are tested elsewhere


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyFolder:
    """One student of labels and one of soft labels at 1.25x, trained."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    configure(study, METHODS)
    result = study.snakemake(*TRAINED)
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def configure(study: StudyFolder, methods: dict, **changes) -> None:
    students = {"unlabelled": [100]}
    study.configure(methods=DROPPED | methods, tiles={"students": [1.25]}, students=students, **changes)


def stored(study: StudyFolder) -> dict[str, int]:
    """The stored targets and when they were written."""
    folder = study.folder / "results/targets/seed0"
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/*.h5")}


def models(study: StudyFolder) -> dict[str, int]:
    """The methods that have a trained student, and when it was trained."""
    folder = study.folder / "results/students"
    found = folder.rglob("model.safetensors")
    return {path.relative_to(folder).parts[0]: path.stat().st_mtime_ns for path in found}


def test_only_what_is_read_is_stored(study):
    assert set(stored(study)) == {"1.25x/logits.h5"}
    assert study.planned(*TRAINED) == {}


def test_a_method_that_reads_more_adds_to_it_and_retrains_no_other(study):
    before, kept = stored(study), models(study)
    configure(study, METHODS | {"mapped": MAPPED})
    assert study.planned(*TRAINED) == {"student": 1}
    result = study.snakemake(*TRAINED)
    assert result.returncode == 0, result.stdout + result.stderr
    assert stored(study)["1.25x/logits.h5"] == before["1.25x/logits.h5"]
    assert set(stored(study)) == {"1.25x/logits.h5", "1.25x/features-area.h5"}
    after = models(study)
    assert set(after) == {"labels-only", "soft", "mapped"}
    assert {name: after[name] for name in kept} == kept
    assert study.planned(*TRAINED) == {}
    configure(study, METHODS)  # and one less retrains none either
    assert study.planned(*TRAINED) == {}


def test_one_that_finds_all_it_reads_writes_nothing(study):
    before = stored(study)
    configure(study, METHODS | {"warm": {"soft_labels": {"temperature": 2}}})
    assert study.planned(*TRAINED) == {"student": 1}
    assert study.snakemake(*TRAINED).returncode == 0
    assert stored(study) == before


def test_deleted_targets_are_written_again_for_whom_they_are_needed(study):
    configure(study, METHODS)
    kept = models(study)
    shutil.rmtree(study.folder / "results/targets/seed0/1.25x")
    assert study.planned(*TRAINED) == {}  # all are trained: the room is free
    configure(study, METHODS | {"cold": {"soft_labels": {"temperature": 0.5}}})
    assert study.planned(*TRAINED) == {"student": 1}
    result = study.snakemake(*TRAINED)
    assert result.returncode == 0, result.stdout + result.stderr
    # In one go with what else the study reads.
    assert set(stored(study)) == {"1.25x/logits.h5"}
    after = models(study)
    assert {name: after[name] for name in kept} == kept
    # Without the record nobody knows whose the rest is: who still has to be trained has all written.
    shutil.rmtree(study.folder / "results/targets")
    configure(study, METHODS | {"cold": {"soft_labels": {"temperature": 0.7}}})
    planned = study.planned(*TRAINED)
    assert planned["targets"] == 1
    assert study.snakemake(*TRAINED).returncode == 0
    assert set(stored(study)) == {"1.25x/logits.h5"}
    assert study.planned(*TRAINED) == {}


def test_a_new_teacher_retrains_all_that_it_teaches_and_no_other(study):
    configure(study, METHODS | {"mapped": MAPPED})
    planned = study.planned(*TRAINED, "--config", "teacher={lr: 0.0005}")
    assert planned == {"teacher": 1, "targets": 1, "student": 2}


def test_event_files_are_written_when_asked_for_and_that_reruns_nothing(study):
    events = study.folder / "results/state"
    assert not list(events.rglob("events.*"))
    configure(study, METHODS, tensorboard=True)
    assert study.planned(*TRAINED) == {}
    configure(study, METHODS | {"watched": {"soft_labels": {"temperature": 3}}}, tensorboard=True)
    assert study.planned(*TRAINED) == {"student": 1}
    assert study.snakemake(*TRAINED).returncode == 0
    (found,) = {path.relative_to(events).parent for path in events.rglob("events.*")}
    assert found.is_relative_to(Path("students/watched/1.25x/u100/seed0"))
    configure(study, METHODS | {"watched": {"soft_labels": {"temperature": 3}}})
    assert study.planned(*TRAINED) == {}
