"""What a model says of the labelled validation and test tiles, and what it costs to run."""

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from lowmag.attention_pool import AttentionPool, load_slide_head
from lowmag.bank import Bank
from lowmag.device import autocast, device_name, inference_batch, memory_format, pick_device, settled
from lowmag.errors import UserError
from lowmag.index import index_tiles
from lowmag.model_inputs import Given, Source, give, tile_vectors
from lowmag.models import ModelSpec, load_model, prepare, weights_sha256
from lowmag.networks import Network, count_gmac, count_parameters
from lowmag.publish import publishing, write_json
from lowmag.splits import read_splits

PRECISION = "auto"  # as training has it by itself
TIMED_SECONDS = 1.0
TIMED_AT_LEAST = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionJob:
    """Which model predicts the tiles of which splits, and where that goes.

    Of the model: its `slide_head`; the folder of `features` that a head on features is given; `patch_gmac`,
    billions of multiply-accumulates of the network behind them for one patch, if stated.
    """

    model: Path
    tiles: Path
    splits: Path
    out: Path
    threads: int = 2
    features: Path | None = None
    slide_head: Path | None = None
    patch_gmac: float | None = None


@dataclass(frozen=True)
class Said:
    """What is said of n tiles, (n, K), and of the S slides they come from, (S, K); attention is (n,)."""

    tiles: np.ndarray
    slides: np.ndarray
    attention: np.ndarray | None = None


def write_predictions(job: PredictionJob) -> None:
    """Write tiles.parquet, slides.parquet and cost.json into `job.out`, each atomically.

    Labelled tiles of the val and test slides in the order of splits.csv, bad tiles left out. A slide's
    probabilities are the mean of its tiles', or what its slide head says; slides whose tiles have several
    labels (pictures) have tile rows only. What the network behind a head on features costs is what
    the job states. Raises UserError when there is no such tile.
    """
    network, spec = load_model(job.model)
    device = pick_device(job.threads)
    network.to(device).to(memory_format=memory_format(device))
    rows = [row for row in read_splits(job.splits) if row.split in ("val", "test")]
    index = index_tiles(job.tiles, rows, spec.classes)
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    if not len(ids):
        raise UserError(f"{job.splits} has no labelled val or test slide with tiles; label more patients")
    given = give(network, spec, index, ids, Source(job.threads, job.features))
    if job.slide_head:
        said = _by_attention(network, load_slide_head(job.slide_head, weights_sha256(job.model)), given)
    else:
        probabilities = predict_tiles(network, given)
        said = Said(
            probabilities,
            np.stack([part.mean(0, dtype=np.float64) for part in _by_slide(given, probabilities)]),
        )
    _write_table(job.out / "tiles.parquet", _tile_columns(given, said))
    _write_table(job.out / "slides.parquet", _slide_columns(given, said))
    if given.bank is None:
        write_json(job.out / "cost.json", _stated_cost(given, job.patch_gmac))
    else:
        write_json(job.out / "cost.json", cost(network, spec, timed_pictures(spec, given.bank), job.threads))


def _stated_cost(given: Given, patch_gmac: float | None) -> dict[str, Any]:
    """The record of a model whose network ran elsewhere: nothing is timed, computation is what was stated.

    That of a tile is that of the patches inside it, on average.
    """
    spec = given.spec
    gmac = patch_gmac and given.n_patches is not None and patch_gmac * float(given.n_patches.mean())
    return {
        "parameters": None,
        "gmac_per_tile": gmac or None,
        "gmac_per_mm2": gmac / (spec.field_um / 1000) ** 2 if gmac else None,
        "tile_px": spec.tile_px,
        "magnification": spec.magnification,
        "model": spec.model,
        "stride": spec.stride,
        "input": spec.input,
        "tiles_per_s": None,
    }


@torch.inference_mode()
def predict_tiles(network: Network, given: Given) -> np.ndarray:
    """Class probabilities of tiles, (n, K) float32."""
    batches = given.batches(network.head.weight.device)
    return torch.cat([logits_of(network, x).softmax(1) for x in batches]).cpu().numpy()


