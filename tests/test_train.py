"""Training: the loop against one written by hand, stop and resume bit for bit, and every refusal."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lowmag import train
from lowmag.checkpoint import EXIT_UNFINISHED, Checkpoint, Stop
from lowmag.errors import UserError
from lowmag.index import index_tiles
from lowmag.lesson import Task, plan_epoch, prepare_lesson
from lowmag.models import load_model, prepare, weights_sha256
from lowmag.networks import Network, build
from lowmag.recipe import StudentTraining, Teacher, Training
from lowmag.run_lock import locked
from lowmag.run_record import TIME_COLUMNS
from lowmag.sampling import choose_pool, epoch_order
from lowmag.splits import read_splits
from lowmag.store import TileFile
from lowmag.study import TargetOptions
from lowmag.targets import write_targets
from lowmag.terms import Method
from lowmag.train import Job, learning_rate
from lowmag.weight_average import WeightAverage
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW, Cohort, make_cohort
from torch.nn import functional

QUICK = StudentTraining(stride=8, epochs=2, batch_size=4)
LABELS = Method.model_validate({"cross_entropy": 1})
EVERYTHING = Method.model_validate({"cross_entropy": 1, "soft_labels": 1, "features": 1, "attention": 1})
PROJECTED = Method.model_validate({"cross_entropy": 1, "softmax_regression": {"map": "spatial"}})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles, splits, a teacher of one epoch and its targets."""
    folder = tmp_path_factory.mktemp("cohort")
    tiles, splits = make_cohort(folder)
    job = job_of(folder, folder / "teacher", magnification=HIGH)
    assert train.train_teacher(job, Training(stride=8, epochs=1, batch_size=8)) == 0
    options = TargetOptions(
        grids={"2.5x": 2},
        resizes=["maxpool", "bicubic", "area"],
        attention=["inside"],
        earlier={"inside-2": {"2.5x": 4}},
    )
    write_targets(folder / "teacher" / "model.safetensors", tiles, splits, folder / "targets", options, 1)
    return folder


def job_of(cohort: Path, out: Path, **changes) -> Job:
    job = Job(
        tiles=cohort / "tiles",
        splits=cohort / "splits.csv",
        classes=CLASSES,
        magnification=LOW,
        seed=0,
        out=out,
        state=out.with_name(f"{out.name}-state"),
        threads=1,
    )
    return replace(job, **changes)


def train_distilled(job: Job, options: StudentTraining = QUICK) -> int:
    targets = job.tiles.parent / "targets" / "2.5x.h5"
    return train.train_student(job, options, EVERYTHING, targets, 50)


def train_projected(job: Job, options: StudentTraining = QUICK) -> int:
    targets = job.tiles.parent / "targets" / "2.5x.h5"
    return train.train_student(job, options, PROJECTED, targets, 50)


def train_in_parts(job: Job) -> int:
    return train_distilled(job, QUICK.model_copy(update={"accumulate": 2}))


def train_averaged(job: Job, options: StudentTraining = QUICK) -> int:
    options = options.model_copy(update={"ema": 0.8, "initial": "teacher"})
    job = replace(job, initial=job.tiles.parent / "teacher" / "model.safetensors")
    return train_distilled(job, options)


def train_labelled(job: Job, options: StudentTraining = QUICK) -> int:
    return train.train_student(job, options, LABELS, None, 0)


