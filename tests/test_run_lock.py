"""The lock on a run folder: a second trainer waits, however the first one ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lowmag import run_lock
from lowmag.checkpoint import Stop
from lowmag.errors import UserError
from lowmag.run_lock import locked

# Takes the system's lock as a trainer does, without importing torch, and waits to be killed.
HOLDER = (
    "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held'); "
    "sys.stdout.flush(); time.sleep(float(sys.argv[2]))"
)


@pytest.fixture(autouse=True)
def _no_waste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "POLL_S", 0.01)


def held_elsewhere(folder: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(folder / "lock"), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_free_folder_is_held_and_says_by_whom(tmp_path: Path) -> None:
    with locked(tmp_path / "run", Stop(10)) as hold:
        assert (hold.ours, hold.waited) == (True, False)
        text = (tmp_path / "run/lock").read_text()
    assert text == f"process {os.getpid()} on {os.uname().nodename}"


def test_second_one_is_told_of_the_first_and_gives_up_when_it_has_to_stop(tmp_path: Path, caplog) -> None:
    with locked(tmp_path, Stop(10)), locked(tmp_path, Stop(0.2 / 60)) as hold:
        assert (hold.ours, hold.waited) == (False, True)
    assert f"another trainer (process {os.getpid()} on " in caplog.text
    assert caplog.text.count("waiting for it") == 1
    with locked(tmp_path, Stop(10)) as hold:
        assert (hold.ours, hold.waited) == (True, False)


def test_second_one_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, 2) as process, locked(tmp_path, Stop(10)) as hold:
        assert (hold.ours, hold.waited) == (True, True)
        assert process.wait() == 0


def test_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, 60) as process:
        process.kill()
        began = time.monotonic()
        with locked(tmp_path, Stop(10)) as hold:
            assert hold.ours
        assert time.monotonic() - began < 10


def test_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run/lock cannot be written: Not a directory"):
        with locked(tmp_path / "file/run", Stop(10)):
            pass
