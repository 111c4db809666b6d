"""What the workflow says at its start and end: the device there is, and whether a slide was rejected."""

import csv
import os
import re
from pathlib import Path

from lowmag.errors import UserError


def gpu_count() -> int:
    """GPUs this machine shows: those named in `CUDA_VISIBLE_DEVICES` when set, else the NVIDIA devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))


def refuse_bad_slides(check: Path) -> None:
    """Raise UserError naming the slides that `check.tsv` rejects, with their cures; a missing table passes."""
    if not check.exists():
        return
    with check.open(encoding="utf-8", newline="") as file:
        bad = [row for row in csv.DictReader(file, delimiter="\t") if row["verdict"] != "ok"]
    if bad:
        lines = [f"  {row['slide_id']}: {row['verdict']}: {row['reason']}; {row['cure']}" for row in bad]
        raise UserError(
            f"on_bad_slide is fail and {len(bad)} of the slides were rejected (everything else is done):\n"
            + "\n".join(lines)
        )
