"""The one grid of a slide: where fields of view lie and how much of each is tissue."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from lowmag.errors import UserError


@dataclass(frozen=True)
class Grid:
    """Fields side by side from `origin`; `extent` is width, height and may be fractional; level-0 pixels."""

    origin: tuple[int, int]
    extent: tuple[float, float]
    columns: int
    rows: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Level-0 x, y of the top-left pixel of a field."""
        return self.origin[0] + round(column * self.extent[0]), self.origin[1] + round(row * self.extent[1])


@dataclass(frozen=True)
class Field:
    """One field of the grid: its top-left in level-0 pixels, its place, and its share of tissue."""

    x: int
    y: int
    row: int
    column: int
    tissue_fraction: float


def make_grid(bounds: tuple[int, int, int, int], extent: tuple[float, float], snap: int) -> Grid:
    """The grid of all fields that lie wholly inside `bounds` (x, y, width, height in level-0 pixels).

    Its origin is the first multiple of `snap` inside, so that fields start on pixels of coarse levels.
    """
    x, y = (-(-start // snap) * snap for start in bounds[:2])
    right, bottom = bounds[0] + bounds[2], bounds[1] + bounds[3]
    columns, rows = max(0, int((right - x) / extent[0])), max(0, int((bottom - y) / extent[1]))
    return Grid((x, y), extent, columns, rows)


def fields_with_tissue(grid: Grid, tissue: shapely.Geometry, min_tissue: float) -> list[Field]:
    """Fields whose share of tissue is at least `min_tissue`, row by row.

    The share is the exact area of the outline in the field. Fields without any tissue are never taken. The
    outline is cut into the grid's rows first, which keeps the work proportional to its length.
    """
    fields = []
    for row in range(grid.rows):
        corners = np.array([grid.corner(row, column) for column in range(grid.columns)], dtype=float)
        if not len(corners):
            break
        ends = corners + grid.extent
        strip = shapely.intersection(
            tissue, shapely.box(corners[0, 0], corners[0, 1], ends[-1, 0], ends[-1, 1])
        )
        if strip.is_empty:
            continue
        boxes = shapely.box(corners[:, 0], corners[:, 1], ends[:, 0], ends[:, 1])
        shares = shapely.area(shapely.intersection(strip, boxes)) / shapely.area(boxes)
        for column in np.flatnonzero((shares >= min_tissue) & (shares > 0)):
            x, y = grid.corner(row, int(column))
            fields.append(Field(x, y, row, int(column), float(min(1.0, shares[column]))))
    return fields


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
