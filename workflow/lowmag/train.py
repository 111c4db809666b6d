"""Training of a teacher or a student: one loop.

A teacher is trained on labels alone; a student on whatever its method compares. Everything random is a
function of the seed, the epoch and the tile, dropout of the step, so a run that was stopped goes on as if it
had not been: on the CPU with one thread its weights are the same bit for bit.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lowmag import chance, ownership
from lowmag.checkpoint import EXIT_UNFINISHED, Checkpoint, Stop
from lowmag.device import autocast, memory_format, pick_device
from lowmag.errors import UserError
from lowmag.lesson import EpochPlan, Job, Lesson, Task, plan_epoch, prepare_lesson
from lowmag.magnification import mpp_of
from lowmag.meter import Meter
from lowmag.methods import StudentBatch, TargetsBatch, combine
from lowmag.models import normalise, save_model
from lowmag.publish import write_text
from lowmag.recipe import StudentTraining, Teacher, Training
from lowmag.run_lock import Hold, locked
from lowmag.run_record import TIME_COLUMNS, is_written, write_metrics, write_run
from lowmag.stages import split
from lowmag.team import EXIT_FOR_USER, Team, dropout_seed, join, leave, tell
from lowmag.terms import LAST_STAGE, CrossEntropy, Method
from lowmag.time_limit import minutes_left
from lowmag.validation import Validated, is_better, score, validate
from lowmag.views import Part, show_both

__all__ = ["Job", "train_student", "train_teacher"]

NO_STEP = -1
NAMED_TILES = 32  # of a batch, in a message
CURE = "lower lr or clip, or use precision: float32, then run again"

logger = logging.getLogger(__name__)


def train_teacher(job: Job, options: Training) -> int:
    """Exit status: 0 when `job.out` holds model.safetensors, metrics.csv and run.json; 75 to be run again.

    Raises UserError when the data do not allow training, when the loss is no longer a number, or when the
    trained teacher is not what `options.require` says (then its state is kept).
    """
    required = isinstance(options, Teacher) and options.require == "better_than_chance"
    options = StudentTraining.model_validate(
        options.model_dump(exclude={"require", "gpus", "features", "head", "patch_gmac"})
    )
    method = Method(cross_entropy=CrossEntropy())
    return _train(Task(job, "teacher", options, method, must_beat_chance=required))


def train_student(
    job: Job, options: StudentTraining, method: Method, targets: Path | None, unlabelled: int
) -> int:
    """Exit status, as `train_teacher`; `unlabelled` is the per cent of the unlabelled train slides used.

    `targets` is the folder of the teacher's targets, or with `options.targets: online` the teacher's model.
    """
    return _train(Task(job, "student", options.at(mpp_of(job.magnification)), method, targets, unlabelled))


@dataclass
class Progress:
    """How far a run has come: all of it that is not in network and optimiser."""

    totals: Tensor  # of each part of the loss over the steps of this epoch
    bad_step: Tensor  # the first step of this epoch whose loss or gradient was not finite, or NO_STEP
    bad_loss: Tensor  # the loss of that step
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    sessions: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    decisions: list[Tensor] = field(default_factory=list)  # on validation tiles by epoch, if they are judged


@dataclass(frozen=True)
class Places:
    """Where tiles stand in the order of an epoch: their own places, and those of the batch they belong to."""

    own: slice
    batch: slice


def _train(task: Task) -> int:
    with Stop(min(task.job.budget_minutes, minutes_left())) as stop:
        device = pick_device(task.job.threads)
        team = join(device)
        try:
            return leave(team, _train_together(task, device, team, stop))
        except UserError:
            tell(team, EXIT_FOR_USER)
            raise


def _train_together(task: Task, device: torch.device, team: Team, stop: Stop) -> int:
    job = task.job
    with locked(job.state, stop) if team.leads else nullcontext(Hold(ours=True)) as hold:
        if team.any(not hold.ours):
            logger.info("%s while waiting", stop.reason)
            return EXIT_UNFINISHED
        if team.leads:
            ownership.publish_under_lock(job.out)
        lesson = prepare_lesson(task, device, team)
        if team.any(hold.waited and is_written(job.out, lesson)):
            logger.info("the trainer that was waited for has finished the run")
            return 0
        checkpoint = Checkpoint(job.state, lesson.digest, job.checkpoint_minutes)
        progress = begin(lesson, team.in_turn(checkpoint.load))
        while progress.epoch < lesson.options.epochs:
            if not run_epoch(lesson, progress, checkpoint, stop):
                if team.leads:
                    checkpoint.save(_state(lesson, progress))
                logger.info("%s: saved at epoch %d, step %d", stop.reason, progress.epoch + 1, progress.step)
                return EXIT_UNFINISHED
        if team.leads:
            _finish(lesson, progress, checkpoint)
    return 0


def _finish(lesson: Lesson, progress: Progress, checkpoint: Checkpoint) -> None:
    """Write the outputs, if a teacher passes, and take the state away."""
    if lesson.task.must_beat_chance:
        checkpoint.save(_state(lesson, progress))  # who goes on nevertheless need not train again
        chance.refuse_chance(_against_chance(lesson, progress))
    _write_outputs(lesson, progress)
    checkpoint.remove()
    _epochs_so_far(lesson.task.job).unlink(missing_ok=True)
    lesson.board.close()


def run_epoch(lesson: Lesson, progress: Progress, checkpoint: Checkpoint, stop: Stop) -> bool:
    """Train to the end of the epoch and validate; False as soon as the run has to stop."""
    options, n_steps, team = lesson.options, lesson.steps, lesson.team
    plan = plan_epoch(lesson, progress.epoch)
    meter = Meter(options.batch_size, n_steps - progress.step, lesson.device)
    seconds_before = progress.seconds
    size = team.part_size(options.batch_size, options.part_size)
    n_parts = options.batch_size // team.size // size
    watched = meter.watching(_parts(lesson, plan, progress.step, size), n_parts)
    for first in watched:
        lr = learning_rate(options, progress.epoch * n_steps + progress.step, options.epochs * n_steps)
        parts_of_step = chain([first], islice(watched, n_parts - 1))
        losses, gradient = _step(lesson, plan, progress.step, parts_of_step, lr)
        progress.totals += losses
        bad = (progress.bad_step < 0) & ~(losses[0] + gradient).isfinite()
        progress.bad_step = torch.where(bad, progress.step, progress.bad_step)
        progress.bad_loss = torch.where(bad, losses[0], progress.bad_loss)
        progress.step += 1
        progress.seconds = seconds_before + meter.seconds
        stopping = team.any(stop.asked(meter.seconds_per_step))
        showing, saving = meter.due(), checkpoint.due() and team.leads
        # Only here the host waits for the device: to show the losses, or before what was computed is kept.
        if stopping or showing or saving:
            _refuse_divergence(lesson, plan, progress)
        if stopping:
            return False
        if showing:
            _show(lesson, progress, meter)
        if saving:
            checkpoint.save(_state(lesson, progress))
    _refuse_divergence(lesson, plan, progress)
    meter.stop()
    # A session that made a step may leave validating to the next one; one that begins with it must do it.
    if team.any(meter.n_steps > 0 and stop.asked(progress.validation_seconds)):
        return False
    began = time.monotonic()
    found = validate(lesson.judged, lesson.spec, lesson.validation, options.precision, stop.signalled)
    if team.any(found is None) or found is None:
        return False
    if not math.isfinite(found.figures["val_loss"]):
        raise UserError(f"the validation loss is not a finite number in epoch {progress.epoch + 1}; {CURE}")
    progress.validation_seconds = time.monotonic() - began
    progress.seconds += progress.validation_seconds
    _end_epoch(lesson, progress, found, meter)
    return True


def _parts(lesson: Lesson, plan: EpochPlan, steps_done: int, size: int) -> Iterator[Part]:
    """Our tiles of the rest of an epoch in parts, each with what is stored of the teacher about it."""
    own = [lesson.team.own(_batch(lesson, step)) for step in range(steps_done, lesson.steps)]
    places = np.concatenate([np.arange(0), *(np.arange(part.start, part.stop) for part in own)])
    parts = lesson.feed.parts(plan.order[places], size)
    if lesson.targets is None or not len(places):  # nothing is left where only validating is
        yield from parts
        return
    said = lesson.targets.ahead(plan.target_ids[places], plan.target_views[places], size)
    yield from (replace(part, stored=stored) for part, stored in zip(parts, said, strict=True))


def _batch(lesson: Lesson, step: int) -> slice:
    """Where the tiles of a step stand in the order of an epoch."""
    return slice(step * lesson.options.batch_size, (step + 1) * lesson.options.batch_size)


def _step(
    lesson: Lesson, plan: EpochPlan, step: int, parts: Iterable[Part], lr: float
) -> tuple[Tensor, Tensor]:
    """Parts of the loss and norm of the gradient, on the device, of a step on a batch that comes in parts."""
    options, batch = lesson.options, _batch(lesson, step)
    torch.manual_seed(dropout_seed(lesson.task.job.seed, lesson.optimizer.n_steps, lesson.team.rank))
    own, size = lesson.team.own(batch), lesson.team.part_size(options.batch_size, options.part_size)
    lesson.optimizer.zero_grad()
    losses = torch.zeros(len(lesson.parts), device=lesson.device)
    for begin, tiles in zip(range(own.start, own.stop, size), parts, strict=True):
        losses += _add_gradients(lesson, plan, Places(slice(begin, begin + size), batch), tiles)
    losses = lesson.team.add_up(lesson.optimizer.parameters, losses)
    norm = get_total_norm([p.grad for p in lesson.optimizer.parameters if p.grad is not None])
    if options.clip is not None:
        clip_grads_with_norm_(lesson.optimizer.parameters, options.clip, norm)
    lesson.optimizer.step(lr)
    if lesson.average:
        lesson.average.renew(lesson.network, lesson.optimizer.n_steps)
    return losses, norm


def _add_gradients(lesson: Lesson, plan: EpochPlan, places: Places, tiles: Part) -> Tensor:
    """The parts of the loss of some tiles, after their gradients were added to those there are."""
    pictures, fine = show_both(tiles, plan.views[places.own], lesson.factor)
    given = normalise(pictures, lesson.spec).contiguous(memory_format=memory_format(lesson.device))
    student = _student(lesson, given)
    labels = plan.labels[places.own]
    if lesson.teacher and fine is not None:  # asked about the very picture
        said = lesson.teacher.batch(fine, labels, student)
    elif lesson.targets and tiles.stored is not None:  # of the exact view
        said = lesson.targets.told(tiles.stored, labels)
    else:
        said = TargetsBatch(labels)
    parts = combine(lesson.task.method, student, _shared(lesson, plan, places, said), plan.epoch)
    parts["loss"].backward()
    return torch.stack([parts[name].detach() for name in lesson.parts])


def _student(lesson: Lesson, pictures: Tensor) -> StudentBatch:
    """What the network says of pictures, in float32 but for an earlier map."""
    attention, earlier = lesson.task.method.attention, None
    with autocast(lesson.device, lesson.options.precision):
        if attention is None or attention.stage == LAST_STAGE:
            features, logits = lesson.network(pictures)
        else:
            first, rest = split(lesson.network, attention.stage)
            earlier = first(pictures)
            features, logits = rest(earlier)
    return StudentBatch(
        features.float(), logits.float(), lesson.network.head.weight, dict(lesson.projectors.items()), earlier
    )


def _shared(lesson: Lesson, plan: EpochPlan, places: Places, targets: TargetsBatch) -> TargetsBatch:
    """The targets of a part of a batch, with its shares of the batch's tiles and of its labelled ones."""
    if places.own == places.batch:
        return targets
    n_labelled, n_all_labelled = ((plan.labels[part] >= 0).sum() for part in (places.own, places.batch))
    return replace(
        targets,
        share=(places.own.stop - places.own.start) / (places.batch.stop - places.batch.start),
        labelled_share=n_labelled / n_all_labelled.clamp(min=1),
    )