def rows_without_times(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    weights = [load_file(out / "model.safetensors") for out in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert rows_without_times(one) == rows_without_times(other)
    kept = [json.loads((out / "run.json").read_text()) for out in (one, other)]
    changing = ("seconds", "sessions")
    assert [{k: v for k, v in run.items() if k not in changing} for run in kept[:1]] == [
        {k: v for k, v in run.items() if k not in changing} for run in kept[1:]
    ]


def test_outputs_tell_the_run(cohort: Path, tmp_path: Path) -> None:
    assert train_distilled(job_of(cohort, tmp_path / "run")) == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "metrics.csv",
        "model.safetensors",
        "run.json",
    ]
    assert [p.name for p in (tmp_path / "run-state").iterdir()] == ["lock"]
    rows = rows_without_times(tmp_path / "run")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "6"), ("2", "12")]
    parts = sum(float(rows[0][name]) for name in ("cross_entropy", "soft_labels", "features", "attention"))
    assert float(rows[0]["loss"]) == pytest.approx(parts, rel=1e-4)
    text = (tmp_path / "run" / "run.json").read_text()
    assert str(cohort) not in text
    assert str(tmp_path) not in text
    run = json.loads(text)
    assert run["teacher_sha256"] == weights_sha256(cohort / "teacher" / "model.safetensors")
    assert run["weights_sha256"] == weights_sha256(tmp_path / "run" / "model.safetensors")
    assert run["data"] == {
        "train_labelled": {"tiles": 16, "slides": 4, "patients": 4},
        "train_unlabelled": {"tiles": 4, "slides": 1, "patients": 1},
        "val": {"tiles": 8, "slides": 2, "patients": 2},
    }
    assert (run["steps"], run["sessions"]) == (12, 1)
    _, spec = load_model(tmp_path / "run" / "model.safetensors")
    assert (spec.role, spec.magnification, spec.tile_px, spec.teacher_px) == ("student", LOW, 16, 64)
    assert spec.field_um == 64.0


def test_teacher_learns_what_can_be_seen(cohort: Path, tmp_path: Path) -> None:
    options = Training(stride=8, epochs=6, batch_size=8)
    job = job_of(cohort, tmp_path / "run", magnification=HIGH)
    assert train.train_teacher(job, options) == 0
    rows = rows_without_times(tmp_path / "run")
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert max(float(row["val_balanced_accuracy"]) for row in rows) == 1


def test_loop_is_the_one_written_by_hand(cohort: Path, tmp_path: Path) -> None:
    """Without augmentation a run is these lines, with torch's own AdamW."""
    plain = {"dihedral": False, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
    options = StudentTraining.model_validate(
        {**QUICK.model_dump(), "augment": plain, "select": "last", "balance": False, "lr": 1e-4, "clip": 0.5}
    )
    assert train_labelled(job_of(cohort, tmp_path / "run"), options) == 0
    trained, spec = load_model(tmp_path / "run" / "model.safetensors")

    rows = [row for row in read_splits(cohort / "splits.csv") if row.split == "train"]
    index = index_tiles(cohort / "tiles", rows, CLASSES)
    pictures = []
    for slide in range(6):
        with TileFile(index.path(slide)) as file:
            pictures.append(file.read_all(LOW))
    pictures = torch.from_numpy(np.concatenate(pictures))
    labelled = pictures[torch.from_numpy(index.labels) >= 0].double() / 255
    assert np.allclose(spec.mean, labelled.mean((0, 1, 2)), atol=1e-4)
    pool = choose_pool(index, CLASSES, share=0, seed=0, student=True)
    torch.manual_seed(1)
    network = build(options, 2).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=options.weight_decay)
    for epoch in range(2):
        order = epoch_order(pool, seed=0, epoch=epoch, batch_size=4, balance=False)
        for step, ids in enumerate(order.reshape(-1, 4)):
            optimizer.param_groups[0]["lr"] = learning_rate(options, epoch * 6 + step, 12)
            logits = network(prepare(pictures[ids], spec))[1]
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.from_numpy(index.labels[ids])).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
    for name, value in trained.state_dict().items():
        # Adam divides by small numbers, so float32 rounding of the two Adams grows over the 12 steps.
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=2e-5, msg=name)


