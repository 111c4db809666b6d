"""How low one can go: the sequence from the highest magnification down, and what it promises."""

import numpy as np
import pytest
from lowmag import bootstrap, how_low, noninferiority
from lowmag.comparisons import Comparison
from lowmag.predictions import Group


def row(magnification: float, bound: float, method: str = "m", share: int = 0, p: float = 0) -> Comparison:
    student = Group("student", method, magnification, share)
    return Comparison("slide", "balanced_accuracy", student, "teacher", 0, 0, 0, bound, 1, p, 0.05)


def one(magnification: float, method: str, p: float) -> Comparison:
    return row(magnification, 0.0 if p < 0.05 else -0.1, method, p=p)


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
        {"method": "a", "unlabelled": 0, "lowest": {"magnification": 2.5}, "alone": 2.5},
        {"method": "b", "unlabelled": 0, "lowest": None, "alone": None},
        {"method": "a", "unlabelled": 100, "lowest": {"magnification": 5}, "alone": 5},
    ]
    table = how_low.table_rows("slide", lowest)
    assert [r["magnification"] for r in table] == [2.5, None, 5]
    assert set(table[1]) == set(how_low.COLUMNS)


def passed(*rows: Comparison) -> dict[str, list[float]]:
    return {
        method: [r.student.magnification for r in found]
        for (method, _), found in how_low.over_methods(rows).items()
    }


def test_over_two_methods_each_has_half_the_level_until_one_is_through() -> None:
    """By hand: a passes both at 0.025 and hands its half on; b passes at 0.05, and its next does not."""
    a = [one(5, "a", 0.001), one(2.5, "a", 0.024)]
    b = [one(5, "b", 0.04), one(2.5, "b", 0.06)]
    assert passed(*a, *b) == {"a": [5, 2.5], "b": [5]}
    stuck = [one(5, "a", 0.001), one(2.5, "a", 0.026)]
    assert passed(*stuck, *b) == {"a": [5], "b": []}
    lowest = how_low.lowest_of_methods([*stuck, *b], lambda r: {"magnification": r.student.magnification})
    assert [(r["lowest"], r["alone"]) for r in lowest] == [({"magnification": 5}, 2.5), (None, 5)]
    assert [r["magnification_alone"] for r in how_low.table_rows("tile", lowest)] == [2.5, 5]


def test_of_one_magnification_it_is_holm() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        p = random.choice([0.001, 0.008, 0.011, 0.016, 0.02, 0.03, 0.045, 0.2], 5)
        found = passed(*(one(5, str(i), value) for i, value in enumerate(p)))
        assert [bool(found[str(i)]) for i in range(5)] == (bootstrap.holm(p) < 0.05).tolist()


def test_of_one_method_nothing_is_divided() -> None:
    assert passed(one(5, "a", 0.049), one(2.5, "a", 0.01)) == {"a": [5, 2.5]}
    assert how_low.over_methods([]) == {}


@pytest.mark.parametrize(("spread", "n_methods"), [(0.5, 4), (2.0, 1)])
def test_a_false_verdict_anywhere_is_as_rare_as_promised(spread: float, n_methods: int) -> None:
    """Of students exactly at the margin, all worse in truth, one study in twenty says otherwise at most."""
    random = np.random.default_rng(0)
    n_studies, n_patients, margin = 400, 60, 0.05
    said = 0
    for _ in range(n_studies):
        weights = random.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=400)
        shared = random.normal(0, spread, n_patients)
        rows = []
        for method in range(n_methods):
            for magnification in (5.0, 2.5, 1.25):
                differences = -margin + 0.1 * (shared + random.normal(size=n_patients))
                samples = weights @ differences / n_patients
                p = noninferiority.p_worse_by(samples, margin)
                rows.append(row(magnification, noninferiority.lower_bound(samples), str(method), p=p))
        said += any(how_low.over_methods(rows).values())
    # 5 % and three standard deviations of such a count, and what a percentile interval of 60 lacks.
    assert said / n_studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_studies) + 0.01
