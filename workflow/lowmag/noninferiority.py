"""Not worse by a margin: the one-sided bound of a loss of balanced accuracy, with patients that nobody saw.

A bootstrap knows only the patients that were drawn: with none or few on whom the student loses, it says that
there are none or few anywhere. So every resample is joined by one more patient, of the rarest class, on whom
the student loses everything. Its share is that of a point in a Bayesian bootstrap of N patients and itself,
Beta(1, N): with no loss seen at all the bound is -(1 - 0.05^(1/N)), that of Clopper and Pearson 1934
(doi 10.1093/biomet/26.4.404; about -3/N, the rule of three). A bound of the mean from a bootstrap and one
worst point is Gaffke's (2005, Mathematical Methods of Statistics 14:451; Learned-Miller and Thomas 2019,
arXiv 1905.06208). `benchmarks/noninferiority.py` gives how often it errs.
"""

import math

import numpy as np

from lowmag.bootstrap import CONFIDENCE
from lowmag.metrics import Truth

UNSEEN_STREAM = 1 << 40  # no resample is drawn from it


def effective_patients(truth: Truth) -> float:
    """The effective number of patients of the rarest class, times the classes: N of this module."""
    return float(truth.effective_patients().min() * len(truth.present))


def patients_needed(margin: float) -> int:
    """The least N with which a student that loses nothing can be called not worse: 59 at a margin of 0.05."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - margin))


def unseen_shares(n_effective: float, *, n: int, seed: int) -> np.ndarray:
    """The unseen patient's share of the score in each of `n` resamples, (n,): draws from Beta(1, N)."""
    return np.random.default_rng([seed, UNSEEN_STREAM]).beta(1, n_effective, n)


def with_unseen(differences: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Differences student - teacher of the resamples, (B,), each joined by the patient who is lost."""
    return differences * (1 - shares) - shares


def can_tell(shares: np.ndarray, margin: float) -> bool:
    """Whether a student that never differs from the teacher would be called not worse."""
    return lower_bound(with_unseen(np.zeros(len(shares)), shares)) > -margin


def lower_bound(differences: np.ndarray) -> float:
    """The one-sided 95 % lower bound: the 5th percentile of `with_unseen`; NaN when none has a value."""
    defined = differences[np.isfinite(differences)]
    return float(np.quantile(defined, 1 - CONFIDENCE)) if len(defined) else float("nan")


def p_worse_by(differences: np.ndarray, margin: float) -> float:
    """One-sided p of being worse by `margin` or more, of `with_unseen`; small means not worse."""
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    return float((defined <= -margin).sum() + 1) / (len(defined) + 1)
