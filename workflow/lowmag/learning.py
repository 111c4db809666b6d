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

FIGURE = "val_balanced_accuracy"
Curve = Sequence[tuple[float, float]]


def learning_svg(results: Path, study: Study) -> bytes | None:
    """The figure as SVG, a panel per magnification; None when no run left its curve."""
    panels = {f"teacher, {name_of(study.teacher)}": _teachers(results, study)}
    for magnification in sorted(study.students, reverse=True):
        panels[name_of(magnification)] = _students(results, study, magnification)
    if not any(curve for curves in panels.values() for _, curve in curves):
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


def read_curve(path: Path) -> list[tuple[float, float]]:
    """Epoch and balanced accuracy of the validation tiles; empty when there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        points = [(float(row["epoch"]), float(row[FIGURE])) for row in csv.DictReader(lines)]
    return [point for point in points if math.isfinite(point[1])]


@mpl.rc_context(STYLE)
def draw(panels: Mapping[str, Sequence[tuple[str, Curve]]], study: Study) -> Figure:
    """One panel per title with its curves (colour, points), one line per seed."""
    figure = Figure(figsize=(WIDTH_IN, 2.5), layout="constrained")
    row: list[Axes] = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        for colour, curve in curves:
            if curve:
                axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1)
        axes.set_title(title)
        axes.set_xlabel("epoch")
    row[0].set_ylabel("balanced accuracy\n(validation tiles)")
    handles = [Line2D([], [], color=series.colour, label=series.label) for series in main_series(study)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure
