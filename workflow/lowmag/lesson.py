"""All that one run trains with, checked and ready before its first step."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lowmag.bank import Bank
from lowmag.board import Board
from lowmag.checkpoint import digest_of
from lowmag.device import expect_any_size, memory_format
from lowmag.errors import UserError
from lowmag.fingerprint import code_fingerprint
from lowmag.index import TileIndex, index_tiles
from lowmag.magnification import factor_between, mpp_of
from lowmag.models import ModelSpec, begin_from
from lowmag.networks import Network, build, map_cells
from lowmag.optimizer import Adam
from lowmag.projectors import build_projectors
from lowmag.recipe import StudentTraining, Training, grid_cells, is_file
from lowmag.sampling import Pool, choose_pool, epoch_order, steps_per_epoch
from lowmag.section_maps import check_sections, section_cells
from lowmag.splits import read_splits
from lowmag.target_file import Targets
from lowmag.teaching import OnlineTeacher
from lowmag.team import ALONE, Team
from lowmag.terms import ATTENTION, LAST_STAGE, Method
from lowmag.views import Feed, Views, draw
from lowmag.weight_average import WeightAverage

AS_THEY_ARE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and standard deviation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every training is told: data, seed, where results and state go, and what it may use."""

    tiles: Path
    splits: Path
    classes: Sequence[str]
    magnification: float
    seed: int
    out: Path
    state: Path
    initial: Path | None = None  # a model file whose weights a student begins with
    budget_minutes: float = float("inf")
    checkpoint_minutes: float = 5.0
    threads: int = 2
    tensorboard: bool = False


@dataclass(frozen=True)
class Task:
    """A job and what is trained in it; a teacher is a student of labels alone.

    `targets` is the folder that `lowmag targets` wrote, or with `targets: online` the teacher's model.
    `must_beat_chance`: what was trained is not kept unless it is better than chance on validation tiles.
    """

    job: Job
    role: Literal["teacher", "student"]
    options: StudentTraining
    method: Method
    targets: Path | None = None
    unlabelled: int = 0
    must_beat_chance: bool = False


@dataclass(frozen=True)
class Lesson:
    """Network, projectors (of terms that learn one), optimiser, tiles and targets of a run, on its device.

    What a teacher says comes from `targets` or from `teacher`; both are None for a method of labels alone.
    `bank` knows the tiles and `feed` gives them out.
    """

    task: Task
    device: torch.device
    digest: str
    spec: ModelSpec
    network: Network
    projectors: nn.ModuleDict
    optimizer: Adam
    pool: Pool
    bank: Bank
    feed: Feed
    validation: Bank
    targets: Targets | None
    teacher: OnlineTeacher | None
    board: Board
    average: WeightAverage | None = None
    team: Team = ALONE

    @property
    def judged(self) -> Network:
        """What is validated and kept: the network, or the mean of its weights over the last steps."""
        return self.average.network if self.average else self.network

    @property
    def options(self) -> StudentTraining:
        """How the network is trained."""
        return self.task.options

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(self.pool, self.options.batch_size)

    @property
    def factor(self) -> int:
        """Pixels of a teacher's tile along one of the network's own."""
        return factor_between(max(self.bank.index.tile_px), self.task.job.magnification)

    @property
    def teacher_sha256(self) -> str | None:
        """The model file of the teacher that the method compares with."""
        source = self.targets or self.teacher
        return source.teacher_sha256 if source else None

    @property
    def parts(self) -> list[str]:
        """Names of what a step's loss consists of, `loss` first."""
        return ["loss", *self.task.method.terms]


@dataclass(frozen=True)
class EpochPlan:
    """The places of an epoch in order: tile ids, views and labels, drawn before it begins.

    `target_ids` and `target_views` are the tiles and their exact views where the targets are looked up.
    `epoch` counts from 0.
    """

    epoch: int
    order: np.ndarray
    views: Views
    labels: Tensor
    target_ids: Tensor
    target_views: Tensor


