"""How low one can go: the sequence from the highest magnification down, and what it promises."""

import numpy as np
import pytest
from lowmag import bootstrap, how_low
from lowmag.comparisons import Comparison
from lowmag.predictions import Group


def row(magnification: float, bound: float, method: str = "m", share: int = 0) -> Comparison:
    student = Group("student", method, magnification, share)
    return Comparison("slide", "balanced_accuracy", student, "teacher", 0, 0, 0, bound, 1, 0, 0.05)


def test_the_first_magnification_that_fails_ends_the_sequence() -> None:
    rows = [row(0.625, 0.01), row(5, -0.01), row(1.25, -0.06), row(2.5, -0.049)]
    assert [r.student.magnification for r in how_low.in_sequence(rows)] == [5, 2.5]
    assert how_low.in_sequence([row(5, -0.05), row(2.5, 0.1)]) == []  # the margin itself is a loss of it
    assert how_low.in_sequence([row(5, float("nan"))]) == []


def test_every_method_and_share_is_a_sequence_of_its_own() -> None:
    family = [
        row(5, 0.0, "a"),
        row(5, -0.2, "b"),
        row(2.5, 0.0, "a"),
        row(2.5, 0.0, "b"),
        row(5, 0.0, "a", 100),
    ]
    assert [r.low_enough for r in how_low.with_verdict(family)] == [True, False, True, False, True]
    lowest = how_low.lowest_of_methods(family, lambda r: {"magnification": r.student.magnification})
    assert lowest == [
        {"method": "a", "unlabelled": 0, "lowest": {"magnification": 2.5}},
        {"method": "b", "unlabelled": 0, "lowest": None},
        {"method": "a", "unlabelled": 100, "lowest": {"magnification": 5}},
    ]
    table = how_low.table_rows("slide", lowest)
    assert [r["magnification"] for r in table] == [2.5, None, 5]
    assert set(table[1]) == set(how_low.COLUMNS)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_false_verdict_anywhere_is_as_rare_as_promised(spread: float) -> None:
    """Of students exactly at the margin, all worse in truth, one study in twenty says otherwise at most."""
    random = np.random.default_rng(0)
    n_studies, n_patients, margin = 400, 60, 0.05
    said = 0
    for _ in range(n_studies):
        weights = random.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=400)
        shared = random.normal(0, spread, n_patients)
        rows = []
        for magnification in (5.0, 2.5, 1.25, 0.625):
            differences = -margin + 0.1 * (shared + random.normal(size=n_patients))
            rows.append(row(magnification, bootstrap.lower_bound(weights @ differences / n_patients)))
        said += bool(how_low.in_sequence(rows))
    # 5 % and three standard deviations of such a count, and what a percentile interval of 60 lacks.
    assert said / n_studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_studies) + 0.01
