"""Scores of a classifier under weighted patients: one pass over the items, then any number of resamples.

Everything is reduced to sums per patient first (`patient_sums`); a resample is a row of patient weights and
every score is a function of the weighted sums (`scores`). AUROC is a sum over pairs of items, so its
statistic is one number per pair of patients. Values with unit weights are those of scikit-learn.

Classes without a labelled item are left out of the macro averages (balanced accuracy, F1, AUROC, one-vs-rest
accuracy). A resample that has lost one of the remaining classes has no value of the first three (NaN): an
average over fewer classes would be another quantity.
"""

from dataclasses import dataclass

import numpy as np

CLASSIFICATION = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "kappa_quadratic", "ovr_accuracy")
CALIBRATION = ("log_loss", "brier", "ece")
AGREEMENT = "teacher_agreement"
ECE_BINS = 15
# Predictions come from float32 softmax: a smaller probability is rounding, not knowledge.
LEAST_PROBABILITY = float(np.finfo(np.float32).eps)


# Least and largest value of the scores that are not shares.
LIMITS = {"kappa_quadratic": (-1.0, 1.0), "brier": (0.0, 2.0), "log_loss": (0.0, float("inf"))}


def limits_of(name: str) -> tuple[float, float]:
    """Least and largest value that a score can have."""
    return LIMITS.get(name, (0.0, 1.0))


@dataclass(frozen=True)
class Truth:
    """What predictions are scored against: N items (tiles or slides) of P patients."""

    labels: np.ndarray  # (N,) class index
    patients: np.ndarray  # (N,) patient index, 0 to P - 1
    n_classes: int

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return int(self.patients.max()) + 1 if len(self.patients) else 0

    @property
    def present(self) -> np.ndarray:
        """Indices of the classes that have at least one item, ascending."""
        return np.unique(self.labels)

    def patient_classes(self) -> np.ndarray:
        """The most frequent class of each patient's items (the first of equals), (P,)."""
        counts = np.zeros((self.n_patients, self.n_classes), int)
        np.add.at(counts, (self.patients, self.labels), 1)
        return counts.argmax(axis=1)

    def effective_patients(self) -> np.ndarray:
        """As how many patients of equal weight each of the classes `present` counts.

        Patients with many items outweigh others: Kish's effective number, (sum of items)^2 / sum of items^2.
        """
        items = np.zeros((self.n_patients, self.n_classes))
        np.add.at(items, (self.patients, self.labels), 1)
        of_class = items[:, self.present]
        return of_class.sum(axis=0) ** 2 / (of_class**2).sum(axis=0)


@dataclass(frozen=True)
class PatientSums:
    """Sufficient statistics of one run, by patient."""

    confusion: np.ndarray  # (P, K, K) items by true and predicted class
    log_loss: np.ndarray  # (P,)
    brier: np.ndarray  # (P,)
    gaps: np.ndarray  # (P, ECE_BINS) confidence minus correctness
    wins: np.ndarray  # (K, P, P) positives of p ranked above negatives of q, ties one half
    agreements: np.ndarray | None  # (P,) items with the teacher's choice


def patient_sums(
    truth: Truth, probabilities: np.ndarray, teacher_probabilities: np.ndarray | None = None
) -> PatientSums:
    """The statistics by patient of class probabilities (N, K); the choice is the most probable class."""
    p = np.asarray(probabilities, np.float64)
    choice = p.argmax(axis=1)
    one_hot = np.eye(truth.n_classes)[truth.labels]
    agreements = None
    if teacher_probabilities is not None:
        agreements = _by_patient(truth, choice == np.asarray(teacher_probabilities).argmax(axis=1))
    confusion = np.zeros((truth.n_patients, truth.n_classes, truth.n_classes))
    np.add.at(confusion, (truth.patients, truth.labels, choice), 1)
    of_label = np.clip(p[np.arange(len(p)), truth.labels], LEAST_PROBABILITY, 1)
    return PatientSums(
        confusion=confusion,
        log_loss=_by_patient(truth, -np.log(of_label)),
        brier=_by_patient(truth, ((p - one_hot) ** 2).sum(axis=1)),
        gaps=_confidence_gaps(truth, p),
        wins=np.stack([_wins(truth, p[:, c], truth.labels == c) for c in range(truth.n_classes)]),
        agreements=agreements,
    )


def _by_patient(truth: Truth, values: np.ndarray) -> np.ndarray:
    return np.bincount(truth.patients, values, minlength=truth.n_patients)


