"""The one grid of a slide: where fields of view lie and how much of each is tissue."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from lowmag.coverage import LEAST_SHARE, covered_shares
from lowmag.errors import UserError


@dataclass(frozen=True)
class Grid:
    """Fields of `extent`, one every `step` (both across, down) from `origin`, all in level-0 pixels."""

    origin: tuple[int, int]
    extent: tuple[float, float]
    step: tuple[float, float]
    columns: int
    rows: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Level-0 x, y of the top-left pixel of a field."""
        return self.origin[0] + round(column * self.step[0]), self.origin[1] + round(row * self.step[1])

    def corners(self) -> np.ndarray:
        """Level-0 x, y of every field, (rows * columns, 2) int64, row by row."""
        x, y = (
            start + np.rint(np.arange(n) * step).astype(np.int64)
            for start, n, step in zip(self.origin, (self.columns, self.rows), self.step, strict=True)
        )
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Field:
    """One field of the grid: its top-left in level-0 pixels, its place, and its share of tissue."""

    x: int
    y: int
    row: int
    column: int
    tissue_fraction: float


def make_grid(
    bounds: tuple[int, int, int, int],
    extent: tuple[float, float],
    snap: int,
    step: tuple[float, float] | None = None,
) -> Grid:
    """The grid of all fields that lie wholly inside `bounds` (x, y, width, height in level-0 pixels).

    Its origin is the first multiple of `snap` inside, so that fields start on pixels of coarse levels.
    Without `step` fields lie side by side.
    """
    step = step or extent
    x, y = (-(-start // snap) * snap for start in bounds[:2])
    room = bounds[0] + bounds[2] - x, bounds[1] + bounds[3] - y
    columns, rows = (max(0, 1 + math.floor((room[k] - extent[k]) / step[k])) for k in (0, 1))
    return Grid((x, y), extent, step, columns, rows)


def fields_with_tissue(grid: Grid, tissue: shapely.Geometry, min_tissue: float) -> list[Field]:
    """Fields whose share of tissue is at least `min_tissue`, row by row.

    The share is the exact area of the outline in the field. Fields without any tissue are never taken.
    """
    corners = grid.corners()
    shares = covered_shares(np.hstack([corners, corners + grid.extent]), tissue)
    chosen = np.flatnonzero((shares >= min_tissue - LEAST_SHARE) & (shares > 0))
    places = np.column_stack([corners[chosen], *np.divmod(chosen, max(1, grid.columns))]).tolist()
    return [
        Field(*place, tissue_fraction=share)
        for place, share in zip(places, shares[chosen].tolist(), strict=True)
    ]


def read_outline(path: Path) -> shapely.Geometry:
    """The union of all polygons of a GeoJSON file, in level-0 pixels; raises UserError when it is none."""
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        geometries = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features]
    except (OSError, ValueError, KeyError, TypeError, shapely.GEOSException) as error:
        raise UserError(
            f"{path} is not a GeoJSON FeatureCollection ({error}); "
            "make it with `lowmag tissue` or export it from QuPath"
        ) from error
    return shapely.union_all([shapely.make_valid(geometry) for geometry in geometries])
