"""The figures of a study: accuracy, cost, unlabelled share, confusion and calibration, as SVG.

Every function takes rows of the tables of `evaluate` and returns a matplotlib Figure; `write_figures` reads
and saves.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowmag.agreement import calibration, confusion
from lowmag.magnification import name_of
from lowmag.palette import (
    COLOURS,
    MARKERS,
    STYLE,
    TEACHER_COLOUR,
    WIDTH_IN,
    Series,
    dodges,
    log_axis,
    magnification_axis,
    main_series,
    panels_in_row,
    series_of,
)
from lowmag.predictions import Group, Part, read_parts
from lowmag.publish import publishing
from lowmag.scores import (
    LEVELS,
    TEACHER,
    Row,
    best_student,
    computation,
    has_reading,
    headline,
    levels_of,
    lowest_not_worse,
    measured_seconds,
    pareto_front,
    pick,
    read_table,
)
from lowmag.study import Study

FRONT_COLOUR = "#888888"
RING_COLOUR = "#555555"
CALIBRATED_MAGNIFICATIONS = 2


def write_figures(predictions: Path, evaluation: Path, out: Path, study: Study) -> None:
    """Draw every figure of FIGURES into the folder `out`; the same tables give the same bytes."""
    metrics, cost, comparisons, gains = (
        read_table(evaluation / f"{name}.tsv") for name in ("metrics", "cost", "comparisons", "added_terms")
    )
    tiles = next(p for p in read_parts(predictions, study) if (p.level, p.split) == ("tile", "test"))
    drawn = {
        "accuracy_magnification": accuracy_magnification(metrics, study, comparisons),
        "accuracy_cost": accuracy_cost(metrics, cost, study),
        "accuracy_compute": accuracy_compute(metrics, cost, study),
        "unlabelled_share": unlabelled_share(metrics, study),
        "added_terms": added_terms(gains, study),
        "confusion": confusion_of_study(tiles, metrics, study),
        "calibration": calibration_of_study(tiles, metrics, study),
    }
    for name, figure in drawn.items():
        save(figure, out / f"{name}.svg")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, atomically and without a date, so that the same figure gives the same bytes."""
    with mpl.rc_context(STYLE), publishing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": "lowmag"})


def confusion_of_study(tiles: Part, metrics: Sequence[Row], study: Study) -> Figure:
    """Confusion of test tiles: the teacher and, per magnification, the student best on validation."""
    groups = {f"teacher, {name_of(study.teacher)}": tiles.probabilities[_teacher(study)]}
    for magnification in sorted(study.students, reverse=True):
        method, share = best_student(metrics, magnification)
        title = f"{name_of(magnification)}, {method}" + (f"\n{share} % unlabelled" if share else "")
        groups[title] = tiles.probabilities[Group("student", method, magnification, share)]
    return confusion(groups, tiles.truth.labels, study.classes)


def calibration_of_study(tiles: Part, metrics: Sequence[Row], study: Study) -> Figure:
    """Reliability of test tiles at the two lowest magnifications: teacher and every method, with its ECE."""
    errors = pick(metrics, level="tile", split="test", metric="ece", seed="mean")
    drawn: list[tuple[Series | None, dict[str, Any]]] = [(None, {"color": TEACHER_COLOUR, "marker": "*"})]
    drawn += [(series, series.line) for series in main_series(study)]
    panels, looks = {}, {}
    for magnification in sorted(study.students, reverse=True)[-CALIBRATED_MAGNIFICATIONS:]:
        curves = panels[f"students at {name_of(magnification)}"] = {}
        for series, line in drawn:
            group = _teacher(study)
            if series:
                group = Group("student", series.method, magnification, series.share)
            identity = {
                "role": group.role,
                "magnification": group.magnification,
                "unlabelled": group.unlabelled,
            }
            error = pick(errors, **identity, method=group.method)[0]["value"]
            name = series.label if series else f"teacher, {name_of(study.teacher)}"
            curves[f"{name}: ECE {error:.3f}"] = tiles.probabilities[group]
            looks[f"{name}: ECE {error:.3f}"] = line
    return calibration(panels, tiles.truth.labels, looks)


