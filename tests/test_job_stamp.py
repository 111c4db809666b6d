"""What a job says of itself in its log: read back, complete, and silent about whose machine it ran on."""

import getpass
import os
import socket
import subprocess
import sys
from types import ModuleType

import h5py
import pydantic
import pytest
from lowmag import job_stamp, own_code
from lowmag.fingerprint import PACKAGE, whole_package

JOB = {own_code.FOLDER: str(PACKAGE), own_code.FINGERPRINT: whole_package()}


@pytest.fixture
def log(tmp_path):
    """Runs `lowmag` as a rule does; returns the log of a command that succeeds, or of one that fails."""

    def run(*arguments: str, **environment: str):
        path = tmp_path / "job.log"
        command = [sys.executable, "-m", "lowmag.cli", *arguments]
        with path.open("w") as file:
            subprocess.run(command, stderr=file, env=os.environ | environment, check=False)
        return path

    return run


def test_job_tells_code_hardware_and_what_it_had_loaded(log, tmp_path):
    (stamp,) = job_stamp.stamps_in(log("demo", "--out", str(tmp_path / "cohort"), "--sheet", **JOB))
    assert stamp["code"] == whole_package()
    assert stamp["hardware"]["cpus"] == os.cpu_count()
    assert stamp["hardware"]["memory_mb"] > 0
    assert stamp["software"]["pydantic"] == pydantic.__version__
    assert "torch" not in stamp["software"]  # not loaded by a job that does not need it


def test_loaded_libraries_are_told():
    assert job_stamp.stamp()["software"]["h5py"] == h5py.__version__


def test_a_library_that_tells_no_version_fails_no_job_that_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", ModuleType("timm"))
    assert "timm" not in job_stamp.stamp()["software"]


def test_log_tells_no_machine_nor_folder(log, tmp_path):
    text = log("demo", "--out", str(tmp_path / "cohort"), "--sheet", **JOB).read_text()
    (line,) = job_stamp.STAMP.findall(text)
    for name in (socket.gethostname(), str(tmp_path), str(PACKAGE), f'"{getpass.getuser()}"'):
        assert name not in line


def test_by_hand_nothing_is_said_nor_where_a_job_failed(log, tmp_path):
    assert not job_stamp.stamps_in(log("demo", "--out", str(tmp_path / "cohort"), "--sheet"))
    failed = log("splits", "--slides", str(tmp_path / "none.csv"), "--out", str(tmp_path / "s.csv"), **JOB)
    assert "lowmag splits: " in failed.read_text()
    assert not job_stamp.stamps_in(failed)
    assert job_stamp.stamps_in(tmp_path / "no.log") == []
