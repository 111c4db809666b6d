"""A teacher trained by two processes, as by one."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
import torch
from lowmag import gpus, train
from lowmag.checkpoint import EXIT_UNFINISHED
from lowmag.errors import UserError
from lowmag.lesson import Job
from lowmag.models import weights_sha256
from lowmag.recipe import Teacher
from lowmag.team import ALONE, Team, children
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, make_cohort
from torch import nn

OPTIONS = Teacher(stride=16, epochs=4, batch_size=8, accumulate=2, lr=1e-4, select="last", require="nothing")
LONGER = OPTIONS.model_copy(update={"epochs": 24})  # still training when a busy machine passes a signal on
GPUS = [f"GPU-{uuid.uuid4()}" for _ in range(2)]  # only said to be there
START = """
import sys
from lowmag import cli
sys.argv = ["lowmag", *sys.argv[1:]]
sys.exit(cli.main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("team")
    make_cohort(found)
    return found


def command(folder, name, options=OPTIONS, n=2):
    arguments = ["teacher", "--gpus", str(n), "--tiles", str(folder / "tiles"), "--seed", "0"]
    arguments += ["--splits", str(folder / "splits.csv"), "--classes", '["calm", "busy"]']
    arguments += ["--magnification", str(HIGH), "--out", str(folder / name), "--threads", str(n)]
    arguments += ["--state", str(folder / f"{name}-state"), "--options", options.model_dump_json()]
    return [sys.executable, "-c", START, *arguments]


def finished(folder, name, options=OPTIONS):
    """The run, on two GPUs that are only said to be there: they are locked, and computed with is the CPU."""
    started = command(folder, name, options)
    return subprocess.run(
        started, capture_output=True, text=True, timeout=600, check=False, env=environment()
    )


def environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(GPUS)}


def job_of(folder, name):
    out, state = folder / name, folder / f"{name}-state"
    return Job(folder / "tiles", folder / "splits.csv", CLASSES, HIGH, 0, out, state, threads=1)


@pytest.fixture(scope="module")
def two(folder):
    """The folder of a run by two processes."""
    result = finished(folder, "two")
    assert result.returncode == 0, result.stderr
    return folder / "two"


def test_two_processes_train_as_one(folder, two):
    """To the rounding of sums in another order, which Adam, dividing by small numbers, lets grow."""
    before = torch.get_num_threads()
    assert train.train_teacher(job_of(folder, "one"), OPTIONS) == 0
    torch.set_num_threads(before)
    weights = load_file(two / "model.safetensors")
    for name, value in load_file(folder / "one/model.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-5, msg=name)
    assert len((two / "metrics.csv").read_text().splitlines()) == 1 + OPTIONS.epochs


def stopped_by(folder, name, strike):
    """Exit status of a team that `strike` was aimed at, given its first process, while it trains."""
    process = subprocess.Popen(
        command(folder, name, LONGER),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/" in line:
            strike(process)
            break
    process.stderr.read()
    process.stderr.close()
    return process.wait()


def strike_all_twice(process):
    """As `scancel` does, which tells every process of a step."""
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.2)


def test_stopped_team_goes_on_to_the_same_weights(folder):
    """All stop, one saves, exit 75; again, and it finishes."""
    undisturbed = finished(folder, "undisturbed", LONGER)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert stopped_by(folder, "stopped", strike_all_twice) == EXIT_UNFINISHED
    assert (folder / "stopped-state/checkpoint.pt").exists()
    assert not (folder / "stopped/model.safetensors").exists()
    again = finished(folder, "stopped", LONGER)
    assert again.returncode == 0, again.stderr
    assert "resuming in epoch" in again.stderr
    first, second = (weights_sha256(folder / run / "model.safetensors") for run in ("undisturbed", "stopped"))
    assert first == second


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_the_process_that_snakemake_knows_stops_all(folder, number):
    name = f"told-{number.name}"
    assert stopped_by(folder, name, lambda process: process.send_signal(number)) == EXIT_UNFINISHED
    assert (folder / f"{name}-state/checkpoint.pt").exists()


def test_bad_input_is_told_as_by_one_process(folder):
    result = finished(folder, "bad", OPTIONS.model_copy(update={"model": "resnet18"}))
    assert result.returncode == 2
    assert "BatchNorm would see a part of the batch on each of 2 GPUs; set teacher.gpus: 1" in result.stderr


def test_parts_are_equal_and_whole():
    batch = slice(16, 32)
    parts = [Team(rank, 4).own(batch) for rank in range(4)]
    assert [(part.start, part.stop) for part in parts] == [(16, 20), (20, 24), (24, 28), (28, 32)]
    assert ALONE.own(batch) == batch
    assert ALONE.any(True)
    assert not ALONE.any(False)


def test_batch_that_cannot_be_shared_out():
    with pytest.raises(UserError, match="batch_size 8 is not a whole multiple of 3 GPUs; change one of them"):
        Team(0, 3).check(nn.Linear(1, 1), 8)


@pytest.mark.parametrize(
    ("batch", "at_most", "size", "part"),
    [(8, 8, 1, 8), (8, 4, 1, 4), (8, 8, 2, 4), (8, 1, 2, 1), (12, 6, 3, 4), (12, 4, 2, 3)],
)
def test_no_part_is_larger_than_asked_for(batch, at_most, size, part):
    assert Team(0, size).part_size(batch, at_most) == part


def test_gpus_stay_taken_when_the_process_that_started_the_team_is_killed(folder):
    longer = OPTIONS.model_copy(update={"epochs": 1000})
    with subprocess.Popen(
        command(folder, "orphaned", longer), stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        while "epoch 1/" not in (line := process.stderr.readline()):
            assert line, "it ended"
        (torchrun,) = children(process.pid)
        process.kill()
        process.wait()
        try:
            assert all(gpus.is_taken(device.lock) for device in gpus.devices_of(GPUS, ""))
        finally:
            for pid in children(torchrun):
                os.kill(pid, signal.SIGTERM)
