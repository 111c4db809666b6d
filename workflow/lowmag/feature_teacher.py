"""A teacher on features that are computed already: a head, trained in seconds, in place of a network.

Features are standardised per channel by the labelled training tiles; these standardised ones are what
students compare with. Order, balance, schedule and choice of the epoch are those of any training.
"""

import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from lowmag import chance
from lowmag.attention_pool import AttentionPool
from lowmag.errors import UserError
from lowmag.fingerprint import code_fingerprint
from lowmag.index import TileIndex, index_tiles
from lowmag.lesson import Job, described_options, file_sha256
from lowmag.magnification import mpp_of
from lowmag.models import ModelSpec, save_model, weights_sha256
from lowmag.networks import FEATURES_MODEL, FeatureBackbone, Network
from lowmag.optimizer import Adam
from lowmag.patch_features import features_of_tiles
from lowmag.publish import write_json
from lowmag.recipe import Teacher
from lowmag.run_record import TIME_COLUMNS, counts_of, versions, write_metrics
from lowmag.sampling import Pool, choose_pool, epoch_order, steps_per_epoch
from lowmag.slide_head import Bags, Schedule, bags_of, fit, moments
from lowmag.splits import read_splits
from lowmag.train import learning_rate
from lowmag.validation import figures_of, is_better, score