def prepare_lesson(task: Task, device: torch.device, team: Team = ALONE) -> Lesson:
    """The lesson of a task; raises UserError for everything that would stop it later."""
    job, options = task.job, task.options
    board = Board(job.state if job.tensorboard and team.leads else None)
    rows = read_splits(job.splits)
    index = index_tiles(job.tiles, [row for row in rows if row.split == "train"], job.classes)
    held_out = index_tiles(job.tiles, [row for row in rows if row.split == "val"], job.classes)
    pool = choose_pool(
        index, job.classes, share=task.unlabelled, seed=job.seed, student=task.role == "student"
    )
    validation_ids = _validation_ids(held_out, job.classes)
    if problem := task.method.accumulation_problem(options.accumulate):
        raise UserError(problem)
    targets, teacher = _open_targets(task, device), _open_teacher(task, device)
    if index.unit == "section":
        check_sections(index, pool.ids, options, job.magnification)
        check_sections(held_out, validation_ids, options, job.magnification)
        expect_any_size()
    bank, feed = _banks(task, index, pool, device)
    validation = Bank(held_out, validation_ids, job.magnification, device, threads=job.threads)
    spec = _spec(task, bank, pool)
    # Teacher and student must not begin with the same weights: that would make their maps alike for nothing.
    torch.manual_seed(2 * job.seed + (task.role == "student"))
    network = build(options, len(job.classes), spec.network_px)
    cells = _cells(index, network, task, spec)
    network.to(device).to(memory_format=memory_format(device))
    team.check(network, options.batch_size)
    if initial := _initial(task):
        begin_from(network, initial)
    channels = network.head.in_features if task.method.needs_same_network else None
    if teacher is not None:
        teacher.check(index, job.classes, channels)
    if targets is not None:
        targets.check(index, spec, cells if task.method.reads_maps else None, channels)
        _check_earlier(index, targets, task, spec)
    # After the network, whose first weights are so the same with every method.
    projectors = _projectors(task, network, targets or teacher).to(device)
    trained = [*network.parameters(), *projectors.parameters()]
    return Lesson(
        task=task,
        device=device,
        digest=_digest(task, index, held_out, targets or teacher),
        spec=spec,
        network=network.train(),
        projectors=projectors,
        optimizer=Adam(trained, options.weight_decay, decoupled=options.optimizer == "adamw"),
        pool=pool,
        bank=bank,
        feed=feed,
        validation=validation,
        targets=targets,
        teacher=teacher,
        board=board,
        average=WeightAverage(network, options.ema) if options.ema else None,
        team=team,
    )


