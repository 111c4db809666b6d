"""The intervals of DiPalma et al. 2021: class-balanced resamples of pictures, whoever they come from.

Their released evaluation draws pictures with replacement, each class as often as any other, and reports the
mean over the resamples with the 2.5th and 97.5th percentile. It answers another question than the bootstrap
over patients: pictures of a patient are alike, so its intervals are too narrow for a claim on new patients.
How many pictures a resample has is not stated; here as many as there are.
"""

import numpy as np

from lowmag import metrics

PREFIX = "class_balanced_"
NAMES = ("ovr_accuracy", "macro_f1", "macro_precision", "macro_recall")


def resampled(confusion: np.ndarray, *, n: int, seed: int) -> dict[str, np.ndarray]:
    """Each of NAMES in `n` resamples, (n,), from counts (K, K) of labels and choices.

    Classes without a picture are left out. Drawing pictures with weights 1 / (pictures of their class) is
    drawing cells of the counts with rows scaled to the same sum: one multinomial draw per resample.
    """
    counts = np.asarray(confusion, np.float64)
    of_class = counts.sum(1, keepdims=True)
    present = np.flatnonzero(of_class[:, 0])
    chances = np.divide(counts, of_class, out=np.zeros_like(counts), where=of_class > 0) / len(present)
    draws = np.random.default_rng(seed).multinomial(int(counts.sum()), chances.ravel(), size=n)
    drawn = draws.reshape(n, *counts.shape).astype(np.float64)
    return {
        "ovr_accuracy": metrics.ovr_accuracy(drawn, present),
        "macro_f1": metrics.macro_f1(drawn, present),
        "macro_precision": _precision(drawn, present),
        "macro_recall": metrics.balanced_accuracy(drawn, present),
    }


def _precision(confusion: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean share of a class's choices that are right; a class never chosen counts 0, as in scikit-learn."""
    hits, chosen = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1)
    return np.divide(hits, chosen, out=np.zeros_like(hits), where=chosen > 0)[:, present].mean(1)
