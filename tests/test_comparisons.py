"""The share of the gap closed: its interval where a resample has no gap, and where there is none at all."""

import numpy as np
import pytest
from lowmag.bootstrap import Estimate, Resamples
from lowmag.comparisons import Drawn, compare
from lowmag.predictions import groups
from synthetic_predictions import make_study

N = 10_000


def shares_of(gap: np.ndarray, gain: np.ndarray) -> tuple[float, float, float]:
    """Share of the gap closed and its interval, of a teacher and a student above the reference by so much."""
    study = make_study(students=[1.25], methods={"labels-only": False, "own": False}, seeds=[0])
    teacher, reference, student = groups(study)
    base = np.full(N, 0.5)
    samples = {teacher: base + gap, reference: base, student: base + gain}
    scored = {
        group: {"balanced_accuracy": Estimate(np.array([drawn.mean()]), drawn[None])}
        for group, drawn in samples.items()
    }
    many = Resamples(np.zeros((0, 0)), stratified=False, freedom=1e9, narrowed=1.0)
    rows = compare("tile", scored, Drawn(many, np.zeros(N)), study)
    row = next(row for row in rows if row.reference == "labels-only")
    return row.gap_closed, row.gap_low, row.gap_high


def test_the_share_is_that_of_the_means_and_its_interval_that_of_the_resamples() -> None:
    random = np.random.default_rng(0)
    gap, gain = random.normal(0.3, 0.02, N), random.normal(0.15, 0.02, N)
    share, low, high = shares_of(gap, gain)
    assert share == pytest.approx(gain.mean() / gap.mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(gain / gap, [0.025, 0.975])))


def test_a_gain_without_a_gap_is_more_than_any_share_and_not_less() -> None:
    """In 2 % of the resamples the teacher is below the reference while the student is above it."""
    gap, gain = np.full(N, 0.2), np.full(N, 0.1) + np.linspace(-0.01, 0.01, N)
    gap[:200] = -0.001
    share, low, high = shares_of(gap, gain)
    assert share == pytest.approx(gain.mean() / gap.mean())
    assert 0.4 < low < share < high < 0.6


def test_no_share_is_told_of_a_gap_that_may_not_be_there() -> None:
    gap = np.random.default_rng(0).normal(0.03, 0.02, N)
    assert np.isnan(shares_of(gap, gap)).all()
