"""Learning curves of a study, from the `metrics.csv` of its runs, as one small SVG figure."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowmag.magnification import name_of
from lowmag.palette import STYLE, TEACHER_COLOUR, WIDTH_IN, main_series
from lowmag.study import Run, Study

# What is drawn, a row each: column of metrics.csv and what it is.
FIGURES = {
    "val_balanced_accuracy": "balanced accuracy\n(validation tiles)",
    "val_loss": "cross-entropy\n(validation tiles)",
}
Curve = Mapping[str, Sequence[tuple[float, float]]]  # points by figure


def learning_svg(results: Path, study: Study) -> bytes | None:
    """The figure as SVG, a panel per magnification; None when no run left its curve."""
    panels = {f"teacher, {name_of(study.teacher)}": _teachers(results, study)}
    for magnification in sorted(study.students, reverse=True):
        panels[name_of(magnification)] = _students(results, study, magnification)
    if not any(points for curves in panels.values() for _, curve in curves for points in curve.values()):
        return None
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw(panels, study).savefig(buffer, format="svg", metadata={"Date": None, "Creator": "lowmag"})
    return buffer.getvalue()


def _teachers(results: Path, study: Study) -> list[tuple[str, Curve]]:
    folders = [results / f"teacher/seed{seed}" for seed in study.seeds]
    return [(TEACHER_COLOUR, read_curve(folder / "metrics.csv")) for folder in folders]


def _students(results: Path, study: Study, magnification: float) -> list[tuple[str, Curve]]:
    found = []
    for series in main_series(study):
        for seed in study.seeds:
            folder = results / "students" / Run(series.method, magnification, series.share, seed).folder
            found.append((series.colour, read_curve(folder / "metrics.csv")))
    return found


def read_curve(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Epoch and value by figure, as far as they are finite; none when there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [{k: float(row[k]) for k in ("epoch", *FIGURES)} for row in csv.DictReader(lines)]
    return {
        figure: [(row["epoch"], row[figure]) for row in rows if math.isfinite(row[figure])]
        for figure in FIGURES
    }


@mpl.rc_context(STYLE)
def draw(panels: Mapping[str, Sequence[tuple[str, Curve]]], study: Study) -> Figure:
    """A column per title and a row per figure, with its curves (colour, points), one line per seed.

    A dotted line is what guessing gives.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    n_rows = len(FIGURES)
    grid = figure.subplots(n_rows, len(panels), sharex="col", sharey="row", squeeze=False)
    guessed = {"val_balanced_accuracy": 1 / len(study.classes), "val_loss": math.log(len(study.classes))}
    for row, (name, label) in zip(grid, FIGURES.items(), strict=True):
        for axes, curves in zip(row, panels.values(), strict=True):
            _draw_curves(axes, [(colour, curve.get(name, [])) for colour, curve in curves])
            axes.axhline(guessed[name], color="0.5", linewidth=0.8, linestyle=":")
        row[0].set_ylabel(label)
    for axes, title in zip(grid[0], panels, strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles = [Line2D([], [], color=series.colour, label=series.label) for series in main_series(study)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure


def _draw_curves(axes: Axes, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> None:
    for colour, points in curves:
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1)
