"""Procedural tissue of the demo slides: pieces, regions, glands, stroma, nuclei and stain.

A growth pattern shows at three scales. Architecture (gland size and lumina, from 0.625x) and the arrangement of
nuclei (from 2.5x) vary by region, and a region follows the slide's growth pattern only with the probability below;
chromatin (from 5x) always follows it. Area of epithelium, of lumina and of nuclei have the same distribution in all
three, and stain varies by slide, so that mean colour says nothing of the growth pattern.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray

from lowmag import nuclei
from lowmag.demo import GROWTH_PATTERNS, TRUTH_MPP, DemoSlide

MIDDLE_MPP = 2.0  # glands and stroma are composed at this scale
ARCHITECTURE_FOLLOWS = 0.6
ARRANGEMENT_FOLLOWS = 0.8
CHROMATIN_FOLLOWS = 0.9
REGION_UM = 650.0
NUCLEUS_SPACING_UM = 11.5
ACINAR, CRIBRIFORM, TRABECULAR = range(3)
GLAND_SPACING_UM = (125.0, 230.0, 125.0)
FULL_OPTICAL_DENSITY = 2.0  # of grey level 255 in a stain layer

logging.getLogger("pyvips").setLevel(logging.WARNING)  # it reports every worker at INFO

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Regions:
    """Patches of tissue of one look; arrays over regions, and their map at MIDDLE_MPP."""

    of: NDArray[np.intp]  # (h, w)
    architecture: NDArray[np.intp]
    arrangement: NDArray[np.intp]
    crowding: Field  # share of nuclear sites taken in epithelium
    lumen: Field  # diameter of the lumen over the gland's
    spacing: Field  # relative spacing of glands
    eosin: Field
    basophilia: Field

    def look(self, name: str) -> Field:
        """An array over regions as a map."""
        return getattr(self, name)[self.of]


def draw(slide: DemoSlide, size_um: float) -> tuple[pyvips.Image, pyvips.Image]:
    """The picture of a slide at its mpp, and the mask of its tissue at TRUTH_MPP (255 inside)."""
    rng = np.random.default_rng(slide.seed)
    n = round(size_um / slide.mpp)
    middle = -(-int(size_um) // int(TRUTH_MPP)) * int(TRUTH_MPP / MIDDLE_MPP)
    tissue = _tissue(rng, middle, has_tissue=slide.has_tissue)
    eosin, haematoxylin, found = _layers(rng, slide, tissue)
    scale = MIDDLE_MPP / slide.mpp
    eosin, haematoxylin = _enlarged(eosin, scale, n), _enlarged(haematoxylin, scale, n)
    nuclei.stamp(haematoxylin, found, slide.mpp, rng.normal(120, 8), rng)
    picture = _stained(rng, haematoxylin, eosin)
    if slide.has_ink:
        picture = _inked(rng, picture, size_um, slide.mpp)
    picture = picture.gaussblur(rng.uniform(0.45, 0.7) / slide.mpp, min_ampl=0.05)
    grain = pyvips.Image.new_from_array(rng.normal(0, 2.5, (256, 256, 3)).astype(np.float32))
    picture = (picture + grain.replicate(n // 256 + 1, n // 256 + 1).crop(0, 0, n, n)).cast("uchar")
    block = round(TRUTH_MPP / MIDDLE_MPP)
    truth = (tissue.reshape(middle // block, block, -1, block).mean((1, 3)) > 0.5) * np.uint8(255)
    return picture.copy(interpretation="srgb"), pyvips.Image.new_from_array(truth)


def _noise(rng: np.random.Generator, n: int, period: float) -> Field:
    """Smooth noise of unit variance, about `period` pixels from hill to hill, (n, n)."""
    cells = int(np.ceil(n / period)) + 4
    grid = pyvips.Image.new_from_array(rng.standard_normal((cells, cells)).astype(np.float32))
    start = round(period * 1.5)
    wide = grid.resize(period, kernel="cubic").crop(start, start, n, n).numpy()
    return wide / max(float(wide.std()), 1e-6)


def _tissue(rng: np.random.Generator, n: int, *, has_tissue: bool) -> NDArray[np.bool_]:
    """Mask of two to four irregular pieces that cover 30 to 40 per cent, at MIDDLE_MPP."""
    if not has_tissue:
        return np.zeros((n, n), bool)
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n
    count = int(rng.integers(2, 5)) if n * MIDDLE_MPP > 2000 else 1
    turn, height = rng.uniform(0, 2 * np.pi), np.full((n, n), -9, np.float32)
    for i in range(count):
        angle = turn + 2 * np.pi * i / count
        away = 0.27 * (count > 1)
        radius = rng.uniform(0.8, 1.2)
        dx = x - 0.5 - away * np.cos(angle) + rng.normal(0, 0.02)
        dy = y - 0.5 - away * np.sin(angle) + rng.normal(0, 0.02)
        np.maximum(height, 1 - np.hypot(dx, dy) / (0.3 * radius), out=height)
    height += 0.09 * _noise(rng, n, n / 9) + 0.02 * _noise(rng, n, n / 50)
    margin = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    height[margin < 0.02] = -9
    return height > np.quantile(height, 1 - rng.uniform(0.31, 0.4))


def _regions(rng: np.random.Generator, n: int, growth: int) -> Regions:
    """Regions on a jittered grid, each with its own look; only two of their parts depend on `growth`."""
    step = REGION_UM / MIDDLE_MPP
    across = max(2, round(n / step))
    centre = (np.arange(across) + 0.5) * n / across
    cy, cx = np.meshgrid(centre, centre, indexing="ij")
    cy, cx = (c.ravel() + rng.uniform(-0.3, 0.3, c.size) * step for c in (cy, cx))
    y, x = np.mgrid[0:n:4, 0:n:4].astype(np.float32)
    bend = 50 / MIDDLE_MPP
    y, x = y + bend * _noise(rng, len(y), 30), x + bend * _noise(rng, len(x), 30)
    nearest = np.argmin(np.stack([(x - a) ** 2 + (y - b) ** 2 for a, b in zip(cx, cy, strict=True)]), axis=0)
    of = nearest.repeat(4, 0).repeat(4, 1)[:n, :n]
    count = across * across
    return Regions(
        of=of,
        architecture=_following(rng, growth, ARCHITECTURE_FOLLOWS, count),
        arrangement=_following(rng, growth, ARRANGEMENT_FOLLOWS, count),
        crowding=rng.uniform(0.32, 0.52, count).astype(np.float32),
        lumen=rng.uniform(0.3, 0.5, count).astype(np.float32),
        spacing=np.exp(rng.normal(0, 0.15, count)).astype(np.float32),
        eosin=rng.uniform(0.8, 1.2, count).astype(np.float32),
        basophilia=rng.uniform(0.6, 1.4, count).astype(np.float32),
    )


def _following(rng: np.random.Generator, growth: int, probability: float, count: int) -> NDArray[np.intp]:
    """`growth` with the given probability, one of the others elsewhere."""
    other = (growth + rng.integers(1, len(GROWTH_PATTERNS), count)) % len(GROWTH_PATTERNS)
    return np.where(rng.random(count) < probability, growth, other)


def _layers(rng: np.random.Generator, slide: DemoSlide, tissue: NDArray[np.bool_]):
    """Eosin and haematoxylin (without nuclei) at MIDDLE_MPP, 0..255, and the nuclei to stamp."""
    n, growth = len(tissue), GROWTH_PATTERNS.index(slide.growth)
    regions = _regions(rng, n, growth)
    depth, lumen = _glands(rng, regions, tissue)
    epithelium = (depth > 0).astype(np.float32)
    potential = _noise(rng, n, 150 / MIDDLE_MPP) * 7 + _noise(rng, n, 40 / MIDDLE_MPP) * 0.8
    fibres = 0.5 + 0.5 * np.sin(potential * 3)
    cloud = 1 + 0.12 * _noise(rng, n, 60 / MIDDLE_MPP)
    stroma = 38 + 34 * fibres
    eosin = np.where(epithelium > 0, 50.0, stroma) * cloud * regions.look("eosin")
    haematoxylin = np.where(epithelium > 0, 20.0, 5.0) * regions.look("basophilia")
    clear = (1 - lumen) * tissue
    found = _nuclei(rng, regions, (depth, lumen, potential), tissue, growth)
    return (eosin * clear).clip(0, 255), (haematoxylin * clear).clip(0, 255), found


def _glands(rng: np.random.Generator, regions: Regions, tissue: NDArray[np.bool_]) -> tuple[Field, Field]:
    """Depth below the edge of the gland (micrometres, 0 outside) and lumen (0..1), at MIDDLE_MPP."""
    n = len(tissue)
    depth, lumen = np.zeros((n, n), np.float32), np.zeros((n, n), np.float32)
    for architecture, spacing_um in enumerate(GLAND_SPACING_UM):
        stretch = 2.2 if architecture == TRABECULAR else 1.0
        step = spacing_um / MIDDLE_MPP
        angle = rng.uniform(0, np.pi)
        for x, y in _lattice(rng, n, step, stretch, angle):
            region = regions.of[int(y), int(x)]
            if regions.architecture[region] != architecture or not tissue[int(y), int(x)]:
                continue
            radius = 0.47 * step * np.exp(rng.normal(0, 0.08))
            _gland(
                rng,
                (depth, lumen),
                (x, y),
                radius,
                architecture,
                angle + rng.normal(0, 0.15),
                stretch,
                regions.lumen[region],
            )
    return depth, lumen


def _lattice(
    rng: np.random.Generator, n: int, step: float, stretch: float, angle: float
) -> NDArray[np.float64]:
    """Sites (x, y) of a jittered hexagonal lattice stretched along `angle`, inside (n, n)."""
    reach = int(n / step) + 2
    i, j = np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach))
    u = (i + 0.5 * (j % 2)).ravel() + rng.uniform(-0.12, 0.12, i.size)
    v = (j * np.sqrt(3) / 2).ravel() + rng.uniform(-0.12, 0.12, i.size)
    u, v = u * step * np.sqrt(stretch), v * step / np.sqrt(stretch)
    x = n / 2 + u * np.cos(angle) - v * np.sin(angle)
    y = n / 2 + u * np.sin(angle) + v * np.cos(angle)
    inside = (x >= 0) & (y >= 0) & (x < n) & (y < n)
    return np.stack([x[inside], y[inside]], axis=1)


def _gland(rng, layers, centre, radius, architecture, angle, stretch, lumen_ratio) -> None:
    """Draw one gland into the depth and lumen maps."""
    depth, lumen = layers
    reach = int(radius * np.sqrt(stretch) * 1.3) + 2
    left, top = max(int(centre[0]) - reach, 0), max(int(centre[1]) - reach, 0)
    window = np.s_[top : int(centre[1]) + reach, left : int(centre[0]) + reach]
    h, w = depth[window].shape
    dx = np.arange(left, left + w, dtype=np.float32)[None, :] - np.float32(centre[0])
    dy = np.arange(top, top + h, dtype=np.float32)[:, None] - np.float32(centre[1])
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / np.float32(np.sqrt(stretch))
    v = (dy * np.cos(angle) - dx * np.sin(angle)) * np.float32(np.sqrt(stretch))
    theta = np.arctan2(v, u)
    edge = radius * (
        1 + 0.05 * np.cos(2 * theta + rng.uniform(0, 7)) + 0.04 * np.cos(3 * theta + rng.uniform(0, 7))
    )
    distance = np.sqrt(u * u + v * v)
    np.maximum(depth[window], (edge - distance) * MIDDLE_MPP, out=depth[window])
    holes = [(0.0, 0.0, lumen_ratio * radius)]
    if architecture == CRIBRIFORM:
        turn = rng.uniform(0, 7)
        small = lumen_ratio * radius / np.sqrt(7)
        holes = [(0.0, 0.0, small)] + [
            (0.58 * radius * np.cos(turn + a), 0.58 * radius * np.sin(turn + a), small)
            for a in np.arange(6) * np.pi / 3
        ]
    for x, y, r in holes:
        hole = np.clip(r * rng.uniform(0.85, 1.15) - np.hypot(u - x, v - y) + 0.5, 0, 1)
        np.maximum(lumen[window], hole, out=lumen[window])


def _nuclei(rng, regions: Regions, maps, tissue, growth: int) -> nuclei.Nuclei:
    """Nuclei on a jittered lattice: as many per area of epithelium in every arrangement."""
    depth, lumen, potential = maps
    sites = _lattice(rng, len(tissue), NUCLEUS_SPACING_UM / MIDDLE_MPP, 1.0, 0.0)
    x, y = sites.T
    row, column = y.astype(np.intp), x.astype(np.intp)
    keep = tissue[row, column] & (lumen[row, column] < 0.1)
    x, y, row, column = x[keep], y[keep], row[keep], column[keep]
    region, below = regions.of[row, column], depth[row, column]
    in_gland = below > 0
    clump = _noise(rng, len(tissue), 40 / MIDDLE_MPP)[row, column]
    weights = np.stack(
        [np.where(below < 13, 1.0, 0.08), np.ones_like(below), np.where(clump > 0.1, 1.0, 0.05)]
    )
    arrangement = regions.arrangement[region]
    weight = np.where(in_gland, weights[arrangement, np.arange(arrangement.size)], 0)
    chance = _scaled(weight, region, regions.crowding, in_gland)
    taken = rng.random(chance.size) < np.where(in_gland, chance, 0.13)
    x, y, row, column, in_gland = x[taken], y[taken], row[taken], column[taken], in_gland[taken]
    slope_y, slope_x = np.gradient(potential[::4, ::4])
    along = np.arctan2(slope_x[row // 4, column // 4], -slope_y[row // 4, column // 4])
    kind = np.where(in_gland, _following(rng, growth, CHROMATIN_FOLLOWS, x.size), nuclei.SPINDLE)
    return nuclei.Nuclei(
        x_um=(x * MIDDLE_MPP).astype(np.float32),
        y_um=(y * MIDDLE_MPP).astype(np.float32),
        kind=kind,
        is_long=rng.random(x.size) < 0.3,
        angle=np.where(in_gland, rng.uniform(0, np.pi, x.size), along).astype(np.float32),
    )


def _scaled(weight, region, target, in_gland):
    """Probabilities proportional to `weight` whose mean over the gland sites of every region is `target`."""
    sites = np.maximum(np.bincount(region, in_gland, len(target)), 1)
    chance = weight
    for _ in range(6):
        mean = np.maximum(np.bincount(region, chance * in_gland, len(target)) / sites, 1e-6)
        chance = np.minimum(chance * (target / mean)[region], 1)
    return chance


def _enlarged(layer, scale: float, n: int) -> NDArray[np.uint8]:
    """A map at MIDDLE_MPP as a stain layer of the slide, (n, n)."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(layer.astype(np.uint8)))
    return np.array(image.resize(scale, kernel="linear").gravity("north-west", n, n, extend="copy").numpy())


