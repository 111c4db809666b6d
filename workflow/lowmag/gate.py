"""What the workflow says at its start and end: the device there is, and whether a slide was rejected."""

import csv
import os
import re
import sys
from pathlib import Path


def gpu_count() -> int:
    """GPUs this machine shows: those named in `CUDA_VISIBLE_DEVICES` when set, else the NVIDIA devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))


def exit_on_bad_slides(check: Path) -> None:
    """End the process with status 1 after naming the slides that `check.tsv` rejects; without any, return.

    For the very end of the main process, where nothing else can set its status any more.
    """
    message = bad_slides(check)
    if message:
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


def bad_slides(check: Path) -> str:
    """The slides that `check.tsv` rejects with reason and cure, one per line; empty if there are none."""
    if not check.exists():
        return ""
    with check.open(encoding="utf-8", newline="") as file:
        bad = [row for row in csv.DictReader(file, delimiter="\t") if row["verdict"] != "ok"]
    lines = [f"  {row['slide_id']}: {row['verdict']}: {row['reason']}; {row['cure']}" for row in bad]
    return "\n".join([f"on_bad_slide is fail, and {len(bad)} slides were rejected:", *lines]) if bad else ""
