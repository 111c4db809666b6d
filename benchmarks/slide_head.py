"""Scores of test slides by mean and by attention pooling of the same trained models, and a figure of both.

python benchmarks/slide_head.py --models results/students --tiles results/tiles --splits results/splits.csv \\
    --out slide_head.svg

Every model.safetensors below --models gets a head of its own. Where a cohort has tens of slides, read the
spread over models and seeds before the means.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lowmag.attention_pool import load_slide_head
from lowmag.device import pick_device
from lowmag.index import index_tiles
from lowmag.magnification import name_of
from lowmag.model_inputs import Source, give, tile_vectors
from lowmag.models import load_model, weights_sha256
from lowmag.publish import publishing
from lowmag.slide_head import HeadJob, bags_of, train_slide_head
from lowmag.splits import read_splits
from matplotlib.figure import Figure
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Balanced accuracy of test slides with both poolings, of one model, and how many slides there are."""

    name: str
    magnification: float
    mean: float
    attention: float
    slides: int


def main() -> None:
    """Print a row per model and the means per magnification, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("models", "tiles", "splits", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of paths of the models to take")
    args = parser.parse_args()
    paths = sorted(args.models.rglob("model.safetensors"))
    paths = [path for path in paths if any(part in str(path) for part in args.only)]
    found = [scored(path, args.models, args.tiles, args.splits) for path in paths]
    for magnification, rows in sorted(by_magnification(found).items(), reverse=True):
        differences = np.array([row.attention - row.mean for row in rows])
        print(
            f"{name_of(magnification)}: mean {np.mean([r.mean for r in rows]):.3f}, attention "
            f"{np.mean([r.attention for r in rows]):.3f}, difference {differences.mean():+.3f} "
            f"({differences.min():+.3f} to {differences.max():+.3f}), {len(rows)} models"
        )
    print(f"{found[0].slides} test slides")
    with publishing(args.out) as temporary:
        drawn(found).savefig(temporary, format="svg")


def scored(path: Path, models: Path, tiles: Path, splits: Path) -> Scored:
    """A model's slides scored in both ways; its head is trained and chosen without the test slides."""
    network, spec = load_model(path)
    network.to(pick_device(2))
    seed = int(path.parent.name.removeprefix("seed"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "slide_head.safetensors"
        train_slide_head(HeadJob(path, tiles, splits, out, seed))
        pool = load_slide_head(out, weights_sha256(path))
    rows = [row for row in read_splits(splits) if row.split == "test" and row.label]
    index = index_tiles(tiles, rows, spec.classes)
    ids = np.flatnonzero(index.usable & (index.labels >= 0))
    bags = bags_of(tile_vectors(network, give(network, spec, index, ids, Source(2))), index, ids)
    with torch.no_grad():
        of_tiles = network.head.cpu()(bags.vectors).softmax(1)
        means = torch.stack([of_tiles[members].mean(0) for members in bags.tiles])
        attended = torch.stack([pool(bags.vectors[members])[0] for members in bags.tiles])
    both = [balanced_accuracy(of_slides, bags.labels) for of_slides in (means, attended)]
    row = Scored(path.parent.relative_to(models).as_posix(), spec.magnification, *both, bags.n)
    print(f"{row.name}: mean {row.mean:.3f}, attention {row.attention:.3f}", flush=True)
    return row


def balanced_accuracy(of_slides: Tensor, labels: Tensor) -> float:
    """Share of slides decided rightly, averaged over the classes that occur."""
    right = of_slides.argmax(1) == labels
    return float(torch.stack([right[labels == k].float().mean() for k in labels.unique()]).mean())


def by_magnification(found: list[Scored]) -> dict[float, list[Scored]]:
    """The rows of every magnification."""
    rows: dict[float, list[Scored]] = defaultdict(list)
    for row in found:
        rows[row.magnification].append(row)
    return rows


def drawn(found: list[Scored]) -> Figure:
    """A point per model, mean pooling across and attention upwards; above the line attention is better."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    random = np.random.default_rng(0)
    for magnification, rows in sorted(by_magnification(found).items(), reverse=True):
        points = np.array([[row.mean, row.attention] for row in rows]) + random.uniform(
            -0.01, 0.01, (len(rows), 2)
        )
        axes.plot(
            *points.T, "o", markersize=5, alpha=0.7, label=f"{name_of(magnification)}, {len(rows)} models"
        )
    low = min(min(row.mean, row.attention) for row in found)
    axes.set(xlim=(low - 0.05, 1.03), ylim=(low - 0.05, 1.03), aspect="equal")
    axes.set_xlabel("balanced accuracy, mean over tiles")
    axes.set_ylabel("balanced accuracy, attention over tiles")
    axes.set_title(f"{found[0].slides} test slides; points set apart by up to 0.01", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
