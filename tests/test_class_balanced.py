"""DiPalma's intervals against drawing the pictures themselves, one by one, as their script does."""

import numpy as np
import pytest
from lowmag import class_balanced
from sklearn.metrics import precision_recall_fscore_support

CONFUSION = np.array([[40, 8, 2], [3, 10, 2], [1, 2, 5]])


def drawn_one_by_one(n: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    labels, choices = (np.repeat(axis.ravel(), CONFUSION.ravel()) for axis in np.indices(CONFUSION.shape))
    weights = 1 / np.bincount(labels)[labels]
    found: dict[str, list[float]] = {name: [] for name in class_balanced.NAMES}
    for _ in range(n):
        ids = random.choice(len(labels), len(labels), p=weights / weights.sum())
        label, choice = labels[ids], choices[ids]
        precision, recall, f1, _ = precision_recall_fscore_support(
            label, choice, average="macro", labels=[0, 1, 2], zero_division=0
        )
        right = [((label == c) == (choice == c)).mean() for c in range(3)]
        for name, value in zip(class_balanced.NAMES, (np.mean(right), f1, precision, recall), strict=True):
            found[name].append(float(value))
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return class_balanced.resampled(CONFUSION, n=10_000, seed=0), drawn_one_by_one(600)


@pytest.mark.parametrize("name", class_balanced.NAMES)
def test_cells_drawn_are_pictures_drawn(both, name: str) -> None:
    ours, theirs = (found[name] for found in both)
    # Six standard errors of the 600.
    tolerance = 6 * theirs.std() / np.sqrt(len(theirs))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=tolerance)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.15)
    for share in (0.025, 0.975):
        assert np.quantile(ours, share) == pytest.approx(np.quantile(theirs, share), abs=0.02)


def test_of_three_balanced_classes_their_accuracy_follows_from_recall(both) -> None:
    """1 - 2 (1 - accuracy) / K, with accuracy and recall alike where classes are."""
    ours = both[0]
    assert ours["ovr_accuracy"].mean() == pytest.approx(
        1 - 2 * (1 - ours["macro_recall"].mean()) / 3, abs=2e-3
    )


def test_resamples_repeat_and_a_class_without_pictures_is_left_out() -> None:
    confusion = np.array([[5, 1, 0], [0, 0, 0], [1, 0, 7]])
    one, other = (class_balanced.resampled(confusion, n=200, seed=3) for _ in range(2))
    for name in class_balanced.NAMES:
        assert np.array_equal(one[name], other[name], equal_nan=True)
        assert np.isfinite(one[name]).all()
    assert one["macro_recall"].mean() == pytest.approx((5 / 6 + 7 / 8) / 2, abs=0.02)
    # Of the classes that are there, as everywhere: without class 1, to which one picture goes wrongly.
    right = 1 - (1 / 6 + 1 / 8) / 2
    expected = np.mean([right, 1 - (1 / 8 + 0) / 2])
    assert one["ovr_accuracy"].mean() == pytest.approx(expected, abs=0.02)
