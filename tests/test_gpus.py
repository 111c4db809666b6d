import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lowmag import gpus
from lowmag.errors import UserError

TAKE = """
import logging, os, sys, time
from lowmag import gpus
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
gpus.take(int(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(60)
"""
SPLIT = """GPU 0: NVIDIA A100 (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-bb)
  MIG 3g.20gb     Device  1: (UUID: MIG-cc)
GPU 1: NVIDIA A100 (UUID: GPU-dd)
"""


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """Two devices that are only said to be there, and locks of their own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def start(two_gpus):
    """Starts a job that takes GPUs and goes on until it is killed."""
    jobs = []

    def starting(n=1):
        command = [sys.executable, "-c", TAKE, str(n)]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        jobs.append(job)
        return job

    yield starting
    for job in jobs:
        job.kill()
        job.wait()
        job.stdout.close()
        job.stderr.close()


def wait_for_telling(job):
    """Wait until a job says that it waits."""
    assert "waiting for one to be free" in job.stderr.readline()


def test_every_job_has_a_gpu_of_its_own_and_the_third_waits(start):
    first, second = start(), start()
    assert {first.stdout.readline(), second.stdout.readline()} == {"0\n", "1\n"}
    third = start()
    wait_for_telling(third)
    assert third.poll() is None
    first.send_signal(signal.SIGKILL)
    assert third.stdout.readline() in {"0\n", "1\n"}


def test_job_of_two_takes_both_or_none(start):
    one = start()
    one.stdout.readline()
    both = start(2)
    wait_for_telling(both)
    another = start()  # a job that waits for two keeps neither
    another.stdout.readline()
    one.kill()
    another.kill()
    assert both.stdout.readline() == "0,1\n"


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_process_was_given_its_devices_already(two_gpus, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    assert gpus.take(5) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_more_gpus_than_there_are(two_gpus):
    with pytest.raises(
        UserError, match=r"3 GPUs are asked for, and this machine shows 2 \(0, 1\); lower teacher"
    ):
        gpus.take(3)


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("0, 1", ["0", "1"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
        ("1,-1,0", ["1"]),
    ],
)
def test_named_devices_are_those_there_are(monkeypatch, named, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible() == names


def test_devices_are_found_where_nothing_is_said(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    n_devices = len([p for p in Path("/dev").glob("nvidia*") if p.name[6:].isdigit()])
    assert len(gpus.visible()) >= n_devices
    assert bool(gpus.visible()) == bool(n_devices)


def test_gpu_that_is_split_stands_for_its_parts():
    assert gpus.names_of(SPLIT) == ["MIG-bb", "MIG-cc", "GPU-dd"]
    assert gpus.names_of("") == []


def test_no_gpu_is_no_matter(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.take() == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
