"""Whether a teacher is better than chance: a permutation test by patients on its validation tiles.

Under chance what the teacher decides has nothing to do with the labels, so the labels of one patient may as
well lie over the tiles of another. Tiles of a patient are alike and are not taken apart. The statistic is the
balanced accuracy of the best epoch, of the teacher and of every exchange alike: choosing the best of many
epochs helps a guesser too, and is so accounted for (a maximum statistic, Westfall and Young 1993).
"""

import logging
from dataclasses import dataclass

import numpy as np

from lowmag.errors import UserError

# A teacher passes with a p up to this. It stops four in five teachers that learned nothing, and all that say
# one class of every tile; with 5 + 5 patients one that is wrong about a patient of each class still has 0.1.
LEVEL = 0.2
# Without an error it must reach this, or there are too few patients for a good teacher to pass with an error.
PERFECT = LEVEL / 10
DRAWS = 999

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chance:
    """How often a guesser does as well: `p`; `guessed` is the balanced accuracy one guesser in five reaches.

    `reached` is the teacher's. `tellable` is False where so few patients, or so alike, were labelled that
    even decisions without an error could be a guesser's.
    """

    reached: float
    guessed: float
    p: float
    tellable: bool
    n_patients: int


def against_chance(decisions: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> Chance:
    """What chance makes of decisions (E, N), classes by epoch and tile; `labels` and `patients` are (N,).

    The labels of a patient are laid over the tiles of another one from a random tile on, and again from its
    first one: where all tiles of a patient have one label, this exchanges the labels of patients.
    """
    order = np.argsort(patients, kind="stable")
    decisions, labels = decisions[:, order], labels[order]
    of_patient, first, sizes = np.unique(patients[order], return_index=True, return_counts=True)
    patient = np.repeat(np.arange(len(of_patient)), sizes)
    place = np.arange(len(labels)) - first[patient]
    candidates = np.vstack([decisions, labels[None]])  # the last one without an error
    random = np.random.default_rng(0)
    exchanged = np.empty((DRAWS, len(candidates)))
    for draw in range(DRAWS):
        other = random.permutation(len(sizes))[patient]
        start = random.integers(0, sizes, len(sizes))[other]
        exchanged[draw] = balanced_accuracy(candidates, labels[first[other] + (start + place) % sizes[other]])
    reached, guesses = balanced_accuracy(decisions, labels).max(), exchanged[:, :-1].max(1)
    return Chance(
        reached=float(reached),
        guessed=float(np.quantile(guesses, 1 - LEVEL, method="higher")),
        p=_share_as_high(guesses, reached),
        tellable=_share_as_high(exchanged[:, -1], 1.0) <= PERFECT,
        n_patients=len(sizes),
    )


def balanced_accuracy(decisions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Balanced accuracy over the classes that occur, (E,), of decisions (E, N) for labels (N,)."""
    _, of_label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = (1 / counts[of_label] / len(counts)).astype(np.float32)
    return (decisions == labels).astype(np.float32) @ weights


def refuse_chance(found: Chance) -> None:
    """Raise UserError when the teacher does no better than a guesser; where nobody could tell, say so."""
    if not found.tellable:
        logger.warning(
            "%d labelled validation patients are too few to tell whether the teacher is better than chance",
            found.n_patients,
        )
    elif found.p > LEVEL:
        raise UserError(
            f"the teacher is not better than chance on the validation tiles: its best epoch has a balanced "
            f"accuracy of {found.reached:.3f}, and guessing reaches {found.guessed:.3f} in one of 5 tries "
            f"(p = {found.p:.2g}, permutation of {found.n_patients} patients). Students would learn noise. "
            "Look at its loss in the log: where it does not fall, change teacher.lr or teacher.epochs; where "
            "it falls and validation does not follow, see to labels and tiles, or label more patients. To go "
            "on with this teacher as it is, set teacher.require: nothing (nothing is trained again)"
        )


def _share_as_high(guesses: np.ndarray, value: float) -> float:
    """The p-value: the share of guesses at least as high, the teacher itself counted as one of them."""
    return (1 + int((guesses >= value - 1e-6).sum())) / (1 + len(guesses))
