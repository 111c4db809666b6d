"""Marks of a pen on the slide: colours that no mixture of haematoxylin and eosin has, in broad strokes."""

import numpy as np

from lowmag.morphology import closed, grown, opened

# Optical densities are in hundredths: 8-bit tables and 16-bit arithmetic.
DENSITY = np.rint(-100 * np.log10((np.arange(256) + 1) / 256)).astype(np.int16)
COLD_LEAST, PALE_LEAST = 35, 20  # of red light: blue and green ink on glass of unknown, and of known colour
WARM_LEAST, BLACK_LEAST = 60, 55  # of green light: red ink; of every light: black ink
NARROWEST_UM = 24.0  # less is no stroke but a grain, a margin's ink, or a fringe of colour
COLD_REACH_UM, WARM_REACH_UM = 1000.0, 500.0  # how far from ink in full colours that suit it are ink as well
RIM_UM = 80.0  # how far the faintest ink reaches from a stroke
GAP_UM = 40.0  # within a stroke, where what is under it hides its colour
SPREAD_UM = 8.0  # the rim that cannot be told from tissue any more


def pen_mask(picture: np.ndarray, cold_least: int = COLD_LEAST) -> np.ndarray:
    """Pixels (h, w) of a picture (h, w, 3) uint8 on white whose colour is that of ink.

    Both stains absorb green most (Ruifrok and Johnston 2001: optical densities of red, green and blue light
    0.65, 0.70, 0.29 and 0.07, 0.99, 0.11). Ink that takes more red than green is blue or green. Ink that
    takes nearly as much blue as green is red; blood does so too, but takes more red. Ink that takes much of
    all three is black.
    """
    red, green, blue = np.moveaxis(DENSITY[picture], 2, 0)
    cold = (20 * red > 21 * green + 80) & (red > cold_least)
    warm = (green > WARM_LEAST) & (5 * blue > 4 * green) & (6 * red < green)
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return cold | warm | (least > BLACK_LEAST) & (10 * least > 7 * most)


def pen_strokes(picture: np.ndarray, pixel_um: float) -> np.ndarray:
    """Pixels (h, w) under strokes of a pen, with their rims; pixels are `pixel_um` micrometres wide.

    Glass is to be white in the picture.
    """
    seeds = opened(pen_mask(picture, PALE_LEAST), round(NARROWEST_UM / 2 / pixel_um))
    if not seeds.any():
        return seeds
    cold, warm, pale = _faint(picture)
    cold &= grown(seeds, round(COLD_REACH_UM / pixel_um))
    warm &= grown(seeds, round(WARM_REACH_UM / pixel_um))
    strokes = opened(seeds | cold | warm, round(NARROWEST_UM / 2 / pixel_um))
    strokes |= pale & grown(strokes, round(RIM_UM / pixel_um))
    strokes = closed(strokes, round(GAP_UM / 2 / pixel_um))
    return grown(strokes, round(SPREAD_UM / pixel_um))


def _faint(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels coloured as by thin blue or green ink, as by red ink or any over tissue, as by the faintest ink.

    Tissue may have the second and third colours as well, so they count near ink in full only.
    """
    red, green, blue = np.moveaxis(DENSITY[picture], 2, 0)
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    warm = (green > 8) & (10 * blue > 7 * green) & (5 * red < 2 * green)
    warm |= (most > 15) & (10 * least > 7 * most)
    return 20 * red > 21 * green + 80, warm, (red > green) & (red > 2)
