import json
import math
import shutil
from typing import Any

import pandas as pd
import pytest
from evaluated_studies import Results, evaluated, rewrite, select, tiles_of
from lowmag import comparisons, evaluate, result_tables, scores, sheet, splits, summary
from lowmag.comparisons import COLUMNS as COMPARISON_COLUMNS
from lowmag.predictions import groups
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from synthetic_predictions import Shape, make_predictions, make_reading, make_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = make_study(ordinal=True)
    folder = tmp_path_factory.mktemp("study")
    make_predictions(folder / "predictions", study)
    return Results(folder, study)


@pytest.fixture
def small(tmp_path):
    """A folder of predictions that a test may spoil, and its study."""
    study = make_study(students=[1.25], methods={"labels-only": False, "dipalma2021": True}, seeds=[0])
    make_predictions(tmp_path / "predictions", study, Shape(patients=6, tiles_per_slide=3))
    return tmp_path, study


def test_every_run_has_a_row_per_metric_level_split_and_seed_and_their_mean(results):
    # 11 groups x (2 seeds + mean) x 4 level-splits x 9 metrics, and agreement for the 10 of students.
    n_groups = len(groups(results.study))
    assert n_groups == 11
    assert len(results.metrics) == 3 * 4 * (9 * n_groups + n_groups - 1)
    assert set(results.metrics["seed"]) == {"0", "1", "mean"}
    assert results.metrics[["value", "low", "high"]].notna().all(axis=None)
    assert select(results.metrics, seed="mean")["sd_seeds"].notna().all()
    assert select(results.metrics, seed="0")["sd_seeds"].isna().all()


def test_values_are_those_of_scikit_learn_on_the_files(results):
    frame: Any = pd.read_parquet(tiles_of(results.folder, "students/dipalma2021/1.25x/u100/seed1"))
    test = frame[frame["split"] == "test"]
    classes = results.study.classes
    p = test[[f"p_{name}" for name in classes]].to_numpy()
    y = test["label"].map(classes.index)
    found = results.metric(
        level="tile", split="test", method="dipalma2021", magnification=1.25, unlabelled=100, seed="1"
    ).set_index("metric")["value"]
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, p.argmax(axis=1)), abs=1e-6)
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-6)


def test_counts_say_what_was_scored(results):
    rows = results.metrics.groupby(["level", "split"])[["n_patients", "n"]].agg(["min", "max"])
    assert rows.loc[("tile", "test")].tolist() == [8, 8, 128, 128]
    assert rows.loc[("slide", "val")].tolist() == [8, 8, 16, 16]
    assert results.summary["test"] == {
        "patients": 8,
        "slides": 16,
        "tiles": 128,
        "enough_patients": False,
        "effective_patients": 6,  # 3, 3 and 2 patients of the three classes
        "needed_patients": 59,
        "can_tell": False,
    }


def test_mean_row_is_the_mean_of_the_seeds(results):
    rows = results.metric(level="slide", split="test", role="teacher", metric="log_loss").set_index("seed")
    seeds = rows.loc[["0", "1"], "value"]
    assert rows.loc["mean", "value"] == pytest.approx(seeds.mean(), rel=1e-5)
    assert rows.loc["mean", "sd_seeds"] == pytest.approx(seeds.std(ddof=1), rel=1e-4)


def test_comparisons_cover_every_student_and_hold_together(results):
    table = results.comparisons
    assert list(table.columns) == list(COMPARISON_COLUMNS)
    # 10 students against the teacher and 8 against labels-only, 5 metrics, 2 levels.
    assert table.groupby("reference").size().to_dict() == {"teacher": 100, "labels-only": 80}
    assert (table["low"] <= table["high"]).all()
    assert (table["p_holm"] >= table["p"]).all()
    against = select(table, reference="labels-only")
    assert "labels-only" not in set(against["method"])
    assert against[["margin", "not_worse"]].isna().all(axis=None)


def test_a_difference_is_that_of_the_means(results):
    wanted = {"level": "tile", "metric": "balanced_accuracy"}
    student = {"method": "delamor2024", "magnification": 2.5, "unlabelled": 100}
    mean = {"split": "test", "seed": "mean"}
    of_student = results.metric(**wanted, **student, **mean)["value"].item()
    references = {
        "teacher": results.metric(**wanted, **mean, role="teacher"),
        "labels-only": results.metric(**wanted, **mean, method="labels-only", magnification=2.5),
    }
    for reference, row in references.items():
        compared = select(results.comparisons, **wanted, **student, reference=reference)
        assert compared["difference"].item() == pytest.approx(of_student - row["value"].item(), abs=2e-6)


