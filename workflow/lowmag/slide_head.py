"""Training of a slide head: gated attention on what a trained model says of tiles, by the labels of slides.

The model stays as it is: the mean of its last map is computed once per tile, without changes of colour or
view. One slide is one step, classes weigh alike (Ilse et al. 2018, arXiv 1802.04712: Adam, weight decay 5e-4,
100 epochs; the learning rate is that of their MNIST bags).
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowmag.attention_pool import AttentionPool, SlideHeadSpec, save_slide_head
from lowmag.device import pick_device
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.model_inputs import Source, give, tile_vectors
from lowmag.models import ModelSpec, load_model, weights_sha256
from lowmag.networks import Network
from lowmag.optimizer import Adam
from lowmag.splits import read_splits
from lowmag.validation import Best, judge

CURE = "look at metrics.csv of the model, or of a teacher on features lower teacher.lr"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bags:
    """Slides: vectors of all tiles (N, C), the tiles of each slide, its label (S,) and patient (S,)."""

    vectors: Tensor
    tiles: list[Tensor]
    labels: Tensor
    patients: np.ndarray

    @property
    def n(self) -> int:
        """Number of slides."""
        return len(self.tiles)


@dataclass(frozen=True)
class Schedule:
    """How a head is trained; `decoupled` as in `optimizer.Adam`.

    `may_stay`: the weights it begins with are an epoch to choose, too, number 0.
    """

    seed: int = 0
    epochs: int = 100
    lr: float = 5e-4
    weight_decay: float = 5e-4
    decoupled: bool = False
    select: str = "balanced_accuracy"
    may_stay: bool = True


@dataclass(frozen=True)
class Fitted:
    """The epoch kept; figures and decisions (E + 1, S) on validation slides, from the beginning (0) on."""

    epoch: int
    history: list[dict[str, float]]
    decisions: np.ndarray


@dataclass(frozen=True)
class HeadJob:
    """What a slide head is trained on, and where it goes."""

    model: Path
    tiles: Path
    splits: Path
    out: Path
    seed: int = 0
    threads: int = 2
    features: Path | None = None


def train_slide_head(job: HeadJob) -> None:
    """Write `job.out` (slide_head.safetensors), atomically: the epoch that is best on validation slides.

    Raises UserError when no train or val slide has one label for all its tiles.
    """
    network, spec = load_model(job.model)
    network.to(pick_device(job.threads))
    train, val = (_bags(job, network, spec, split) for split in ("train", "val"))
    mean, std = moments(train.vectors)
    torch.manual_seed(2 * job.seed + 1)
    pool = AttentionPool(mean, std, len(spec.classes))
    pool.begin_with(network.head.cpu())
    schedule = Schedule(seed=job.seed)
    fitted = fit(pool, train, val, schedule)
    reached = fitted.history[fitted.epoch]["val_balanced_accuracy"]
    logger.info(
        "%d train and %d val slides: kept epoch %d of %d, balanced accuracy %.3f, without attention %.3f",
        train.n,
        val.n,
        fitted.epoch,
        schedule.epochs,
        reached,
        fitted.history[0]["val_balanced_accuracy"],
    )
    content = SlideHeadSpec(
        classes=spec.classes,
        model_sha256=weights_sha256(job.model),
        seed=job.seed,
        selected_epoch=fitted.epoch,
        epochs=schedule.epochs,
        val_balanced_accuracy=reached,
        n_train=train.n,
        n_val=val.n,
    )
    save_slide_head(job.out, pool, content)


def moments(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels over tiles (N, C), (C,) each."""
    std, mean = torch.std_mean(vectors, 0, correction=0)
    return mean, std


def bags_of(vectors: Tensor, index: TileIndex, ids: np.ndarray) -> Bags:
    """The slides whose tiles `ids` share one label; `vectors` (n, C) are of `ids`, in their order."""
    slides, places = np.unique(index.slide[ids], return_inverse=True)
    of_slide = [np.flatnonzero(places == n) for n in range(len(slides))]
    labels = [np.unique(index.labels[ids[members]]) for members in of_slide]
    kept = [n for n, found in enumerate(labels) if len(found) == 1]
    return Bags(
        vectors=vectors,
        tiles=[torch.from_numpy(of_slide[n]) for n in kept],
        labels=torch.tensor([int(labels[n][0]) for n in kept], dtype=torch.long),
        patients=np.array([index.slides[slides[n]].patient_id for n in kept]),
    )


def _bags(job: HeadJob, network: Network, spec: ModelSpec, split: str) -> Bags:
    rows = [row for row in read_splits(job.splits) if row.split == split and row.label]
    index = index_tiles(job.tiles, rows, spec.classes)
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    if len(ids):
        bags = bags_of(
            tile_vectors(network, give(network, spec, index, ids, Source(job.threads, job.features))),
            index,
            ids,
        )
        if bags.n:
            return bags
    raise UserError(
        f"no {split} slide has one label for all its tiles, so attention over a slide's tiles cannot be "
        "trained: set evaluation.slide_score: mean, or label slides"
    )


def fit(pool: AttentionPool, train: Bags, val: Bags, schedule: Schedule) -> Fitted:
    """What became of a head that is trained, the weights of the epoch that is best on `val` put in.

    Raises UserError when the loss is no number.
    """
    weights = _class_weights(train.labels, pool.classifier.out_features)
    optimizer = Adam(pool.parameters(), schedule.weight_decay, decoupled=schedule.decoupled)
    order = torch.Generator().manual_seed(schedule.seed)
    history, decisions, best = [], [], Best(pool, schedule.select)
    for epoch in range(schedule.epochs + 1):
        began, total = time.monotonic(), 0.0
        for n in torch.randperm(train.n, generator=order).tolist() if epoch else ():
            optimizer.zero_grad()
            label = train.labels[n]
            loss = weights[label] * functional.cross_entropy(pool(train.vectors[train.tiles[n]])[0], label)
            loss.backward()
            optimizer.step(schedule.lr)
            total += float(loss.detach())
        with torch.no_grad():
            logits = torch.stack([pool(val.vectors[tiles])[0] for tiles in val.tiles])
        found = judge(logits, val.labels, CURE)
        history.append({"loss": total / train.n, **found.figures, "seconds": time.monotonic() - began})
        decisions.append(found.decisions)
        if epoch or schedule.may_stay:
            best.offer(epoch, found.figures)
    best.restore()
    return Fitted(best.epoch, history, np.stack(decisions))


def _class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """What a slide of each class counts, so that the classes that occur weigh alike; 1 on average."""
    counts = torch.bincount(labels, minlength=n_classes)
    return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1))
