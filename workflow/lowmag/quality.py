"""How sharp a tile is and how much of it is pen, measured at about 2 micrometres per pixel.

Neither takes a tile away: both become flags of the tile file. Sharpness is the energy of the finest details
relative to details twice as coarse, so that it says little about what tissue is shown: H&E in focus has
nearly as much of the one as of the other, and blur takes the finest first.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lowmag.morphology import grown
from lowmag.pen import pen_mask

BLURRED_BELOW = 0.2  # benchmarks/tissue.py: what is flagged in focus and after Gaussian blur of 2, 4 and 8 um
PEN_ABOVE = 0.05  # share of the tile
LEAST_PEN = 0.01  # with less, no pixels are left out
NOISE = 0.8  # grey levels: standard deviation of what grain and compression leave at this scale
FAINTEST = 0.7  # squared grey levels: with less detail than this nothing can be said
SAMPLE_UM = 8.0  # pen is looked for in one pixel of a square of this edge
SCALES, SMALLEST_PX = 4, 4
ACROSS = np.s_[::2, :-2], np.s_[::2, 1:-1], np.s_[::2, 2:]  # neighbours in a row, of every other row
DOWN = np.s_[:-2:2], np.s_[1:-1:2], np.s_[2::2]


@dataclass(frozen=True)
class Quality:
    """Sharpness (about 0 to 1; 1 where nothing is to be seen), share of pen, and the flags they give."""

    sharpness: float
    pen_share: float
    is_blurred: bool
    has_pen: bool


def measure(picture: np.ndarray, mpp: float) -> Quality:
    """Sharpness and pen of a tile (h, w, 3) uint8 at `mpp`, which is to be about 2 micrometres per pixel."""
    step = max(1, round(SAMPLE_UM / mpp))
    pen = pen_mask(picture[::step, ::step])
    pen_share = float(pen.mean())
    grey = picture[:, :, 1].astype(np.int16)
    clear = None
    if pen_share > LEAST_PEN:
        around = np.repeat(np.repeat(~grown(pen, 1), step, axis=0), step, axis=1)
        clear = around[: grey.shape[0], : grey.shape[1]]
    sharpness = _sharpness(grey, clear)
    return Quality(sharpness, pen_share, sharpness < BLURRED_BELOW, pen_share > PEN_ABOVE)


def _sharpness(grey: np.ndarray, clear: np.ndarray | None) -> float:
    """The least ratio of the energies of one scale and the next, over scales twofold apart.

    The coarser ratios are there for strong blur, which leaves nothing but noise at the finer scales.
    """
    energies = []
    for scale in range(SCALES):
        if min(grey.shape) < SMALLEST_PX:
            break
        energies.append(_energy(grey, clear) / 16**scale - (NOISE / 2**scale) ** 2)
        h, w = (n // 2 * 2 for n in grey.shape)
        rows = grey[:h:2] + grey[1:h:2]
        grey = rows[:, :w:2] + rows[:, 1:w:2]  # sums: at most 64 x 255, which fits 16 bits
        clear = None if clear is None else clear[:h:2, :w:2]
    pairs = pairwise(energies)
    return float(min([1.0, *(max(0.0, fine) / coarse for fine, coarse in pairs if coarse > FAINTEST)]))


def _energy(pixels: np.ndarray, clear: np.ndarray | None) -> float:
    """Mean square of second differences along both axes, on every other line; of white noise its variance."""
    total = count = 0.0
    for before, middle, after in (ACROSS, DOWN):
        second = (pixels[middle] - pixels[before]).astype(np.float32)
        second += pixels[middle] - pixels[after]
        if clear is not None:
            second *= clear[middle]
        total += float(np.vdot(second, second))
        count += second.size if clear is None else np.count_nonzero(clear[middle])
    return total / max(1.0, 6 * count)
