"""What a person watches: the line's parts, the bar on a terminal alone, times as they are said."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
import torch
from lowmag import meter
from lowmag.meter import Meter, duration

CPU = torch.device("cpu")


class Terminal(io.StringIO):
    """Text that says it goes to a terminal."""

    def isatty(self) -> bool:
        return True


def test_line_says_where_what_how_fast_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    watched = Meter(4, 2, CPU)
    with caplog.at_level(logging.INFO):
        for _ in watched.watching([torch.zeros(4)] * 2):
            pass
        watched.show("epoch 1/3 step 2/2", {"loss": 1.5, "features": 0.25}, 4000)
    said = r"loss 1\.5  features 0\.25  \d+ img/s  waiting \d+ %  \d+\.\d GB  1 h 07 min left"
    assert re.fullmatch(f"epoch 1/3 step 2/2  {said}", caplog.messages[-1])


def test_a_terminal_shows_a_bar_in_place_of_lines(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    watched = Meter(4, 3, CPU)
    with caplog.at_level(logging.INFO):
        for _ in watched.watching([torch.zeros(4)] * 3):
            watched.show("epoch 1/3", {"loss": 1.5}, 30)
    assert caplog.messages == []
    assert "epoch 1/3" in terminal.getvalue()
    assert "loss 1.5" in terminal.getvalue()
    assert "30 s left" in terminal.getvalue()


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture) -> None:
    watched = Meter(4, 3, CPU)
    assert len(list(watched.watching([torch.zeros(4)] * 3))) == 3
    assert capsys.readouterr().err == ""


def test_parts_of_a_batch_are_one_step() -> None:
    watched = Meter(8, 2, CPU)
    assert [watched.n_steps for _ in watched.watching([torch.zeros(2)] * 8, 4)] == [1] * 4 + [2] * 4


def test_speed_and_waiting_are_shares_of_the_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of 8: a second each on waiting for the batch, three on its step."""
    now = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(3):
            now[0] += 1
            yield torch.zeros(8)

    watched = Meter(8, 3, CPU)
    for _ in watched.watching(batches()):
        now[0] += 3
    watched.stop()
    assert watched.seconds == 12
    assert watched.seconds_per_step == 4
    assert watched.images_per_s == 2
    assert watched.waiting_share == 0.25
    now[0] += 100  # validation is not counted
    assert watched.images_per_s == 2


def test_line_is_due_after_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Meter(4, 3, CPU)
    assert not watched.due()
    monkeypatch.setattr(meter, "LOG_EVERY_S", 0.0)
    assert watched.due()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
