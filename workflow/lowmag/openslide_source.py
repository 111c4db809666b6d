"""Pixels through OpenSlide: every format it knows, and the reference for the other readers.

OpenSlide maps level-0 coordinates through a mean downsample and interpolates at fractional pixels, which
blurs (openslide issues 256 and 641). So the pixels of a level come as stored only where its downsample is a
whole number.
"""

import sys
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from lowmag.downsample import area_mean
from lowmag.errors import UserError
from lowmag.source import Region, UnreadableError, true_levels

OLDEST_LIBRARY = (4, 0, 1)  # CVE-2026-48977, CVE-2026-54604, NDPI above 4 GB
OLDEST_WHEEL = (4, 0, 1, 1)
CACHE_BYTES = 64 << 20
WHOLE = 1e-6


class OpenSlideSource:
    """A file read by OpenSlide.

    OpenSlide refuses everything after one failed read, so a failure reopens the file: a read is tried twice,
    then raises UnreadableError, and other places can still be read.
    """

    name = "openslide"

    def __init__(self, path: Path | str) -> None:
        require_library()
        self.path = Path(path)
        self._handle = self._open()
        self.levels = true_levels(self._handle.level_dimensions)
        self._nominal = self._handle.level_downsamples
        self.exact = tuple(
            abs(nominal - level.downsample) <= WHOLE * nominal
            for nominal, level in zip(self._nominal, self.levels, strict=True)
        )

    def _open(self) -> openslide.OpenSlide:
        try:
            handle = openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise UnreadableError(f"{self.path.name} cannot be opened: {self._said(error)}") from error
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return handle

    def close(self) -> None:
        self._handle.close()

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour laid under transparent pixels."""
        stated = self._handle.properties.get("openslide.background-color", "FFFFFF")
        return tuple(bytes.fromhex(stated))[:3]  # pyright: ignore[reportReturnType]

    def read(self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1) -> Region:
        """A window of a level, averaged over blocks of `shrink`; raises UnreadableError after two tries."""
        location = (round(x * self._nominal[level]), round(y * self._nominal[level]))
        try:
            image = self._handle.read_region(location, level, (width, height))
        except openslide.OpenSlideError:
            self._reopen()
            try:
                image = self._handle.read_region(location, level, (width, height))
            except openslide.OpenSlideError as error:
                self._reopen()
                raise UnreadableError(f"level {level} at {x}, {y}: {self._said(error)}") from error
        region = composited(image, self.background)
        return Region(area_mean(region.pixels, shrink), region.transparent)

    def steadiest(self, level: int, start: int, n: int) -> int:
        """Of `n` rows or columns of a level from `start` on, the one that OpenSlide shifts least."""
        places = np.arange(start, start + n) * self._nominal[level]
        return start + int(np.abs(places - np.rint(places)).argmin())

    def shift(self, level: int, place: int) -> float:
        """How far, in pixels of a level, OpenSlide shifts what it draws from a row or column on."""
        nominal = self._nominal[level]
        return abs(place * nominal - round(place * nominal)) / nominal

    def _reopen(self) -> None:
        self._handle.close()
        self._handle = self._open()

    def _said(self, error: Exception) -> str:
        return str(error).replace(str(self.path), self.path.name)


def composited(image: Image.Image, background: tuple[int, int, int]) -> Region:
    """An RGBA image laid on a background colour, and the share of it that was transparent."""
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return Region(np.asarray(image.convert("RGB")))
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=alpha)
    return Region(np.asarray(flat), 1 - float(np.asarray(alpha).mean()) / 255)


def require_library(version: str | None = None, wheel: str | None = None) -> None:
    """Raise UserError when the OpenSlide library, or the wheel it comes in, is older than the first safe one.

    The wheel's fourth number counts the libraries that OpenSlide is built on, libtiff among them.
    """
    bundle = sys.modules.get("openslide_bin")  # which openslide has imported where it is installed
    found = {
        "OpenSlide library": (version or openslide.__library_version__, OLDEST_LIBRARY),
        "openslide-bin": (wheel or getattr(bundle, "__version__", None), OLDEST_WHEEL),
    }
    for name, (stated, oldest) in found.items():
        if stated and tuple(int(part) for part in stated.split(".")[: len(oldest)]) < oldest:
            raise UserError(
                f"{name} {stated} found, {'.'.join(map(str, oldest))} or newer needed: older "
                "ones have known holes; install openslide-bin>=4.0.1.1"
            )
