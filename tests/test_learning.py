"""Learning curves: what is read of a run's metrics, and a panel for every magnification and figure."""

import math
from pathlib import Path

from lowmag.learning import FIGURES, draw, learning_svg, read_curve
from lowmag.study import Study

STUDY = Study(
    teacher=10,
    students=[5, 1.25],
    methods={"labels-only": False, "dipalma2021": True},
    seeds=[0, 1],
    unlabelled=[0, 100],
    classes=["a", "b", "c", "d"],
)


def write(folder: Path, values: list[str]) -> None:
    folder.mkdir(parents=True)
    rows = [f"{n},1,0.5,{value},0.3" for n, value in enumerate(values, 1)]
    header = "epoch,loss,val_loss,val_balanced_accuracy,seconds"
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")


def test_points_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "run", ["0.25", "nan", "0.75"])
    assert read_curve(tmp_path / "run" / "metrics.csv") == {
        "val_balanced_accuracy": [(1, 0.25), (3, 0.75)],
        "val_loss": [(1, 0.5), (2, 0.5), (3, 0.5)],
    }
    assert read_curve(tmp_path / "none" / "metrics.csv") == {}


def test_every_run_has_a_line_and_guessing_one(tmp_path: Path) -> None:
    points = {"val_balanced_accuracy": [(1.0, 0.3), (2.0, 0.9)], "val_loss": [(1.0, 2.0), (2.0, 0.4)]}
    figure = draw({"teacher": [("black", points)] * 2, "5x": [("red", points), ("blue", {})]}, STUDY)
    assert len(figure.axes) == 2 * len(FIGURES)
    of_teacher, of_5x, loss_of_teacher, _ = figure.axes
    assert [len(axes.lines) for axes in (of_teacher, of_5x)] == [3, 2]
    assert list(of_5x.lines[0].get_ydata()) == [0.3, 0.9]
    assert of_teacher.lines[-1].get_ydata()[0] == 0.25
    assert loss_of_teacher.lines[-1].get_ydata()[0] == math.log(4)


def test_a_study_without_curves_has_no_figure(tmp_path: Path) -> None:
    assert learning_svg(tmp_path, STUDY) is None
    for run in STUDY.runs():
        write(tmp_path / "students" / run.folder, ["0.4", "0.6"])
    svg = learning_svg(tmp_path, STUDY)
    assert svg is not None
    assert svg.startswith(b"<?xml")