def learning_rate(options: Training, step: int, n_steps: int) -> float:
    """The rate of a step (from 0): a linear rise over `warmup` of the steps, then flat or half a cosine."""
    n_warmup = round(options.warmup * n_steps)
    if step < n_warmup:
        return options.lr * (step + 1) / n_warmup
    if options.schedule == "constant":
        return options.lr
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def _show(lesson: Lesson, progress: Progress, meter: Meter) -> None:
    means, done = _means(lesson, progress), progress.epoch * lesson.steps + progress.step
    place = f"epoch {progress.epoch + 1}/{lesson.options.epochs} step {progress.step}/{lesson.steps}"
    meter.show(place, means, _seconds_left(lesson, progress, meter))
    lesson.board.write(done, means)


def _seconds_left(lesson: Lesson, progress: Progress, meter: Meter) -> float:
    """Until the end of the run, as this epoch went so far and the last validation."""
    epochs = lesson.options.epochs - progress.epoch
    steps = epochs * lesson.steps - progress.step
    return steps * meter.seconds_per_step + epochs * progress.validation_seconds


def _end_epoch(lesson: Lesson, progress: Progress, found: Validated, meter: Meter) -> None:
    epoch, figures = progress.epoch + 1, found.figures
    reached = score(figures, lesson.options.select)
    if is_better(reached, progress.best_score, lesson.options.select_margin):
        progress.best_score, progress.best_epoch = reached, epoch
        progress.best = {k: v.detach().clone() for k, v in lesson.judged.state_dict().items()}
    done, n_steps = epoch * lesson.steps, lesson.options.epochs * lesson.steps
    shown = {"lr": learning_rate(lesson.options, done - 1, n_steps), **_means(lesson, progress), **figures}
    times = (progress.seconds, meter.images_per_s, meter.waiting_share, meter.memory_gb)
    row = {**shown, **dict(zip(TIME_COLUMNS, times, strict=True))}
    lesson.board.write(done, row)
    progress.history.append({"epoch": epoch, "step": done, **row})
    if lesson.team.leads:
        write_metrics(_epochs_so_far(lesson.task.job), progress.history)
    if lesson.task.must_beat_chance:
        progress.decisions.append(torch.from_numpy(found.decisions))
    progress.epoch, progress.step = epoch, 0
    progress.totals = torch.zeros_like(progress.totals)
    meter.log(f"epoch {epoch}/{lesson.options.epochs}", shown, _seconds_left(lesson, progress, meter))


