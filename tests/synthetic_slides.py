"""Small slides for tests: tiled TIFF pyramids that OpenSlide reads, with pixels known exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
import tifffile
from lowmag import check, tissue
from lowmag.openslide_source import OpenSlideSource
from lowmag.reader import Slide
from lowmag.record import SlideRecord, load_record
from lowmag.sections import Check

REAL_SLIDES = Path(__file__).parents[1] / "../shared/data/slides"
TILE_PX = 64


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Independent random pixels (h, w, 3): any shift or blur shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means of whole blocks of pixels, rounded; what is left over at the edges is dropped, as scanners do."""
    h, w = (n // factor for n in picture.shape[:2])
    blocks = picture[: h * factor, : w * factor].reshape(h, factor, w, factor, 3).astype(float)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def write_slide(
    path: Path, picture: np.ndarray, mpp: float | None = 0.5, levels: Sequence[np.ndarray] = ()
) -> Path:
    """Write level 0 and coarser `levels` losslessly; without `mpp` the file states no resolution."""
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    if mpp is None:
        resolution = {"resolution": (1, 1), "resolutionunit": "NONE"}
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate((picture, *levels)):
            file.write(
                level,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(number > 0),
                metadata=None,
                **resolution,
            )
    return path


def spoil_tile(path: Path, level: int, index: int) -> None:
    """Overwrite one compressed tile of a level with bytes that no decoder takes."""
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[level].dataoffsets[index], file.pages[level].databytecounts[index]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)


def slide_of(path: Path, mpp: tuple[float, float]) -> Slide:
    """A file opened by OpenSlide at a scale, without inspection."""
    return Slide(OpenSlideSource(path), mpp)


def write_record(
    folder: Path, path: Path, slide_id: str = "S1", mpp: float | None = None, magnification: float = 10
) -> Path:
    """Inspect a slide as `lowmag inspect` does; returns the record's path."""
    out = folder / f"{slide_id}.json"
    check.write_record(out, check.SlideToCheck(slide_id, path, mpp), magnification, Check())
    return out


def write_whole_outline(folder: Path, record: Path) -> Path:
    """An outline that takes the whole slide for tissue."""
    slide: SlideRecord = load_record(record)
    out = folder / f"{slide.slide_id}.geojson"
    x, y, width, height = slide.scanned
    out.write_text(tissue.geojson([shapely.box(x, y, x + width, y + height)], slide.slide_id))
    return out
