"""Drawn H&E whose outline is known, at 8 micrometres per pixel, and what befalls pictures of slides."""

import io
from functools import cache

import numpy as np
from lowmag.demo import TRUTH_MPP, DemoSlide
from PIL import Image, ImageDraw, ImageFilter

PIXEL_UM = TRUTH_MPP
GLASS = 243
INKS = {"red": (205, 15, 20), "green": (20, 120, 80), "blue": (40, 70, 180), "black": (28, 28, 30)}


@cache
def drawn_tissue(seed: int = 5, size_um: float = 2304) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3) uint8 of drawn H&E on glass and where its tissue is, (h, w) booleans."""
    from lowmag import drawing

    slide = DemoSlide("T", "P", "acinar", "", "acinar", 2.0, seed)
    picture, truth = drawing.draw(slide, size_um)
    pixels = np.asarray(Image.fromarray(picture.numpy()).reduce(round(PIXEL_UM / slide.mpp)))
    pixels.setflags(write=False)
    return pixels, truth.numpy() > 0


def tinted(picture: np.ndarray, glass: tuple[int, int, int]) -> np.ndarray:
    """The picture under a lamp or a sensor that gives glass the colour `glass`."""
    return (picture * (np.array(glass) / GLASS)).clip(0, 255).astype(np.uint8)


def paled(picture: np.ndarray, contrast: float) -> np.ndarray:
    """The picture with its contrast to glass reduced."""
    return (GLASS - contrast * (GLASS - picture.astype(float))).clip(0, 255).astype(np.uint8)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def framed(picture: np.ndarray, width_px: int = 6) -> np.ndarray:
    """The picture with the dark rim of a slide or a coverslip on all sides, its edge soft."""
    image = Image.fromarray(picture)
    h, w = picture.shape[:2]
    ImageDraw.Draw(image).rectangle((0, 0, w - 1, h - 1), outline=(22, 18, 24), width=width_px)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1)))


def dotted(picture: np.ndarray, pitch_px: int = 25) -> np.ndarray:
    """The picture with a grid of dark blue dots of 16 micrometres, as some slides are printed with."""
    picture = picture.copy()
    for row in (0, 1):
        for column in (0, 1):
            picture[10 + row :: pitch_px, 10 + column :: pitch_px] = (40, 60, 110)
    return picture


def penned(
    picture: np.ndarray, ink: tuple[int, int, int], opacity: float = 0.85, width_px: int = 18
) -> tuple[np.ndarray, np.ndarray]:
    """The picture under a stroke of a pen, and how much of the ink is on every pixel, (h, w) 0-1."""
    h, w = picture.shape[:2]
    stroke = Image.new("L", (w, h))
    ends = (5, 0.3 * h, 0.5 * w, 0.45 * h, w - 5, 0.75 * h)
    ImageDraw.Draw(stroke).line(ends, fill=255, width=width_px, joint="curve")
    cover = np.asarray(stroke.filter(ImageFilter.GaussianBlur(1.5)), float) / 255
    share = opacity * cover[:, :, None]
    return np.rint(picture * (1 - share) + np.array(ink) * share).astype(np.uint8), cover
