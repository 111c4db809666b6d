"""The figures an epoch is chosen by: parity with scikit-learn, ties, classes that do not occur."""

import math

import numpy as np
import pytest
import torch
from lowmag.validation import figures_of, is_better, score
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, confusion_matrix


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, 3, 50), random.integers(0, 4, 50)
    confusion = torch.from_numpy(confusion_matrix(labels, predicted, labels=range(4))).float()
    figures = figures_of(confusion, 0.5)
    assert figures["val_loss"] == 0.5
    assert figures["val_accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    recalls = [(predicted[labels == k] == k).mean() for k in range(3)]
    assert figures["val_balanced_accuracy"] == pytest.approx(np.mean(recalls))
    kappa = cohen_kappa_score(labels, predicted, labels=range(4), weights="quadratic")
    assert figures["val_kappa"] == pytest.approx(kappa)


def test_balanced_accuracy_is_scikit_learns() -> None:
    labels, predicted = [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 0, 2]
    confusion = torch.from_numpy(confusion_matrix(labels, predicted)).float()
    expected = balanced_accuracy_score(labels, predicted)
    assert figures_of(confusion, 0.0)["val_balanced_accuracy"] == pytest.approx(expected)


def test_kappa_of_one_class_is_undefined_and_never_chosen() -> None:
    figures = figures_of(torch.tensor([[5.0, 0], [0, 0]]), 0.1)
    assert math.isnan(figures["val_kappa"])
    assert score(figures, "kappa")[0] == -math.inf


def test_score_prefers_the_figure_then_the_loss() -> None:
    def of(accuracy: float, loss: float) -> dict[str, float]:
        return {"val_accuracy": accuracy, "val_balanced_accuracy": 0, "val_kappa": 0, "val_loss": loss}

    assert score(of(0.9, 5.0), "accuracy") > score(of(0.8, 0.1), "accuracy")
    assert score(of(0.9, 0.1), "accuracy") > score(of(0.9, 5.0), "accuracy")
    assert score(of(0.8, 0.1), "loss") > score(of(0.9, 5.0), "loss")
    assert score(of(0.8, 0.1), "last") == score(of(0.9, 5.0), "last")


def test_with_a_margin_an_epoch_must_be_better_by_more_than_it() -> None:
    """Kappa 0.50, 0.505, 0.515, 0.52: the third is better by more than 0.01, the fourth is not."""
    kept, epochs = (-math.inf, -math.inf), []
    for epoch, kappa in enumerate((0.5, 0.505, 0.515, 0.52)):
        if is_better((kappa, -1.0), kept, 0.01):
            kept = (kappa, -1.0)
            epochs.append(epoch)
    assert epochs == [0, 2]
    assert is_better((0.5, -1.0), (0.5, -1.0), 0)
    assert not is_better((0.5, -1.1), (0.5, -1.0), 0)
    assert is_better((-math.inf, -1.0), (-math.inf, -math.inf), 0.01), "an undefined first epoch is kept"
    assert is_better((0.1, -1.0), (-math.inf, -1.0), 0.01)
