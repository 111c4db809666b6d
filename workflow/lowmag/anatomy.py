"""What is where on a demo slide: tissue, regions, glands and nuclei, laid out at 2 micrometres per pixel.

A growth pattern shows at three scales. The architecture (size and lumina of glands, seen from 0.625x) and the
arrangement of nuclei (from 2.5x) vary by region, and a region follows the growth pattern of its slide only
with the probabilities below; so do single nuclei with their chromatin (from 5x), and nearly all of them
do. The areas of glands, lumina and nuclei have the same distribution in all growth patterns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray

from lowmag.nuclei import SPINDLE, Nuclei

LAYOUT_MPP = 2.0
N_PATTERNS = 3
ACINAR, CRIBRIFORM, TRABECULAR = range(N_PATTERNS)
ARCHITECTURE_FOLLOWS = 0.8
ARRANGEMENT_FOLLOWS = 0.8
CHROMATIN_FOLLOWS = 0.95
REGION_UM = 650.0
GLAND_SPACING_UM = (125.0, 230.0, 125.0)
GLAND_STRETCH = (1.0, 1.0, 2.2)
NUCLEUS_SPACING_UM = 11.5
STROMAL_NUCLEI = 0.13  # share of sites taken
PALISADE_UM = 13.0

Field = NDArray[np.floating]


@dataclass(frozen=True)
class Regions:
    """Patches of tissue of one look; arrays over regions, and the map of which region is where."""

    of: NDArray[np.intp]  # (n, n)
    architecture: NDArray[np.intp]
    arrangement: NDArray[np.intp]
    crowding: Field  # share of nuclear sites taken in glands
    gland: Field  # radius of a gland over the spacing of glands
    lumen: Field  # radius of the lumen over the gland's
    eosin: Field
    basophilia: Field


@dataclass(frozen=True)
class Anatomy:
    """Maps of a slide, (n, n) at LAYOUT_MPP."""

    tissue: Field  # 0..1
    regions: Regions
    depth_um: Field  # below the edge of a gland, 0 in stroma
    lumen: Field  # 0..1
    flow: Field  # fibres of the stroma run along its level lines


@dataclass(frozen=True)
class Gland:
    """One gland; lengths in pixels of the layout, its long axis along `angle`."""

    x: float
    y: float
    radius: float
    angle: float
    stretch: float
    lumina: NDArray[np.float64]  # (k, 3): x, y, radius relative to the gland's radius
    wobble: NDArray[np.float64]  # (2,) phases of the outline


def lay_out(rng: np.random.Generator, n: int, growth: int, *, has_tissue: bool) -> Anatomy:
    """The anatomy of a slide of `n` pixels of the layout, of the growth pattern with index `growth`."""
    tissue = _pieces(rng, n) if has_tissue else np.zeros((n, n), np.float32)
    regions = _regions(rng, n, growth)
    depth, lumen = np.full((n, n), 0, np.float32), np.zeros((n, n), np.float32)
    for gland in _glands(rng, regions, tissue):
        _draw_gland(gland, depth, lumen)
    flow = noise(rng, n, 150 / LAYOUT_MPP) * 7 + noise(rng, n, 40 / LAYOUT_MPP) * 0.8
    return Anatomy(tissue=tissue, regions=regions, depth_um=depth, lumen=lumen, flow=flow)


def noise(rng: np.random.Generator, n: int, period: float) -> Field:
    """Smooth noise of unit variance, about `period` pixels from hill to hill, (n, n)."""
    cells = int(np.ceil(n / period)) + 4
    grid = pyvips.Image.new_from_array(rng.standard_normal((cells, cells)).astype(np.float32))
    start = round(period * 1.5)
    smooth = grid.resize(period, kernel="cubic").crop(start, start, n, n).numpy()
    return smooth / smooth.std()


def _pieces(rng: np.random.Generator, n: int) -> Field:
    """Share of tissue per pixel: two to four irregular pieces that cover 31 to 40 per cent of the slide.

    A slide too small for several has one that covers 60 to 70 per cent, so that it holds whole tiles.
    """
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n
    several = n * LAYOUT_MPP > 2000
    count = int(rng.integers(2, 5)) if several else 1
    turn, height = rng.uniform(0, 2 * np.pi), np.full((n, n), -9, np.float32)
    for i in range(count):
        angle, away = turn + 2 * np.pi * i / count, 0.27 * several
        dx = x - 0.5 - away * np.cos(angle) + rng.normal(0, 0.02)
        dy = y - 0.5 - away * np.sin(angle) + rng.normal(0, 0.02)
        np.maximum(height, 1 - np.hypot(dx, dy) / (0.3 * rng.uniform(0.8, 1.2)), out=height)
    height += 0.09 * noise(rng, n, n / 9) + 0.02 * noise(rng, n, n / 50)
    height[np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < 0.02] = -9
    cover = rng.uniform(0.31, 0.4) if several else rng.uniform(0.6, 0.7)
    level = np.quantile(height[::4, ::4], 1 - cover)
    return np.clip((height - level) * np.float32(0.15 * n) + 0.5, 0, 1)


def _regions(rng: np.random.Generator, n: int, growth: int) -> Regions:
    """Regions about a jittered grid; of their properties only the first two depend on `growth`."""
    across = max(2, round(n * LAYOUT_MPP / REGION_UM))
    step = n / across
    sites = (np.indices((across, across)) + 0.5).reshape(2, -1) * step
    sites += rng.uniform(-0.3, 0.3, sites.shape) * step
    y, x = np.mgrid[0:n:4, 0:n:4].astype(np.float32)
    y, x = (axis + 25 * noise(rng, len(axis), 30) for axis in (y, x))
    of = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in sites.T], axis=0)
    count = sites.shape[1]

    def between(low: float, high: float) -> Field:
        return rng.uniform(low, high, count).astype(np.float32)

    return Regions(
        of=of.repeat(4, 0).repeat(4, 1)[:n, :n],
        architecture=_following(rng, growth, ARCHITECTURE_FOLLOWS, count),
        arrangement=_following(rng, growth, ARRANGEMENT_FOLLOWS, count),
        crowding=between(0.34, 0.54),
        gland=between(0.42, 0.5),
        lumen=between(0.3, 0.5),
        eosin=between(0.8, 1.2),
        basophilia=between(0.6, 1.4),
    )


def _following(rng: np.random.Generator, growth: int, probability: float, count: int) -> NDArray[np.intp]:
    """`growth` with the given probability, one of the others elsewhere."""
    other = (growth + rng.integers(1, N_PATTERNS, count)) % N_PATTERNS
    return np.where(rng.random(count) < probability, growth, other)


def _lattice(
    rng: np.random.Generator, n: int, step: float, stretch: float, angle: float
) -> NDArray[np.float64]:
    """Sites (x, y) of a jittered hexagonal lattice stretched along `angle`, inside (n, n)."""
    reach = int(n / step * np.sqrt(stretch)) + 2
    i, j = np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach))
    u = (i + 0.5 * (j % 2)).ravel() + rng.uniform(-0.15, 0.15, i.size)
    v = (j * np.sqrt(3) / 2).ravel() + rng.uniform(-0.15, 0.15, i.size)
    u, v = u * step * np.sqrt(stretch), v * step / np.sqrt(stretch)
    x = n / 2 + u * np.cos(angle) - v * np.sin(angle)
    y = n / 2 + u * np.sin(angle) + v * np.cos(angle)
    inside = (x >= 0) & (y >= 0) & (x < n) & (y < n)
    return np.stack([x[inside], y[inside]], axis=1)


def _glands(rng: np.random.Generator, regions: Regions, tissue: Field) -> Iterator[Gland]:
    """The glands of every region, in its own architecture."""
    for architecture in range(N_PATTERNS):
        step, stretch = GLAND_SPACING_UM[architecture] / LAYOUT_MPP, GLAND_STRETCH[architecture]
        angle = rng.uniform(0, np.pi)
        sites = _lattice(rng, len(tissue), step, stretch, angle)
        column, row = sites.astype(np.intp).T
        region = regions.of[row, column]
        here = (regions.architecture[region] == architecture) & (tissue[row, column] > 0.5)
        for (x, y), look in zip(sites[here], region[here], strict=True):
            yield Gland(
                x=x,
                y=y,
                radius=float(regions.gland[look]) * step * rng.uniform(0.9, 1.1),
                angle=angle + rng.normal(0, 0.2),
                stretch=stretch,
                lumina=_lumina(rng, float(regions.lumen[look]), architecture),
                wobble=rng.uniform(0, 2 * np.pi, 2),
            )


def _lumina(rng: np.random.Generator, radius: float, architecture: int) -> NDArray[np.float64]:
    """One lumen, or seven small ones of the same total area: (k, 3) of x, y, radius."""
    if architecture != CRIBRIFORM:
        return np.array([[0, 0, radius * rng.uniform(0.85, 1.15)]])
    turn = rng.uniform(0, 2 * np.pi) + np.arange(6) * np.pi / 3
    ring = np.stack([0.58 * np.cos(turn), 0.58 * np.sin(turn)], axis=1)
    sizes = radius / np.sqrt(7) * rng.uniform(0.85, 1.15, 7)
    return np.column_stack([np.vstack([[0, 0], ring]), sizes])


def _draw_gland(gland: Gland, depth_um: Field, lumen: Field) -> None:
    """Add one gland to the maps."""
    reach = int(gland.radius * np.sqrt(gland.stretch) * 1.15) + 2
    left, top = max(int(gland.x) - reach, 0), max(int(gland.y) - reach, 0)
    window = np.s_[top : int(gland.y) + reach, left : int(gland.x) + reach]
    h, w = depth_um[window].shape
    dx = (np.arange(left, left + w, dtype=np.float32) - np.float32(gland.x))[None, :]
    dy = (np.arange(top, top + h, dtype=np.float32) - np.float32(gland.y))[:, None]
    squeeze = np.float32(np.sqrt(gland.stretch))
    u = (dx * np.float32(np.cos(gland.angle)) + dy * np.float32(np.sin(gland.angle))) / squeeze
    v = (dy * np.float32(np.cos(gland.angle)) - dx * np.float32(np.sin(gland.angle))) * squeeze
    theta = np.arctan2(v, u)
    outline = 1 + 0.05 * np.cos(2 * theta + gland.wobble[0]) + 0.04 * np.cos(3 * theta + gland.wobble[1])
    depth = (gland.radius * outline - np.hypot(u, v)) * LAYOUT_MPP
    np.maximum(depth_um[window], depth, out=depth_um[window])
    for x, y, radius in gland.lumina * gland.radius:
        hole = np.clip(radius - np.hypot(u - x, v - y) + 0.5, 0, 1)
        np.maximum(lumen[window], hole, out=lumen[window])


def place_nuclei(rng: np.random.Generator, anatomy: Anatomy, growth: int) -> Nuclei:
    """The nuclei of a slide, as many per area of gland whatever their arrangement.

    Arrangements: palisade below the edge of the gland, scattered, or in clumps.
    """
    n, regions = len(anatomy.tissue), anatomy.regions
    sites = _lattice(rng, n, NUCLEUS_SPACING_UM / LAYOUT_MPP, 1.0, 0.0)
    column, row = sites.astype(np.intp).T
    fits = (anatomy.tissue[row, column] > 0.5) & (anatomy.lumen[row, column] < 0.1)
    sites, row, column = sites[fits], row[fits], column[fits]
    region, depth_um = regions.of[row, column], anatomy.depth_um[row, column]
    clumps = noise(rng, n, 40 / LAYOUT_MPP)[row, column] > 0.1
    weights = [np.where(depth_um < PALISADE_UM, 1.0, 0.08), np.ones(len(sites)), np.where(clumps, 1.0, 0.05)]
    in_gland = depth_um > 0
    weight = np.choose(regions.arrangement[region], weights) * in_gland
    chance = _scaled(weight, region, regions.crowding, in_gland)
    taken = rng.random(len(sites)) < np.where(in_gland, chance, STROMAL_NUCLEI)
    sites, row, column, in_gland = sites[taken], row[taken], column[taken], in_gland[taken]
    slope_y, slope_x = (np.gradient(anatomy.flow[::4, ::4], axis=axis) for axis in (0, 1))
    along_fibres = np.arctan2(slope_x[row // 4, column // 4], -slope_y[row // 4, column // 4])
    return Nuclei(
        x_um=sites[:, 0] * LAYOUT_MPP,
        y_um=sites[:, 1] * LAYOUT_MPP,
        kind=np.where(in_gland, _following(rng, growth, CHROMATIN_FOLLOWS, len(sites)), SPINDLE),
        is_long=rng.random(len(sites)) < 0.3,
        angle=np.where(in_gland, rng.uniform(0, np.pi, len(sites)), along_fibres),
    )


def _scaled(weight, region, target, in_gland):
    """Probabilities proportional to `weight` whose mean over the gland sites of each region is `target`."""
    sites = np.maximum(np.bincount(region, in_gland, len(target)), 1)
    chance = weight
    for _ in range(6):
        mean = np.maximum(np.bincount(region, chance, len(target)) / sites, 1e-6)
        chance = np.minimum(chance * (target / mean)[region], 1)
    return chance
