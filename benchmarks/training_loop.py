"""How much of a bare training step the loop keeps: images per second of both, alternating, and their ratio.

    python benchmarks/training_loop.py --px 512 --batch 8 --threads 2
    python benchmarks/training_loop.py --quick

The bare step is forward, cross-entropy, backward, clipping and Adam on one ready batch. The loop's step adds
the tiles (gathered from uint8), views, colour, normalising, adding up the losses and watching the time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lowmag import train
from lowmag.checkpoint import Checkpoint, Stop
from lowmag.device import pick_device
from lowmag.lesson import Job, Lesson, Task, prepare_lesson
from lowmag.recipe import StudentTraining
from lowmag.store import Layout, TileRow, writing
from lowmag.terms import CrossEntropy, Method
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

CLASSES = ("a", "b")
FLOOR = 0.9


def main() -> None:
    """Print both speeds as median and range over the rounds, and the ratio of the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=104)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of few tiles")
    args = parser.parse_args()
    if args.quick:
        args.tiles, args.rounds = 16, 1
    with tempfile.TemporaryDirectory() as folder:
        lesson = _lesson(Path(folder), args)
        bare, whole = [], []
        for _ in range(args.rounds):
            bare.append(_bare(lesson, args))
            whole.append(_loop(lesson, Path(folder)))
    for name, found in (("bare step", bare), ("loop", whole)):
        spread = f"{min(found):.1f} to {max(found):.1f}, n={len(found)}"
        print(f"{name}: {statistics.median(found):.1f} img/s ({spread})")
    ratio = statistics.median(whole) / statistics.median(bare)
    print(f"training_loop_to_bare_step {ratio:.3f} {FLOOR:.3f} {'ok' if ratio >= FLOOR else 'short'}")


def _lesson(folder: Path, args: argparse.Namespace) -> Lesson:
    random = np.random.default_rng(0)
    magnification = 10.0
    rows = ["slide_id,patient_id,label,split"]
    slides = [(f"{split}{label}", label, split) for split in ("train", "val") for label in CLASSES]
    for slide, label, split in slides:
        rows.append(f"{slide},{slide},{label},{split}")
        layout = Layout([magnification], {magnification: args.px})
        n = args.tiles // 2 if split == "train" else 1
        with writing(folder / "tiles" / f"{slide}.h5", layout, {"slide_id": slide}) as writer:
            for i in range(n):
                picture = random.integers(150, 250, (args.px, args.px, 3), np.uint8)
                writer.append(TileRow(i, 0, 0, i, 1.0, {magnification: picture}))
    splits = folder / "splits.csv"
    splits.write_text("\n".join(rows) + "\n", encoding="utf-8")
    job = Job(
        folder / "tiles", splits, CLASSES, magnification, 0, folder, folder / "state", threads=args.threads
    )
    options = StudentTraining(batch_size=args.batch, epochs=1000)
    task = Task(job, "teacher", options, Method(cross_entropy=CrossEntropy()))
    return prepare_lesson(task, pick_device(args.threads))


def _bare(lesson: Lesson, args: argparse.Namespace) -> float:
    pictures = torch.rand(args.batch, 3, args.px, args.px, device=lesson.device)
    labels = torch.zeros(args.batch, dtype=torch.long, device=lesson.device)
    began = time.perf_counter()
    for _ in range(lesson.steps):
        logits = lesson.network(pictures)[1]
        lesson.optimizer.zero_grad()
        functional.cross_entropy(logits, labels).backward()
        clip_grad_norm_(lesson.network.parameters(), 1.0)
        lesson.optimizer.step(1e-4)
    if lesson.device.type == "cuda":
        torch.cuda.synchronize()
    return lesson.steps * args.batch / (time.perf_counter() - began)


def _loop(lesson: Lesson, folder: Path) -> float:
    progress = train.begin(lesson, None)
    with Stop(float("inf")) as stop:
        train.run_epoch(lesson, progress, Checkpoint(folder, "", 60.0), stop)
    return progress.history[-1]["images_per_s"]


if __name__ == "__main__":
    main()