def logits_of(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) float32 of what a network is given, its map computed in the precision of training."""
    with autocast(x.device, PRECISION):
        maps = network.backbone(x)
    return network.classify(maps.float())


@torch.inference_mode()
def _by_attention(network: Network, pool: AttentionPool, given: Given) -> Said:
    vectors = tile_vectors(network, given)
    device = network.head.weight.device
    tiles = network.head(vectors.to(device)).softmax(1).cpu().numpy()
    slides, attention = [], []
    for part in vectors.split(np.diff(_starts(given), append=len(vectors)).tolist()):
        logits, of_tiles = pool(part)
        slides.append(logits.softmax(0))
        attention.append(of_tiles)
    return Said(tiles, torch.stack(slides).double().numpy(), torch.cat(attention).numpy())


def _starts(given: Given) -> np.ndarray:
    """Where each slide's tiles begin, (S,)."""
    return np.unique(given.index.slide[given.ids], return_index=True)[1]


def _by_slide(given: Given, values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, _starts(given)[1:])


def timed_pictures(spec: ModelSpec, bank: Bank) -> torch.Tensor:
    """What speed is measured on, (n, H, W, 3) uint8: a batch of noise as large as those that are predicted.

    Of sections the one of mean area.
    """
    if spec.tile_px:
        shape = (inference_batch(spec.network_px), spec.tile_px, spec.tile_px, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=bank.device)
    area = bank.index.size_at(spec.magnification, bank.ids).prod(1)
    middle = bank.ids[[np.abs(area - area.mean()).argmin()]]
    return next(bank.batches(middle, 1))


@torch.inference_mode()
def cost(network: Network, spec: ModelSpec, tiles: torch.Tensor, threads: int) -> dict[str, Any]:
    """Size, arithmetic and measured speed of a model: tiles per second is the median of repeated batches.

    Timed from uint8 tiles on the device to logits, after one batch that is not counted.
    """
    device = tiles.device
    seconds = []
    began = time.perf_counter()
    while len(seconds) < TIMED_AT_LEAST + 1 or time.perf_counter() - began < TIMED_SECONDS:
        start = time.perf_counter()
        logits_of(network, prepare(tiles, spec))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    height, width = prepare(tiles[:1], spec).shape[2:]
    gmac = count_gmac(network, (height, width))
    mm2 = tiles.shape[1] * tiles.shape[2] * (spec.mpp / 1000) ** 2
    return {
        "parameters": count_parameters(network),
        "gmac_per_tile": gmac,
        "gmac_per_mm2": gmac / mm2,
        "tile_px": spec.tile_px,
        "timed_px": [tiles.shape[2], tiles.shape[1]],
        "magnification": spec.magnification,
        "model": spec.model,
        "stride": spec.stride,
        "input": spec.input,
        "tiles_per_s": len(tiles) / statistics.median(seconds[1:]),
        "device": device_name(device),
        "threads": threads,
        "batch_size": len(tiles),
        "precision": settled(device, PRECISION),
        "n_timed": len(seconds) - 1,
    }


def _tile_columns(given: Given, said: Said) -> dict[str, Any]:
    index, ids, spec = given.index, given.ids, given.spec
    slides = [index.slides[i] for i in index.slide[ids]]
    columns = {
        "slide_id": [slide.slide_id for slide in slides],
        "patient_id": [slide.patient_id for slide in slides],
        "split": [slide.split for slide in slides],
        "tile": index.row[ids],
        "x": index.coords[ids, 0],
        "y": index.coords[ids, 1],
        "label": [spec.classes[k] for k in index.labels[ids]],
        **_probability_columns(spec, said.tiles),
    }
    return columns if said.attention is None else columns | {"attention": said.attention}


def _slide_columns(given: Given, said: Said) -> dict[str, Any]:
    """Columns of the slides whose tiles share one label."""
    index, ids, spec = given.index, given.ids, given.spec
    labels = _by_slide(given, index.labels[ids])
    single = np.array([len(np.unique(part)) == 1 for part in labels])
    if not single.all():
        logger.info("%d slides with tiles of several labels have no slide row", int((~single).sum()))
    rows = [index.slides[i] for i in np.unique(index.slide[ids])[single]]
    kept = [part for part, one in zip(labels, single, strict=True) if one]
    return {
        "slide_id": [slide.slide_id for slide in rows],
        "patient_id": [slide.patient_id for slide in rows],
        "split": [slide.split for slide in rows],
        "label": [spec.classes[part[0]] for part in kept],
        "n_tiles": np.array([len(part) for part in kept], np.int64),
        **_probability_columns(spec, said.slides[single]),
    }


def _probability_columns(spec: ModelSpec, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    return {f"p_{name}": probabilities[:, k] for k, name in enumerate(spec.classes)}


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    with publishing(path) as temporary:
        parquet.write_table(pa.table(columns), temporary)
