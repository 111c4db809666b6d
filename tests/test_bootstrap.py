import numpy as np
import pytest
from lowmag import bootstrap, metrics
from lowmag.bootstrap import Estimate, Resamples
from lowmag.metrics import Truth
from scipy import stats


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


def many() -> Resamples:
    """Resamples of so many patients that nothing is narrowed."""
    return Resamples(np.zeros((0, 0)), stratified=False, freedom=1e9, narrowed=1.0)


def test_percentiles_and_the_interval_of_many_are_those_of_defined_values():
    samples = np.append(np.arange(1001) / 1000, np.nan)
    assert bootstrap.percentiles(samples) == pytest.approx((0.025, 0.975))
    assert many().interval(samples) == pytest.approx((0.025, 0.975))
    assert np.isnan(many().interval(np.array([np.nan]))).all()
    assert np.isnan(many().p_two_sided(np.array([np.nan])))


@pytest.mark.parametrize(
    ("sizes", "freedom"),
    [
        ([12], 11),
        ([8, 8], 14),
        ([5, 5, 5], 12),
        # Satterthwaite by hand: (1/20 + 1/4)^2 / (1/20^2/19 + 1/4^2/3)
        ([20, 4], 0.09 / (1 / 7600 + 1 / 48)),
    ],
)
def test_the_interval_of_few_patients_is_as_wide_as_that_of_t(sizes, freedom):
    """The mean over classes of normal values: its t interval has the spread that a resample narrows."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    resamples = bootstrap.resample_patients(classes, n=10, seed=0)
    assert resamples.freedom == pytest.approx(freedom)
    n = np.array(sizes)
    spread_of_resamples = np.sqrt(((n - 1) / n**2).sum()) / len(n)
    expected = stats.t.ppf(0.975, freedom) * np.sqrt((1 / n).sum()) / len(n)
    samples = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * spread_of_resamples
    low, high = resamples.interval(samples)
    # The outermost percentiles of 200 000 steps are exact to about 0.5 %.
    assert (low, high) == pytest.approx((-expected, expected), rel=5e-3)


def test_a_class_of_one_patient_leaves_hardly_anything_known():
    """Of one degree of freedom, t's ends lie 12.7 spreads out: no number of resamples gets there."""
    resamples = bootstrap.resample_patients(np.array([0] * 12 + [1]), n=10, seed=0)
    assert resamples.freedom == 1
    samples = np.linspace(0.4, 0.6, 999)
    reach = stats.t.ppf(0.975, 1) / resamples.narrowed * samples.std()
    assert resamples.interval(samples) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert resamples.interval(samples, (0, 1)) == (0, 1)
    assert resamples.p_two_sided(samples) > 0.05


def test_patients_who_are_in_every_resample_say_nothing_by_not_varying():
    resamples = bootstrap.resample_patients(np.array([0, 1, 2]), n=10, seed=0)
    assert resamples.interval(np.full(999, -0.2), (-1, 1)) == (-1, 1)
    assert resamples.interval(np.zeros(999), (-1, 1)) == (0, 0)  # the same run


@pytest.mark.parametrize("sizes", [[12, 1], [9, 2], [3, 24, 29, 6, 24, 3], [3, 3, 3], [20, 20]])
def test_an_interval_that_leaves_zero_out_has_a_small_p(sizes):
    """However few patients the rarest class has, and however far from 0 all resamples are."""
    random = np.random.default_rng(0)
    resamples = bootstrap.resample_patients(np.repeat(np.arange(len(sizes)), sizes), n=10, seed=0)
    left_out = 0
    for shift in np.linspace(0.5, 30, 60):
        samples = random.normal(shift, 1, 9999)
        if resamples.interval(samples)[0] > 0:
            left_out += 1
            assert resamples.p_two_sided(samples) < 0.0518  # one more is counted, in a tail of 14
    assert left_out > 5


def test_p_is_below_5_per_cent_where_the_interval_leaves_zero_out():
    random = np.random.default_rng(0)
    resamples = bootstrap.resample_patients(np.repeat([0, 1], 5), n=10, seed=0)
    agreed = []
    for shift in np.linspace(1.5, 4, 51):
        samples = random.normal(shift, 1, 4999)
        agreed.append((resamples.p_two_sided(samples) < 0.05) == (resamples.interval(samples)[0] > 0))
    assert np.mean(agreed) >= 50 / 51  # one at the border may differ by a resample


def test_a_difference_far_from_zero_is_told_from_a_near_one_though_no_resample_crosses_it():
    random = np.random.default_rng(0)
    resamples = bootstrap.resample_patients(np.repeat([0, 1], 6), n=10, seed=0)
    near, far = (resamples.p_two_sided(random.normal(mean, 1, 1000)) for mean in (4, 12))
    assert far < near / 10
    # t of 10 degrees of freedom at 12 sqrt(5 / 6)
    assert far == pytest.approx(2 * stats.t.sf(12 * np.sqrt(5 / 6), 10), rel=0.5)


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
        low, high = bootstrap.percentiles(accuracy_samples(truth, p, weights))
        widths.append(high - low)
    # Skill has sd 0.2 and a tile sd 0.48: intraclass correlation 0.18, design effect 1 + 19 * 0.18 = 4.4,
    # so the true ratio is about 2.1.
    assert widths[0] > 1.5 * widths[1]


def test_the_interval_of_a_mean_covers_about_as_often_as_it_says():
    """1000 cohorts of 6 patients with a normal value each: percentiles cover 87 % (t of 5), ours 95 %."""
    random = np.random.default_rng(1)
    resamples = bootstrap.resample_patients(np.zeros(6), n=2000, seed=0)
    covered = {"percentile": 0, "ours": 0}
    for _ in range(1000):
        samples = resamples.weights @ random.normal(size=6) / 6
        for name, (low, high) in (
            ("percentile", bootstrap.percentiles(samples)),
            ("ours", resamples.interval(samples)),
        ):
            covered[name] += low <= 0 <= high
    # Binomial sd of a coverage of 0.95 over 1000 cohorts is 0.007: three of them each way.
    assert covered["percentile"] / 1000 < 0.90
    assert 0.929 < covered["ours"] / 1000 < 0.971


def test_identical_runs_differ_by_exactly_nothing():
    random = np.random.default_rng(2)
    values, samples = random.random(3), random.random((3, 100))
    one = Estimate(values, samples)
    reordered = Estimate(values[::-1], samples[::-1])
    for other in (one, reordered):
        difference, of_resamples = bootstrap.paired_difference(one, other)
        assert difference == 0
        assert many().interval(of_resamples) == (0, 0)
        assert many().p_two_sided(of_resamples) == 1


def test_pairing_removes_what_two_runs_share():
    random = np.random.default_rng(3)
    shared = random.normal(size=(1, 2000))
    student = Estimate(np.array([0.7]), 0.7 + shared)
    teacher = Estimate(np.array([0.8]), 0.8 + shared)
    difference, samples = bootstrap.paired_difference(student, teacher)
    assert difference == pytest.approx(-0.1)
    assert many().interval(samples) == pytest.approx((-0.1, -0.1))


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
        (np.array([-1.0] * 14 + [1.0] * 85), 2 * 15 / 100),
        (np.array([-1.0, 1.0] * 50), 1.0),
    ],
)
def test_two_sided_p_adds_one(differences, expected):
    assert many().p_two_sided(differences) == pytest.approx(expected)


def test_holm_worked_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last rises to 0.06."""
    assert bootstrap.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bootstrap.holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    with_gap = bootstrap.holm(np.array([0.02, np.nan, 0.03]))
    assert with_gap == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
