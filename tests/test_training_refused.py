"""What training refuses before its first step, and losses that are no numbers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lowmag import ownership, train
from lowmag.checkpoint import EXIT_UNFINISHED
from lowmag.errors import UserError
from lowmag.lesson import Task, plan_epoch, prepare_lesson
from lowmag.methods import combine
from lowmag.recipe import Teacher
from lowmag.study import TargetOptions
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from synthetic_tiles import HIGH, Cohort, make_cohort
from synthetic_training import (
    EVERYTHING,
    LABELS,
    QUICK,
    job_of,
    train_distilled,
    train_labelled,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_trainer_that_outlived_its_snakemake_begins_nothing(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come to its turn, with old options, when the one that followed has finished the run."""
    monkeypatch.setenv(ownership.RUN, str(tmp_path / "swept"))
    with pytest.raises(UserError, match="Snakemake has been started anew"):
        train_labelled(job_of(cohort, tmp_path / "run"), QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_no_number_names_step_and_tiles(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    """The root of 0 is 0, its slope is infinite: the loss is right, and a step would spoil the weights."""
    steps = []

    def combine_with_root(method, student, said, epoch):
        parts = combine(method, student, said, epoch)
        steps.append(1)
        spoilt = (0 * student.logits.sum()).sqrt() if len(steps) == 2 else 0
        return {**parts, "loss": parts["loss"] + spoilt}

    monkeypatch.setattr(train, "combine", combine_with_root)
    job, options = job_of(cohort, tmp_path / "run"), QUICK.model_copy(update={"clip": clip})
    lesson = prepare_lesson(Task(job, "student", options, LABELS), torch.device("cpu"))
    names = ", ".join(lesson.bank.index.name(i) for i in plan_epoch(lesson, 0).order[4:8])
    with pytest.raises(UserError) as refused:
        train_labelled(job, options)
    assert f"the gradient is not a finite number in epoch 1, step 2 (tiles {names})" in str(refused.value)
    assert not (tmp_path / "run").exists()


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


def test_targets_of_another_earlier_grid_are_refused(cohort: Path, tmp_path: Path) -> None:
    options = TargetOptions(
        grids={"2.5x": 2}, reads={"2.5x": ["attention/inside-2"]}, earlier={"inside-2": {"2.5x": 2}}
    )
    teacher = cohort / "teacher" / "model.safetensors"
    write_targets(Source(teacher, cohort / "tiles", cohort / "splits.csv"), tmp_path, options)
    method = Method.model_validate({"attention": {"stage": -2}})
    with pytest.raises(UserError, match="have a grid of attention/inside-2 of 2, expected 4"):
        train.train_student(job_of(cohort, tmp_path / "run"), QUICK, method, tmp_path / "2.5x", 0)


def test_targets_of_one_view_fit_an_unturned_student_only(cohort: Path, tmp_path: Path) -> None:
    options = TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["logits"]}, views=1)
    write_targets(
        Source(cohort / "teacher" / "model.safetensors", cohort / "tiles", cohort / "splits.csv"),
        tmp_path,
        options,
    )
    method = Method.model_validate({"soft_labels": 1})
    job, targets = job_of(cohort, tmp_path / "run"), tmp_path / "2.5x"
    with pytest.raises(UserError, match="hold 1 exact views, the student is shown 8"):
        train.train_student(job, QUICK, method, targets, 0)
    unturned = QUICK.model_copy(update={"augment": QUICK.augment.model_copy(update={"dihedral": False})})
    assert train.train_student(job, unturned, method, targets, 0) == 0


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