def test_not_worse_is_stricter_than_the_point_and_said_of_balanced_accuracy_alone(tmp_path):
    study = make_study(evaluation={"bootstrap": 300, "margin": 0.3})
    make_predictions(tmp_path / "predictions", study, Shape(patients=24, tiles_per_slide=3))
    results = Results(tmp_path, study)
    assert results.summary["test"]["can_tell"]
    table = select(results.comparisons, reference="teacher", metric="balanced_accuracy")
    assert select(results.comparisons, metric="auroc")["not_worse"].isna().all()
    assert (table["bound"] < table["difference"]).all()
    said = table["not_worse"].astype(bool)
    assert (said == (table["bound"] > -table["margin"])).all()
    assert said.any()
    assert not said.all()


def test_a_student_that_is_the_teacher_differs_by_exactly_nothing(small):
    folder, study = small
    run = folder / "predictions/students/dipalma2021/1.25x/u0/seed0"
    for name in ("tiles.parquet", "slides.parquet"):
        shutil.copy(folder / "predictions/teacher/seed0" / name, run / name)
    results = Results(folder, study)
    rows = select(results.comparisons, reference="teacher", method="dipalma2021", unlabelled=0)
    assert len(rows) == 8
    assert (rows[["difference", "low", "high"]] == 0).all(axis=None)
    assert (rows["p"] == 1).all()
    # Six patients cannot show it, though: what a seventh would do is not known.
    verdict = select(rows, metric="balanced_accuracy")
    assert (verdict["bound"] < -0.3).all()
    assert not verdict["not_worse"].astype(bool).any()
    assert results.summary["recommended"] is None
    agreement = results.metric(method="dipalma2021", unlabelled=0, metric="teacher_agreement")
    assert (agreement["value"] == 1).all()
    assert results.summary["as_measured"]["magnification"] == 1.25


def test_tables_do_not_depend_on_the_order_of_rows(small):
    folder, study = small
    evaluated(folder, study)
    names = ("metrics.tsv", "comparisons.tsv", "cost.tsv", "summary.json")
    before = {name: (folder / "evaluation" / name).read_text() for name in names}
    for path in sorted((folder / "predictions").rglob("*.parquet"))[::2]:
        rewrite(path, lambda frame: frame.sample(frac=1, random_state=1))
    evaluated(folder, study)
    assert {name: (folder / "evaluation" / name).read_text() for name in names} == before


def test_slides_of_mixed_labels_leave_the_slide_level_out(tmp_path):
    study = make_study(students=[1.25], methods={"labels-only": False}, seeds=[0])
    make_predictions(tmp_path / "predictions", study, Shape(mixed_slides=True))
    results = Results(tmp_path, study, reading=False)
    assert set(results.metrics["level"]) == {"tile"}
    assert set(results.comparisons["level"]) == {"tile"}
    assert results.summary["level"] == "tile"
    per_slide = ["read_s_per_slide", "network_s_per_slide", "seconds_per_slide"]
    assert results.cost[per_slide].isna().all(axis=None)
    # Invented networks need time in proportion to compute.
    assert results.cost["time_saving"].tolist() == pytest.approx([1, 64], rel=1e-4)


def test_one_seed_has_no_spread_and_a_plain_study_no_kappa(small):
    folder, study = small
    results = Results(folder, study)
    assert results.metrics["sd_seeds"].isna().all()
    assert "kappa_quadratic" not in set(results.metrics["metric"])
    assert "kappa_quadratic" not in set(results.comparisons["metric"])


def test_cost_is_network_and_reading_of_the_median_slide(results):
    cost = results.cost.set_index(["role", "magnification"])
    assert list(cost.index) == [("teacher", 10), ("student", 2.5), ("student", 1.25)]
    student = cost.loc[("student", 1.25)]
    # 8 tiles of 0.512 mm read at 0.125 s per mm2, as make_reading has it.
    assert student["read_s_per_slide"] == pytest.approx(8 * 0.512**2 * 0.125, rel=1e-5)
    assert student["network_s_per_slide"] == pytest.approx(8 / student["tiles_per_s"], rel=1e-5)
    total = student["read_s_per_slide"] + student["network_s_per_slide"]
    assert student["seconds_per_slide"] == pytest.approx(total, rel=1e-5)
    assert student["compute_saving"] == pytest.approx(64, rel=1e-5)
    teacher = cost.loc[("teacher", 10)]
    expected = teacher["seconds_per_slide"] / student["seconds_per_slide"]
    assert student["time_saving"] == pytest.approx(expected, rel=1e-4)
    assert cost["mm2_per_s"].tolist() == pytest.approx((cost["tiles_per_s"] * 0.512**2).tolist(), rel=1e-5)


