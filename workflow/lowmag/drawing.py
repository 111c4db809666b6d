"""Pictures of the demo slides: stain layers from the anatomy, nuclei on top, colours of a staining batch."""

import logging

import numpy as np
import pyvips
from numpy.typing import NDArray

from lowmag import nuclei
from lowmag.anatomy import LAYOUT_MPP, Anatomy, lay_out, noise, place_nuclei
from lowmag.demo import GROWTH_PATTERNS, TRUTH_MPP, DemoSlide

HAEMATOXYLIN = (0.66, 0.71, 0.33)  # optical density of red, green, blue per unit of stain
EOSIN = (0.10, 0.84, 0.42)
FULL_DENSITY = 2.0  # stain at grey level 255 of a layer
BATCH_HUE, BATCH_STRENGTH = 0.05, 0.12  # relative spread between slides
INKS = ((30, 60, 170), (20, 120, 70))

logging.getLogger("pyvips").setLevel(logging.WARNING)  # it reports every worker at INFO

Layer = NDArray[np.uint8]


def draw(slide: DemoSlide, size_um: float) -> tuple[pyvips.Image, pyvips.Image]:
    """The picture of a slide at its mpp, and the mask of its tissue at TRUTH_MPP (255 inside)."""
    rng = np.random.default_rng(slide.seed)
    n = round(size_um / slide.mpp)
    block = round(TRUTH_MPP / LAYOUT_MPP)
    layout = int(np.ceil(size_um / TRUTH_MPP)) * block
    growth = GROWTH_PATTERNS.index(slide.growth)
    anatomy = lay_out(rng, layout, growth, has_tissue=slide.has_tissue)
    haematoxylin, eosin = (_enlarged(layer, slide.mpp, n) for layer in _layers(rng, anatomy))
    nuclei.stamp(haematoxylin, place_nuclei(rng, anatomy, growth), slide.mpp, rng)
    picture = _stained(rng, haematoxylin, eosin)
    if slide.has_ink:
        picture = _inked(rng, picture, slide.mpp)
    picture = _photographed(rng, picture, slide.mpp)
    share = anatomy.tissue.reshape(layout // block, block, -1, block).mean((1, 3))
    return picture, pyvips.Image.new_from_array((share > 0.5) * np.uint8(255))


def _layers(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Layer, Layer]:
    """Haematoxylin without nuclei, and eosin, at LAYOUT_MPP."""
    regions, n = anatomy.regions, len(anatomy.tissue)
    gland = np.clip(anatomy.depth_um / 3, 0, 1)
    fibres = 54 + 18 * np.sin(anatomy.flow * 3)
    cloud = 1 + 0.12 * noise(rng, n, 60 / LAYOUT_MPP)
    eosin = (50 * gland + fibres * (1 - gland)) * cloud * regions.eosin[regions.of]
    haematoxylin = (20 * gland + 5 * (1 - gland)) * regions.basophilia[regions.of]
    stained = (1 - anatomy.lumen) * anatomy.tissue
    return _as_layer(haematoxylin * stained), _as_layer(eosin * stained)


def _as_layer(stain: NDArray[np.floating]) -> Layer:
    return stain.clip(0, 255).astype(np.uint8)


def _enlarged(layer: Layer, mpp: float, n: int) -> Layer:
    """A layer at LAYOUT_MPP as one of the slide, (n, n)."""
    image = pyvips.Image.new_from_array(layer).resize(LAYOUT_MPP / mpp, kernel="linear")
    return np.array(image.gravity("north-west", n, n, extend="copy").numpy())


def _stained(rng: np.random.Generator, haematoxylin: Layer, eosin: Layer) -> pyvips.Image:
    """The picture of two stain layers (Beer-Lambert), in the stains of one batch."""
    vectors = np.array([HAEMATOXYLIN, EOSIN]) * rng.normal(1, BATCH_HUE, (2, 3))
    vectors *= np.exp(rng.normal(0, BATCH_STRENGTH, (2, 1)))
    stain = np.arange(256)[:, None] / 255 * FULL_DENSITY
    density = (stain * vectors[0])[:, None] + (stain * vectors[1])[None, :]  # (256, 256, 3)
    light = np.array([243, 241, 243]) + rng.normal(0, 2.5, 3)
    colours = np.rint(light * np.exp(-density)).clip(0, 255).astype(np.uint8).reshape(-1, 3)
    pairs = haematoxylin.astype(np.uint16) << 8 | eosin
    return pyvips.Image.new_from_array(np.take(colours, pairs, axis=0))


def _inked(rng: np.random.Generator, picture: pyvips.Image, mpp: float) -> pyvips.Image:
    """The picture under two strokes of blue or green ink that cross the slide."""
    coarse = int(np.ceil(picture.width * mpp / TRUTH_MPP))
    y, x = np.mgrid[0:coarse, 0:coarse].astype(np.float32) / coarse
    cover = np.zeros((coarse, coarse), np.float32)
    for place in (rng.uniform(0.2, 0.45), rng.uniform(0.55, 0.8)):
        path = place + rng.normal(0, 0.2) * (x - 0.5) + 0.03 * np.sin(9 * x + rng.uniform(0, 7))
        away_um = np.abs(y - path) * coarse * TRUTH_MPP
        stroke = np.clip((rng.uniform(45, 70) - away_um) / 12, 0, 1) * ((x > 0.08) & (x < 0.85))
        np.maximum(cover, stroke, out=cover)
    opacity = pyvips.Image.new_from_array(0.82 * cover).resize(TRUTH_MPP / mpp, kernel="linear")
    opacity = opacity.gravity("north-west", picture.width, picture.height, extend="copy")
    return picture * (1 - opacity) + opacity * list(INKS[rng.integers(len(INKS))])


def _photographed(rng: np.random.Generator, picture: pyvips.Image, mpp: float) -> pyvips.Image:
    """The picture a little out of focus and with the grain of a camera, 8 bit RGB."""
    grain = pyvips.Image.new_from_array(rng.normal(0.5, 2.5, (256, 256, 3)).astype(np.float32))
    times = picture.width // grain.width + 1
    grain = grain.replicate(times, times).crop(0, 0, picture.width, picture.height)
    # The integer blur of vips is off by up to four grey levels, and by how many depends on the width.
    focused = picture.gaussblur(rng.uniform(0.45, 0.7) / mpp, min_ampl=0.05, precision="float")
    return (focused + grain).cast("uchar").copy(interpretation="srgb")
