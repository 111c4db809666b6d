"""Training: the loop against one written by hand, stop and resume bit for bit, and every refusal."""

import json
import math
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
from lowmag.recipe import StudentTraining, Training
from lowmag.run_lock import locked
from lowmag.sampling import choose_pool, epoch_order
from lowmag.splits import read_splits
from lowmag.store import TileFile
from lowmag.terms import Method
from lowmag.train import learning_rate
from lowmag.weight_average import WeightAverage
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW
from synthetic_training import (
    LABELS,
    QUICK,
    job_of,
    rows_without_times,
    train_distilled,
    train_labelled,
    train_projected,
)
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")


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
    targets = cohort / "targets" / "2.5x"
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
        train.train_student(job, QUICK, method, cohort / "targets" / "2.5x", 0)
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
        train.train_student(job_of(cohort, tmp_path / "run"), options, method, cohort / "targets/2.5x", 0)


def test_without_clipping_the_gradient_is_taken_as_it_is(cohort: Path, tmp_path: Path) -> None:
    for name, clip in (("none", None), ("far", 1e9), ("near", 1e-3)):
        options = QUICK.model_copy(update={"clip": clip, "optimizer": "adam", "epochs": 1, "select": "last"})
        assert train_labelled(job_of(cohort, tmp_path / name), options) == 0
    none, far, near = (load_file(tmp_path / name / "model.safetensors") for name in ("none", "far", "near"))
    assert all(torch.equal(none[name], far[name]) for name in none)
    assert any(not torch.equal(none[name], near[name]) for name in none)


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


def test_logits_fit_a_student_of_any_grid(cohort: Path, tmp_path: Path) -> None:
    """Stored for 2 x 2 cells, which only terms that compare maps depend on."""
    method, coarse = Method.model_validate({"soft_labels": 1}), QUICK.model_copy(update={"stride": 16})
    targets = cohort / "targets" / "2.5x"
    assert train.train_student(job_of(cohort, tmp_path / "run"), coarse, method, targets, 0) == 0


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


@pytest.mark.parametrize("share", [0, 100])
def test_steps_do_not_depend_on_the_share(cohort: Path, tmp_path: Path, share: int) -> None:
    method = Method.model_validate({"soft_labels": 1})
    options = QUICK.model_copy(update={"epochs": 1})
    job = job_of(cohort, tmp_path / "run")
    assert train.train_student(job, options, method, cohort / "targets" / "2.5x", share) == 0
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
