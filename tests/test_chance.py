"""Chance: what stops a study and what does not, held against scipy and against teachers made to guess."""

import numpy as np
import pytest
from lowmag import chance
from lowmag.chance import LEVEL, against_chance, balanced_accuracy, refuse_chance
from lowmag.errors import UserError
from sklearn.metrics import balanced_accuracy_score


def cohort(per_class: int, tiles: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels and patients of tiles, patients of one class each."""
    of_patient = np.repeat(np.arange(n_classes), per_class)
    return np.repeat(of_patient, tiles), np.repeat(np.arange(len(of_patient)), tiles)


def guesses(random: np.random.Generator, patients: np.ndarray, epochs: int, n_classes: int = 3) -> np.ndarray:
    """Decisions that follow the patient and nothing else, nine tiles in ten, another way every epoch."""
    of_patient = random.integers(0, n_classes, (epochs, patients.max() + 1))[:, patients]
    stray = random.integers(0, n_classes, of_patient.shape)
    return np.where(random.random(of_patient.shape) < 0.9, of_patient, stray)


def test_balanced_accuracy_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels, decisions = random.integers(0, 3, 40), random.integers(0, 3, (4, 40))
    expected = [balanced_accuracy_score(labels, row) for row in decisions]
    assert balanced_accuracy(decisions, labels) == pytest.approx(expected)


def test_guessers_pass_as_rarely_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten epochs to choose from and tiles that hang together: one in five of 100 passes, within 3 sd."""
    monkeypatch.setattr(chance, "DRAWS", 199)
    labels, patients = cohort(per_class=5, tiles=6)
    random = np.random.default_rng(1)
    found = [against_chance(guesses(random, patients, 10), labels, patients) for _ in range(100)]
    assert all(one.tellable for one in found)
    assert np.mean([one.p <= LEVEL for one in found]) == pytest.approx(LEVEL, abs=0.12)


def test_a_teacher_that_learned_something_passes() -> None:
    labels, patients = cohort(per_class=5, tiles=6)
    random = np.random.default_rng(2)
    for _ in range(20):
        decisions = guesses(random, patients, 10)
        right = random.random(len(labels)) < 0.6
        decisions[-1] = np.where(right, labels, decisions[-1])
        refuse_chance(against_chance(decisions, labels, patients))


def test_one_class_for_every_tile_is_chance() -> None:
    labels, patients = cohort(per_class=3, tiles=4)
    found = against_chance(np.zeros((8, len(labels)), int), labels, patients)
    assert (found.p, found.reached) == (1, pytest.approx(1 / 3))
    with pytest.raises(UserError, match=r"not better than chance .*0\.333.*9 patients.*teacher\.require"):
        refuse_chance(found)


def test_two_patients_in_ten_taken_for_the_other_class_stop_nothing() -> None:
    """Of the 252 ways to lay two classes over 10 patients 26 agree with as many: Fisher's exact test."""
    labels, patients = cohort(per_class=5, tiles=4, n_classes=2)
    decisions = np.where((patients == 0) | (patients == 9), 1 - labels, labels)
    found = against_chance(decisions[None], labels, patients)
    assert found.p == pytest.approx(26 / 252, abs=0.03)
    refuse_chance(found)


def test_too_few_patients_to_tell_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One patient a class: six ways to lay labels, so even a perfect teacher has a p of a sixth."""
    labels, patients = cohort(per_class=1, tiles=10)
    for decisions in (labels, np.zeros_like(labels)):
        found = against_chance(decisions[None], labels, patients)
        assert not found.tellable
        refuse_chance(found)
        assert "3 labelled validation patients are too few" in caplog.text
    assert against_chance(labels[None], labels, patients).p == pytest.approx(1 / 6, abs=0.04)


def test_tiles_with_labels_of_their_own_can_be_told_in_few_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions: every patient has both classes, in one order of tiles, which must not count as a match."""
    labels, patients = np.tile(np.repeat([0, 1], 10), 3), np.repeat([0, 1, 2], 20)
    assert against_chance(labels[None], labels, patients).p <= 0.02
    monkeypatch.setattr(chance, "DRAWS", 199)
    random = np.random.default_rng(3)
    found = [against_chance(random.integers(0, 2, (5, 60)), labels, patients) for _ in range(100)]
    assert np.mean([one.p <= LEVEL for one in found]) == pytest.approx(LEVEL, abs=0.12)


def test_patients_need_not_lie_together() -> None:
    labels, patients = cohort(per_class=4, tiles=3)
    decisions = guesses(np.random.default_rng(4), patients, 3)
    mixed = np.argsort(np.tile(np.arange(3), 12), kind="stable")
    found = [
        against_chance(decisions[:, places], labels[places], patients[places])
        for places in (slice(None), mixed)
    ]
    assert found[0] == found[1]