def _confidence_gaps(truth: Truth, p: np.ndarray) -> np.ndarray:
    """Sum of top probability minus correctness by patient and bin (lower edge excluded), (P, ECE_BINS)."""
    confidence = p.max(axis=1)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.zeros((truth.n_patients, ECE_BINS))
    np.add.at(gaps, (truth.patients, bins), confidence - (p.argmax(axis=1) == truth.labels))
    return gaps


def _wins(truth: Truth, score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """By pair of patients, how often positives of the first outscore negatives of the second, (P, P)."""
    order = np.flatnonzero(positive)[np.argsort(score[positive])]
    wins = np.zeros((truth.n_patients, truth.n_patients))
    for patient in range(truth.n_patients):
        negatives = np.sort(score[~positive & (truth.patients == patient)])
        below = np.searchsorted(negatives, score[order], "left")
        not_above = np.searchsorted(negatives, score[order], "right")
        wins[:, patient] = np.bincount(
            truth.patients[order], (below + not_above) / 2, minlength=truth.n_patients
        )
    return wins


def scores(
    sums: PatientSums, weights: np.ndarray, present: np.ndarray, *, ordinal: bool
) -> dict[str, np.ndarray]:
    """Every score under each row of patient weights (B, P), as arrays (B,); NaN where it has no value.

    `present` are the classes of the macro averages (see `Truth.present`). Brier is the sum over classes (0 to
    2). `kappa_quadratic` is there only when `ordinal`, `teacher_agreement` only when the sums hold it.
    """
    k = sums.confusion.shape[1]
    confusion = (weights @ sums.confusion.reshape(len(sums.confusion), -1)).reshape(-1, k, k)  # (B, K, K)
    n = confusion.sum(axis=(1, 2))
    found = {
        "accuracy": _ratio(np.trace(confusion, axis1=1, axis2=2), n),
        "balanced_accuracy": balanced_accuracy(confusion, present),
        "macro_f1": macro_f1(confusion, present),
        "auroc": auroc(sums, weights, present),
        "ovr_accuracy": ovr_accuracy(confusion, present),
        "log_loss": _ratio(weights @ sums.log_loss, n),
        "brier": _ratio(weights @ sums.brier, n),
        "ece": _ratio(np.abs(weights @ sums.gaps).sum(axis=1), n),
    }
    if ordinal:
        found["kappa_quadratic"] = kappa_quadratic(confusion)
    if sums.agreements is not None:
        found[AGREEMENT] = _ratio(weights @ sums.agreements, n)
    names = [*CLASSIFICATION, *CALIBRATION, AGREEMENT]
    return {name: found[name] for name in names if name in found}


def balanced_accuracy(confusion: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean recall over the classes `present`, of confusion matrices (B, K, K)."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return _ratio(hits, confusion.sum(axis=2))[:, present].mean(axis=1)


def macro_f1(confusion: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes `present`, of confusion matrices (B, K, K); a class never hit counts 0."""
    hits, of_class = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
    f1 = _ratio(2 * hits, of_class + confusion.sum(axis=1))
    return np.where(of_class > 0, f1, np.nan)[:, present].mean(axis=1)


def ovr_accuracy(confusion: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over the classes `present` of one-vs-rest accuracy (TP + TN) / N, of confusion matrices (B, K, K).

    DiPalma 2021's accuracy, by the authors' released evaluation. With one label per item and all K classes
    present it is 1 - 2 (1 - accuracy) / K, so it flatters: 0.8 of three classes prints as 0.867.
    """
    n = confusion.sum(axis=(1, 2))[:, None]
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    wrong = confusion.sum(axis=1) + confusion.sum(axis=2) - 2 * hits
    return _ratio(n - wrong, np.broadcast_to(n, hits.shape))[:, present].mean(axis=1)


def kappa_quadratic(confusion: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights, of confusion matrices (B, K, K) whose classes are in order."""
    grades = np.arange(confusion.shape[1])
    penalty = (grades[:, None] - grades[None, :]) ** 2.0
    n = confusion.sum(axis=(1, 2))
    seen = (confusion * penalty).sum(axis=(1, 2))
    by_chance = ((confusion.sum(axis=2) @ penalty) * confusion.sum(axis=1)).sum(axis=1)
    return 1 - _ratio(seen * n, by_chance)


def auroc(sums: PatientSums, weights: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Macro mean of one-vs-rest areas under the ROC curve under each row of weights (B, P)."""
    of_class = weights @ sums.confusion.sum(axis=2)  # (B, K)
    n = of_class.sum(axis=1)
    areas = np.empty((len(weights), len(present)))
    for column, c in enumerate(present):
        pairs = of_class[:, c] * (n - of_class[:, c])
        areas[:, column] = _ratio(np.einsum("bp,bp->b", weights @ sums.wins[c], weights), pairs)
    return areas.mean(axis=1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)
