import numpy as np
import pytest
from lowmag import bootstrap, metrics
from lowmag.bootstrap import Estimate
from lowmag.metrics import Truth


def accuracy_samples(truth, p, weights):
    sums = metrics.patient_sums(truth, p)
    return metrics.scores(sums, weights, truth.present, ordinal=False)["accuracy"]


def test_resamples_draw_as_many_patients_as_there_are_and_repeat_by_seed():
    classes = np.repeat([0, 1], 15)
    drawn = bootstrap.resample_patients(classes, n=50, seed=4)
    assert drawn.weights.shape == (50, 30)
    assert (drawn.weights.sum(axis=1) == 30).all()
    assert not drawn.stratified
    again = bootstrap.resample_patients(classes, n=50, seed=4)
    assert np.array_equal(drawn.weights, again.weights)
    other = bootstrap.resample_patients(classes, n=50, seed=5)
    assert not np.array_equal(drawn.weights, other.weights)


def test_unstratified_resamples_vary_the_class_sizes():
    classes = np.repeat([0, 1], 15)
    of_class = bootstrap.resample_patients(classes, n=50, seed=0).weights[:, classes == 0].sum(axis=1)
    assert of_class.std() > 0


def test_few_patients_of_a_class_keep_their_number_in_every_resample():
    classes = np.array([0] * 12 + [1] * 3 + [2])
    drawn = bootstrap.resample_patients(classes, n=200, seed=0)
    assert drawn.stratified
    for c, size in enumerate([12, 3, 1]):
        assert (drawn.weights[:, classes == c].sum(axis=1) == size).all()


def test_interval_and_bound_are_percentiles_of_defined_values():
    samples = np.append(np.arange(1001) / 1000, np.nan)
    assert bootstrap.interval(samples) == pytest.approx((0.025, 0.975))
    assert bootstrap.lower_bound(samples) == pytest.approx(0.05)
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()
    assert np.isnan(bootstrap.lower_bound(np.array([np.nan])))
    assert np.isnan(bootstrap.p_two_sided(np.array([np.nan])))


def test_patients_give_a_wider_interval_than_tiles_when_tiles_of_a_patient_are_alike():
    random = np.random.default_rng(0)
    n_patients, n_tiles = 30, 20
    patients = np.repeat(np.arange(n_patients), n_tiles)
    labels = patients % 2
    skill = random.uniform(0.3, 1.0, n_patients)
    right = random.random(len(labels)) < skill[patients]
    p = np.eye(2)[np.where(right, labels, 1 - labels)]
    widths = []
    for unit in (patients, np.arange(len(labels))):
        truth = Truth(labels, unit, 2)
        weights = bootstrap.resample_patients(np.zeros(truth.n_patients), n=1000, seed=0).weights
        low, high = bootstrap.interval(accuracy_samples(truth, p, weights))
        widths.append(high - low)
    # Skill has sd 0.2 and a tile sd 0.48: intraclass correlation 0.18, design effect 1 + 19 * 0.18 = 4.4,
    # so the true ratio is about 2.1.
    assert widths[0] > 1.5 * widths[1]


def test_the_interval_of_a_mean_covers_about_as_often_as_it_says():
    """300 cohorts of 40 patients with one item each: 95 % intervals, known to cover a little less."""
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        right = random.random(40) < 0.7
        truth = Truth(np.zeros(40, int), np.arange(40), 2)
        p = np.eye(2)[np.where(right, 0, 1)]
        weights = bootstrap.resample_patients(np.zeros(40), n=400, seed=seed).weights
        low, high = bootstrap.interval(accuracy_samples(truth, p, weights))
        covered += low <= 0.7 <= high
    # Binomial sd of a coverage of 0.93 over 300 cohorts is 0.015: four of them each way.
    assert 0.87 < covered / 300 < 0.99


def test_identical_runs_differ_by_exactly_nothing():
    random = np.random.default_rng(2)
    values, samples = random.random(3), random.random((3, 100))
    one = Estimate(values, samples)
    reordered = Estimate(values[::-1], samples[::-1])
    for other in (one, reordered):
        difference, of_resamples = bootstrap.paired_difference(one, other)
        assert difference == 0
        assert bootstrap.interval(of_resamples) == (0, 0)
        assert bootstrap.p_two_sided(of_resamples) == 1


def test_pairing_removes_what_two_runs_share():
    random = np.random.default_rng(3)
    shared = random.normal(size=(1, 2000))
    student = Estimate(np.array([0.7]), 0.7 + shared)
    teacher = Estimate(np.array([0.8]), 0.8 + shared)
    difference, samples = bootstrap.paired_difference(student, teacher)
    assert difference == pytest.approx(-0.1)
    assert bootstrap.interval(samples) == pytest.approx((-0.1, -0.1))


def test_mean_over_seeds_is_taken_within_a_resample():
    estimate = Estimate(np.array([0.2, 0.6]), np.array([[0.1, 0.3], [0.5, 0.9]]))
    assert estimate.mean == pytest.approx(0.4)
    assert estimate.mean_samples == pytest.approx([0.3, 0.6])
    assert estimate.sd_seeds == pytest.approx(np.sqrt(0.08))
    assert np.isnan(Estimate(np.array([0.2]), np.array([[0.1]])).sd_seeds)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (np.full(99, 0.1), 2 * 1 / 100),
        (np.array([-1.0] * 4 + [1.0] * 95), 2 * 5 / 100),
        (np.array([-1.0, 1.0] * 50), 1.0),
    ],
)
def test_two_sided_p_adds_one(differences, expected):
    assert bootstrap.p_two_sided(differences) == pytest.approx(expected)


def test_one_sided_p_of_the_margin_agrees_with_the_bound():
    samples = np.random.default_rng(0).normal(-0.02, 0.02, 4999)
    for margin in (0.03, 0.05, 0.06, 0.08):
        significant = bootstrap.p_worse_by(samples, margin) < 0.05
        assert significant == (bootstrap.lower_bound(samples) > -margin)


def test_holm_worked_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last rises to 0.06."""
    assert bootstrap.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bootstrap.holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    with_gap = bootstrap.holm(np.array([0.02, np.nan, 0.03]))
    assert with_gap == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