def plan_epoch(lesson: Lesson, epoch: int) -> EpochPlan:
    """What an epoch consists of: a function of seed, epoch and the pool, on the device in one go."""
    job, options = lesson.task.job, lesson.options
    order = epoch_order(
        lesson.pool, seed=job.seed, epoch=epoch, batch_size=options.batch_size, balance=options.balance
    )
    views = draw(job.seed, epoch, order, options.augment)
    exact = torch.zeros(len(order), dtype=torch.long) if views.exact is None else views.exact
    where = lesson.targets.index_device if lesson.targets else torch.device("cpu")
    on_device = views.to(lesson.device)
    if lesson.bank.index.unit == "section":  # each is turned by itself, as the host says
        on_device = replace(on_device, exact=views.exact)
    return EpochPlan(
        epoch=epoch,
        order=order,
        views=on_device,
        labels=torch.from_numpy(lesson.bank.index.labels[order]).to(lesson.device),
        target_ids=torch.from_numpy(order).to(where),
        target_views=exact.to(where),
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described_options(options: Training) -> dict[str, object]:
    """The options as plain values, initial weights by name and content in place of their path."""
    content = options.model_dump()
    if options.weights and is_file(options.weights):
        path = Path(options.weights)
        content["weights"] = {"name": path.name, "sha256": file_sha256(path) if path.is_file() else None}
    return content


def _validation_ids(index: TileIndex, classes: Sequence[str]) -> np.ndarray:
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    if not len(ids):
        raise UserError(
            "there are no labelled validation tiles; label more patients, or raise splits.val "
            "(with given splits: set `split` of some labelled patients to val)"
        )
    missing = sorted(set(range(len(classes))) - set(index.labels[ids].tolist()))
    if missing:
        names = ", ".join(classes[k] for k in missing)
        logger.warning("no validation tile of class %s: epochs are chosen on the other classes", names)
    return ids


def _initial(task: Task) -> Path | None:
    initial = task.job.initial
    if (task.options.initial == "noise") != (initial is None):
        raise UserError(
            f"options say initial: {task.options.initial}, and --initial is {initial or 'not given'}; "
            "give the model.safetensors to begin with, or set initial: noise"
        )
    return initial


def _open_targets(task: Task, device: torch.device) -> Targets | None:
    if task.unlabelled and not task.method.uses_unlabelled:
        raise UserError(
            f"every term of the method needs labels ({', '.join(task.method.terms)}), so unlabelled slides "
            "do not enter it: use --unlabelled 0"
        )
    if not task.method.needs_teacher:
        return None
    online = task.options.targets == "online"
    if task.targets is None:
        flag = "--teacher, its model.safetensors" if online else "--targets, the folder of this magnification"
        raise UserError(
            f"the method compares with a teacher ({', '.join(task.method.terms)}); give {flag} that "
            f"`lowmag {'teacher' if online else 'targets'}` wrote"
        )
    if online:
        return None
    if problem := task.options.caching_problem:
        raise UserError(problem)
    targets = Targets(task.targets, task.method, device)
    if targets.n_views < (shown := task.options.augment.n_views):
        raise UserError(
            f"targets {task.targets} hold {targets.n_views} exact views, the student is shown {shown}; "
            f"write targets with views: {shown}, or set augment.dihedral to fewer"
        )
    return targets


def _open_teacher(task: Task, device: torch.device) -> OnlineTeacher | None:
    if task.options.targets == "cached" or not task.method.needs_teacher:
        return None
    assert task.targets is not None, "_open_targets refuses a task without"
    return OnlineTeacher(task.targets, task.method, device, task.options.precision)


def _banks(task: Task, index: TileIndex, pool: Pool, device: torch.device) -> tuple[Bank, Feed]:
    """The bank of the network's tiles, and the feed with that of the teacher's tiles where they are shown.

    A student whose pictures are made from the teacher's never looks at its own tiles in training: they stay
    in their files.
    """
    job, options, finest = task.job, task.options, max(index.tile_px, default=0.0)
    is_derived = task.role == "student" and options.augment.resamples and job.magnification != finest
    place = "files" if is_derived else None
    own = Bank(index, pool.ids, job.magnification, device, threads=job.threads, place=place)
    if not is_derived and (options.targets == "cached" or not task.method.needs_teacher):
        return own, Feed(own, None)
    fine = Bank(index, pool.ids, finest, device, threads=job.threads)
    return own, Feed(None if is_derived else own, fine)


def _cells(index: TileIndex, network: Network, task: Task, spec: ModelSpec) -> int | np.ndarray:
    """Cells per edge of the network's map; of sections rows and columns of each, (N, 2).

    Raises UserError when the network cannot be trained on such tiles.
    """
    options = task.options
    if index.unit == "section":
        return section_cells(options, index.size_at(spec.magnification), LAST_STAGE)
    cells = map_cells(network, options, spec.network_px)
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    if has_batch_norm and cells == 1 and options.batch_size == options.accumulate:
        raise UserError(
            f"BatchNorm of {options.model} needs more than one value per channel, and with one tile at a "
            f"time its last map of {spec.network_px} px is 1 x 1: raise batch_size, or take resnet10gn"
        )
    return cells


def _check_earlier(index: TileIndex, targets: Targets, task: Task, spec: ModelSpec) -> None:
    attention = task.method.attention
    if attention is None or attention.stage == LAST_STAGE:
        return
    if index.unit == "section":
        cells = section_cells(task.options, index.size_at(spec.magnification), attention.stage)
    else:
        cells = grid_cells(task.options, spec.network_px, attention.stage)
    targets.check_grid(f"{ATTENTION}/{attention.form}", cells)


def _projectors(task: Task, network: Network, source: Targets | OnlineTeacher | None) -> nn.ModuleDict:
    channels = network.head.in_features
    teacher_channels = (source.channels if source else None) or channels
    return build_projectors(task.method, channels, teacher_channels, len(task.job.classes))


def _spec(task: Task, bank: Bank, pool: Pool) -> ModelSpec:
    # From labelled tiles alone, so that every student of a magnification is given the same pictures.
    options, magnification = task.options, task.job.magnification
    mean, std = bank.mean_and_std(pool.labelled) if options.standardise else AS_THEY_ARE
    return ModelSpec(
        role=task.role,
        model=options.model,
        stride=options.stride,
        classes=tuple(task.job.classes),
        magnification=magnification,
        tile_px=bank.px,
        field_um=bank.px * mpp_of(magnification),
        input=options.input,
        teacher_px=bank.index.tile_px[max(bank.index.tile_px)],
        mean=mean,
        std=std,
        weights=_name_of_weights(options.weights),
    )


def _name_of_weights(weights: str | None) -> str | None:
    return Path(weights).name if weights and is_file(weights) else weights


def _digest(task: Task, index: TileIndex, held_out: TileIndex, source: Targets | OnlineTeacher | None) -> str:
    job = task.job
    return digest_of(
        {
            "role": task.role,
            "options": described_options(task.options),
            "method": task.method.model_dump(),
            "unlabelled": task.unlabelled,
            "seed": job.seed,
            "magnification": job.magnification,
            "classes": list(job.classes),
            "splits": file_sha256(job.splits),
            "tiles": [index.identity, held_out.identity],
            "teacher": source.teacher_sha256 if source else None,
            "initial": file_sha256(job.initial) if job.initial else None,
            "code": code_fingerprint("train"),
        }
    )
