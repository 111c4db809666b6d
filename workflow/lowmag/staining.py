"""Where a picture of H&E shows tissue: a classical mask by colour relative to the glass, without pen."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from lowmag.morphology import closed, grown, opened
from lowmag.pen import pen_strokes
from lowmag.sections import Tissue

MEDIAN_PX = 3
CLOSE_UM = 16.0  # half the width of the gaps that closing bridges
HIGHEST_THRESHOLD = 3.0  # times the floor: what grain may raise the threshold to
RIM_UM = 40.0  # beside a stroke
MOST_PEN = 0.5  # share of the stain: a pen that takes more is not believed

BIN = 4  # grey levels
GLASS_SAMPLES = 1 << 20
LEAST_GLASS = 0.005  # share of the picture
RIVAL = 0.2  # share of the commonest colour that a brighter one needs to be the glass instead
DIMMEST = 150  # brightest channel of glass
TINTED, ROSY = 0.75, 0.9  # least ratio of its darkest to its brightest channel; rosy glass may be pale tissue
LEAST_TINTED = 0.02  # share of the bright pixels
PAPER_WHITE = 252  # parts of a slide that were not scanned
NEAR = 10  # grey levels about the glass that are its grain
GRAIN = 6.0  # median deviations, four standard deviations


@dataclass(frozen=True)
class Mask:
    """Tissue and pen (h, w) as booleans, the colour of the glass, and the threshold of colour.

    `pen_share` is the share of the stain that looks like pen. Above MOST_PEN `pen` is empty: the pen was left
    in, because more likely than not it is tissue of an unusual colour.
    """

    tissue: np.ndarray
    pen: np.ndarray
    white: tuple[int, int, int]
    threshold: int
    pen_share: float


def find_tissue(picture: np.ndarray, pixel_um: float, options: Tissue) -> Mask:
    """The tissue of an H&E picture (h, w, 3) uint8 whose pixels are `pixel_um` micrometres wide.

    Colour (the difference of the brightest and the darkest channel, with the glass as white) after a median,
    above the floor or what grain has, without strokes of pen, closed.
    """
    white = glass_colour(picture)
    on_white = relative(picture, white)
    colour = _colour(on_white)
    threshold = _threshold(on_white, colour, options.saturation_floor)
    stained = colour > threshold
    pen = pen_strokes(on_white, pixel_um)
    pen_share = float((stained & pen).sum() / max(1, stained.sum()))
    if pen_share > MOST_PEN:
        pen = np.zeros_like(pen)
    near_pen = grown(pen, round(RIM_UM / pixel_um)) if pen.any() else pen
    tissue = stained & ~pen
    tissue &= ~near_pen | opened(tissue, 1)  # thin ink along a stroke looks like pale tissue
    tissue = closed(tissue, round(CLOSE_UM / pixel_um)) & ~pen
    return Mask(tissue, pen, white, threshold, pen_share)


def glass_colour(picture: np.ndarray) -> tuple[int, int, int]:
    """The colour of empty glass in a picture (h, w, 3): bright, nearly grey, and in much of it the very same.

    White where no such colour is found. Pure white counts as not scanned where another glass is to be seen.
    """
    step = max(1, int((picture.shape[0] * picture.shape[1] / GLASS_SAMPLES) ** 0.5))
    sampled = picture[::step, ::step].reshape(-1, 3)
    pixels = sampled[sampled.max(axis=1) >= DIMMEST].astype(np.intp)
    counts = _histogram(pixels)
    colours = (np.indices(counts.shape).reshape(3, -1).T + 1) * BIN  # the middle of two bins per channel
    counts = np.where(_plausible(colours), counts.ravel(), 0)
    if counts.max() < LEAST_GLASS * len(sampled):
        return 255, 255, 255
    common = np.flatnonzero(counts >= RIVAL * counts.max())
    glass = common[np.argmax(colours[common].sum(axis=1))]
    tinted = np.where(_rosy(colours) | (colours.min(axis=1) >= PAPER_WHITE - BIN), 0, counts)
    if colours[glass].min() >= PAPER_WHITE and tinted.max() >= LEAST_TINTED * len(pixels):
        glass = np.argmax(tinted)
    return _centre(pixels, colours[glass])


def relative(picture: np.ndarray, white: tuple[int, int, int]) -> np.ndarray:
    """The picture as it would be on white glass, (h, w, 3) uint8."""
    levels = np.arange(256)
    tables = [np.minimum(255, np.rint(levels * 255 / channel)).astype(int) for channel in white]
    return np.asarray(Image.fromarray(picture).point(np.concatenate(tables).tolist()))


def _colour(picture: np.ndarray) -> np.ndarray:
    """Difference of the brightest and the darkest channel after a median, (h, w) uint8."""
    red, green, blue = Image.fromarray(picture).split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    least = ImageChops.darker(ImageChops.darker(red, green), blue)
    return np.asarray(ImageChops.subtract(most, least).filter(ImageFilter.MedianFilter(MEDIAN_PX)))


def _threshold(on_white: np.ndarray, colour: np.ndarray, floor: int) -> int:
    """The colour that glass does not have: the floor, or more where the grain of the glass is coarse."""
    glass = colour[(on_white >= 255 - NEAR).all(axis=2)].astype(float)
    middle = np.median(glass) if len(glass) else 0
    grain = middle + GRAIN * np.median(np.abs(glass - middle)) if len(glass) else 0
    return int(min(max(floor, grain), HIGHEST_THRESHOLD * floor))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Pixels (n, 3) of every colour, counted in cubes of two bins per channel, (63, 63, 63)."""
    bins = pixels // BIN
    n = 256 // BIN
    keys = (bins[:, 0] * n + bins[:, 1]) * n + bins[:, 2]
    counts = np.bincount(keys, minlength=n**3).reshape(n, n, n)
    for axis in range(3):
        moved = np.moveaxis(counts, axis, 0)
        counts = np.moveaxis(moved[:-1] + moved[1:], 0, axis)
    return counts


def _plausible(colours: np.ndarray) -> np.ndarray:
    """Which of the colours (n, 3) glass may have."""
    least, most = colours.min(axis=1), colours.max(axis=1)
    return (most >= DIMMEST) & (least >= np.where(_rosy(colours), ROSY, TINTED) * most)


def _rosy(colours: np.ndarray) -> np.ndarray:
    """Which of the colours (n, 3) a little stain may give."""
    return colours[:, 1] < np.minimum(colours[:, 0], colours[:, 2])


def _centre(pixels: np.ndarray, colour: np.ndarray) -> tuple[int, int, int]:
    """The mean of the pixels (n, 3) about a colour, rounded."""
    near = pixels[(np.abs(pixels - colour) <= 2 * BIN).all(axis=1)]
    red, green, blue = np.rint(near.mean(axis=0)).astype(int)
    return int(red), int(green), int(blue)