def _stained(rng: np.random.Generator, haematoxylin, eosin) -> pyvips.Image:
    """The picture that the two stain layers make, in the stain of this slide."""
    vectors = np.array([[0.66, 0.71, 0.33], [0.10, 0.84, 0.42]]) * rng.normal(1, 0.06, (2, 3))
    strength = np.exp(rng.normal(0, 0.14, 2))
    levels = np.arange(256) / 255 * FULL_OPTICAL_DENSITY
    density = (levels[:, None, None] * vectors[0] * strength[0]) + (
        levels[None, :, None] * vectors[1] * strength[1]
    )
    light = np.array([243, 241, 243]) + rng.normal(0, 2.5, 3)
    table = np.rint(light * np.exp(-density)).clip(0, 255).astype(np.uint8).reshape(-1, 3)
    index = haematoxylin.astype(np.uint16) << 8
    index |= eosin
    return pyvips.Image.new_from_array(np.take(table, index, axis=0))


def _inked(rng: np.random.Generator, picture, size_um: float, mpp: float) -> pyvips.Image:
    """The picture under strokes of blue or green ink, partly over tissue."""
    coarse = round(size_um / TRUTH_MPP)
    y, x = np.mgrid[0:coarse, 0:coarse].astype(np.float32) / coarse
    ink = np.array([[30, 60, 170], [20, 120, 70]])[rng.integers(2)]
    cover = np.zeros((coarse, coarse), np.float32)
    for _ in range(2):
        place, slope, phase = rng.uniform(0.2, 0.8), rng.normal(0, 0.3), rng.uniform(0, 7)
        path = place + slope * (x - 0.5) + 0.03 * np.sin(9 * x + phase)
        width_um = rng.uniform(45, 70)
        stroke = np.clip((width_um - np.abs(y - path) * size_um) / 12, 0, 1) * ((x > 0.08) & (x < 0.85))
        np.maximum(cover, stroke, out=cover)
    opacity = pyvips.Image.new_from_array((cover * 0.82).astype(np.float32))
    opacity = opacity.resize(TRUTH_MPP / mpp, kernel="linear").gravity(
        "north-west", picture.width, picture.height, extend="copy"
    )
    return (picture * (1 - opacity) + opacity * ink.tolist()).cast("uchar")
