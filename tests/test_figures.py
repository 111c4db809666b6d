from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from lowmag import agreement, evaluate, figures, palette, scores
from lowmag.scores import FIGURES
from lowmag.study import Study
from sklearn.metrics import confusion_matrix
from synthetic_predictions import Shape, make_predictions, make_reading, make_study

HOSTILE = ["<script>alert(1)</script>", "$a_b$", "c & d"]


def make_evaluation(folder: Path, study: Study, *, shape: Shape, slides: int = 3) -> Path:
    make_predictions(folder / "predictions", study, shape)
    make_reading(folder / "reading.tsv", study, slides=slides)
    evaluate.write_tables(folder / "predictions", folder / "reading.tsv", folder / "evaluation", study)
    return folder


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study(evaluation={"bootstrap": 200})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    return make_evaluation(tmp_path_factory.mktemp("study"), study, shape=Shape(patients=4))


@pytest.fixture(scope="module")
def drawn(results: Path, study: Study) -> Path:
    figures.write_figures(results / "predictions", results / "evaluation", results / "figures", study)
    return results / "figures"


@pytest.fixture(scope="module")
def metrics(results: Path) -> list[scores.Row]:
    return scores.read_table(results / "evaluation/metrics.tsv")


def row(**columns: object) -> scores.Row:
    of_mean = {
        "metric": scores.HEADLINE,
        "seed": "mean",
        "role": "student",
        "level": "tile",
        "unlabelled": 0.0,
    }
    return of_mean | columns


def test_every_figure_is_an_svg_whose_text_is_text(drawn: Path) -> None:
    for name in FIGURES:
        root = ElementTree.parse(drawn / f"{name}.svg").getroot()
        assert root.tag.endswith("}svg")
        assert list(root.iter("{http://www.w3.org/2000/svg}text")), name


def test_the_same_tables_give_the_same_bytes(
    drawn: Path, results: Path, study: Study, tmp_path: Path
) -> None:
    figures.write_figures(results / "predictions", results / "evaluation", tmp_path, study)
    for name in FIGURES:
        assert (tmp_path / f"{name}.svg").read_bytes() == (drawn / f"{name}.svg").read_bytes(), name


@pytest.mark.parametrize(
    "name", ["accuracy_magnification", "accuracy_cost", "unlabelled_share", "calibration"]
)
def test_a_method_has_its_one_colour_in_every_figure(drawn: Path, study: Study, name: str) -> None:
    content = (drawn / f"{name}.svg").read_text().lower()
    for method in study.methods:
        assert palette.colour_of(study, method).lower() in content


def test_accuracy_is_drawn_at_the_values_of_the_table(metrics: list[scores.Row], study: Study) -> None:
    axes = figures.accuracy_magnification(metrics, study).axes[0]
    expected = sorted(row["value"] for row in scores.headline(metrics, "tile", "student"))
    found = sorted(float(y) for bars in axes.containers for y in bars.lines[0].get_ydata())
    np.testing.assert_allclose(found, expected)


def test_no_two_intervals_of_a_panel_stand_on_each_other(metrics: list[scores.Row], study: Study) -> None:
    for axes in figures.accuracy_magnification(metrics, study).axes:
        places = np.sort([float(x) for bars in axes.containers for x in bars.lines[0].get_xdata()])
        assert np.diff(places).min() > 0.05  # octaves; five series of 8.6 inches need 0.05 to stay apart