def _epochs_so_far(job: Job) -> Path:
    """The metrics of a run that has not finished: to be looked at, nothing reads them."""
    return job.state / "metrics.csv"


def _against_chance(lesson: Lesson, progress: Progress) -> chance.Chance:
    index, ids = lesson.validation.index, lesson.validation.ids
    patients = np.array([slide.patient_id for slide in index.slides])[index.slide[ids]]
    decisions = torch.stack(progress.decisions).numpy()
    return chance.against_chance(decisions, index.labels[ids], patients)


def _means(lesson: Lesson, progress: Progress) -> dict[str, float]:
    """Mean of every part of the loss over the steps of the epoch so far."""
    return dict(zip(lesson.parts, (progress.totals / progress.step).tolist(), strict=True))


def _refuse_divergence(lesson: Lesson, plan: EpochPlan, progress: Progress) -> None:
    step = int(progress.bad_step)
    if step == NO_STEP:
        return
    size = lesson.options.batch_size
    names = [lesson.bank.index.name(i) for i in plan.order[step * size : (step + 1) * size]]
    shown = ", ".join(names[:NAMED_TILES])
    if len(names) > NAMED_TILES:
        every = lesson.task.job.state / "diverged.txt"
        write_text(every, "\n".join(names) + "\n")
        shown += f" and {len(names) - NAMED_TILES} more, all in {every}"
    place = f"epoch {progress.epoch + 1}, step {step + 1} (tiles {shown})"
    what = "gradient" if progress.bad_loss.isfinite() else "loss"
    raise UserError(f"the {what} is not a finite number in {place}; {CURE}")


