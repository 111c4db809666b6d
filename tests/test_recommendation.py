"""How low one can go: the student that is named, by method and for the study, and what it saves."""

import numpy as np
import pandas as pd
import pytest
from evaluated_studies import Results, select
from synthetic_predictions import Shape, make_predictions, make_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = make_study(ordinal=True)
    folder = tmp_path_factory.mktemp("study")
    make_predictions(folder / "predictions", study)
    return Results(folder, study)


def expected_recommendation(results):
    """From the highest magnification down, the student best on validation, until one fails."""
    passed = None
    for best in results.summary["best_per_magnification"]:
        if not best["not_worse"]:
            break
        passed = best["magnification"]
    return passed


def test_recommendation_is_the_lowest_magnification_not_worse(tmp_path):
    """There are enough patients, so the slide level decides."""
    study = make_study(seeds=[0], students=[2.5, 1.25], evaluation={"bootstrap": 300, "margin": 0.3})
    make_predictions(tmp_path / "predictions", study, Shape(patients=24))
    results = Results(tmp_path, study)
    summary = results.summary
    assert summary["level"] == "slide"
    assert summary["test"]["enough_patients"]
    assert summary["warnings"] == []
    recommended = summary["recommended"]
    assert recommended["magnification"] == expected_recommendation(results)
    identity = {key: recommended[key] for key in ("method", "magnification", "unlabelled")}
    row = select(
        results.comparisons, level="slide", metric="balanced_accuracy", reference="teacher", **identity
    )
    assert recommended["difference"] == pytest.approx(row["difference"].item(), abs=1e-6)
    assert recommended["difference_low"] == pytest.approx(row["low"].item(), abs=1e-6)
    cost = select(results.cost, role="student", magnification=recommended["magnification"])
    assert recommended["compute_saving"] == pytest.approx(cost["compute_saving"].item(), rel=1e-4)
    assert recommended["time_saving"] == pytest.approx(cost["time_saving"].item(), rel=1e-4)
    assert recommended["bytes_saving"] == pytest.approx((10 / recommended["magnification"]) ** 2, rel=1e-4)


def test_how_low_every_method_can_go_is_told_with_its_savings(tmp_path):
    study = make_study(seeds=[0], students=[5, 2.5, 1.25], evaluation={"bootstrap": 500, "margin": 0.3})
    make_predictions(tmp_path / "predictions", study, Shape(48, slides_per_patient=1, tiles_per_slide=4))
    results = Results(tmp_path, study)
    table = pd.read_csv(tmp_path / "evaluation/how_low.tsv", sep="\t")
    rows = select(results.comparisons, level="slide", metric="balanced_accuracy", reference="teacher")
    assert len(table) == 5  # labels-only, and two methods with two shares
    for _, found in table.iterrows():
        own = select(rows, method=found["method"], unlabelled=found["unlabelled"])
        own = own.sort_values("magnification", ascending=False)
        n_alone = int(np.cumprod(own["not_worse"].astype(bool)).sum())
        n_passed = int(own["low_enough"].astype(bool).sum())
        assert own["low_enough"].astype(bool).tolist() == [True] * n_passed + [False] * (3 - n_passed)
        assert n_passed <= n_alone
        alone = own.iloc[n_alone - 1]["magnification"] if n_alone else np.nan
        assert found["magnification_alone"] == pytest.approx(alone, nan_ok=True)
        if n_passed:
            last = own.iloc[n_passed - 1]
            assert found["magnification"] == last["magnification"]
            assert found["lower_bound"] == pytest.approx(last["bound"], abs=1e-5)
            assert found["compute_saving"] == pytest.approx((10 / last["magnification"]) ** 2, rel=1e-3)
        else:
            assert np.isnan(found["magnification"])
    assert table["magnification"].notna().sum() > 0


def test_without_a_qualifying_student_the_best_of_each_magnification_is_told(tmp_path):
    study = make_study(seeds=[0], evaluation={"bootstrap": 300, "margin": 0.001})
    make_predictions(tmp_path / "predictions", study)
    summary = Results(tmp_path, study).summary
    assert summary["recommended"] is None
    assert summary["n_not_worse"] == 0
    best = summary["best_per_magnification"]
    assert [row["magnification"] for row in best] == [2.5, 1.25]
    assert all(row["difference"] < 0 and not row["not_worse"] for row in best)
    assert summary["teacher"]["value"] > best[0]["value"]


def test_the_student_named_is_chosen_on_validation(results):
    validation = results.metric(
        level="tile", split="val", role="student", metric="balanced_accuracy", seed="mean", magnification=1.25
    )
    best = validation.loc[validation["value"].idxmax()]
    named = results.summary["best_per_magnification"][1]
    assert (named["method"], named["unlabelled"]) == (best["method"], best["unlabelled"])
