"""Bootstrap over patients: resamples, intervals, p-values and their correction.

Tiles of a patient are alike, so patients and not tiles are drawn. One matrix of patient weights serves every
run of a study, which makes all comparisons paired. A percentile interval of few patients is too narrow, as a
z interval with the spread of the sample is; so intervals are expanded (Hesterberg 2015, doi
10.1080/00031305.2015.1089789): their percentiles lie as far out as a t interval's ends do, with the degrees
of freedom of a mean over classes (Welch 1947, doi 10.1093/biomet/34.1-2.28). `ENOUGH_PATIENTS` is where a
warning starts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
ENOUGH_PATIENTS = 20
STRATIFY_BELOW = 10
# Means over seeds taken in another order differ in the last bits; such a difference is none.
ROUNDING = 1e-12
# Fewer resamples than this beyond 0 are no share to count: the normal curve says how far out 0 lies.
FEWEST_COUNTED = 10
ANY = (float("-inf"), float("inf"))  # limits of what has none


@dataclass(frozen=True)
class Resamples:
    """Patient weights of B resamples, and whether the number of patients per class was kept."""

    weights: np.ndarray  # (B, P) times each patient was drawn
    stratified: bool
    freedom: float  # degrees of freedom of the spread
    narrowed: float  # what resampling so few narrows a spread to, 0 to 1

    def interval(self, samples: np.ndarray, limits: tuple[float, float] = ANY) -> tuple[float, float]:
        """The two-sided 95 % interval of the resamples that have a value, within limits; NaN when none has.

        Where the percentile lies beyond all resamples, as with a class of one or two patients, the normal
        curve of their spread says how far out it is; then resamples that are all alike, and not 0, say no
        more than the limits, if there are any.
        """
        reach = float(stdtrit(self.freedom, TAIL) / self.narrowed)
        tail = float(ndtr(reach))
        low, high = percentiles(samples, tail)
        defined = samples[np.isfinite(samples)]
        if len(defined) and tail * len(defined) < 1:
            mean, spread = float(defined.mean()), float(defined.std())
            if spread < ROUNDING <= abs(mean) and limits != ANY:
                return limits
            low, high = min(low, mean + reach * spread), max(high, mean - reach * spread)
        return max(low, limits[0]), min(high, limits[1])

    def p_two_sided(self, differences: np.ndarray) -> float:
        """Two-sided p of no difference, below 0.05 (few in the tail: 0.052) where `interval` leaves 0 out.

        The smaller share of resamples on either side of 0, one added to both counts so that it is never 0
        (Davison & Hinkley 1997, eq. 4.11), taken as the tail of a normal curve and read off that of t.
        """
        defined = differences[np.isfinite(differences)]
        if not len(defined):
            return float("nan")
        tail = min((defined <= 0).sum(), (defined >= 0).sum())
        if tail == len(defined):
            return 1.0
        z = ndtri((tail + 1) / (len(defined) + 1))
        if tail < FEWEST_COUNTED and (spread := defined.std()) > ROUNDING:
            z = min(z, -abs(defined.mean()) / spread)
        return min(1.0, 2 * float(stdtr(self.freedom, z * self.narrowed)))


@dataclass(frozen=True)
class Estimate:
    """A score of S seeds: the values and, per seed, its value in every resample."""

    values: np.ndarray  # (S,)
    samples: np.ndarray  # (S, B)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(self.values.mean())

    @property
    def mean_samples(self) -> np.ndarray:
        """Mean over seeds within each resample, (B,)."""
        return self.samples.mean(axis=0)

    @property
    def sd_seeds(self) -> float:
        """Sample standard deviation over seeds (ddof 1); NaN for one seed."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")


def resample_patients(
    patient_classes: np.ndarray, *, n: int, seed: int, effective: np.ndarray | None = None
) -> Resamples:
    """`n` draws of P patients with replacement; the same for the same classes, n and seed.

    Drawn within classes when a class has fewer than `STRATIFY_BELOW` patients, so that none is lost. A class
    of one patient then never varies. `effective`: as how many patients of equal weight each class counts
    (`Truth.effective_patients`); None: as many as it has.
    """
    random = np.random.default_rng(seed)
    classes, counts = np.unique(patient_classes, return_counts=True)
    stratified = bool((counts < STRATIFY_BELOW).any())
    weights = np.zeros((n, len(patient_classes)))
    for c in classes if stratified else [None]:
        members = np.flatnonzero(patient_classes == c) if stratified else np.arange(len(patient_classes))
        chances = np.full(len(members), 1 / len(members))
        weights[:, members] = random.multinomial(len(members), chances, size=n)
    return Resamples(weights, stratified, *_reach(counts if effective is None else effective))


def _reach(n: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom of a mean over classes of `n` patients, and what resampling narrows its spread to.

    Welch's and Satterthwaite's, of classes whose patients vary alike; resampling n has n - 1 of n of their
    variance. One at least, and a class of one patient counts as one of 1.5, which is as good as nothing.
    """
    n = np.maximum(n, 1.5)
    freedom = (1 / n).sum() ** 2 / (1 / n**2 / (n - 1)).sum()
    return max(float(freedom), 1.0), float(np.sqrt(((n - 1) / n**2).sum() / (1 / n).sum()))


def percentiles(samples: np.ndarray, tail: float = TAIL) -> tuple[float, float]:
    """The percentiles with a share `tail` of the resamples beyond each; NaN when none has a value."""
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(score: Estimate, reference: Estimate) -> tuple[float, np.ndarray]:
    """Difference of the means over seeds, and the same in every resample; what is mere rounding becomes 0."""
    difference = np.concatenate([[score.mean], score.mean_samples])
    difference = difference - np.concatenate([[reference.mean], reference.mean_samples])
    difference[np.abs(difference) < ROUNDING] = 0.0
    return float(difference[0]), difference[1:]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of a family of p-values (Holm 1979); NaN stays and counts for nothing."""
    p = np.asarray(p, np.float64)
    corrected = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