def _teacher(study: Study) -> Group:
    return Group("teacher", "teacher", study.teacher, 0)


@mpl.rc_context(STYLE)
def accuracy_magnification(metrics: Sequence[Row], study: Study, comparisons: Sequence[Row] = ()) -> Figure:
    """Balanced accuracy against magnification with 95 % intervals, one panel per level.

    The teacher is a band over its interval; the dotted line below it lies one margin lower. By the
    comparisons a ring marks the lowest magnification of each series that is not worse (`how_low`).
    """
    levels = levels_of(metrics)
    figure, panels = panels_in_row(len(levels), 3.9)
    drawn = series_of(study)
    for level, axes in zip(levels, panels, strict=True):
        students = headline(metrics, level, "student")
        for series, shift in zip(drawn, dodges(len(drawn), 0.6), strict=True):
            rows = pick(students, method=series.method, unlabelled=series.share)
            rows = sorted(rows, key=lambda row: -row["magnification"])
            # minus: the axis runs from high to low, so that the first series stands leftmost
            _with_interval(axes, np.log2(_column(rows, "magnification")) - shift, rows, series)
            lowest = lowest_not_worse(comparisons, level, series.method, series.share)
            for row in pick(rows, magnification=lowest):
                place = np.log2(row["magnification"]) - shift
                axes.plot([place], [row["value"]], "o", ms=12, mfc="none", mec=series.colour, mew=1.2)
        magnification_axis(axes, [study.teacher, *study.students])
        _teacher_band(axes, headline(metrics, level, TEACHER)[0], study)
        _score_axis(axes, level, metrics)
    margin = f"teacher − {study.evaluation.margin:g} (margin)"
    ring = Line2D(
        [], [], linestyle="none", marker="o", ms=10, mfc="none", mec=RING_COLOUR, label="lowest not worse"
    )
    margin_line = Line2D([], [], color=TEACHER_COLOUR, linestyle=":", label=margin)
    _legend(figure, drawn, [margin_line, *([ring] if comparisons else [])], line="-")
    return figure


@mpl.rc_context(STYLE)
def accuracy_cost(metrics: Sequence[Row], cost: Sequence[Row], study: Study) -> Figure:
    """Balanced accuracy against measured cost, log scale, with the Pareto front of everything shown.

    Cost is the seconds one slide takes (reading and network), or the network's seconds per mm² where no slide
    was read. Students of one network at one magnification cost the same; they are set 4 % apart.
    """
    per_slide = "seconds per slide (reading and network)"
    title = f"measured {per_slide if has_reading(cost) else 'network seconds per mm²'}"
    return _accuracy_against(measured_seconds(cost), title, metrics, study)


@mpl.rc_context(STYLE)
def accuracy_compute(metrics: Sequence[Row], cost: Sequence[Row], study: Study) -> Figure:
    """Balanced accuracy against multiply-accumulates per mm² of tissue, as `accuracy_cost`."""
    return _accuracy_against(computation(cost), "GMAC per mm² of tissue", metrics, study)


