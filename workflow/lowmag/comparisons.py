"""Paired comparison of every student with the teacher and with `labels-only` at the same magnification."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowmag import bootstrap
from lowmag.bootstrap import Estimate
from lowmag.predictions import Group, Level
from lowmag.study import Study

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "kappa_quadratic")
TEACHER = "teacher"
LABELS_ONLY = "labels-only"

COLUMNS = (
    "level",
    "metric",
    "method",
    "magnification",
    "unlabelled",
    "reference",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "margin",
    "not_worse",
)
Scores = dict[Group, dict[str, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """Student minus reference, mean over seeds, on the test split.

    `low, high` is the two-sided 95 % interval. `bound` is the one-sided 95 % lower bound, the 5th percentile,
    and `not_worse` says that it lies above -margin: a test of non-inferiority at 5 %, made against the
    teacher only. `p` is of no difference at all; `p_worse` of a loss of the margin or more. Both are
    corrected by Holm within (level, metric, reference).
    """

    level: Level
    metric: str
    student: Group
    reference: str
    difference: float
    low: float
    high: float
    bound: float
    p: float
    p_worse: float
    margin: float
    p_holm: float = float("nan")
    p_worse_holm: float = float("nan")

    @property
    def not_worse(self) -> bool:
        """Whether the student is not worse than the teacher by the margin."""
        return self.bound > -self.margin

    def columns(self) -> dict[str, Any]:
        """The row of comparisons.tsv; margin and verdict are empty unless the reference is the teacher."""
        student = self.student
        of_student = {name: getattr(student, name) for name in ("method", "magnification", "unlabelled")}
        of_pair = {name: getattr(self, name) for name in COLUMNS if hasattr(self, name)}
        verdict = {} if self.reference == TEACHER else {"margin": None, "not_worse": None}
        return of_pair | of_student | verdict


def compare(level: Level, scored: Scores, study: Study) -> list[Comparison]:
    """Every comparison of a level, corrected within its family, in the order metric, reference, student."""
    students = [group for group in scored if group.role == "student"]
    teacher = next(group for group in scored if group.role == TEACHER)
    found = []
    for metric in METRICS:
        if metric not in scored[teacher]:
            continue
        pairs = {TEACHER: [(student, teacher) for student in students]}
        if LABELS_ONLY in study.methods:
            pairs[LABELS_ONLY] = [(s, _labels_only_at(s)) for s in students if s.method != LABELS_ONLY]
        for reference, family in pairs.items():
            found += corrected(
                _comparison(level, metric, reference, (student, scored[student], scored[other]), study)
                for student, other in family
            )
    return found


def _labels_only_at(student: Group) -> Group:
    return replace(student, method=LABELS_ONLY, unlabelled=0)


def _comparison(
    level: Level,
    metric: str,
    reference: str,
    sides: tuple[Group, dict[str, Estimate], dict[str, Estimate]],
    study: Study,
) -> Comparison:
    student, of_student, of_reference = sides
    difference, samples = bootstrap.paired_difference(of_student[metric], of_reference[metric])
    low, high = bootstrap.interval(samples)
    margin = study.evaluation.margin
    return Comparison(
        level=level,
        metric=metric,
        student=student,
        reference=reference,
        difference=difference,
        low=low,
        high=high,
        bound=bootstrap.lower_bound(samples),
        p=bootstrap.p_two_sided(samples),
        p_worse=bootstrap.p_worse_by(samples, margin),
        margin=margin,
    )


def corrected(family: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons of one family with Holm's correction filled in."""
    family = list(family)
    p_holm = bootstrap.holm(np.array([row.p for row in family]))
    p_worse_holm = bootstrap.holm(np.array([row.p_worse for row in family]))
    return [
        replace(row, p_holm=float(two_sided), p_worse_holm=float(one_sided))
        for row, two_sided, one_sided in zip(family, p_holm, p_worse_holm, strict=True)
    ]
