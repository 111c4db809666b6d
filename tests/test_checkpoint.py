"""Checkpoints: what was saved comes back, another run's does not; signals and budgets."""

import signal
from pathlib import Path

import pytest
import torch
from lowmag.checkpoint import Checkpoint, Stop, digest_of


def state() -> dict:
    return {"weights": {"a": torch.arange(3.0)}, "step": 7, "score": (0.5, -1.0), "rows": [{"epoch": 1}]}


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "x", 5).save(state())
    found = Checkpoint(tmp_path, "x", 5).load()
    assert found is not None
    assert torch.equal(found.pop("weights")["a"], torch.arange(3.0))
    assert found == {"step": 7, "score": (0.5, -1.0), "rows": [{"epoch": 1}]}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path, "x", 5).load() is None


def test_of_another_digest_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoint(tmp_path, "x", 5).save(state())
    assert Checkpoint(tmp_path, "y", 5).load() is None
    assert "belongs to other options" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.other.pt"]


def test_unreadable_one_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    assert Checkpoint(tmp_path, "x", 5).load() is None
    assert "cannot be read" in caplog.text
    assert (tmp_path / "checkpoint.other.pt").read_bytes() == b"not a checkpoint"


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "x", 5).save(state())
    (tmp_path / ".checkpoint.abc.pt").write_bytes(b"half")
    assert Checkpoint(tmp_path, "x", 5).load() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_remove(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "x", 5)
    checkpoint.save(state())
    checkpoint.remove()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_due_by_the_interval(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path, "x", 0).due()
    assert not Checkpoint(tmp_path, "x", 5).due()


def test_digest_ignores_order_and_sees_values() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1, "b": [2]}) != digest_of({"a": 1, "b": [3]})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_ask_to_stop_and_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop(float("inf")) as stop:
        assert not stop.asked()
        for _ in range(2):
            signal.raise_signal(number)
        assert stop.asked()
        assert stop.signalled()
        assert number.name in stop.reason
    assert signal.getsignal(number) is before


def test_budget_leaves_a_margin() -> None:
    # 10 minutes less one for saving: what takes 8 minutes still fits, what takes 9.5 does not.
    stop = Stop(10)
    assert not stop.asked(8 * 60)
    assert stop.asked(9.5 * 60)
    assert not stop.signalled()
    assert "budget" in stop.reason
