"""Where a picture of H&E shows tissue: a classical mask by colour, without pen."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lowmag.sections import Tissue

MEDIAN_PX = 3
CLOSE_UM = 16.0  # half the width of the gaps that closing bridges
DARKEST = 50  # brightest channel below this: black ink, a fold's core, the edge of the glass
HIGHEST_THRESHOLD = 3.0  # times the floor: Otsu on a field full of tissue would cut through the tissue
PEN_SPREAD_UM = 24.0  # ink fades at the edge of a stroke
PEN_STRENGTH = 0.08  # optical density
INK_RED, INK_CUT = 0.6, 0.75


@dataclass(frozen=True)
class Mask:
    """Tissue (h, w) booleans, the saturation threshold, and the share of stained pixels taken for pen."""

    tissue: np.ndarray
    threshold: int
    pen_share: float


def find_tissue(picture: np.ndarray, pixel_um: float, options: Tissue) -> Mask:
    """The tissue of an H&E picture (h, w, 3) uint8 whose pixels are `pixel_um` micrometres wide.

    Saturation after a median, above Otsu's threshold (kept between the floor and three times the floor),
    without dark pixels and pen, closed.
    """
    saturation = np.asarray(
        Image.fromarray(picture).convert("HSV").getchannel("S").filter(ImageFilter.MedianFilter(MEDIAN_PX))
    )
    bright = picture.max(axis=2) >= DARKEST
    pen = grown(pen_mask(picture), round(PEN_SPREAD_UM / pixel_um))
    counts = np.bincount(saturation[bright & ~pen], minlength=256)
    floor = options.saturation_floor
    threshold = min(max(otsu(counts), floor), round(HIGHEST_THRESHOLD * floor))
    stained = (saturation > threshold) & bright
    pen_share = float((stained & pen).sum() / max(1, stained.sum()))
    tissue = stained & ~pen
    radius = round(CLOSE_UM / pixel_um)
    closed = ~grown(~grown(np.pad(tissue, radius), radius), radius)
    inside = slice(radius, -radius or None)
    return Mask(closed[inside, inside] & ~pen, threshold, pen_share)


def otsu(counts: np.ndarray) -> int:
    """The grey level with the most variance between the two sides of a histogram (Otsu 1979); 0 if empty."""
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * np.arange(len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return int(np.argmax(np.nan_to_num(between)))


def pen_mask(picture: np.ndarray) -> np.ndarray:
    """Pixels (h, w) whose colour no mixture of haematoxylin and eosin has.

    Both stains absorb green most (Ruifrok and Johnston 2001: optical densities 0.65, 0.70, 0.29 and 0.07,
    0.99, 0.11). Ink that takes more red than green is blue or green; ink that takes blue about as much as
    green, and little red, is red.
    """
    density = -np.log10((picture.astype(np.float32) + 1) / 256)
    red, green, blue = np.moveaxis(density, 2, 0)
    cold = red > 1.1 * green + PEN_STRENGTH
    warm = (green > INK_RED) & (blue > INK_CUT * green) & (red < 0.4 * green)
    return cold | warm


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` dilated by a square of `radius` pixels."""
    for axis in (0, 1):
        grown = mask.copy()
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
        for shift in range(1, min(radius, len(source) - 1) + 1):
            target[shift:] |= source[:-shift]
            target[:-shift] |= source[shift:]
        mask = grown
    return mask
