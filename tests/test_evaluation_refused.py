"""Predictions that cannot be evaluated, and what is said of few patients and absent classes."""

import json
import math

import numpy as np
import pytest
from evaluated_studies import Results, evaluated, rewrite, tiles_of
from lowmag import evaluate
from lowmag.errors import UserError
from lowmag.study import Study
from synthetic_predictions import Shape, make_predictions, make_study


@pytest.fixture
def small(tmp_path):
    """A folder of predictions that a test may spoil, and its study."""
    study = make_study(students=[1.25], methods={"labels-only": False, "dipalma2021": True}, seeds=[0])
    make_predictions(tmp_path / "predictions", study, Shape(patients=6, tiles_per_slide=3))
    return tmp_path, study


def test_models_timed_on_different_machines_are_said_so(small, caplog):
    folder, study = small
    path = folder / "predictions/teacher/seed0/cost.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "cuda"}))
    evaluated(folder, study)
    assert "cpu with 2 threads in float32; cuda with 2 threads in float32" in caplog.text


def test_few_patients_are_warned_of_once_per_level(small, caplog):
    folder, study = small
    results = Results(folder, study)
    few = [text for text in results.summary["warnings"] if "only 6 test patients" in text]
    assert [text.split()[0] for text in few] == ["tile", "slide"]
    assert caplog.text.count("only 6 test patients") == 2


def test_an_absent_class_is_counted_and_named(small):
    folder, study = small
    for path in (folder / "predictions").rglob("*.parquet"):
        rewrite(path, lambda frame: frame[frame["label"] != "high"])
    summary = Results(folder, study).summary
    assert (summary["classes"], summary["classes_in_test"]) == (3, 2)
    warnings = summary["warnings"]
    assert any("tile level: 1 of 3 classes (high) have no test tile" in text for text in warnings)


def test_a_missing_run_names_the_file_and_what_makes_it(small):
    folder, study = small
    tiles_of(folder, "students/dipalma2021/1.25x/u100/seed0").unlink()
    with pytest.raises(
        UserError, match=r"dipalma2021/1.25x/u100/seed0/tiles.parquet is missing.*lowmag predict"
    ):
        evaluated(folder, study)
    assert not (folder / "evaluation").exists()


def test_runs_on_other_tiles_are_refused(small):
    folder, study = small
    rewrite(tiles_of(folder, "students/labels-only/1.25x/u0/seed0"), lambda frame: frame.iloc[1:])
    with pytest.raises(
        UserError, match=r"labels-only/1.25x/u0/seed0/tiles.parquet holds 71 tiles.*not the 72"
    ):
        evaluated(folder, study)


def test_other_classes_are_refused(small):
    folder, study = small
    with pytest.raises(UserError, match="lacks the columns p_severe"):
        evaluated(folder, Study.model_validate(study.model_dump() | {"classes": ["benign", "low", "severe"]}))


def test_probabilities_that_are_not_numbers_are_refused(small):
    folder, study = small
    rewrite(tiles_of(folder), lambda frame: frame.assign(p_low=np.where(frame["tile"] == 0, math.nan, 0.3)))
    with pytest.raises(UserError, match=r"not numbers in 24 of 72 rows.*diverged"):
        evaluated(folder, study)


def test_no_test_tiles_is_said(small):
    folder, study = small
    for path in (folder / "predictions").rglob("*.parquet"):
        rewrite(path, lambda frame: frame[frame["split"] != "test"])
    with pytest.raises(UserError, match="no labelled test tile"):
        evaluated(folder, study)


def test_reading_that_lacks_a_magnification_is_refused(small):
    folder, study = small
    lines = "slide_id\tmagnification\tn_tiles\tmm2\tseconds\ns1\t10\t4\t1.0\t2.0\n"
    (folder / "reading.tsv").write_text(lines)
    with pytest.raises(UserError, match=r"times 10x but not 1.25x"):
        evaluate.write_tables(folder / "predictions", folder / "reading.tsv", folder / "evaluation", study)
