"""What the benchmarks of training run on: tiles cut from one picture, splits and targets, as real files."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import openslide
from lowmag import demo, drawing
from lowmag.index import index_tiles
from lowmag.sections import Demo
from lowmag.splits import read_splits
from lowmag.store import Layout, TileRow, writing
from lowmag.target_file import SCHEMA, SCHEMA_VERSION, VALUES, file_of
from lowmag.terms import ATTENTION, FEATURES, LOGITS

CLASSES = ("a", "b", "c", "d")
REAL_SLIDE = Path("../shared/data/slides/CMU-1-Small-Region.svs")  # 20x
VAL_TILES = 1  # of each class: validating takes no time worth leaving out


@dataclass(frozen=True)
class Tiling:
    """Edge of a tile in pixels by magnification, highest first, and how many training tiles there are."""

    px: dict[float, int]
    n: int


def tissue(slide: Path | None) -> np.ndarray:
    """A picture at 10x, (H, W, 3) uint8: of a slide at 20x, or drawn where there is none."""
    if slide is None or not slide.is_file():
        drawn = next(one for one in demo.cohort(Demo(slides=20, patients=20)) if one.label)
        picture = np.asarray(drawing.draw(drawn, 1600.0)[0].numpy())
        factor = round(1.0 / drawn.mpp) or 1
    else:
        with openslide.OpenSlide(slide) as opened:
            picture = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
        factor = 2
    h, w = (edge // factor * factor for edge in picture.shape[:2])
    blocks = picture[:h, :w, :3].reshape(h // factor, factor, w // factor, factor, 3)
    return blocks.mean((1, 3), dtype=np.float32).round().astype(np.uint8)


def make_cohort(folder: Path, tiling: Tiling, slide: Path | None = REAL_SLIDE) -> tuple[Path, Path]:
    """Write `tiles/{slide}.h5`, one slide a class and split, and `splits.csv`; their paths.

    Tiles are windows of one picture at random places, mirrored and turned at random: every one a JPEG of its
    own at the highest magnification, area means of it below.
    """
    random, picture = np.random.default_rng(0), tissue(slide)
    rows = ["slide_id,patient_id,label,split"]
    for split in ("train", "val"):
        for label in CLASSES:
            name = f"{split}-{label}"
            rows.append(f"{name},{name},{label},{split}")
            n = tiling.n // len(CLASSES) if split == "train" else VAL_TILES
            _write_slide(folder / "tiles" / f"{name}.h5", tiling, n, picture, random)
    splits = folder / "splits.csv"
    splits.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "tiles", splits


def _write_slide(
    path: Path, tiling: Tiling, n: int, picture: np.ndarray, random: np.random.Generator
) -> None:
    highest, edge = next(iter(tiling.px.items()))
    attributes = {"slide_id": path.stem, "field_um": edge * 10 / highest}
    with writing(path, Layout(list(tiling.px), tiling.px), attributes) as writer:
        for i in range(n):
            y, x = (random.integers(0, size - edge + 1) for size in picture.shape[:2])
            tile = np.rot90(picture[y : y + edge, x : x + edge], random.integers(4))
            tile = tile[:, :: random.choice([-1, 1])]
            pictures = {m: _smaller(tile, edge // px) for m, px in tiling.px.items()}
            writer.append(TileRow(edge * i, 0, 0, i, 1.0, pictures))


def _smaller(tile: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return np.ascontiguousarray(tile)
    n = tile.shape[0] // factor
    means = tile.reshape(n, factor, n, factor, 3).mean((1, 3), dtype=np.float32)
    return means.round().astype(np.uint8)


def draw_targets(
    folder: Path, tiles: Path, splits: Path, shape: tuple[int, int], magnification: float
) -> None:
    """Write targets as `lowmag targets` does, `shape` (channels, cells), with numbers drawn at random.

    A student's step costs the same whatever the teacher said.
    """
    channels, cells = shape
    index = index_tiles(tiles, [row for row in read_splits(splits) if row.split == "train"], CLASSES)
    random = np.random.default_rng(0)
    shapes = {
        LOGITS: (np.float32, (len(CLASSES),)),
        f"{FEATURES}/area": (np.float16, (channels, cells, cells)),
        f"{ATTENTION}/inside": (np.float16, (len(CLASSES), cells, cells)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, of_view) in shapes.items():
        with h5py.File(file_of(folder, name), "w") as file:
            file["slide_id"] = [slide.slide_id.encode() for slide in index.slides]
            file["count"] = index.counts
            stored = file.create_dataset(VALUES, (index.n, 8, *of_view), dtype)
            block = random.random((min(1000, index.n), 8, *of_view), np.float32).astype(dtype)
            for start in range(0, index.n, len(block)):
                stored[start : start + len(block)] = block[: index.n - start]
            file.attrs.update(
                {
                    **{"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "complete": True},
                    **{"magnification": magnification, "grid": cells, "views": 8},
                    **{"classes": list(CLASSES), "teacher_sha256": "0" * 64},
                }
            )