SMALLEST_STD = 1e-6

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Labelled tiles of a split: their index, ids there, features (n, D) and labels (n,)."""

    index: TileIndex
    ids: np.ndarray
    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Learned:
    """Figures by epoch, the epoch kept, steps of an epoch, and decisions (E, n) on what was validated.

    That are tiles or slides, with their labels (n,) and patients (n,).
    """

    history: list[dict[str, float]]
    epoch: int
    steps: int
    decisions: np.ndarray
    labels: np.ndarray
    patients: np.ndarray


def train_feature_teacher(job: Job, options: Teacher) -> int:
    """Exit status 0 once `job.out` holds model.safetensors, metrics.csv and run.json.

    Raises UserError when features or labels do not allow training, or it is not better than chance.
    """
    began = time.monotonic()
    torch.set_num_threads(job.threads)
    train, val = (_examples(job, options, split) for split in ("train", "val"))
    pool = choose_pool(train.index, job.classes, share=0, seed=job.seed, student=False)
    network = _network(job, train, pool)
    teach = _fit_attention if options.head == "attention" else _fit
    learned = teach(network, job, options, pool, (train, val))
    logger.info("kept epoch %d of %d", learned.epoch, options.epochs)
    if options.require == "better_than_chance":
        chance.refuse_chance(chance.against_chance(learned.decisions, learned.labels, learned.patients))
    spec = _spec(job, train.index)
    save_model(job.out / "model.safetensors", network, spec)
    write_metrics(job.out / "metrics.csv", learned.history)
    record = {
        "role": "teacher",
        "options": described_options(options) | {"features": options.features_folder.name},
        "method": {"cross_entropy": {"weight": 1.0}},
        "unlabelled": 0,
        "seed": job.seed,
        "magnification": job.magnification,
        "classes": list(job.classes),
        "selected_epoch": learned.epoch,
        "steps": learned.steps * options.epochs,
        "steps_per_epoch": learned.steps,
        "seconds": round(time.monotonic() - began, 1),
        "sessions": 1,
        "weights_sha256": weights_sha256(job.out / "model.safetensors"),
        "teacher_sha256": None,
        "splits_sha256": file_sha256(job.splits),
        "tiles_sha256": train.index.identity,
        "data": {
            "train_labelled": counts_of(train.index, pool.labelled),
            "train_unlabelled": counts_of(train.index, pool.unlabelled),
            "val": counts_of(val.index, val.ids),
        },
        "code": code_fingerprint("feature_teacher"),
        "versions": versions(),
        "device": "CPU",
        "threads": job.threads,
    }
    write_json(job.out / "run.json", record)
    return 0


def _examples(job: Job, options: Teacher, split: str) -> Examples:
    rows = [row for row in read_splits(job.splits) if row.split == split and row.label]
    index = index_tiles(job.tiles, rows, job.classes)
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    if not len(ids):
        raise UserError(f"there are no labelled {split} tiles; label more patients of this split")
    assert options.features is not None, "the caller trains a network where no features are given"
    features = features_of_tiles(options.features_folder, index)
    return Examples(index, ids, torch.from_numpy(features), torch.from_numpy(index.labels))


def _network(job: Job, train: Examples, pool: Pool) -> Network:
    labelled = train.features[torch.from_numpy(pool.labelled)]
    std, mean = torch.std_mean(labelled, 0, correction=0)
    torch.manual_seed(2 * job.seed)
    backbone = FeatureBackbone(mean, std.clamp(min=SMALLEST_STD))
    return Network(backbone, labelled.shape[1], len(job.classes))


def _fit(
    network: Network, job: Job, options: Teacher, pool: Pool, parts: tuple[Examples, Examples]
) -> Learned:
    """What became of a linear head, trained tile by tile; the weights of the epoch kept are put in."""
    train, val = parts
    standardised = network.backbone(train.features[..., None, None])
    expected = val.labels[torch.from_numpy(val.ids)]
    held_out = val.features[torch.from_numpy(val.ids)][..., None, None]
    optimizer = Adam(network.head.parameters(), options.weight_decay, decoupled=options.optimizer == "adamw")
    n_steps = steps_per_epoch(pool, options.batch_size)
    history, decisions, best_epoch = [], [], 0
    kept, best, so_far = {}, (-math.inf, -math.inf), 0.0
    for epoch in range(options.epochs):
        began, total, lr = time.monotonic(), 0.0, 0.0
        order = epoch_order(
            pool, seed=job.seed, epoch=epoch, batch_size=options.batch_size, balance=options.balance
        )
        for step, ids in enumerate(torch.from_numpy(order).split(options.batch_size)):
            lr = learning_rate(options, epoch * n_steps + step, options.epochs * n_steps)
            optimizer.zero_grad()
            loss = functional.cross_entropy(network.classify(standardised[ids]), train.labels[ids])
            loss.backward()
            if options.clip is not None:
                clip_grad_norm_(optimizer.parameters, options.clip)
            optimizer.step(lr)
            total += float(loss.detach())
        figures, decided = _validate(network, held_out, expected)
        decisions.append(decided)
        reached = score(figures, options.select)
        if not kept or is_better(reached, best, options.select_margin):
            best, best_epoch = reached, epoch + 1
            kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
        seconds = time.monotonic() - began
        mean_loss = total / n_steps
        row = {"epoch": epoch + 1, "step": (epoch + 1) * n_steps, "lr": lr}
        row |= {"loss": mean_loss, "cross_entropy": mean_loss, **figures}
        so_far += seconds
        times = (so_far, len(order) / seconds, 0.0, 0.0)
        history.append({**row, **dict(zip(TIME_COLUMNS, times, strict=True))})
    network.load_state_dict(kept)
    patients = np.array([val.index.slides[i].patient_id for i in val.index.slide[val.ids]])
    return Learned(history, best_epoch, n_steps, np.stack(decisions), expected.numpy(), patients)


def _fit_attention(
    network: Network, job: Job, options: Teacher, _pool: Pool, parts: tuple[Examples, Examples]
) -> Learned:
    """What became of gated attention, trained slide by slide; its classifier becomes the head."""
    train, val = (_bags(part, name) for part, name in zip(parts, ("train", "val"), strict=True))
    torch.manual_seed(2 * job.seed + 1)
    attention = AttentionPool(*moments(train), len(job.classes))
    schedule = Schedule(
        seed=job.seed,
        epochs=options.epochs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        decoupled=options.optimizer == "adamw",
        select=options.select,
        may_stay=False,
    )
    fitted = fit(attention, train, val, schedule)
    with torch.no_grad():
        network.backbone.load_state_dict({name: attention.get_buffer(name) for name in ("mean", "std")})
        network.head.load_state_dict(attention.classifier.state_dict())
    history, so_far = [], 0.0
    for epoch, row in enumerate(fitted.history[1:], start=1):
        loss, seconds = row.pop("loss"), row.pop("seconds")
        so_far += seconds
        figures = {"epoch": epoch, "step": epoch * train.n, "lr": options.lr}
        figures |= {"loss": loss, "cross_entropy": loss, **row}
        times = (so_far, len(train.vectors) / seconds, 0.0, 0.0)
        history.append(figures | dict(zip(TIME_COLUMNS, times, strict=True)))
    return Learned(history, fitted.epoch, train.n, fitted.decisions[1:], val.labels.numpy(), val.patients)


def _bags(examples: Examples, split: str) -> Bags:
    bags = bags_of(examples.features[torch.from_numpy(examples.ids)], examples.index, examples.ids)
    if not bags.n:
        raise UserError(f"no {split} slide has one label for all its tiles: set teacher.head: linear")
    return bags


@torch.no_grad()
def _validate(network: Network, features: Tensor, expected: Tensor) -> tuple[dict[str, float], np.ndarray]:
    logits = network(features)[1]
    n_classes, decided = logits.shape[1], logits.argmax(1)
    confusion = torch.bincount(expected * n_classes + decided, minlength=n_classes**2)
    loss = float(functional.cross_entropy(logits, expected))
    if not math.isfinite(loss):
        raise UserError(
            "the validation loss is not a finite number; lower teacher.lr or clip, then run again"
        )
    return figures_of(confusion.view(n_classes, n_classes), loss), decided.numpy().astype(np.int16)


def _spec(job: Job, index: TileIndex) -> ModelSpec:
    px = index.tile_px[job.magnification]
    return ModelSpec(
        role="teacher",
        model=FEATURES_MODEL,
        stride=px,
        classes=tuple(job.classes),
        magnification=job.magnification,
        tile_px=px,
        field_um=px * mpp_of(job.magnification),
        input="native",
        teacher_px=px,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
