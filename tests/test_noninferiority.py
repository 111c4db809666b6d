"""Not worse by a margin: closed forms, and how often it is said of students that lose exactly the margin."""

import numpy as np
import pytest
from lowmag import bootstrap, noninferiority
from lowmag.metrics import Truth
from scipy import stats

MARGIN = 0.05


def truth_of(sizes: list[int]) -> Truth:
    """A tile of each of so many patients per class."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return Truth(classes, np.arange(len(classes)), len(sizes))


def test_with_no_loss_seen_the_bound_is_that_of_clopper_and_pearson() -> None:
    for n in (10, 59, 200):
        shares = noninferiority.unseen_shares(n, n=200_000, seed=0)
        bound = noninferiority.lower_bound(noninferiority.with_unseen(np.zeros(len(shares)), shares))
        expected = stats.binomtest(0, n).proportion_ci(0.9, "exact").high  # 5 % on this side
        assert bound == pytest.approx(-expected, rel=0.01)


def test_a_verdict_needs_59_patients_at_a_margin_of_5_per_cent() -> None:
    assert noninferiority.patients_needed(MARGIN) == 59
    assert noninferiority.patients_needed(0.15) == 19
    for n, told in ((54, False), (64, True)):
        shares = noninferiority.unseen_shares(n, n=10_000, seed=0)
        assert noninferiority.can_tell(shares, MARGIN) == told


def test_the_rarest_class_and_uneven_patients_count_for_less() -> None:
    assert noninferiority.effective_patients(truth_of([10, 10, 10])) == pytest.approx(30)
    assert noninferiority.effective_patients(truth_of([20, 6, 4])) == pytest.approx(12)
    # One patient of class 1 has three tiles, the other one: (3 + 1)^2 / (9 + 1) = 1.6 of 2. Class 2 has none.
    uneven = Truth(np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 2, 2, 2, 3]), 3)
    assert noninferiority.effective_patients(uneven) == pytest.approx(3.2)


def test_one_sided_p_of_the_margin_agrees_with_the_bound() -> None:
    samples = np.random.default_rng(0).normal(-0.02, 0.02, 4999)
    for margin in (0.03, 0.05, 0.06, 0.08):
        significant = noninferiority.p_worse_by(samples, margin) < 0.05
        assert significant == (noninferiority.lower_bound(samples) > -margin)
    assert np.isnan(noninferiority.lower_bound(np.array([np.nan])))
    assert np.isnan(noninferiority.p_worse_by(np.array([np.nan]), 0.1))


def said(sizes: list[int], in_class: list[float], *, wins: float = 0.0) -> tuple[float, float]:
    """How often "not worse" is said by the percentile bound and by ours, of 1000 cohorts.

    The student loses a patient altogether with the chance of its class, and wins one with the chance `wins`.
    """
    random, truth = np.random.default_rng(0), truth_of(sizes)
    weights = bootstrap.resample_patients(truth.labels, n=1000, seed=0).weights
    drawn, lost = random.random((1000, len(truth.labels))), np.array(in_class)[truth.labels]
    differences = (drawn > 1 - wins).astype(float) - (drawn < lost + wins)
    samples = np.zeros((1000, 1000))  # cohort, resample
    for c in range(len(sizes)):
        of_class = weights[:, truth.labels == c]
        samples += differences[:, truth.labels == c] @ of_class.T / of_class.sum(1) / len(sizes)
    shares = noninferiority.unseen_shares(noninferiority.effective_patients(truth), n=1000, seed=0)
    bounds = [noninferiority.lower_bound(row) for row in samples]
    ours = [noninferiority.lower_bound(noninferiority.with_unseen(row, shares)) for row in samples]
    return float(np.mean(np.array(bounds) > -MARGIN)), float(np.mean(np.array(ours) > -MARGIN))


@pytest.mark.parametrize(
    ("sizes", "in_class", "wins"),
    [
        ([10, 10], [0.05, 0.05], 0.0),
        ([20, 20, 20], [0.05, 0.05, 0.05], 0.0),
        ([48, 12], [0.0, 0.1], 0.0),
        ([50, 50], [0.05, 0.05], 0.0),
    ],
)
def test_a_loss_of_the_margin_is_called_not_worse_in_one_study_of_twenty(sizes, in_class, wins) -> None:
    percentile, ours = said(sizes, in_class, wins=wins)
    # Two standard deviations of a share of 5 % over 1000 cohorts; the percentile bound fails.
    assert ours <= 0.05 + 2 * 0.007
    assert percentile > 0.09


def test_a_student_as_good_as_an_imperfect_teacher_can_still_be_told() -> None:
    """Each errs on 5 % of 200 patients that the other gets right."""
    _, ours = said([100, 100], [0.0, 0.0], wins=0.05)
    assert ours > 0.6
