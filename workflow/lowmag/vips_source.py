"""Pixels through libvips: TIFFs that OpenSlide refuses or takes for flat (OME-TIFF, WebP, strips, LZW).

libvips takes some damaged JPEG for good, so JPEG tiles are left to lowmag.segments.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowmag import tiff
from lowmag.downsample import area_mean
from lowmag.source import WHITE, Region, UnreadableError, true_levels
from lowmag.tiff_pictures import Page, find_pages

if TYPE_CHECKING:
    import pyvips


class VipsSource:
    """A TIFF read by libvips.

    Memory is bounded: tiled levels are decoded as they are asked for, a level in strips is unpacked once,
    from 100 MB on into a temporary file. A failed read reopens the level and is tried once more. Raises
    UnreadableError when the file is no TIFF.
    """

    name = "vips"
    background = WHITE

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        file = tiff.open_tiff(self.path)
        self._pages: list[Page] = []
        if file is not None:
            with file:
                self._pages = find_pages(file)
        if not self._pages:
            raise UnreadableError(f"{self.path.name} is no TIFF with a picture")
        self.levels = true_levels([page.size for page in self._pages])
        self.exact = (True,) * len(self.levels)
        self._regions: dict[int, pyvips.Region] = {}

    def close(self) -> None:
        self._regions.clear()

    @property
    def library(self) -> str:
        """Version of libvips."""
        import pyvips

        return ".".join(str(pyvips.version(part)) for part in range(3))

    def open_all(self) -> None:
        """Open every level; raises UnreadableError when libvips cannot."""
        import pyvips

        for level in range(len(self.levels)):
            try:
                self._open(level)
            except pyvips.Error as error:
                raise UnreadableError(f"level {level}: {self._said([error.detail])}") from error

    def _said(self, complaints: list[str]) -> str:
        lines = [line.strip() for text in complaints for line in text.splitlines()]
        return "; ".join(dict.fromkeys(filter(None, lines))).replace(str(self.path), self.path.name)

    def read(self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1) -> Region:
        """A window of a level, averaged over blocks of `shrink`; raises UnreadableError after two tries."""
        size = self._pages[level].size
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size[0]), min(y + height, size[1])
        pixels = np.full((height, width, 3), self.background, np.uint8)
        opaque = 0.0
        if left < right and top < bottom:
            found = self._fetch(level, left, top, right - left, bottom - top)
            flat, opaque = found[..., :3], 1.0
            if self._pages[level].has_alpha:
                flat, opaque = laid_on(found, self.background)
            pixels[top - y : bottom - y, left - x : right - x] = flat
            opaque *= found.shape[0] * found.shape[1] / (width * height)
        return Region(area_mean(pixels, shrink), 1 - opaque)

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels (h, w, 3 or 4) uint8 of a window inside the level."""
        import pyvips  # a tenth of a second, for the few files that need it

        for last in (False, True):
            try:
                region = self._regions.get(level) or self._open(level)
                with _complaints() as complaints:
                    content = region.fetch(x, y, width, height)
                if not complaints:
                    return np.frombuffer(content, np.uint8).reshape(height, width, -1)
            except pyvips.Error as error:
                complaints = [error.detail or error.message]
            self._regions.pop(level, None)
            if last:
                raise UnreadableError(f"level {level} at {x}, {y}: {self._said(complaints)}")
        raise AssertionError("the last try either returns or raises")

    def _open(self, level: int) -> "pyvips.Region":
        os.environ.setdefault("VIPS_CONCURRENCY", "1")
        import pyvips

        pyvips.cache_set_max(0)  # each read is another place: kept operations would only take memory
        page = self._pages[level]
        options = {"access": "random", "fail_on": "error", "revalidate": True}
        with _complaints():  # of odd tags: no matter
            image = pyvips.Image.tiffload(str(self.path), page=page.page, subifd=page.below, **options)
        if image.format != "uchar" or image.bands not in (3, 4) or (image.width, image.height) != page.size:
            kind = f"{image.width} x {image.height} px of {image.bands} x {image.format}"
            raise UnreadableError(f"level {level} is {kind}, expected {page.size} px of 8-bit RGB")
        self._regions[level] = pyvips.Region.new(image)
        return self._regions[level]


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What libvips says meanwhile: a tile that it cannot decode it paints black, and carries on.

    libtiff's errors stay behind in libvips' own buffer, which making an Error empties; warnings of damaged
    JPEG are logged.
    """
    import pyvips

    found: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            found.append(record.getMessage().removeprefix("VIPS: "))
        return False

    logger = logging.getLogger("pyvips")
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(keep)
    pyvips.Error("")
    try:
        yield found
        found.append(pyvips.Error("").detail)
    finally:
        found[:] = filter(None, found)
        logger.removeFilter(keep)
        logger.setLevel(level)


def laid_on(pixels: np.ndarray, background: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """RGBA pixels as RGB on a background, and the share of them that is opaque.

    libvips takes out an alpha that was multiplied in.
    """
    colours, cover = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    flat = colours * cover + (1 - cover) * np.array(background, np.float32)
    return np.rint(flat).clip(0, 255).astype(np.uint8), float(cover.mean())
