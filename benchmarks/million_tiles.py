"""Does a cohort of a million tiles at 1.25x train in a 24 GB card: arithmetic, and a run at a tenth.

    python benchmarks/million_tiles.py             # 100 000 tiles of 64 px, 20 steps of 128
    python benchmarks/million_tiles.py --tiles 1000000 --batch 1024   # the whole of it
    python benchmarks/million_tiles.py --free 1    # as where there is 1 GiB of memory: read from the files
    python benchmarks/million_tiles.py --quick     # 2000 tiles: that it runs; the network outweighs them

The student is a ResNet-18 with labels, soft labels, features and attention. Pictures are held as uint8 where
they fit; targets of 8 views stay on disk, mapped, and come a batch ahead. Ends with the bytes per tile that
training holds in memory.
"""

import argparse
import os
import re
import tempfile
import time
from pathlib import Path

import torch
from lowmag import bank, train
from lowmag.bank import RESIDENT_SHARE, place_for
from lowmag.checkpoint import Stop
from lowmag.device import memory_in_use, pick_device
from lowmag.lesson import Job, Task, plan_epoch, prepare_lesson
from lowmag.recipe import StudentTraining
from training import EVERY_TERM, LOW
from training_cohort import CLASSES, Tiling, draw_targets, make_cohort

CARD, TILES, PX = 24 << 30, 1_000_000, 64
ROOMS = (24, 64), (16, 64), (0, 64), (16, 16), (0, 16)  # GiB free on the card (0: none) and on the host
FLOOR = 1.3  # times the pixels of a tile: what training may hold per tile


def main() -> None:
    """Print where pictures and targets are, memory before and after, and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--free", type=float, help="GiB that pass for free, to see it stream")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.tiles, args.batch, args.steps = 2_000, 16, 2
    device = pick_device(1)
    if args.free is not None:
        bank.free_bytes = lambda device: int(args.free * (1 << 30))
    pixels = PX * PX * 3
    print(f"a million tiles: {TILES * pixels / 1e9:.2f} GB of pixels, half of 24 GiB is {CARD / 2e9:.2f} GB")
    for card, host in ROOMS:
        room = RESIDENT_SHARE * (card << 30), RESIDENT_SHARE * (host << 30)
        # Tiles below the teacher's magnification are stored raw: there is nothing to keep encoded.
        place = place_for(TILES * pixels, *room).replace("encoded", "files")
        print(f"  free: {card} GiB on the card, {host} GiB on the host: they are held in {place}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        # Of every two stored magnifications the higher is JPEG; here it is only there to be valid.
        tiles, splits = make_cohort(folder, Tiling({2.5: 128, LOW: PX}, args.tiles))
        draw_targets(folder / "targets", tiles, splits, (512, 2), LOW)
        job = Job(tiles, splits, CLASSES, LOW, 0, folder / "out", folder / "state", threads=1)
        options = StudentTraining(model="resnet18", batch_size=args.batch, epochs=1)
        before = _memory(device)
        began = time.perf_counter()
        lesson = prepare_lesson(Task(job, "student", options, EVERY_TERM, folder / "targets"), device)
        print(f"made ready in {time.perf_counter() - began:.1f} s, pictures in {lesson.bank.place}")
        held = _memory(device) - before
        began = time.perf_counter()
        _steps(lesson, args.steps)
        print(f"{args.batch * args.steps / (time.perf_counter() - began):.1f} tiles/s")
        after = _memory(device) - before
    print(f"memory: {held / 1e9:.3f} GB once ready, {after / 1e9:.3f} GB after {args.steps} steps")
    per_tile = held / args.tiles / pixels
    working = after - held
    print(f"a million tiles by this: {per_tile * pixels * TILES / 1e9 + working / 1e9:.1f} GB")
    if lesson.bank.place != "files":
        print(f"held_to_pixels {per_tile:.3f} {FLOOR:.3f} {'ok' if per_tile <= FLOOR else 'short'}")


def _steps(lesson, n: int) -> None:
    plan, progress = plan_epoch(lesson, 0), train.begin(lesson, None)
    with Stop(float("inf")):
        parts = train._parts(lesson, plan, 0, lesson.options.part_size)
        for step, part in zip(range(n), parts, strict=False):
            progress.totals += train._step(lesson, plan, step, [part], 1e-4)[0]


def _memory(device: torch.device) -> int:
    """Bytes of this process alone: on the card, or in the host without what is mapped from files."""
    if device.type == "cuda":
        return memory_in_use(device)
    text = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    return int(found.group(1)) * 1024 if found else memory_in_use(device)


if __name__ == "__main__":
    main()
