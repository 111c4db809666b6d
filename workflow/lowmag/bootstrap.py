"""Percentile bootstrap over patients: resamples, intervals, p-values and their correction.

Tiles of a patient are alike, so patients and not tiles are drawn. One matrix of patient weights serves every
run of a study, which makes all comparisons paired. With fewer than about 20 patients a percentile interval
covers less than it says (in a simulation with 40 patients its 95 % were 90 %); `ENOUGH_PATIENTS` is where a
warning starts.
"""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
ENOUGH_PATIENTS = 20
STRATIFY_BELOW = 10
# Means over seeds taken in another order differ in the last bits; such a difference is none.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Resamples:
    """Patient weights of B resamples, and whether the number of patients per class was kept."""

    weights: np.ndarray  # (B, P) times each patient was drawn
    stratified: bool


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


def resample_patients(patient_classes: np.ndarray, *, n: int, seed: int) -> Resamples:
    """`n` draws of P patients with replacement; the same for the same classes, n and seed.

    Drawn within classes when a class has fewer than `STRATIFY_BELOW` patients, so that none is lost. A class
    of one patient then never varies.
    """
    random = np.random.default_rng(seed)
    classes, counts = np.unique(patient_classes, return_counts=True)
    stratified = bool((counts < STRATIFY_BELOW).any())
    weights = np.zeros((n, len(patient_classes)))
    for c in classes if stratified else [None]:
        members = np.flatnonzero(patient_classes == c) if stratified else np.arange(len(patient_classes))
        chances = np.full(len(members), 1 / len(members))
        weights[:, members] = random.multinomial(len(members), chances, size=n)
    return Resamples(weights, stratified)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The two-sided 95 % percentile interval of the resamples that have a value; NaN when none has."""
    tail = (1 - CONFIDENCE) / 2
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def lower_bound(samples: np.ndarray) -> float:
    """The one-sided 95 % lower bound, the 5th percentile: higher than the lower end of `interval`."""
    defined = samples[np.isfinite(samples)]
    return float(np.quantile(defined, 1 - CONFIDENCE)) if len(defined) else float("nan")


def paired_difference(score: Estimate, reference: Estimate) -> tuple[float, np.ndarray]:
    """Difference of the means over seeds, and the same in every resample; what is mere rounding becomes 0."""
    difference = np.concatenate([[score.mean], score.mean_samples])
    difference = difference - np.concatenate([[reference.mean], reference.mean_samples])
    difference[np.abs(difference) < ROUNDING] = 0.0
    return float(difference[0]), difference[1:]


def p_two_sided(differences: np.ndarray) -> float:
    """Two-sided p of no difference: twice the smaller share of resamples on either side of 0.

    One is added to both counts and to their number, so that p is never 0 (Davison & Hinkley 1997, eq. 4.11).
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, 2 * float(tail + 1) / (len(defined) + 1))


def p_worse_by(differences: np.ndarray, margin: float) -> float:
    """One-sided p of being worse by `margin` or more; small means not worse."""
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    return float((defined <= -margin).sum() + 1) / (len(defined) + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of a family of p-values (Holm 1979); NaN stays and counts for nothing."""
    p = np.asarray(p, np.float64)
    corrected = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
