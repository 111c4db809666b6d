"""The tables of `evaluate`, read as plain rows, and the picks from them that figures and report share."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The figures of a study, each an SVG of this name; the rules read the list, too.
FIGURES = (
    "accuracy_magnification",
    "accuracy_cost",
    "accuracy_compute",
    "unlabelled_share",
    "added_terms",
    "confusion",
    "calibration",
)
HEADLINE = "balanced_accuracy"
TEACHER, LABELS_ONLY = "teacher", "labels-only"
LEVELS = ("tile", "slide")
TEXT = {
    "level",
    "split",
    "role",
    "method",
    "seed",
    "metric",
    "reference",
    "term",
    "model",
    "methods",
    "precision",
    "not_worse",
    "low_enough",
}
Row = dict[str, Any]


def read_table(path: Path) -> list[Row]:
    """The rows of a tab-separated table; columns not in TEXT become floats, an empty number is NaN."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [
            {name: text if name in TEXT else _number(text) for name, text in row.items()}
            for row in csv.DictReader(lines, delimiter="\t")
        ]


def _number(text: str) -> float:
    return float(text) if text else math.nan


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows whose columns have the values wanted."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def headline(metrics: Sequence[Row], level: str, role: str, split: str = "test") -> list[Row]:
    """The rows of the headline metric, mean over seeds, of one level, role and split."""
    return pick(metrics, level=level, role=role, split=split, metric=HEADLINE, seed="mean")


def levels_of(metrics: Sequence[Row]) -> list[str]:
    """The levels at which the teacher has a score on the test split, tile first."""
    return [
        level
        for level in LEVELS
        if any(math.isfinite(row["value"]) for row in headline(metrics, level, TEACHER))
    ]


def best_student(metrics: Sequence[Row], magnification: float) -> tuple[str, int]:
    """Method and unlabelled share with the highest validation score of tiles at a magnification.

    The test decides only where there is no validation split.
    """
    rows: list[Row] = []
    for split in ("val", "test"):
        rows = rows or pick(headline(metrics, "tile", "student", split), magnification=magnification)
    best = max(rows, key=lambda row: row["value"])
    return best["method"], int(best["unlabelled"])


def has_reading(cost: Sequence[Row]) -> bool:
    """Whether reading was timed, so that a slide has a price in seconds."""
    return any(math.isfinite(row["seconds_per_slide"]) for row in cost)


def measured_seconds(cost: Sequence[Row]) -> dict[tuple[str, float], float]:
    """Seconds per slide by (method, magnification), or per mm² of network time where no reading was timed."""
    per_slide = has_reading(cost)
    return {
        (method, row["magnification"]): row["seconds_per_slide"] if per_slide else 1 / row["mm2_per_s"]
        for row in cost
        for method in row["methods"].split(", ")
        if math.isfinite(row["mm2_per_s"])  # a teacher on features computed elsewhere was not timed
    }


def computation(cost: Sequence[Row]) -> dict[tuple[str, float], float]:
    """Billions of multiply-accumulates per mm² of tissue by (method, magnification)."""
    return {
        (method, row["magnification"]): row["gmac_per_mm2"]
        for row in cost
        for method in row["methods"].split(", ")
        if math.isfinite(row["gmac_per_mm2"])  # a teacher on features: where the config states no cost
    }


def lowest_not_worse(comparisons: Sequence[Row], level: str, method: str, share: int) -> float | None:
    """The lowest magnification of a method and share that passes, corrected over methods, or None."""
    rows = pick(comparisons, level=level, metric=HEADLINE, reference=TEACHER, method=method)
    passed = pick(rows, unlabelled=share, low_enough="True")
    return min((row["magnification"] for row in passed), default=None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, score) that nothing cheaper or as cheap equals, by cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