def test_a_batch_in_parts_is_the_same_run(cohort: Path, tmp_path: Path) -> None:
    """With GroupNorm, labelled and unlabelled tiles, and one tile a part, as DiPalma et al. train."""
    for name, parts in (("whole", 1), ("parts", 4)):
        options = QUICK.model_copy(update={"accumulate": parts, "lr": 1e-4, "select": "last"})
        assert train_distilled(job_of(cohort, tmp_path / name), options) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, value in whole.items():
        # Adam divides by small numbers, so the rounding of the sums grows over the 12 steps.
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=2e-5, msg=name)
    losses = [float(rows_without_times(tmp_path / name)[-1]["loss"]) for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_batch_is_fetched_part_by_part(cohort: Path, tmp_path: Path) -> None:
    """So that memory holds a part, whatever the batch: of whole sections, one picture."""
    options = QUICK.model_copy(update={"accumulate": 2, "epochs": 1, "batch_size": 6})
    lesson = prepare_lesson(
        Task(job_of(cohort, tmp_path / "run"), "student", options, LABELS), torch.device("cpu")
    )
    fetched = []
    whole = lesson.bank.batches
    lesson.bank.batches = lambda order, size: (
        fetched.append((progress.step, len(tiles))) or tiles for tiles in whole(order, size)
    )
    progress = train.begin(lesson, None)
    with Stop(float("inf")) as stop:
        assert train.run_epoch(lesson, progress, Checkpoint(tmp_path, "", 1e9), stop)
    assert fetched == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize(
    "terms",
    [
        {"soft_labels": {"temperature": 4}, "cross_entropy": 0.1},
        {"softmax_regression": 1},
        {"attention_transfer": 1000},
        {"decoupled": 1},
        {"decoupled": {"target": "teacher"}},
        {"correlation": 2},
        {"relational": 25},
        {"cosine": 1},
        {"attention": {"stage": -2}},
    ],
    ids=str,
)
def test_every_term_trains(cohort: Path, tmp_path: Path, terms: dict) -> None:
    """One step, with unlabelled tiles wherever the method takes them: weights move and stay finite."""
    method = Method.model_validate(terms)
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    share = 100 if method.uses_unlabelled else 0
    targets = cohort / "targets" / "2.5x.h5"
    assert train.train_student(job, QUICK, method, targets, share) == EXIT_UNFINISHED
    state = torch.load(job.state / "checkpoint.pt", weights_only=True)["state"]
    assert state["progress"]["step"] == 1
    assert state["progress"]["totals"].isfinite().all()
    assert state["progress"]["totals"][0] > 0
    assert all(value.isfinite().all() for value in state["network"].values())
    assert all(mean.abs().max() > 0 for mean in state["optimizer"]["means"][:3]), "the first layers learn"


def test_a_term_warms_up_with_the_epochs_of_training(cohort: Path, tmp_path: Path) -> None:
    """Weights and tiles of the first step are the same: a quarter of the weight is a quarter of the loss."""
    totals = []
    for warmup in (0, 4):
        method = Method.model_validate({"decoupled": {"warmup": warmup}})
        job = job_of(cohort, tmp_path / str(warmup), budget_minutes=0)
        train.train_student(job, QUICK, method, cohort / "targets" / "2.5x.h5", 0)
        state = torch.load(job.state / "checkpoint.pt", weights_only=True)["state"]
        totals.append(state["progress"]["totals"])
    torch.testing.assert_close(totals[1], totals[0] / 4)


def test_a_projector_learns_and_stays_out_of_the_model_file(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    first = ["softmax_regression.0.weight", "softmax_regression.0.bias"]
    first += ["softmax_regression.1.weight", "softmax_regression.1.bias"]
    saved = []
    for _ in range(3):
        assert train_projected(job) == EXIT_UNFINISHED
        saved.append(torch.load(job.state / "checkpoint.pt", weights_only=True)["state"]["projectors"])
    assert list(saved[0]) == first
    assert all(not torch.equal(saved[0][name], saved[2][name]) for name in first)
    assert train_projected(replace(job, budget_minutes=float("inf"))) == 0
    assert train_labelled(job_of(cohort, tmp_path / "plain")) == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("run", "plain")]
    assert list(weights[0]) == list(weights[1])


def test_a_loss_that_is_no_sum_of_parts_is_refused(cohort: Path, tmp_path: Path) -> None:
    method = Method.model_validate({"features": {"distance": "rmse"}})
    options = QUICK.model_copy(update={"accumulate": 2})
    with pytest.raises(UserError, match=r"features is no mean over pictures.*set accumulate: 1"):
        train.train_student(job_of(cohort, tmp_path / "run"), options, method, cohort / "targets/2.5x.h5", 0)


def test_without_clipping_the_gradient_is_taken_as_it_is(cohort: Path, tmp_path: Path) -> None:
    for name, clip in (("none", None), ("far", 1e9), ("near", 1e-3)):
        options = QUICK.model_copy(update={"clip": clip, "optimizer": "adam", "epochs": 1, "select": "last"})
        assert train_labelled(job_of(cohort, tmp_path / name), options) == 0
    none, far, near = (load_file(tmp_path / name / "model.safetensors") for name in ("none", "far", "near"))
    assert all(torch.equal(none[name], far[name]) for name in none)
    assert any(not torch.equal(none[name], near[name]) for name in none)


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
        *("--targets", str(cohort / "targets" / "2.5x.h5"), "--unlabelled", "50"),
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


def test_the_mean_of_the_weights_is_what_is_kept(cohort: Path, tmp_path: Path, monkeypatch) -> None:
    """Written by hand: the weights of the beginning and after every step, averaged as the class says."""
    seen, renew = [], WeightAverage.renew

    def watched(self: WeightAverage, network: Network, step: int) -> None:
        if step == 1:
            seen.append({name: v.clone() for name, v in self.network.state_dict().items()})
        seen.append({name: v.clone() for name, v in network.state_dict().items()})
        renew(self, network, step)

    monkeypatch.setattr(WeightAverage, "renew", watched)
    options = QUICK.model_copy(update={"ema": 0.3, "select": "last"})
    assert train_labelled(job_of(cohort, tmp_path / "run"), options) == 0
    assert len(seen) == 1 + 2 * 6  # epochs of 24 tiles in batches of 4
    expected = seen[0]
    for step, weights in enumerate(seen[1:], 1):
        kept = min(0.3, (1 + step) / (10 + step))
        expected = {name: kept * v + (1 - kept) * weights[name] for name, v in expected.items()}
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_kept_epoch_is_the_best_one(cohort: Path, tmp_path: Path) -> None:
    for select in ("loss", "last"):
        options = QUICK.model_copy(update={"epochs": 3, "select": select, "schedule": "constant"})
        assert train_labelled(job_of(cohort, tmp_path / select), options) == 0
        losses = [float(row["val_loss"]) for row in rows_without_times(tmp_path / select)]
        expected = 1 + int(np.argmin(losses)) if select == "loss" else 3
        assert json.loads((tmp_path / select / "run.json").read_text())["selected_epoch"] == expected


def test_pixels_may_stay_as_they_are(cohort: Path, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"epochs": 1, "standardise": False})
    assert train_labelled(job_of(cohort, tmp_path / "run"), options) == 0
    _, spec = load_model(tmp_path / "run" / "model.safetensors")
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))
    tiles = torch.full((1, spec.tile_px, spec.tile_px, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(prepare(tiles, spec), torch.full((1, 3, 16, 16), 0.2), rtol=0, atol=1e-7)


def test_diverged_loss_names_step_and_tiles(cohort: Path, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(
        UserError, match=r"not a finite number in epoch 1, step \d \(tiles train\d\[\d\].*lower lr"
    ):
        train_labelled(job_of(cohort, tmp_path / "run"), options)
    assert not (tmp_path / "run").exists()


def test_diverged_loss_of_a_resumed_run_in_parts_names_the_step_that_it_was(
    cohort: Path, tmp_path: Path
) -> None:
    """The first step is taken in one session and leaves weights beyond all measure, the next goes wrong."""
    options = QUICK.model_copy(update={"lr": 1e30, "warmup": 0.0, "accumulate": 2})
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    assert train_labelled(job, options) == EXIT_UNFINISHED
    with pytest.raises(UserError) as refused:
        train_labelled(job, options)
    lesson = prepare_lesson(Task(job, "student", options, LABELS), torch.device("cpu"))
    names = ", ".join(lesson.bank.index.name(i) for i in plan_epoch(lesson, 0).order[4:8])
    assert f"epoch 1, step 2 (tiles {names})" in str(refused.value)


def test_all_tiles_of_a_large_batch_that_diverged_are_in_a_file(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "NAMED_TILES", 1)
    job = job_of(cohort, tmp_path / "run")
    with pytest.raises(UserError, match=r"and 3 more, all in .*diverged\.txt"):
        train_labelled(job, QUICK.model_copy(update={"lr": 1e30, "warmup": 0.0}))
    assert len((job.state / "diverged.txt").read_text().split()) == 4


def test_network_that_diverged_in_the_last_step_is_refused(cohort: Path, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"lr": 1e30, "warmup": 0.0, "epochs": 1, "batch_size": 24})
    with pytest.raises(UserError, match="validation loss is not a finite number in epoch 1; lower lr"):
        train_labelled(job_of(cohort, tmp_path / "run"), options)


def test_a_student_begins_with_the_weights_of_its_teacher(cohort: Path, tmp_path: Path) -> None:
    teacher = cohort / "teacher" / "model.safetensors"
    job = job_of(cohort, tmp_path / "run", initial=teacher)
    options = QUICK.model_copy(update={"initial": "teacher", "stride": 16})  # the weights fit at every stride
    with locked(job.state, Stop(1)):
        lesson = prepare_lesson(Task(job, "student", options, LABELS), torch.device("cpu"))
    weights = load_file(teacher)
    assert set(weights) == set(lesson.network.state_dict())
    assert all(torch.equal(weights[name], v) for name, v in lesson.network.state_dict().items())


def test_cells_of_a_size_decide_on_the_stride(cohort: Path, tmp_path: Path) -> None:
    """64 um are 16 px of 4 um."""
    options = QUICK.model_copy(update={"cell_um": 64, "epochs": 1})
    assert train_labelled(job_of(cohort, tmp_path / "run"), options) == 0
    assert load_model(tmp_path / "run" / "model.safetensors")[1].stride == 16


def test_initial_weights_must_be_given_and_fit(cohort: Path, tmp_path: Path) -> None:
    teacher, job = cohort / "teacher" / "model.safetensors", job_of(cohort, tmp_path / "run")
    beginning = QUICK.model_copy(update={"initial": "teacher"})
    with pytest.raises(UserError, match="initial: teacher, and --initial is not given"):
        train_labelled(job, beginning)
    with pytest.raises(UserError, match="initial: noise, and --initial is"):
        train_labelled(replace(job, initial=teacher))
    other = beginning.model_copy(update={"model": "resnet18"})
    with pytest.raises(UserError, match=r"do not fit the network: .*must be the same network"):
        train_labelled(replace(job, initial=teacher), other)


def test_logits_fit_a_student_of_any_grid(cohort: Path, tmp_path: Path) -> None:
    """Stored for 2 x 2 cells, which only terms that compare maps depend on."""
    method, coarse = Method.model_validate({"soft_labels": 1}), QUICK.model_copy(update={"stride": 16})
    targets = cohort / "targets" / "2.5x.h5"
    assert train.train_student(job_of(cohort, tmp_path / "run"), coarse, method, targets, 0) == 0


def test_no_validation_tiles_is_refused(tmp_path: Path) -> None:
    make_cohort(tmp_path, Cohort(val=("",)))
    with pytest.raises(UserError, match="no labelled validation tiles; label more patients"):
        train_labelled(job_of(tmp_path, tmp_path / "run"))


def test_class_missing_in_validation_is_said(tmp_path: Path, caplog) -> None:
    make_cohort(tmp_path, Cohort(val=("calm",)))
    assert train_labelled(job_of(tmp_path, tmp_path / "run"), QUICK.model_copy(update={"epochs": 1})) == 0
    assert "no validation tile of class busy" in caplog.text


def test_method_without_its_teacher_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compares with a teacher .*give --targets"):
        train.train_student(job_of(cohort, tmp_path / "run"), QUICK, EVERYTHING, None, 0)


def test_unlabelled_tiles_for_labels_only_are_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use --unlabelled 0"):
        train.train_student(job_of(cohort, tmp_path / "run"), QUICK, LABELS, None, 50)


def test_targets_of_another_grid_are_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="have grid 2, expected 1"):
        train_distilled(job_of(cohort, tmp_path / "run"), QUICK.model_copy(update={"stride": 16}))


def test_flips_alone_are_what_the_student_is_shown(cohort: Path, tmp_path: Path) -> None:
    for dihedral, seen in (
        (True, {0, 1, 2, 3, 4, 5, 6, 7}),
        ("flips", {0, 1, 2, 3}),
        ("horizontal", {0, 1}),
        (False, {0}),
    ):
        options = StudentTraining.model_validate({**QUICK.model_dump(), "augment": {"dihedral": dihedral}})
        task = Task(job_of(cohort, tmp_path / "run"), "student", options, LABELS)
        lesson = prepare_lesson(task, torch.device("cpu"))
        views = torch.cat([plan_epoch(lesson, epoch).target_views for epoch in range(4)])
        assert set(views.tolist()) == seen


def test_targets_of_another_earlier_grid_are_refused(cohort: Path, tmp_path: Path) -> None:
    options = TargetOptions(grids={"2.5x": 2}, earlier={"inside-2": {"2.5x": 2}})
    teacher = cohort / "teacher" / "model.safetensors"
    write_targets(teacher, cohort / "tiles", cohort / "splits.csv", tmp_path, options, 1)
    method = Method.model_validate({"attention": {"stage": -2}})
    with pytest.raises(UserError, match="have a grid of attention/inside-2 of 2, expected 4"):
        train.train_student(job_of(cohort, tmp_path / "run"), QUICK, method, tmp_path / "2.5x.h5", 0)


def test_targets_of_one_view_fit_an_unturned_student_only(cohort: Path, tmp_path: Path) -> None:
    options = TargetOptions(grids={"2.5x": 2}, views=1)
    write_targets(
        cohort / "teacher" / "model.safetensors",
        cohort / "tiles",
        cohort / "splits.csv",
        tmp_path,
        options,
        1,
    )
    method = Method.model_validate({"soft_labels": 1})
    job, targets = job_of(cohort, tmp_path / "run"), tmp_path / "2.5x.h5"
    with pytest.raises(UserError, match="hold 1 exact views, the student is shown 8"):
        train.train_student(job, QUICK, method, targets, 0)
    unturned = QUICK.model_copy(update={"augment": QUICK.augment.model_copy(update={"dihedral": False})})
    assert train.train_student(job, unturned, method, targets, 0) == 0


@pytest.mark.parametrize("share", [0, 100])
def test_steps_do_not_depend_on_the_share(cohort: Path, tmp_path: Path, share: int) -> None:
    method = Method.model_validate({"soft_labels": 1})
    options = QUICK.model_copy(update={"epochs": 1})
    job = job_of(cohort, tmp_path / "run")
    assert train.train_student(job, options, method, cohort / "targets" / "2.5x.h5", share) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 6


def test_learning_rate_rises_and_falls() -> None:
    options = Training(lr=0.1, warmup=0.1)
    rates = [learning_rate(options, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (n + 1) for n in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05 * (1 + math.cos(math.pi * 89 / 90)))


def test_learning_rate_of_the_papers_is_constant() -> None:
    options = Training(lr=1e-3, warmup=0, schedule="constant")
    assert {learning_rate(options, step, 50) for step in range(50)} == {1e-3}


def test_a_teacher_that_guesses_stops_the_study(tmp_path: Path) -> None:
    """It has hardly moved from its first weights; going on with it nevertheless trains nothing again."""
    make_cohort(tmp_path, Cohort(val=("calm", "busy") * 8, tiles_per_slide=2))
    options = Teacher(stride=8, epochs=1, batch_size=8, lr=1e-6, warmup=0)
    job = job_of(tmp_path, tmp_path / "run", magnification=HIGH)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"not better than chance .*16 patients.*teacher.require: nothing"
        ):
            train.train_teacher(job, options)
        assert not (tmp_path / "run").exists()
    assert train.train_teacher(job, options.model_copy(update={"require": "nothing"})) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"] == 3
    assert [p.name for p in job.state.iterdir()] == ["lock"]
