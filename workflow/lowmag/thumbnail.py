"""A small picture of a whole slide, with whatever its levels still give where some of it is damaged."""

import logging
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lowmag.downsample import area_mean
from lowmag.source import Source, UnreadableError

LARGEST_WINDOW_PX = 2048
SMALLEST_BLOCK_PX = 256
MOST_FAILURES = 2000  # a slide that gives nothing must not take hours to say so

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture (h, w, 3) uint8 of the scanned part, its level-0 origin, level-0 pixels per pixel.

    `unread` (h, w) bool is where no level could be read; None where all of it could.
    """

    picture: np.ndarray
    origin: tuple[int, int]
    scale: float
    unread: np.ndarray | None = None


@dataclass
class _Failures:
    """How often a read failed on the way to one picture."""

    n: int = 0


Pixels = tuple[np.ndarray, np.ndarray | None]  # (h, w, 3), and where (h, w) they could not be read


def read_thumbnail(source: Source, ratio: float, bounds: tuple[int, int, int, int]) -> Thumbnail:
    """A picture of `bounds` (x, y, width, height; level-0 pixels) at about `ratio` of them per pixel.

    It is read in blocks, so memory is bounded by the picture. Any level may serve: at this scale its rounding
    does not matter. What a level does not give comes from finer ones; what none gives is in background colour
    and marked, with a warning.
    """
    level = max(k for k, own in enumerate(source.levels) if own.downsample <= max(1.0, ratio * 1.05))
    step = source.levels[level].downsample
    shrink = max(1, round(ratio / step))
    x, y = (round(start / step) for start in bounds[:2])
    across, down = (max(1, int(length / step)) for length in bounds[2:])
    block = max(1, LARGEST_WINDOW_PX // shrink) * shrink
    canvas = Image.new("RGB", (-(-across // shrink), -(-down // shrink)))
    unread = np.zeros((canvas.height, canvas.width), bool)
    failures = _Failures()
    for top in range(0, down, block):
        for left in range(0, across, block):
            size = (min(block, across - left), min(block, down - top))
            pixels, lost = _readable(source, level, (x + left, y + top, *size), failures)
            canvas.paste(Image.fromarray(pixels).reduce(shrink), (left // shrink, top // shrink))
            if lost is not None:
                small = _any(lost, shrink)
                rows, columns = top // shrink, left // shrink
                unread[rows : rows + small.shape[0], columns : columns + small.shape[1]] = small
    if failures.n:
        log.warning(
            "%s: %d blocks of level %d or finer cannot be read; %.2g %% of the picture is lost",
            source.path.name, failures.n, level, 100 * unread.mean(),
        )  # fmt: skip
    place = (round(x * step), round(y * step))
    return Thumbnail(np.asarray(canvas), place, step * shrink, unread if unread.any() else None)


def _readable(source: Source, level: int, window: tuple[int, int, int, int], failures: _Failures) -> Pixels:
    """A window (x, y, width, height) of a level; its unreadable parts from finer levels, or marked."""
    x, y, width, height = window
    if failures.n >= MOST_FAILURES:
        return _lost(source, window)
    try:
        return source.read(level, x, y, width, height).pixels, None
    except UnreadableError:
        failures.n += 1
    if max(width, height) > SMALLEST_BLOCK_PX:
        return _in_quarters(source, level, window, failures)
    if not level:
        return _lost(source, window)
    ratio = source.levels[level].downsample / source.levels[level - 1].downsample
    if ratio != round(ratio):
        return _lost(source, window)
    step = round(ratio)
    pixels, lost = _readable(source, level - 1, (x * step, y * step, width * step, height * step), failures)
    return area_mean(pixels, step), None if lost is None else _any(lost, step)


def _in_quarters(
    source: Source, level: int, window: tuple[int, int, int, int], failures: _Failures
) -> Pixels:
    x, y, width, height = window
    pixels, unread = np.empty((height, width, 3), np.uint8), np.zeros((height, width), bool)
    half = (-(-width // 2), -(-height // 2))
    for left in range(0, width, half[0]):
        for top in range(0, height, half[1]):
            part = (min(half[0], width - left), min(half[1], height - top))
            place = (slice(top, top + part[1]), slice(left, left + part[0]))
            pixels[place], lost = _readable(source, level, (x + left, y + top, *part), failures)
            unread[place] = False if lost is None else lost
    return pixels, unread if unread.any() else None


def _lost(source: Source, window: tuple[int, int, int, int]) -> Pixels:
    shape = (window[3], window[2])
    return np.full((*shape, 3), source.background, np.uint8), np.ones(shape, bool)


def _any(mask: np.ndarray, factor: int) -> np.ndarray:
    """Whether any pixel of each factor x factor block is set; blocks at the far edges may be smaller."""
    rows = np.logical_or.reduceat(mask, range(0, mask.shape[0], factor), axis=0)
    return np.logical_or.reduceat(rows, range(0, mask.shape[1], factor), axis=1)
