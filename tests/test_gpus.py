import errno
import os
import signal
import subprocess
import sys
import uuid
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


SAME_KIND = "GPU 0: NVIDIA A100 (UUID: GPU-aa1)\nGPU 1: NVIDIA A100 (UUID: GPU-dd2)\n"
TWO_KINDS = "GPU 0: NVIDIA T4 (UUID: GPU-aa1)\nGPU 1: NVIDIA A100 (UUID: GPU-dd2)\n"


@pytest.fixture
def two_gpus(monkeypatch):
    """Two devices that are only said to be there, and that nobody else has."""
    names = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return names


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


def told(job):
    """The devices that a job has taken."""
    return job.stdout.readline().strip()


def test_every_job_has_a_gpu_of_its_own_and_the_third_waits(start, two_gpus):
    first, second = start(), start()
    assert {told(first), told(second)} == {*two_gpus}
    third = start()
    wait_for_telling(third)
    assert third.poll() is None
    first.send_signal(signal.SIGKILL)
    assert told(third) in two_gpus


def test_folders_for_temporary_files_of_their_own_part_no_jobs(start, two_gpus, monkeypatch, tmp_path):
    """As services with PrivateTmp, or users with a TMPDIR, have them."""
    first = start()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert {told(first), told(start())} == {*two_gpus}


def test_jobs_of_an_allocation_share_out_its_gpus(start, two_gpus, monkeypatch):
    """Snakemake at work within salloc: each of its jobs sees every GPU of the allocation."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first, second = start(), start()
    assert {told(first), told(second)} == {*two_gpus}
    wait_for_telling(start())


def test_job_of_two_takes_both_or_none(start, two_gpus):
    one = start()
    told(one)
    both = start(2)
    wait_for_telling(both)
    another = start()  # a job that waits for two keeps neither
    told(another)
    one.kill()
    another.kill()
    assert told(both) == ",".join(two_gpus)


@pytest.mark.parametrize(("name", "n"), [("SLURM_JOB_ID", 2), ("TORCHELASTIC_RUN_ID", 1)])
def test_process_was_given_its_devices_already(two_gpus, monkeypatch, name, n):
    monkeypatch.setenv(name, "7")
    assert gpus.take(n) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(two_gpus)


def test_more_gpus_than_there_are(two_gpus):
    with pytest.raises(
        UserError, match=r"3 GPUs are asked for, and this machine shows 2 \(GPU-.*\); lower teacher"
    ):
        gpus.take(3)


def test_one_gpu_has_one_lock_whatever_it_is_called():
    by_number = gpus.devices_of(["1"], SAME_KIND)
    assert by_number == gpus.devices_of(["GPU-dd2"], SAME_KIND) == gpus.devices_of(["GPU-d"], SAME_KIND)
    assert by_number == [gpus.Device("GPU-dd2", "GPU-dd2")]


def test_number_of_an_unlisted_gpu_counts_within_a_job(monkeypatch):
    """SLURM numbers the devices of every job from 0: those of two jobs are not the same."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (alone,) = gpus.devices_of(["0"], "")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (of_job,) = gpus.devices_of(["0"], "")
    assert alone.name == of_job.name == "0"
    assert alone.lock != of_job.lock


def test_numbers_of_two_kinds_want_an_order(monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with pytest.raises(UserError, match=r"of several kinds.*set CUDA_DEVICE_ORDER=PCI_BUS_ID .*as GPU-aa1"):
        gpus.devices_of(["0"], TWO_KINDS)
    assert gpus.devices_of(["GPU-dd2"], TWO_KINDS)[0].name == "GPU-dd2"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpus.devices_of(["0"], TWO_KINDS)[0].name == "GPU-aa1"


def test_system_that_makes_no_locks_is_told(two_gpus, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(gpus.socket, "socket", refuse)
    with pytest.raises(
        UserError, match=r"GPU -GPU-.* cannot be locked: Operation not permitted; let the sys"
    ):
        gpus.take()


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("0, 1", ["0", "1"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
        ("1,-1,0", ["1"]),
        ("NoDevFiles", []),
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