def _accuracy_against(
    prices: Mapping[tuple[str, float], float], title: str, metrics: Sequence[Row], study: Study
) -> Figure:
    """Balanced accuracy against a price by method and magnification, log scale, with the Pareto front."""
    levels = levels_of(metrics)
    figure, panels = panels_in_row(len(levels), 3.9)
    drawn = series_of(study)
    for level, axes in zip(levels, panels, strict=True):
        teacher, students = headline(metrics, level, TEACHER), headline(metrics, level, "student")
        points = []
        if (TEACHER, study.teacher) in prices:
            points = [(prices[TEACHER, study.teacher], teacher[0]["value"])]
            axes.errorbar(*points[0], _arms(teacher), fmt="*", ms=11, color=TEACHER_COLOUR, elinewidth=1)
        for series, shift in zip(drawn, dodges(len(drawn), 0.04 * len(drawn)), strict=True):
            rows = pick(students, method=series.method, unlabelled=series.share)
            x = np.array([prices[series.method, row["magnification"]] for row in rows])
            points += [(cost, row["value"]) for cost, row in zip(x, rows, strict=True)]
            _with_interval(axes, x * (1 + shift), rows, series, joined=False)
        _front(axes, points)
        _score_axis(axes, level, metrics)
        axes.margins(y=0.12)  # room for the names of the columns
        log_axis(axes, list(prices.values()))
        _name_columns(axes, prices)
        axes.set_xlabel(title)
    front = Line2D([], [], color=FRONT_COLOUR, linestyle=":", label="Pareto front")
    _legend(figure, drawn, [front], line="none")
    return figure


@mpl.rc_context(STYLE)
def unlabelled_share(metrics: Sequence[Row], study: Study) -> Figure:
    """Balanced accuracy against the share of unlabelled slides used, per magnification and level.

    A method that cannot use unlabelled slides is a dashed line across. With a single share the figure
    says that there is nothing to compare.
    """
    if not any(len(study.shares(method)) > 1 for method in study.methods):
        return _message(
            "Every method was run with one share of unlabelled slides only,\n"
            "so their effect cannot be shown. Set students.unlabelled to several values, as [0, 50, 100]."
        )
    levels, magnifications = levels_of(metrics), sorted(study.students, reverse=True)
    figure = Figure(figsize=(WIDTH_IN, 0.5 + 2.4 * len(levels)), layout="constrained")
    grid = figure.subplots(len(levels), len(magnifications), sharey="row", sharex=True, squeeze=False)
    for level, row in zip(levels, grid, strict=True):
        students = headline(metrics, level, "student")
        for magnification, axes in zip(magnifications, row, strict=True):
            _share_panel(axes, pick(students, magnification=magnification), study)
            axes.set_title(f"{name_of(magnification)}, per {level}")
        row[0].set_ylabel("balanced accuracy")
    for axes in grid[-1]:
        axes.set_xlabel("unlabelled slides used (%)")
    _share_legend(figure, study)
    return figure


@mpl.rc_context(STYLE)
def added_terms(gains: Sequence[Row], study: Study) -> Figure:
    """What a loss term adds to balanced accuracy against the cells of the student's map, one panel per level.

    A point is a pair of methods at one magnification, with the 95 % interval of their paired difference; a
    line joins the pairs of a term and magnification. Of several unlabelled shares the highest is shown.
    """
    shown = [row for row in gains if row["cells"] > 0]
    if not shown:
        return _message(
            "No two methods of this study are trained alike and differ by one loss term more,\n"
            "so what a term adds cannot be shown. workflow/studies/attention_by_map.yaml has such methods."
        )
    levels = [level for level in LEVELS if pick(shown, level=level)]
    figure, panels = panels_in_row(len(levels), 3.9)
    lines = list(dict.fromkeys((row["term"], row["magnification"]) for row in shown))
    for level, axes in zip(levels, panels, strict=True):
        for i, ((term, magnification), shift) in enumerate(zip(lines, dodges(len(lines), 0.3), strict=True)):
            rows = pick(shown, level=level, term=term, magnification=magnification)
            rows = [r for r in rows if r["unlabelled"] == study.shares(r["method"])[-1]]
            rows.sort(key=lambda row: row["cells"])
            place = np.log2(_column(rows, "cells")) + shift
            arms = np.stack([_column(rows, end) for end in ("low", "high")])
            arms = np.abs(arms - _column(rows, "difference"))
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            label = f"{term}, {name_of(magnification)}"
            axes.errorbar(place, _column(rows, "difference"), np.nan_to_num(arms), label=label, **look)
        cells = sorted({row["cells"] for row in shown})
        axes.axhline(0, color=TEACHER_COLOUR, linewidth=1, linestyle=":")
        axes.set_xticks(np.log2(cells), [f"{c:.0f} × {c:.0f}" for c in cells])
        axes.set_xlabel("cells of the student's last map")
        axes.set_ylabel("gain in balanced accuracy by the term")
        axes.set_title(f"per {level}")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(lines))
    )
    return figure