def test_speed_is_the_median_over_runs(small):
    folder, study = small
    students = sorted((folder / "predictions/students").rglob("cost.json"))
    for speed, path in zip([10.0, 30.0, 500.0], students, strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tiles_per_s": speed}))
    assert Results(folder, study).cost["tiles_per_s"].tolist()[1] == 30


def test_a_teacher_on_features_has_the_computation_that_is_stated_or_none(small):
    """Its time and what it read nobody measured; the students' stand by themselves."""
    folder, study = small
    path = folder / "predictions/teacher/seed0/cost.json"
    untimed = {"parameters": None, "tiles_per_s": None, "model": "features"}
    make_reading(folder / "reading.tsv", study)
    for stated, saved in ((None, None), (640.0, 40.0)):
        of_student = json.loads(next((folder / "predictions/students").rglob("cost.json")).read_text())
        per_mm2 = stated and of_student["gmac_per_mm2"] * 40
        content = json.loads(path.read_text()) | untimed
        path.write_text(json.dumps(content | {"gmac_per_tile": stated, "gmac_per_mm2": per_mm2}))
        evaluate.write_tables(folder / "predictions", folder / "reading.tsv", folder / "evaluation", study)
        cost = scores.read_table(folder / "evaluation/cost.tsv")
        assert [row["role"] for row in cost] == ["teacher", "student"]
        teacher, student = cost
        assert not math.isfinite(teacher["tiles_per_s"] + teacher["seconds_per_slide"])
        assert math.isfinite(student["seconds_per_slide"])
        savings = [student[name] for name in ("compute_saving", "bytes_saving", "time_saving")]
        assert [value if math.isfinite(value) else None for value in savings] == [
            pytest.approx(saved), None, None,
        ]  # fmt: skip
        assert scores.has_reading(cost)
        assert set(scores.measured_seconds(cost)) == {("labels-only", 1.25), ("dipalma2021", 1.25)}
        assert len(scores.computation(cost)) == (3 if stated else 2)
        said = result_tables.untimed_teacher(cost)
        assert ("state it as teacher.patch_gmac" in said) == (not stated)
        assert "× nan" not in str(result_tables.cost_table(cost))


def test_the_intervals_of_dipalma_stand_beside_and_change_nothing(tmp_path):
    for name, options in (("plain", {}), ("theirs", {"class_balanced": True})):
        study = make_study(seeds=[0, 1], evaluation={"bootstrap": 300, **options})
        make_predictions(tmp_path / name / "predictions", study)
        evaluated(tmp_path / name, study)
    plain, theirs = (
        pd.read_csv(tmp_path / f"{n}/evaluation/metrics.tsv", sep="\t") for n in ("plain", "theirs")
    )
    added = theirs[theirs["metric"].str.startswith("class_balanced_")]
    pd.testing.assert_frame_equal(theirs.drop(added.index).reset_index(drop=True), plain)
    assert set(added["split"]) == {"test"}
    assert set(added["seed"].astype(str)) == {"0", "1", "mean"}
    recall = select(added, metric="class_balanced_macro_recall", level="tile", role="teacher", seed="mean")
    usual = select(plain, metric="balanced_accuracy", level="tile", role="teacher", seed="mean", split="test")
    assert recall["value"].item() == pytest.approx(usual["value"].item(), abs=0.01)
    one = select(added, metric="class_balanced_macro_recall", level="tile", role="teacher", seed="0")
    of_one, of_all = (row["high"].item() - row["low"].item() for row in (one, recall))
    assert of_all > 0.9 * of_one  # two seeds on the same pictures know no more of them than one
    same = [tmp_path / n / "evaluation/summary.json" for n in ("plain", "theirs")]
    assert same[0].read_text() == same[1].read_text()


def test_stages_that_share_no_module_share_their_names():
    """Said twice, so that an edit of the report repeats no evaluation, and one of splits no check."""
    assert scores.HEADLINE == summary.HEADLINE
    assert scores.TEACHER == comparisons.TEACHER
    assert sheet.SPLITS == splits.SPLITS


def test_students_of_another_network_have_a_price_of_their_own(tmp_path):
    study = make_study(seeds=[0])
    make_predictions(tmp_path / "predictions", study)
    for path in (tmp_path / "predictions/students/dipalma2021/1.25x").rglob("cost.json"):
        content = json.loads(path.read_text())
        content |= {name: 16 * content[name] for name in ("gmac_per_tile", "gmac_per_mm2")}
        path.write_text(json.dumps(content))
    results = Results(tmp_path, study)
    assert list(results.cost["methods"]) == [
        "teacher",
        "labels-only, dipalma2021, delamor2024",
        "labels-only, delamor2024",
        "dipalma2021",
    ]
    assert results.cost["compute_saving"].tolist() == pytest.approx([1, 16, 64, 4], rel=1e-3)
    seconds = scores.measured_seconds(scores.read_table(tmp_path / "evaluation/cost.tsv"))
    assert set(seconds) == {("teacher", 10)} | {(m, x) for m in study.methods for x in study.students}
    for row in results.summary["best_per_magnification"]:
        alone = row["method"] == "dipalma2021" and row["magnification"] == 1.25
        expected = 4 if alone else (10 / row["magnification"]) ** 2
        assert row["compute_saving"] == pytest.approx(expected, rel=1e-3)


def test_share_of_the_gap_is_one_for_the_teacher_and_nought_for_the_reference(tmp_path):
    """Two methods that say what the teacher and what `labels-only` say."""
    study = make_study(students=[1.25], unlabelled=[0])
    make_predictions(tmp_path / "predictions", study)
    folder = tmp_path / "predictions"
    for seed in study.seeds:
        for method, source in (("dipalma2021", "teacher"), ("delamor2024", "students/labels-only/1.25x/u0")):
            for table in ("tiles.parquet", "slides.parquet"):
                target = folder / f"students/{method}/1.25x/u0/seed{seed}" / table
                shutil.copy(folder / source / f"seed{seed}" / table, target)
    found = Results(tmp_path, study).comparisons
    rows = select(found, reference="labels-only", level="tile", metric="accuracy").set_index("method")
    columns = ["gap_closed", "gap_low", "gap_high"]
    assert rows.loc["dipalma2021", columns].tolist() == pytest.approx([1, 1, 1])
    assert rows.loc["delamor2024", columns].tolist() == pytest.approx([0, 0, 0])
    assert select(found, reference="teacher")[columns].isna().all(axis=None)


def test_share_of_the_gap_is_that_of_the_means_and_is_not_said_without_a_gap(results):
    wanted = {"level": "tile", "magnification": 1.25, "metric": "balanced_accuracy"}
    (row,) = select(
        results.comparisons, reference="labels-only", method="dipalma2021", unlabelled=0, **wanted
    ).to_dict("records")

    def mean(**group):
        return results.metric(split="test", seed="mean", metric="balanced_accuracy", **group)["value"].item()

    of = {"level": "tile", "magnification": 1.25, "unlabelled": 0}
    labels_only, student = mean(method="labels-only", **of), mean(method="dipalma2021", **of)
    gap = mean(level="tile", role="teacher") - labels_only
    assert row["gap_closed"] == pytest.approx((student - labels_only) / gap, rel=1e-4)
    assert row["gap_low"] < row["gap_closed"] < row["gap_high"]


def test_no_share_of_a_gap_that_is_none(tmp_path):
    """A teacher that says what `labels-only` says leaves no gap."""
    study = make_study(students=[1.25], unlabelled=[0], seeds=[0])
    folder = tmp_path / "predictions"
    make_predictions(folder, study)
    for table in ("tiles.parquet", "slides.parquet"):
        shutil.copy(folder / "students/labels-only/1.25x/u0/seed0" / table, folder / "teacher/seed0" / table)
    assert Results(tmp_path, study).comparisons["gap_closed"].isna().all()


def test_methods_are_compared_with_every_reference_of_the_study(tmp_path):
    """At the same share of unlabelled slides where the reference has it, else at the one that it has."""
    study = make_study(
        seeds=[0], evaluation={"bootstrap": 200, "references": ["labels-only", "dipalma2021", "absent"]}
    )
    make_predictions(tmp_path / "predictions", study)
    results = Results(tmp_path, study)
    found = select(results.comparisons, level="tile", metric="balanced_accuracy")
    assert list(found["reference"].unique()) == ["teacher", "labels-only", "dipalma2021"]
    assert "evaluation.references: absent is no method of this study" in results.summary["warnings"][0]
    rows = select(found, reference="dipalma2021", magnification=1.25)
    assert sorted(zip(rows["method"], rows["unlabelled"], strict=True)) == [
        ("delamor2024", 0),
        ("delamor2024", 100),
        ("labels-only", 0),
    ]
    metrics = Results(tmp_path, study).metric(
        level="tile", split="test", seed="mean", metric="balanced_accuracy", magnification=1.25
    )
    value = {(row.method, row.unlabelled): row.value for row in metrics.itertuples()}
    for row in rows.itertuples():
        expected = value[row.method, row.unlabelled] - value["dipalma2021", row.unlabelled]
        assert row.difference == pytest.approx(expected, abs=1e-5)