def begin(lesson: Lesson, state: dict[str, Any] | None) -> Progress:
    """A new run's progress, or the one of a saved state after putting it into network and optimiser."""
    totals = torch.zeros(len(lesson.parts), device=lesson.device)
    progress = Progress(totals, torch.tensor(NO_STEP, device=lesson.device), totals[0])
    if state is None:
        lesson.board.start(0)
        return progress
    lesson.network.load_state_dict(state["network"])
    lesson.projectors.load_state_dict(state["projectors"])
    lesson.optimizer.load_state_dict(state["optimizer"])
    if lesson.average:
        lesson.average.load_state_dict(state["average"])
    for name, value in state["progress"].items():
        setattr(progress, name, value)
    progress.totals = progress.totals.to(lesson.device)
    progress.best = {k: v.to(lesson.device) for k, v in progress.best.items()}
    progress.sessions += 1
    lesson.board.start(progress.epoch * lesson.steps + progress.step)
    logger.info("resuming in epoch %d after step %d", progress.epoch + 1, progress.step)
    return progress


def _state(lesson: Lesson, progress: Progress) -> dict[str, Any]:
    kept = {name: value for name, value in vars(progress).items() if name not in ("bad_step", "bad_loss")}
    return {
        "network": lesson.network.state_dict(),
        "projectors": lesson.projectors.state_dict(),
        "optimizer": lesson.optimizer.state_dict(),
        "average": lesson.average.state_dict() if lesson.average else {},
        "progress": kept,
    }


def _write_outputs(lesson: Lesson, progress: Progress) -> None:
    out = lesson.task.job.out
    lesson.judged.load_state_dict(progress.best)
    save_model(out / "model.safetensors", lesson.judged, lesson.spec)
    write_metrics(out / "metrics.csv", progress.history)
    epoch, seconds, sessions = progress.best_epoch, progress.seconds, progress.sessions
    write_run(out / "run.json", lesson, epoch=epoch, seconds=seconds, sessions=sessions)
    logger.info("kept epoch %d, %.0f s in all", epoch, seconds)
