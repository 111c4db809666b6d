"""Paired comparison of every student with the teacher and with the reference methods at its magnification."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowmag import bootstrap, noninferiority
from lowmag.bootstrap import Estimate, Resamples
from lowmag.metrics import limits_of
from lowmag.predictions import Group, Level
from lowmag.study import Study

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "kappa_quadratic")
LARGEST_SHARE = 1e6
TEACHER, HEADLINE = "teacher", "balanced_accuracy"

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
    "gap_closed",
    "gap_low",
    "gap_high",
    "margin",
    "bound",
    "p_worse",
    "p_worse_holm",
    "not_worse",
    "low_enough",
)
OF_TEACHER = ("margin", "bound", "p_worse", "p_worse_holm", "not_worse", "low_enough")
Scores = dict[Group, dict[str, Estimate]]


@dataclass(frozen=True)
class Drawn:
    """The resamples of a part, and in each the share of the patient nobody saw (`noninferiority`)."""

    resamples: Resamples
    unseen: np.ndarray  # (B,)


@dataclass(frozen=True)
class Comparison:
    """Student minus reference, mean over seeds, on the test split.

    `low, high` is the two-sided 95 % interval. `bound` is the one-sided 95 % lower bound (`noninferiority`)
    and `not_worse` says that it lies above -margin: a test of non-inferiority at 5 %, made against the
    teacher and of balanced accuracy only, whose margin it is. `p` is of no difference at all; `p_worse` of a
    loss of the margin or more. Both are corrected by Holm within (level, metric, reference). `low_enough`:
    not worse, nor is any higher magnification of the method and share, corrected over these (`how_low`).

    `gap_closed` is the difference to a reference method as a share of the teacher's, with its 95 % interval:
    1 is as good as the teacher. NaN against the teacher, and where the teacher is not better than the
    reference with 95 % confidence, so that there is no gap to speak of.
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
    gap_closed: float = float("nan")
    gap_low: float = float("nan")
    gap_high: float = float("nan")
    low_enough: bool = False

    @property
    def not_worse(self) -> bool:
        """Whether the student is not worse than the teacher by the margin."""
        return self.bound > -self.margin

    def columns(self) -> dict[str, Any]:
        """The row of comparisons.tsv; what is tested by the margin is empty elsewhere."""
        student = self.student
        of_student = {name: getattr(student, name) for name in ("method", "magnification", "unlabelled")}
        of_pair = {name: getattr(self, name) for name in COLUMNS if hasattr(self, name)}
        tested = (self.reference, self.metric) == (TEACHER, HEADLINE)
        verdict = {} if tested else dict.fromkeys(OF_TEACHER)
        return of_pair | of_student | verdict


def compare(level: Level, scored: Scores, drawn: Drawn, study: Study) -> list[Comparison]:
    """Every comparison of a level, corrected within its family, in the order metric, reference, student."""
    students = [group for group in scored if group.role == "student"]
    teacher = next(group for group in scored if group.role == TEACHER)
    found = []
    for metric in METRICS:
        if metric not in scored[teacher]:
            continue
        family = [compare_pair((level, metric), (s, teacher), scored, drawn, study) for s in students]
        found += corrected(family)
        for reference in study.references:
            others = [(s, reference_at(s, reference, study)) for s in students if s.method != reference]
            family = [
                _with_gap(
                    compare_pair((level, metric), pair, scored, drawn, study),
                    [scored[group][metric] for group in (*pair, teacher)],
                    drawn.resamples,
                )
                for pair in others
            ]
            found += corrected(family)
    return found


def reference_at(student: Group, reference: str, study: Study) -> Group:
    """The reference's student of the same magnification, and share of unlabelled slides if any."""
    shares = study.shares(reference)
    share = student.unlabelled if student.unlabelled in shares else shares[0]
    return replace(student, method=reference, unlabelled=share)


def _with_gap(row: Comparison, scores: Sequence[Estimate], resamples: Resamples) -> Comparison:
    """The row with the share of the gap closed, by the scores of student, reference and teacher."""
    of_student, of_reference, of_teacher = scores
    gap, gaps = bootstrap.paired_difference(of_teacher, of_reference)
    if not resamples.interval(gaps)[0] > 0:
        return row
    gained, gains = bootstrap.paired_difference(of_student, of_reference)
    # A gain where there is no gap is more than any share of it; the rule above leaves few such resamples.
    beyond = np.sign(gains) * LARGEST_SHARE
    shares = np.divide(gains, gaps, out=beyond, where=gaps > 0)
    low, high = np.clip(resamples.interval(shares), -LARGEST_SHARE, LARGEST_SHARE).tolist()
    return replace(row, gap_closed=gained / gap, gap_low=low, gap_high=high)


def compare_pair(
    of: tuple[Level, str], pair: tuple[Group, Group], scored: Scores, drawn: Drawn, study: Study
) -> Comparison:
    """Student minus reference, of a level and metric; without what is corrected over a family."""
    (level, metric), (student, reference) = of, pair
    difference, samples = bootstrap.paired_difference(scored[student][metric], scored[reference][metric])
    least, most = limits_of(metric)
    low, high = drawn.resamples.interval(samples, (least - most, most - least))
    margin = study.evaluation.margin
    with_unseen = noninferiority.with_unseen(samples, drawn.unseen)
    return Comparison(
        level=level,
        metric=metric,
        student=student,
        reference=reference.method,
        difference=difference,
        low=low,
        high=high,
        bound=noninferiority.lower_bound(with_unseen),
        p=drawn.resamples.p_two_sided(samples),
        p_worse=noninferiority.p_worse_by(with_unseen, margin),
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
