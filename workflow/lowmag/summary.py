"""`summary.json`: the answer of a study, as the report's opening sentences need it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lowmag import bootstrap, how_low, noninferiority
from lowmag.bootstrap import Estimate
from lowmag.comparisons import HEADLINE, TEACHER, Comparison, Drawn, Scores
from lowmag.metrics import limits_of
from lowmag.predictions import Group, Level, Part
from lowmag.study import Study

PRICES = ("compute_saving", "bytes_saving", "time_saving", "read_mb_per_slide", "seconds_per_slide")


@dataclass(frozen=True)
class Findings:
    """What `evaluate` found: parts, resamples and scores by (level, split), comparisons on the test, cost."""

    parts: Mapping[tuple[str, str], Part]
    drawn: Mapping[tuple[str, str], Drawn]
    scored: Mapping[tuple[str, str], Scores]
    compared: Sequence[Comparison]
    cost: Sequence[Mapping[str, Any]]

    @property
    def level(self) -> Level:
        """The level that decides: slides when they come from enough test patients, else tiles."""
        slides = self.parts.get(("slide", "test"))
        return "slide" if slides and slides.truth.n_patients >= bootstrap.ENOUGH_PATIENTS else "tile"


def summarise(study: Study, found: Findings) -> dict[str, Any]:
    """How low one can go: the lowest magnification with a student not worse than the teacher, or None.

    Decided by balanced accuracy, mean over seeds. At every magnification one student is tested, that with the
    highest validation score of tiles (`best_per_magnification`): choosing on the test split would flatter.
    They are one fixed sequence from the highest magnification down (`how_low`), so the level needs no
    division by the number of students. `as_measured` is where the differences themselves would lead: the
    lowest with none below -margin. `how_low` says the same of every method and share, corrected over them.
    """
    family = [
        row
        for row in found.compared
        if (row.level, row.metric, row.reference) == (found.level, HEADLINE, TEACHER)
    ]
    best = [_best_at(m, family, found) for m in sorted(set(study.students), reverse=True)]
    passed = how_low.in_sequence(best)
    teacher = next(group for group in found.scored[found.level, "test"] if group.role == TEACHER)
    tiles = found.parts["tile", "test"]
    measured = list(takewhile(lambda row: row.difference > -row.margin, best))
    return {
        "level": found.level,
        "metric": HEADLINE,
        "margin": study.evaluation.margin,
        "confidence": bootstrap.CONFIDENCE,
        "bootstrap": study.evaluation.bootstrap,
        "seeds": len(study.seeds),
        "classes": len(study.classes),
        "classes_in_test": len(found.parts[found.level, "test"].truth.present),
        "test": {
            "patients": tiles.truth.n_patients,
            "slides": len(tiles.items_per_slide),
            "tiles": tiles.n,
        }
        | _patients(study, found),
        "teacher": {"magnification": study.teacher} | _score(teacher, found) | _price(teacher, found),
        "n_students": len(family),
        "n_not_worse": sum(row.not_worse for row in family),
        "chosen_on": "val" if ("tile", "val") in found.scored else "test",
        "recommended": _record(passed[-1], found) if passed else None,
        "as_measured": _record(measured[-1], found) if measured else None,
        "best_per_magnification": [_record(row, found) for row in best],
        "how_low": how_low.lowest_of_methods(family, lambda row: _record(row, found)),
    }


def _patients(study: Study, found: Findings) -> dict[str, Any]:
    """Whether the test patients of the deciding level are enough, for intervals and for any verdict."""
    truth, margin = found.parts[found.level, "test"].truth, study.evaluation.margin
    return {
        "enough_patients": truth.n_patients >= bootstrap.ENOUGH_PATIENTS,
        "effective_patients": noninferiority.effective_patients(truth),
        "needed_patients": noninferiority.patients_needed(margin),
        "can_tell": noninferiority.can_tell(found.drawn[found.level, "test"].unseen, margin),
    }


def _best_at(magnification: float, rows: Sequence[Comparison], found: Findings) -> Comparison:
    """The row of the student that does best on validation tiles; on the test when there are none."""
    validation = found.scored.get(("tile", "val"), {})

    def standing(row: Comparison) -> float:
        by_metric = validation.get(row.student)
        return by_metric[HEADLINE].mean if by_metric else row.difference

    return max((row for row in rows if row.student.magnification == magnification), key=standing)


def _record(row: Comparison, found: Findings) -> dict[str, Any]:
    student = row.student
    identity = {
        "method": student.method,
        "magnification": student.magnification,
        "unlabelled": student.unlabelled,
        "difference": _finite(row.difference),
        "difference_low": _finite(row.low),
        "difference_high": _finite(row.high),
        "lower_bound": _finite(row.bound),
        "not_worse": row.not_worse,
        "low_enough": row.low_enough,
        "p_worse_holm": _finite(row.p_worse_holm),
    }
    return identity | _score(student, found) | _price(student, found)


def _score(group: Group, found: Findings) -> dict[str, float | None]:
    estimate: Estimate = found.scored[found.level, "test"][group][HEADLINE]
    resamples = found.drawn[found.level, "test"].resamples
    low, high = resamples.interval(estimate.mean_samples, limits_of(HEADLINE))
    return {"value": _finite(estimate.mean), "low": _finite(low), "high": _finite(high)}


def _price(group: Group, found: Findings) -> dict[str, float | None]:
    price = next(
        row
        for row in found.cost
        if (row["role"], row["magnification"]) == (group.role, group.magnification)
        and group.method in row["methods"].split(", ")
    )
    return {name: _finite(price[name]) for name in PRICES}


def _finite(value: float | None) -> float | None:
    """The number, or None where JSON has none."""
    return float(value) if value is not None and math.isfinite(value) else None
