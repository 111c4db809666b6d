"""What every reader of slide files offers: pixels of a level, by level-pixel indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lowmag.record import Level

WHITE = (255, 255, 255)
LARGEST_RATIO = 4096  # of levels, to look for; slides stay far below


class UnreadableError(Exception):
    """Pixels cannot be read, though the file was reopened once where that can help."""


@dataclass(frozen=True)
class Region:
    """Pixels (h, w, 3) uint8 with the background already laid under, and the share (0-1) that is transparent.

    What lies outside the level counts as transparent.
    """

    pixels: np.ndarray
    transparent: float = 0.0


class Source(Protocol):
    """One open file; places are level-pixel indices, never level-0 coordinates of a coarse level.

    A level's `downsample` is the true ratio: a whole number wherever that explains the level's size.
    `exact` says of every level whether its pixels come as they are stored: of a level that OpenSlide maps
    through a fractional downsample they come shifted by up to half a pixel and blurred.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def levels(self) -> tuple[Level, ...]: ...
    @property
    def exact(self) -> tuple[bool, ...]: ...
    @property
    def background(self) -> tuple[int, int, int]: ...

    def read(self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1) -> Region:
        """A window of a level, averaged over blocks of `shrink` pixels, which divides its width and height.

        Raises UnreadableError.
        """
        ...

    def close(self) -> None: ...


def true_levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of the sizes given, finest first, with their true downsample.

    A scanner that halves 4443 pixels keeps 2221 of them: the mean ratio is 2.0005 and drifts by a pixel in
    4443, the true one is 2. So the whole number is taken that gives the level's size when level 0 is divided
    by it, or that gives it within a pixel; else it is the mean ratio of both axes.
    """
    return tuple(Level(*size, _true_ratio(sizes[0], size)) for size in sizes)


def _true_ratio(finest: tuple[int, int], size: tuple[int, int]) -> float:
    mean = (finest[0] / size[0] + finest[1] / size[1]) / 2
    nearest = max(1, round(mean))
    # A level of a few pixels has many explanations: a power of two is the likely one.
    near = range(max(1, int(0.75 * mean)), int(1.34 * mean) + 2)
    near = sorted(near[:LARGEST_RATIO], key=lambda whole: (whole & (whole - 1) != 0, abs(whole - mean)))
    for whole in near:
        if (finest[0] // whole, finest[1] // whole) == size:
            return float(whole)
    explains = all(abs(n // nearest - own) <= 1 for n, own in zip(finest, size, strict=True))
    return float(nearest) if explains else mean
