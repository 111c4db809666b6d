"""Pixels of a slide through OpenSlide: fields of view by area averaging, and a small picture of the whole.

OpenSlide maps level-0 coordinates through a mean downsample and interpolates at fractional pixels, which
blurs (openslide issues 256 and 641). So a field is read from a coarse level only where that level is an
exact whole fraction of level 0 and the field starts on one of its pixels; everything else is averaged from
a finer level.
"""

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from lowmag.errors import UserError

OLDEST_LIBRARY = (4, 0, 1)  # CVE-2026-48977, CVE-2026-54604, NDPI above 4 GB
COARSER_THAN_ASKED = 0.02  # level 0 this much coarser than asked for still counts as that scale
EXACT = 1e-6
NOMINAL = 1e-3
LARGEST_WINDOW_PX = 2048
SMALLEST_LOST_PX = 256
CACHE_BYTES = 64 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture (h, w, 3) uint8 of the scanned part, its level-0 origin, level-0 pixels per pixel."""

    picture: np.ndarray
    origin: tuple[int, int]
    scale: float


class Slide:
    """One open slide; a context manager.

    `mpp` is micrometres per level-0 pixel along x and y. Transparent pixels show the slide's background
    colour. OpenSlide refuses everything after one failed read, so a failure reopens the file: the read is
    tried twice, then raises openslide.OpenSlideError, and other places can still be read.
    """

    def __init__(self, path: Path | str, mpp: tuple[float, float]) -> None:
        require_library(openslide.__library_version__)
        self.path = Path(path)
        self.mpp = mpp
        self._handle = self._open()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def _open(self) -> openslide.OpenSlide:
        handle = openslide.OpenSlide(self.path)
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return handle

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Downsample of every level as OpenSlide gives it."""
        return self._handle.level_downsamples

    @cached_property
    def _background(self) -> str:
        return "#" + self._handle.properties.get("openslide.background-color", "FFFFFF")

    def extent(self, edge_px: int, mpp: float, tolerance: float = COARSER_THAN_ASKED) -> tuple[float, float]:
        """Width and height in level-0 pixels of a field of `edge_px` pixels at `mpp`.

        Where a pixel at `mpp` is within `tolerance` of a whole number of level-0 pixels, that is taken.
        Nothing is ever enlarged: an axis up to COARSER_THAN_ASKED too coarse counts as having that scale,
        beyond it UserError is raised, as `lowmag check` does by the same rule.
        """
        ratios = [mpp / own for own in self.mpp]
        whole = max(1, round(sum(ratios) / 2))
        if min(ratios) < 1:
            tolerance = max(tolerance, COARSER_THAN_ASKED)
        if all(abs(whole / ratio - 1) <= tolerance + 1e-9 for ratio in ratios):
            return float(edge_px * whole), float(edge_px * whole)
        if max(self.mpp) > mpp * (1 + COARSER_THAN_ASKED + 1e-9):
            raise UserError(
                f"{self.path.name} has {max(self.mpp):g} micrometres per pixel, {mpp:g} or less are needed; "
                "nothing is enlarged: lower tiles.teacher"
            )
        return edge_px * max(1.0, ratios[0]), edge_px * max(1.0, ratios[1])

    def read(
        self, x: int, y: int, edge_px: int, extent: tuple[float, float], *, exact: bool = True
    ) -> np.ndarray:
        """The field at x, y of size `extent` (all level-0 pixels) as (edge, edge, 3) uint8.

        With `exact` off, levels that are only nominally a whole fraction of level 0 are used as well:
        quicker, but up to half a level pixel off and slightly blurred.
        """
        ratio = (extent[0] / edge_px, extent[1] / edge_px)
        level = self._level_for(x, y, ratio, EXACT if exact else NOMINAL)
        part = max(1, int(LARGEST_WINDOW_PX * self.downsamples[level] / max(ratio)))
        picture = np.empty((edge_px, edge_px, 3), np.uint8)
        for top in range(0, edge_px, part):
            for left in range(0, edge_px, part):
                columns, rows = min(part, edge_px - left), min(part, edge_px - top)
                start = (x + left * ratio[0], y + top * ratio[1])
                picture[top : top + rows, left : left + columns] = self._average(
                    level, start, ratio, (columns, rows)
                )
        return picture

    def _level_for(self, x: int, y: int, ratio: tuple[float, float], tolerance: float) -> int:
        whole = ratio[0] == ratio[1] and ratio[0] == round(ratio[0])
        best = 0
        for level, nominal in enumerate(self.downsamples):
            step = round(nominal)
            if abs(nominal / step - 1) > tolerance or step > min(ratio) * (1 + EXACT):
                continue
            if whole and tolerance == EXACT and (ratio[0] % step or x % step or y % step):
                continue
            best = level
        return best

    def _average(
        self, level: int, start: tuple[float, float], ratio: tuple[float, float], size: tuple[int, int]
    ) -> np.ndarray:
        """Area average: `size` (columns, rows) pixels of `ratio` level-0 pixels, from level-0 `start`."""
        nominal = self.downsamples[level]
        step = round(nominal)
        first = [math.floor(s / step) for s in start]
        last = [math.ceil((s + n * r) / step - EXACT) for s, n, r in zip(start, size, ratio, strict=True)]
        image = self.pixels(
            level,
            (round(first[0] * nominal), round(first[1] * nominal)),
            (last[0] - first[0], last[1] - first[1]),
        )
        offset = [s / step - f for s, f in zip(start, first, strict=True)]
        shrink = [r / step for r in ratio]
        if offset == [0, 0] and shrink[0] == shrink[1] == round(shrink[0]):
            return np.asarray(image.reduce(round(shrink[0])))
        rows = _averaged(np.asarray(image), offset[1], shrink[1], size[1])
        columns = _averaged(rows.swapaxes(0, 1), offset[0], shrink[0], size[0])
        return np.rint(columns.swapaxes(0, 1)).clip(0, 255).astype(np.uint8)

    def pixels(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> Image.Image:
        """An RGB image of `size` pixels of a level, whose top-left is at level-0 `location`."""
        try:
            image = self._handle.read_region(location, level, size)
        except openslide.OpenSlideError:
            self._reopen()
            try:
                image = self._handle.read_region(location, level, size)
            except openslide.OpenSlideError:
                self._reopen()
                raise
        alpha = image.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return image.convert("RGB")
        flat = Image.new("RGB", image.size, self._background)
        flat.paste(image, mask=alpha)
        return flat

    def _reopen(self) -> None:
        self._handle.close()
        self._handle = self._open()

    def thumbnail(self, mpp: float, bounds: tuple[int, int, int, int]) -> Thumbnail:
        """A picture of `bounds` (x, y, width, height; level-0 pixels) at about `mpp`.

        It is read in blocks, so memory is bounded by the picture. Any level may serve: at this scale its
        rounding does not matter. What cannot be read is left in background colour, with a warning.
        """
        ratio = mpp * 2 / sum(self.mpp)
        level = max(k for k, d in enumerate(self.downsamples) if d <= max(1.0, ratio * 1.05))
        nominal = self.downsamples[level]
        shrink = max(1, round(ratio / nominal))
        x, y, width, height = bounds
        across, down = max(1, int(width / nominal)), max(1, int(height / nominal))
        block = max(1, LARGEST_WINDOW_PX // shrink) * shrink
        canvas = Image.new("RGB", (-(-across // shrink), -(-down // shrink)))
        lost = 0
        for top in range(0, down, block):
            for left in range(0, across, block):
                size = (min(block, across - left), min(block, down - top))
                location = (x + round(left * nominal), y + round(top * nominal))
                image, failed = self._pixels_or_background(level, location, size)
                lost += failed
                canvas.paste(image.reduce(shrink), (left // shrink, top // shrink))
        if lost:
            log.warning(
                "%s: %d blocks of level %d cannot be read and count as background",
                self.path.name,
                lost,
                level,
            )
        return Thumbnail(np.asarray(canvas), (x, y), nominal * shrink)

    def _pixels_or_background(
        self, level: int, location: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Image.Image, int]:
        """Pixels of a level, with what cannot be read in background colour, and the number of such blocks."""
        try:
            return self.pixels(level, location, size), 0
        except openslide.OpenSlideError:
            image = Image.new("RGB", size, self._background)
        if max(size) <= SMALLEST_LOST_PX:
            return image, 1
        lost, half = 0, (-(-size[0] // 2), -(-size[1] // 2))
        for left in range(0, size[0], half[0]):
            for top in range(0, size[1], half[1]):
                corner = tuple(
                    c + round(p * self.downsamples[level]) for c, p in zip(location, (left, top), strict=True)
                )
                part, failed = self._pixels_or_background(
                    level, (corner[0], corner[1]), (min(half[0], size[0] - left), min(half[1], size[1] - top))
                )
                lost += failed
                image.paste(part, (left, top))
        return image, lost


def _averaged(pixels: np.ndarray, offset: float, shrink: float, n: int) -> np.ndarray:
    """Exact means of `n` stretches of `shrink` rows from row `offset` on, (n, ...) float64."""
    total = np.zeros((len(pixels) + 1, *pixels.shape[1:]))
    np.cumsum(pixels, axis=0, out=total[1:])
    edges = np.minimum(offset + shrink * np.arange(n + 1), len(pixels))
    whole = np.minimum(edges.astype(np.intp), len(pixels) - 1)
    share = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    return np.diff(total[whole] + share * pixels[whole], axis=0) / shrink


def require_library(version: str) -> None:
    """Raise UserError when the OpenSlide library is older than the first safe version."""
    found = tuple(int(part) for part in version.split(".")[:3])
    if found < OLDEST_LIBRARY:
        raise UserError(
            f"OpenSlide library {version} found, {'.'.join(map(str, OLDEST_LIBRARY))} or newer needed; "
            "install openslide-bin>=4.0.1.1"
        )
