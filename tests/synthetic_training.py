"""Short trainings on a cohort that is made, and when two of them are the same run."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import torch
from lowmag import train
from lowmag.recipe import StudentTraining, Training
from lowmag.run_record import TIME_COLUMNS
from lowmag.study import TargetOptions
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from lowmag.train import Job
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW, make_cohort

QUICK = StudentTraining(stride=8, epochs=2, batch_size=4)


LABELS = Method.model_validate({"cross_entropy": 1})


EVERYTHING = Method.model_validate({"cross_entropy": 1, "soft_labels": 1, "features": 1, "attention": 1})


PROJECTED = Method.model_validate({"cross_entropy": 1, "softmax_regression": {"map": "spatial"}})


EVERY_FORM = ["logits", "features/area", "features/bicubic", "features/maxpool"]
EVERY_FORM += ["attention/inside", "attention/inside-2"]


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


def make_taught_cohort(folder: Path) -> Path:
    """Tiles, splits, a teacher of one epoch and its targets."""
    tiles, splits = make_cohort(folder)
    job = job_of(folder, folder / "teacher", magnification=HIGH)
    assert train.train_teacher(job, Training(stride=8, epochs=1, batch_size=8)) == 0
    options = TargetOptions(
        grids={"2.5x": 2},
        reads={"2.5x": EVERY_FORM},
        earlier={"inside-2": {"2.5x": 4}},
    )
    write_targets(
        Source(folder / "teacher" / "model.safetensors", tiles, splits), folder / "targets", options
    )
    return folder


def train_distilled(job: Job, options: StudentTraining = QUICK) -> int:
    targets = job.tiles.parent / "targets" / "2.5x"
    return train.train_student(job, options, EVERYTHING, targets, 50)


def train_projected(job: Job, options: StudentTraining = QUICK) -> int:
    targets = job.tiles.parent / "targets" / "2.5x"
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
