"""Regions a person has drawn on a slide, whatever program they come from: class, colour and valid outline."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lowmag.crossings import MOST_CROSSINGS, too_many
from lowmag.errors import UserError

MOST_VERTICES = 5_000_000
LARGEST_COORDINATE = 1e7  # pixels: the largest scanners stay below a tenth of it
LEAST_RING = 3
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """One drawn region in pixels: a valid polygon or several, with holes.

    `names` are what its class may go by, the most specific first: a class and the one it is derived from, or
    a group and those it is part of. `colour` is red, green, blue, or None where the file has none.
    """

    names: tuple[str, ...]
    colour: Colour | None
    shape: shapely.Geometry

    @property
    def name(self) -> str:
        """The name a person knows it by."""
        return self.names[0]


@dataclass
class Drawing:
    """The regions found in one file so far, how often what was left out, and the vertices read.

    `is_level0` says that the format counts x, y from the corner of level 0, whatever part was scanned.
    `purpose` is what messages call the file.
    """

    path: Path
    purpose: str = "annotations"
    is_level0: bool = False
    regions: list[Region] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    n_vertices: int = 0

    def add(self, names: Sequence[str], colour: Colour | None, polygons: Iterable[Iterable[Any]]) -> None:
        """Add one region of `polygons`, each a list of rings (outline, then holes) of x, y.

        Outlines that cross themselves are made valid as painting them would: what is wound round is inside.
        Raises UserError for coordinates that are no level-0 pixels.
        """
        shapes = []
        for rings in polygons:
            outlines = [self.points(ring) for ring in rings]
            if not outlines or len(outlines[0]) < LEAST_RING:
                self.ignored["outline of fewer than 3 points"] += 1
                continue
            holes = [hole for hole in outlines[1:] if len(hole) >= LEAST_RING]
            shapes.append(shapely.Polygon(outlines[0], holes))
        if not shapes:
            return
        shape = shapely.MultiPolygon(shapes) if len(shapes) > 1 else shapes[0]
        if not shapely.is_valid(shape) and too_many(shape):
            raise self.refuse(
                f"has an outline that crosses itself more than {MOST_CROSSINGS:,} times; draw it again"
            )
        shape = mended(shape)
        if shapely.area(shape) > 0:
            self.regions.append(Region(tuple(names), colour, shape))
        else:
            self.ignored["outline without area"] += 1

    def points(self, ring: Any) -> np.ndarray:
        """A ring's x and y, (N, 2) float; raises UserError when they are none or too many."""
        try:
            points = np.array([(point[0], point[1]) for point in ring], dtype=float).reshape(-1, 2)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise self.refuse(f"has coordinates that are not pairs of numbers ({str(error)[:80]})") from error
        self.n_vertices += len(points)
        if self.n_vertices > MOST_VERTICES:
            raise self.refuse(
                f"has more than {MOST_VERTICES:,} vertices; export annotations alone, without cells"
            )
        if not np.isfinite(points).all() or np.abs(points).max(initial=0) > LARGEST_COORDINATE:
            worst = points[np.argmax(np.nan_to_num(np.abs(points), nan=np.inf).max(axis=1))]
            raise self.refuse(
                f"has the coordinates {worst[0]:g}, {worst[1]:g}, expected pixels of level 0; "
                "export it again in pixels"
            )
        return points

    def refuse(self, problem: str) -> UserError:
        """The error that this file `problem`; to be raised."""
        return UserError(f"{self.purpose} {self.path}: the file {problem}")


def mended(shape: shapely.Geometry) -> shapely.Geometry:
    """A polygon or several as they are where valid, else with what is wound round filled."""
    if shapely.is_valid(shape):
        return shape
    shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    # GEOS 3.14 leaves parts that overlap where an outline runs back on itself.
    return shape if shapely.is_valid(shape) else shapely.union_all(shapely.get_parts(shape))


def parse_colour(value: Any) -> Colour | None:
    """Red, green and blue of `[r, g, b]`, `#rrggbb` or a packed number as Java has it, else None."""
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            value = int(value[1:], 16)
        except ValueError:
            return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value >> 16 & 255, value >> 8 & 255, value & 255
    if isinstance(value, list) and len(value) >= 3 and all(isinstance(part, int) for part in value):
        red, green, blue = (min(255, max(0, part)) for part in value[:3])
        return red, green, blue
    return None
