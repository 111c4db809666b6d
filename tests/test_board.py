"""TensorBoard: what its own reader finds in the event files, also after a session that was killed."""

import sys
from pathlib import Path

import pytest
from lowmag.board import Board
from lowmag.errors import UserError


def series(state: Path, tag: str) -> dict[int, float]:
    """Value by step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(state / "tensorboard"))
    found.Reload()
    return {event.step: event.value for event in found.Scalars(tag)}


def test_figures_are_found_under_their_headings(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.start(0)
    board.write(3, {"loss": 0.5, "val_loss": 0.25})
    board.close()
    assert series(tmp_path, "training/loss") == {3: 0.5}
    assert series(tmp_path, "validation/loss") == {3: 0.25}


def test_what_was_written_after_the_last_save_is_taken_back(tmp_path: Path) -> None:
    for steps_done, value in ((0, 1.0), (2, 2.0)):
        board = Board(tmp_path)
        board.start(steps_done)
        for step in range(steps_done + 1, steps_done + 5):
            board.write(step, {"loss": value})
        board.close()
    assert series(tmp_path, "training/loss") == {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}


def test_a_run_anew_begins_with_an_empty_board(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        board = Board(tmp_path)
        board.start(0)
        board.write(1, {"loss": value})
        board.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert series(tmp_path, "training/loss") == {1: 2.0}


def test_without_a_folder_nothing_is_written_or_imported(tmp_path: Path) -> None:
    board = Board(None)
    board.start(0)
    board.write(1, {"loss": 1.0})
    board.close()
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_the_message_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"cannot be imported.*-e '.\[tensorboard\]'"):
        Board(tmp_path)
