"""A teacher on features that are computed already: a head, trained in seconds, in place of a network.

Features are standardised per channel by the labelled training tiles; these standardised ones are what
students compare with. Order, balance, schedule and choice of the epoch are those of any training.
"""

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lowmag.validation import Best, judge

CURE = "lower teacher.lr or clip, then run again"

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
    save_model(job.out / "model.safetensors", network, _spec(job, train.index))
    write_metrics(job.out / "metrics.csv", learned.history)
    data = {
        "train_labelled": counts_of(train.index, pool.labelled),
        "train_unlabelled": counts_of(train.index, pool.unlabelled),
        "val": counts_of(val.index, val.ids),
    }
    record = _record(job, options, learned) | {"tiles_sha256": train.index.identity, "data": data}
    record |= {"features_sha256": _sha256(train, val), "seconds": round(time.monotonic() - began, 1)}
    write_json(job.out / "run.json", record)
    return 0


def _record(job: Job, options: Teacher, learned: Learned) -> dict[str, Any]:
    """What run.json says, with the keys of any training's, but for data and times."""
    return {
        "role": "teacher",
        "options": described_options(options) | {"features": Path(options.features or "").name},
        "method": {"cross_entropy": {"weight": 1.0}},
        "unlabelled": 0,
        "seed": job.seed,
        "magnification": job.magnification,
        "classes": list(job.classes),
        "selected_epoch": learned.epoch,
        "steps": learned.steps * options.epochs,
        "steps_per_epoch": learned.steps,
        "sessions": 1,
        "weights_sha256": weights_sha256(job.out / "model.safetensors"),
        "teacher_sha256": None,
        "splits_sha256": file_sha256(job.splits),
        "code": code_fingerprint("feature_teacher"),
        "versions": versions(),
        "device": "CPU",
        "threads": job.threads,
    }


def _sha256(*parts: Examples) -> str:
    """Digest of the features that tiles were given, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.features.numpy().data)
    return digest.hexdigest()


def _examples(job: Job, options: Teacher, split: str) -> Examples:
    rows = [row for row in read_splits(job.splits) if row.split == split and row.label]
    index = index_tiles(job.tiles, rows, job.classes)
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    if not len(ids):
        raise UserError(f"there are no labelled {split} tiles; label more patients of this split")
    assert options.features is not None, "the caller trains a network where no features are given"
    features = features_of_tiles(Path(options.features), index).values
    return Examples(index, ids, torch.from_numpy(features), torch.from_numpy(index.labels))


def _network(job: Job, train: Examples, pool: Pool) -> Network:
    mean, std = moments(train.features[torch.from_numpy(pool.labelled)])
    torch.manual_seed(2 * job.seed)
    return Network(FeatureBackbone(mean, std), len(mean), len(job.classes))


def _fit(
    network: Network, job: Job, options: Teacher, pool: Pool, parts: tuple[Examples, Examples]
) -> Learned:
    """What became of a linear head, trained tile by tile; the weights of the epoch kept are put in."""
    train, val = parts
    ids = torch.from_numpy(val.ids)
    standardised, held_out = (
        network.backbone(features[..., None, None]) for features in (train.features, val.features[ids])
    )
    optimizer = Adam(network.head.parameters(), options.weight_decay, decoupled=options.optimizer == "adamw")
    n_steps = steps_per_epoch(pool, options.batch_size)
    history, decisions, so_far = [], [], 0.0
    best = Best(network, options.select, options.select_margin)
    for epoch in range(options.epochs):
        began, total, lr = time.monotonic(), 0.0, 0.0
        order = epoch_order(
            pool, seed=job.seed, epoch=epoch, batch_size=options.batch_size, balance=options.balance
        )
        for step, batch in enumerate(torch.from_numpy(order).split(options.batch_size)):
            lr = learning_rate(options, epoch * n_steps + step, options.epochs * n_steps)
            loss = functional.cross_entropy(network.classify(standardised[batch]), train.labels[batch])
            _step(optimizer, loss, lr, options.clip)
            total += float(loss.detach())
        with torch.no_grad():
            found = judge(network.classify(held_out), val.labels[ids], CURE)
        decisions.append(found.decisions)
        best.offer(epoch + 1, found.figures)
        seconds = time.monotonic() - began
        so_far += seconds
        row = {"epoch": epoch + 1, "step": (epoch + 1) * n_steps, "lr": lr, "loss": total / n_steps}
        history.append(_row(row | found.figures, (so_far, len(order) / seconds)))
    best.restore()
    patients = np.array([val.index.slides[i].patient_id for i in val.index.slide[val.ids]])
    return Learned(history, best.epoch, n_steps, np.stack(decisions), val.labels[ids].numpy(), patients)


def _step(optimizer: Adam, loss: Tensor, lr: float, clip: float | None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        clip_grad_norm_(optimizer.parameters, clip)
    optimizer.step(lr)


def _row(figures: dict[str, float], speed: tuple[float, float]) -> dict[str, float]:
    """A row of metrics.csv with the columns of any training's; nothing is waited for, no memory counted."""
    front = {name: figures[name] for name in ("epoch", "step", "lr", "loss")}
    times = dict(zip(TIME_COLUMNS, (*speed, 0.0, 0.0), strict=True))
    return {**front, "cross_entropy": figures["loss"]} | figures | times


def _fit_attention(
    network: Network, job: Job, options: Teacher, _pool: Pool, parts: tuple[Examples, Examples]
) -> Learned:
    """What became of gated attention, trained slide by slide; its classifier becomes the head."""
    train, val = (_bags(part, name) for part, name in zip(parts, ("train", "val"), strict=True))
    torch.manual_seed(2 * job.seed + 1)
    attention = AttentionPool(*moments(train.vectors), len(job.classes))
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
        seconds = row.pop("seconds")
        so_far += seconds
        figures = {"epoch": epoch, "step": epoch * train.n, "lr": options.lr} | row
        history.append(_row(figures, (so_far, len(train.vectors) / seconds)))
    return Learned(history, fitted.epoch, train.n, fitted.decisions[1:], val.labels.numpy(), val.patients)


def _bags(examples: Examples, split: str) -> Bags:
    bags = bags_of(examples.features[torch.from_numpy(examples.ids)], examples.index, examples.ids)
    if not bags.n:
        raise UserError(f"no {split} slide has one label for all its tiles: set teacher.head: linear")
    return bags


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
