"""What SLURM says is left of a job."""

import math
from pathlib import Path

import pytest
from lowmag.time_limit import minutes_left, minutes_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("0:30", 0.5), ("12:00", 12), ("2:00:30", 120.5), ("1-01:00:00", 1500), ("10-00:00:00", 14400)],
)
def test_writing_of_slurm(text: str, minutes: float) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["UNLIMITED", "NOT_SET", "INVALID", "Partition_Limit", "", "-0:05"])
def test_words_set_no_limit(text: str) -> None:
    assert minutes_of(text) == math.inf


def squeue(folder: Path, script: str) -> None:
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)


def test_only_a_job_of_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, 'test "$*" = "--noheader --format=%L --jobs=7" && echo 1:30')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert minutes_left() == math.inf
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert minutes_left() == 1.5
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert minutes_left() == math.inf


def test_node_without_clients_sets_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert minutes_left() == math.inf