def _share_panel(axes: Axes, rows: Sequence[Row], study: Study) -> None:
    shares = sorted(set(study.unlabelled))
    drawn = main_series(study)
    for series, shift in zip(drawn, dodges(len(drawn), 0.06 * (shares[-1] - shares[0])), strict=True):
        group = sorted(pick(rows, method=series.method), key=lambda row: row["unlabelled"])
        if study.methods[series.method]:
            _with_interval(axes, _column(group, "unlabelled") + shift, group, series)
        elif group:
            axes.axhline(group[0]["value"], color=series.colour, linestyle="--")
    axes.set_xticks(shares)


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    x, y = zip(*pareto_front(points), strict=True)
    axes.plot(x, y, color=FRONT_COLOUR, linewidth=1, linestyle=":", drawstyle="steps-post", zorder=1)


def _name_columns(axes: Axes, seconds: Mapping[tuple[str, float], float]) -> None:
    # Networks of the same magnification stand in columns of their own.
    columns = {(x, magnification): method == TEACHER for (method, magnification), x in seconds.items()}
    for (x, magnification), is_teacher in columns.items():
        text = f"teacher\n{name_of(magnification)}" if is_teacher else name_of(magnification)
        axes.annotate(
            text, (x, 0), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5, color="#555555",
        )  # fmt: skip


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _arms(rows: Sequence[Row]) -> np.ndarray:
    """Lengths of the error bars, (2, N); none where the interval is missing."""
    value, low, high = (_column(rows, name) for name in ("value", "low", "high"))
    return np.clip(np.nan_to_num(np.stack([value - low, high - value])), 0, None)


def _with_interval(
    axes: Axes, x: np.ndarray, rows: Sequence[Row], series: Series, *, joined: bool = True
) -> None:
    line = series.line if joined else {**series.line, "linestyle": "none"}
    axes.errorbar(x, _column(rows, "value"), _arms(rows), elinewidth=1, capsize=0, **line)


def _teacher_band(axes: Axes, row: Row, study: Study) -> None:
    axes.axhspan(row["low"], row["high"], color=TEACHER_COLOUR, alpha=0.1, linewidth=0)
    axes.axhline(row["value"], color=TEACHER_COLOUR, linewidth=1.2)
    axes.axhline(row["value"] - study.evaluation.margin, color=TEACHER_COLOUR, linewidth=1, linestyle=":")
    axes.plot([np.log2(study.teacher)], [row["value"]], "*", ms=11, color=TEACHER_COLOUR)


def _score_axis(axes: Axes, level: str, metrics: Sequence[Row]) -> None:
    n = headline(metrics, level, TEACHER)[0]
    axes.set_title(f"per {level}: {int(n['n'])} {level}s of {int(n['n_patients'])} test patients")
    axes.set_ylabel("balanced accuracy")


def _share_legend(figure: Figure, study: Study) -> None:
    handles = [
        Line2D([], [], label=series.method, **series.line)
        if study.methods[series.method]
        else Line2D([], [], label=f"{series.method} (uses none)", color=series.colour, linestyle="--")
        for series in main_series(study)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _legend(figure: Figure, drawn: Sequence[Series], extra: Sequence[Line2D], *, line: Any) -> None:
    teacher = Line2D([], [], color=TEACHER_COLOUR, marker="*", markersize=8, linestyle=line, label="teacher")
    handles = [Line2D([], [], label=series.label, **series.line) for series in drawn]
    handles = [teacher, *extra, *handles]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))


def _message(text: str) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#444444")
    return figure
