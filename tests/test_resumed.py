"""Training that stops, is killed, or finds another's checkpoint: it ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lowmag import train
from lowmag.checkpoint import EXIT_UNFINISHED, Stop
from lowmag.models import load_model
from lowmag.networks import build
from lowmag.run_lock import locked
from lowmag.team import dropout_seed
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW
from synthetic_training import (
    EVERYTHING,
    QUICK,
    assert_same_run,
    job_of,
    train_averaged,
    train_distilled,
    train_in_parts,
    train_labelled,
    train_projected,
)
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "run", [train_distilled, train_labelled, train_projected, train_in_parts, train_averaged]
)
def test_a_step_per_session_is_the_same_run(cohort: Path, tmp_path: Path, run) -> None:
    assert run(job_of(cohort, tmp_path / "whole")) == 0
    statuses = [EXIT_UNFINISHED]
    while statuses[-1] == EXIT_UNFINISHED:
        assert len(statuses) < 20
        assert not (tmp_path / "parted").exists()
        statuses.append(run(job_of(cohort, tmp_path / "parted", budget_minutes=0)))
    assert statuses[1:] == [EXIT_UNFINISHED] * 12 + [0]
    assert_same_run(tmp_path / "whole", tmp_path / "parted")
    assert json.loads((tmp_path / "parted" / "run.json").read_text())["sessions"] == 13


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_ends_like_an_uninterrupted_one(cohort: Path, tmp_path: Path, number) -> None:
    whole, killed = job_of(cohort, tmp_path / "whole"), job_of(cohort, tmp_path / "killed")
    command = [
        *(sys.executable, "-m", "lowmag.cli", "student", "--method", EVERYTHING.model_dump_json()),
        *("--targets", str(cohort / "targets" / "2.5x"), "--unlabelled", "50"),
        *("--tiles", str(killed.tiles), "--splits", str(killed.splits), "--classes", json.dumps(CLASSES)),
        *("--magnification", str(LOW), "--out", str(killed.out), "--state", str(killed.state)),
        *("--checkpoint-minutes", "0", "--threads", "1", "--options", QUICK.model_dump_json()),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 300
        while not (killed.state / "checkpoint.pt").exists() and time.monotonic() < give_up:
            time.sleep(0.002)
        has_saved = (killed.state / "checkpoint.pt").exists()
        os.kill(process.pid, number)
        log = process.communicate()[1]
    assert has_saved, log
    assert process.returncode == (EXIT_UNFINISHED if number == signal.SIGTERM else -number), log
    assert not killed.out.exists()
    assert train_distilled(killed) == 0
    assert train_distilled(whole) == 0
    assert_same_run(whole.out, killed.out)
    assert json.loads((killed.out / "run.json").read_text())["sessions"] == 2


def test_checkpoint_of_other_options_is_not_resumed(cohort: Path, tmp_path: Path, caplog) -> None:
    other = QUICK.model_copy(update={"lr": 5e-4})
    stopped, whole = job_of(cohort, tmp_path / "run"), job_of(cohort, tmp_path / "whole")
    assert train_labelled(replace(stopped, budget_minutes=0), other) == EXIT_UNFINISHED
    assert train_labelled(stopped) == 0
    assert "starting anew" in caplog.text
    assert train_labelled(whole) == 0
    assert_same_run(whole.out, stopped.out)


@pytest.mark.parametrize("change", [{"seed": 1}, {"classes": CLASSES[::-1]}, {"magnification": HIGH}])
def test_checkpoint_of_another_job_is_not_resumed(cohort: Path, tmp_path: Path, caplog, change) -> None:
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    assert train_labelled(job) == EXIT_UNFINISHED
    assert train_labelled(replace(job, **change)) == EXIT_UNFINISHED
    assert "starting anew" in caplog.text


def test_outputs_deleted_after_the_run_are_made_again(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "run")
    assert train_labelled(job) == 0
    job.out.rename(tmp_path / "before")
    assert train_labelled(job) == 0
    assert_same_run(tmp_path / "before", job.out)


def test_second_trainer_waits_until_its_time_is_up(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    with locked(job.state, Stop(1)):
        assert train_labelled(job) == EXIT_UNFINISHED
    assert not job.out.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_second_trainer_takes_what_the_first_left(cohort: Path, tmp_path: Path, caplog, whole: bool) -> None:
    job = job_of(cohort, tmp_path / "run")
    with ThreadPoolExecutor(1) as other, locked(job.state, Stop(1)):
        second = other.submit(train_labelled, job)
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        assert train_labelled(replace(job, state=tmp_path / "first-state")) == 0
        if not whole:
            (job.out / "model.safetensors").write_bytes(b"half")
        before = (job.out / "model.safetensors").stat().st_mtime_ns
    assert second.result() == 0
    assert ((job.out / "model.safetensors").stat().st_mtime_ns == before) == whole
    assert load_model(job.out / "model.safetensors")
    assert json.loads((job.out / "run.json").read_text())["sessions"] == 1


def test_dropout_is_resumed_and_differs_between_processes(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step draws by (seed, step, process), on any device, whatever was drawn before."""

    def with_dropout(*told):
        network = build(*told)
        network.backbone.register_forward_hook(
            lambda module, _, maps: functional.dropout(maps, 0.5, module.training)
        )
        return network

    monkeypatch.setattr("lowmag.lesson.build", with_dropout)
    whole, parted, other = (job_of(cohort, tmp_path / name) for name in ("whole", "parted", "other"))
    assert train_labelled(whole) == 0
    statuses = [train_labelled(replace(parted, budget_minutes=0))]
    while statuses[-1] == EXIT_UNFINISHED:
        torch.rand(3)
        statuses.append(train_labelled(replace(parted, budget_minutes=0)))
    assert len(statuses) > 10
    monkeypatch.setattr(train, "dropout_seed", lambda seed, step, _: dropout_seed(seed, step, 1))
    assert train_labelled(other) == 0
    weights = [load_file(job.out / "model.safetensors") for job in (whole, parted, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])
    drawn = {dropout_seed(seed, step, rank) for seed in (0, 1) for step in range(100) for rank in range(8)}
    assert len({seed % 2**32 for seed in drawn}) == 1600  # the CPU's generator takes the lower half
