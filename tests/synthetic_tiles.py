"""Tile files and splits of a tiny invented cohort in the real format: what training and prediction read.

The class is the spacing of dark stripes, 3 of them in a tile for class 0, 6 for class 1: visible at both
magnifications.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from lowmag.models import ModelSpec
from lowmag.store import Layout, TileRow, writing

CLASSES = ("calm", "busy")
HIGH, LOW = 10.0, 2.5
PX = {HIGH: 64, LOW: 16}
TEACHER = ModelSpec(
    role="teacher",
    model="resnet10gn",
    stride=8,
    classes=CLASSES,
    magnification=HIGH,
    tile_px=64,
    field_um=64.0,
    input="native",
    teacher_px=64,
    mean=(0.6, 0.5, 0.6),
    std=(0.2, 0.2, 0.2),
)
STUDENT = replace(TEACHER, role="student", magnification=LOW, tile_px=16)


@dataclass(frozen=True)
class Cohort:
    """Labels of the slides by split; an empty label is an unlabelled slide. Every slide is a patient."""

    train: Sequence[str] = ("calm", "busy", "calm", "busy", "", "")
    val: Sequence[str] = ("calm", "busy")
    test: Sequence[str] = ("calm", "busy")
    tiles_per_slide: int = 4
    sections: Sequence[tuple[int, int]] = ()  # width and height at HIGH of each; none: square tiles
    tile_labels: dict[str, Sequence[int]] = field(default_factory=dict)
    flags: dict[str, Sequence[int]] = field(default_factory=dict)


def make_cohort(folder: Path, cohort: Cohort | None = None) -> tuple[Path, Path]:
    """Write `tiles/{slide}.h5` and `splits.csv` into `folder`; their two paths."""
    cohort = cohort or Cohort()
    lines = ["slide_id,patient_id,label,split"]
    for split in ("train", "val", "test"):
        for number, label in enumerate(getattr(cohort, split)):
            slide = f"{split}{number}"
            lines.append(f"{slide},patient-{slide},{label},{split}")
            _write_slide(folder / "tiles" / f"{slide}.h5", slide, label, cohort)
    splits = folder / "splits.csv"
    splits.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles", splits


def _write_slide(path: Path, slide: str, label: str, cohort: Cohort) -> None:
    random = np.random.default_rng([ord(c) for c in slide])
    sizes = list(cohort.sections) or [(PX[HIGH],) * 2] * cohort.tiles_per_slide
    labels = cohort.tile_labels.get(slide, [-1] * len(sizes))
    flags = cohort.flags.get(slide, [0] * len(labels))
    attributes = {"slide_id": slide, "mpp_x": 1.0, "mpp_y": 1.0}
    layout = Layout([HIGH, LOW], PX, jpeg_quality=95)
    if cohort.sections:
        layout = Layout([HIGH, LOW], {}, jpeg_quality=95, unit="section")
    with writing(path, layout, attributes) as writer:
        for n, (tile_label, flag) in enumerate(zip(labels, flags, strict=True)):
            busy = (CLASSES[tile_label] if tile_label >= 0 else label) == "busy"
            width, height = sizes[n % len(sizes)]
            high = _picture(random, 6 if busy else 3, width, height)
            low = high.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3)).round().astype(np.uint8)
            writer.append(TileRow(64 * n, 0, 0, n, 1.0, {HIGH: high, LOW: low}, flag, tile_label))


def _picture(random: np.random.Generator, stripes: int, width: int, height: int) -> np.ndarray:
    place = np.arange(height) / PX[HIGH] * stripes + random.uniform()
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * place)
    grey = 120 + 80 * wave[:, None, None] + random.normal(0, 8, (height, width, 1))
    return np.clip(grey * [1.0, 0.8, 1.0], 0, 255).astype(np.uint8)