def test_high_magnification_is_on_the_left_and_the_margin_is_drawn(
    metrics: list[scores.Row], study: Study
) -> None:
    axes = figures.accuracy_magnification(metrics, study).axes[0]
    teacher = scores.headline(metrics, "tile", "teacher")[0]["value"]
    left, right = axes.get_xlim()
    assert left > np.log2(10) > np.log2(1.25) > right
    levels = [float(line.get_ydata()[0]) for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert any(abs(level - (teacher - study.evaluation.margin)) < 1e-12 for level in levels)


def test_cost_of_pictures_is_network_time(tmp_path: Path) -> None:
    study = make_study(evaluation={"bootstrap": 100}, students=[1.25], seeds=[0])
    make_evaluation(tmp_path, study, shape=Shape(patients=3, mixed_slides=True), slides=0)
    metrics, cost = (scores.read_table(tmp_path / f"evaluation/{name}.tsv") for name in ("metrics", "cost"))
    axes = figures.accuracy_cost(metrics, cost, study).axes
    assert len(axes) == 1  # no slide has one label, so there are no scores per slide
    assert axes[0].get_xlabel() == "measured network seconds per mm²"


def test_a_single_share_is_said_and_not_drawn(metrics: list[scores.Row]) -> None:
    figure = figures.unlabelled_share(metrics, make_study(unlabelled=[0]))
    assert "one share" in figure.texts[0].get_text()
    assert not figure.axes


def test_names_of_classes_are_text_and_not_markup(tmp_path: Path) -> None:
    figure = agreement.confusion({HOSTILE[0]: [np.eye(3)]}, np.arange(3), HOSTILE)
    figures.save(figure, tmp_path / "confusion.svg")
    root = ElementTree.parse(tmp_path / "confusion.svg").getroot()
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert "$a_b$" in "".join(root.itertext())


def test_confusion_counts_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 50)
    seeds = [random.dirichlet(np.ones(3), 50) for _ in range(2)]
    expected = sum(confusion_matrix(labels, p.argmax(1), labels=range(3)) for p in seeds)
    np.testing.assert_array_equal(agreement.confusion_counts(seeds, labels), expected)


def test_reliability_bins_hold_equally_many_and_average_to_the_accuracy() -> None:
    random = np.random.default_rng(1)
    labels, p = random.integers(0, 3, 120), random.dirichlet(np.ones(3), 120)
    confidence, right = agreement.reliability([p], labels, n_bins=10)
    assert np.all(np.diff(confidence) >= 0)
    np.testing.assert_allclose(right.mean(), (p.argmax(1) == labels).mean())
    np.testing.assert_allclose(confidence.mean(), p.max(1).mean())


def test_pareto_front_keeps_what_nothing_cheaper_equals() -> None:
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (3, 0.8), (4, 0.9)]
    assert scores.pareto_front(points) == [(1, 0.5), (3, 0.9)]


def test_best_student_is_chosen_on_validation() -> None:
    rows = [
        row(split=split, magnification=1.25, method=method, value=value)
        for split, method, value in [
            ("val", "a", 0.8),
            ("val", "b", 0.7),
            ("test", "a", 0.1),
            ("test", "b", 0.9),
        ]
    ]
    assert scores.best_student(rows, 1.25) == ("a", 0)
    assert scores.best_student(rows[2:], 1.25) == ("b", 0)


def test_between_lowest_and_highest_share_only_the_share_figure_shows_more() -> None:
    study = make_study(unlabelled=[0, 25, 50, 100])
    assert [s.share for s in palette.series_of(study) if s.method == "dipalma2021"] == [0, 100]
    assert [s.share for s in palette.main_series(study)] == [0, 100, 100]


def test_an_empty_number_of_a_table_is_nan(tmp_path: Path) -> None:
    (tmp_path / "cost.tsv").write_text("role\tmagnification\tseconds_per_slide\nteacher\t10\t\n")
    rows = scores.read_table(tmp_path / "cost.tsv")
    assert rows[0]["magnification"] == 10.0
    assert not scores.has_reading(rows)


def test_many_methods_look_different() -> None:
    names = [f"method{n}" for n in range(20)]
    study = Study(
        teacher=10,
        students=[5],
        seeds=[0],
        unlabelled=[0],
        methods=dict.fromkeys(names, False),
        classes=["a", "b"],
    )
    looks = {(palette.colour_of(study, name), palette.marker_of(study, name)) for name in names}
    assert len(looks) == len(names)
