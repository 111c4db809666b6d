"""Pixels of a slide: fields of view by area averaging, and a small picture of the whole.

A field is read from a coarse level only where that level is a whole fraction of level 0 whose pixels the
source gives as they are stored, and the field starts on one of them; everything else is averaged from a finer
level.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lowmag.averaging import stretch_means
from lowmag.colour import Transform, read_profile, to_srgb
from lowmag.errors import UserError
from lowmag.openslide_source import OpenSlideSource
from lowmag.record import Level, SlideRecord
from lowmag.segments import SegmentSource
from lowmag.source import Region, Source
from lowmag.thumbnail import Thumbnail, read_thumbnail
from lowmag.vips_source import VipsSource

COARSER_THAN_ASKED = 0.02  # level 0 this much coarser than asked for still counts as that scale
EXACT = 1e-6
LARGEST_WINDOW_PX = 2048


def open_slide(record: SlideRecord, *, icc: str = "keep") -> "Slide":
    """The slide of a usable record, opened with the reader that its inspection found good.

    With `icc` "srgb" its colours are converted by its ICC profile, where it has one. Raises UnreadableError
    when it cannot be opened any more, UserError for a profile that is of no use.
    """
    path = Path(record.file or record.path)
    sizes = [(level.width, level.height) for level in record.levels]
    transform = None
    if icc == "srgb" and (profile := read_profile(path)) is not None:
        transform = to_srgb(profile)
    if record.source == "segments":
        return Slide(SegmentSource(path, sizes), record.mpp, transform)
    source = OpenSlideSource(path) if record.source == "openslide" else VipsSource(path)
    return Slide(source, record.mpp, transform)


class Slide:
    """One open slide; a context manager.

    `mpp` is micrometres per level-0 pixel along x and y. `transform` is applied to what is read, after its
    pixels are averaged: before, it would cost as much as decoding.
    """

    def __init__(self, source: Source, mpp: tuple[float, float], transform: Transform | None = None) -> None:
        self.source = source
        self.path = source.path
        self.mpp = mpp
        self._transform = transform

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels with their true downsample."""
        return self.source.levels

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
        self,
        x: float,
        y: float,
        size: int | tuple[int, int],
        extent: tuple[float, float],
        *,
        exact: bool = True,
    ) -> np.ndarray:
        """The pixels of `read_region`, (h, w, 3) uint8."""
        return self.read_region(x, y, size, extent, exact=exact).pixels

    def read_region(
        self,
        x: float,
        y: float,
        size: int | tuple[int, int],
        extent: tuple[float, float],
        *,
        exact: bool = True,
    ) -> Region:
        """The field at x, y of size `extent` (all level-0 px) as `size` pixels: an edge, or width and height.

        Places and extents may be fractions of a pixel; what they cover is averaged all the same.

        With `exact` off, levels that the source gives only by interpolation are used as well: quicker, but up
        to half a level pixel off and slightly blurred. Raises UnreadableError.
        """
        width, height = (size, size) if isinstance(size, int) else size
        ratio = (extent[0] / width, extent[1] / height)
        level = self._level_for(x, y, ratio, exact=exact)
        part = max(1, int(LARGEST_WINDOW_PX * self.levels[level].downsample / max(ratio)))
        if width <= part and height <= part:
            region = self._average(level, (x, y), ratio, (width, height))
            return Region(self._coloured(region.pixels), region.transparent)
        picture, transparent = np.empty((height, width, 3), np.uint8), 0.0
        for top in range(0, height, part):
            for left in range(0, width, part):
                columns, rows = min(part, width - left), min(part, height - top)
                start = (x + left * ratio[0], y + top * ratio[1])
                region = self._average(level, start, ratio, (columns, rows))
                picture[top : top + rows, left : left + columns] = region.pixels
                transparent += region.transparent * columns * rows
        return Region(self._coloured(picture), transparent / (width * height))

    def _coloured(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self._transform is None else self._transform(pixels)

    def _level_for(self, x: float, y: float, ratio: tuple[float, float], *, exact: bool) -> int:
        whole = ratio[0] == ratio[1] and ratio[0] == round(ratio[0])
        best = 0
        for number, level in enumerate(self.levels):
            step = level.downsample
            if step != round(step) or step > min(ratio) * (1 + EXACT):
                continue
            if exact and not self.source.exact[number]:
                continue
            if exact and whole and (ratio[0] % step or x % step or y % step):
                continue
            best = number
        return best

    def _average(
        self, level: int, start: tuple[float, float], ratio: tuple[float, float], size: tuple[int, int]
    ) -> Region:
        """Area average: `size` (columns, rows) pixels of `ratio` level-0 pixels, from level-0 `start`."""
        step = round(self.levels[level].downsample)
        first = [math.floor(s / step) for s in start]
        last = [math.ceil((s + n * r) / step - EXACT) for s, n, r in zip(start, size, ratio, strict=True)]
        offset = [s / step - f for s, f in zip(start, first, strict=True)]
        shrink = [r / step for r in ratio]
        window = (level, first[0], first[1], last[0] - first[0], last[1] - first[1])
        if offset == [0, 0] and shrink[0] == shrink[1] == round(shrink[0]):
            return self.source.read(*window, round(shrink[0]))
        region = self.source.read(*window)
        rows = stretch_means(region.pixels, offset[1], shrink[1], size[1])
        columns = stretch_means(rows.swapaxes(0, 1), offset[0], shrink[0], size[0])
        pixels = np.rint(columns.swapaxes(0, 1)).clip(0, 255).astype(np.uint8)
        return Region(pixels, region.transparent)

    def thumbnail(self, mpp: float, bounds: tuple[int, int, int, int]) -> Thumbnail:
        """A picture of `bounds` (x, y, width, height; level-0 pixels) at about `mpp`."""
        small = read_thumbnail(self.source, mpp * 2 / sum(self.mpp), bounds)
        return replace(small, picture=self._coloured(small.picture))
