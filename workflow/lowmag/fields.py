"""Which fields of a slide become tiles: those of its grid with enough tissue, or those of another program."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely

from lowmag.coverage import covered_shares
from lowmag.errors import UserError
from lowmag.grid import Field, fields_with_tissue, make_grid
from lowmag.magnification import factor_between, mpp_of
from lowmag.reader import Slide
from lowmag.record import SlideRecord
from lowmag.sections import Tiles
from lowmag.tile_attributes import coords_attributes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """What is cut out of a slide: N fields, and the size (width, height) of each in the teacher's pixels.

    `ratio` is the number of level-0 pixels along x and y of one of these. The attributes go into the file.
    """

    fields: Sequence[Field]
    sizes: Sequence[tuple[int, int]]
    ratio: tuple[float, float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    coords_attributes: Mapping[str, Any] = field(default_factory=dict)

    def boxes(self) -> np.ndarray:
        """Level-0 x0, y0, x1, y1 of every field, (N, 4) float64."""
        corners = np.array([(place.x, place.y) for place in self.fields], float).reshape(-1, 2)
        return np.hstack([corners, corners + np.array(self.sizes, float).reshape(-1, 2) * self.ratio])


class Coords(Protocol):
    """Places of another program's tiles; see lowmag.exchange."""

    @property
    def xy(self) -> np.ndarray: ...
    @property
    def field_px(self) -> float: ...
    @property
    def source(self) -> str: ...


def tile_cut(
    source: Slide, slide: SlideRecord, tissue: shapely.Geometry, options: Tiles, coords: Path | None = None
) -> Cut:
    """The tiles of a slide: on its own grid, or where a file of coordinates says.

    Raises UserError where `tiles.field_um` or the fields of the file do not fit.
    """
    if problem := options.field_problem():
        whole = largest_factor(options) * mpp_of(options.teacher)
        raise UserError(f"{problem}; take a multiple of {whole:g} micrometres, or other tiles.students")
    edge = options.tile_px(options.teacher)
    extent = source.extent(edge, mpp_of(options.teacher), options.mpp_tolerance)
    attributes: dict[str, Any] = {"tiling": "grid"}
    if coords is None:
        fields = choose_fields(slide, tissue, extent, options)
    else:
        from lowmag.exchange import read_coords

        found = read_coords(coords, slide.levels)
        extent = extent_of(found, slide, options, coords)
        fields = fields_at(distinct(found.xy, slide.slide_id), extent, tissue)
        fields = thinned(fields, slide.slide_id, options.max_per_slide)
        attributes["tiling"] = found.source
    attributes |= {f"field_um_{axis}": n * mpp for axis, n, mpp in zip("xy", extent, slide.mpp, strict=True)}
    return Cut(
        fields,
        [(edge, edge)] * len(fields),
        (extent[0] / edge, extent[1] / edge),
        attributes,
        coords_attributes(slide, extent, options, overlap_px=0 if coords else edge - step_px(options)),
    )


def choose_fields(
    slide: SlideRecord, tissue: shapely.Geometry, extent: tuple[float, float], options: Tiles
) -> list[Field]:
    """Fields of the slide's grid with enough tissue, row by row; of too many, a choice fixed by the id."""
    edge = options.tile_px(options.teacher)
    ratio = extent[0] / edge
    step = extent[0] / edge * step_px(options), extent[1] / edge * step_px(options)
    grid = make_grid(slide.scanned, extent, round(ratio) if ratio == round(ratio) else 1, step)
    if not grid.columns * grid.rows:
        log.warning("slide %s: smaller than one field of %g micrometres", slide.slide_id, options.field_um)
    return thinned(
        fields_with_tissue(grid, tissue, options.min_tissue), slide.slide_id, options.max_per_slide
    )


def step_px(options: Tiles) -> int:
    """Pixels of the teacher's from one tile to the next.

    Overlapping tiles start on whole pixels of the lowest magnification, so that neighbours share those.
    """
    edge, whole = options.tile_px(options.teacher), largest_factor(options)
    if not options.overlap:
        return edge
    return min(edge, max(1, round(edge * (1 - options.overlap) / whole)) * whole)


def largest_factor(options: Tiles) -> int:
    """Pixels of the teacher's along an edge of one at the lowest magnification."""
    return math.lcm(*(factor_between(options.teacher, m) for m in options.magnifications))


def thinned(fields: list[Field], slide_id: str, most: int | None) -> list[Field]:
    """At most `most` of the fields, in their order; the choice hangs on the id, and fewer are among more."""
    if most is None or len(fields) <= most:
        return fields
    seed = int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8])
    chosen = np.random.default_rng(seed).permutation(len(fields))[:most]
    return [fields[k] for k in sorted(chosen)]


def distinct(xy: np.ndarray, slide_id: str) -> np.ndarray:
    """Places (N, 2) in their order, each once: tilings made outline by outline may hold one twice."""
    corners = np.asarray(xy, np.int64).reshape(-1, 2)
    first = np.sort(np.unique(corners, axis=0, return_index=True)[1])
    if len(first) < len(corners):
        log.warning(
            "slide %s: %d of %d given tiles are there twice and are taken once",
            slide_id, len(corners) - len(first), len(corners),
        )  # fmt: skip
    return corners[first]


def fields_at(xy: np.ndarray, extent: tuple[float, float], tissue: shapely.Geometry) -> list[Field]:
    """Fields at level-0 places (N, 2), in their order; row and column count the places that occur."""
    corners = np.asarray(xy, np.int64).reshape(-1, 2)
    shares = covered_shares(np.hstack([corners, corners + extent]), tissue)
    columns, rows = (np.unique(corners[:, k], return_inverse=True)[1] for k in (0, 1))
    places = np.column_stack([corners, rows, columns]).tolist()
    return [Field(*place, tissue_fraction=s) for place, s in zip(places, shares.tolist(), strict=True)]


def extent_of(found: Coords, slide: SlideRecord, options: Tiles, path: Path) -> tuple[float, float]:
    """Width and height in level-0 pixels of the fields of a coordinate file; UserError for another size."""
    field_um = found.field_px * sum(slide.mpp) / 2
    if abs(field_um / options.field_um - 1) > options.mpp_tolerance + 1e-9:
        whole = largest_factor(options) * mpp_of(options.teacher)
        fitting = max(1, round(field_um / whole)) * whole
        cure = fitting if abs(field_um / fitting - 1) <= options.mpp_tolerance else field_um
        raise UserError(
            f"{path} has fields of {found.field_px:g} level-0 pixels, {field_um:.5g} micrometres on slide "
            f"{slide.slide_id}, but tiles.field_um is {options.field_um:g}; set tiles.field_um: {cure:.6g}"
        )
    return float(found.field_px), float(found.field_px)
