"""Outlines of tissue as polygons: from a mask, and as GeoJSON that QuPath opens."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from lowmag.sections import Tissue

if TYPE_CHECKING:
    from lowmag.reader import Thumbnail
    from lowmag.record import SlideRecord

CLASSIFICATION = {"name": "Tissue", "color": [0, 128, 0]}
SIMPLIFY_PX = 0.75


def outline_of(mask: np.ndarray, pixel_um: float, options: Tissue) -> list[shapely.Polygon]:
    """Pieces of a mask as valid polygons with holes, in pixels of the mask, from top to bottom.

    Small holes are filled, small pieces dropped; the outline runs along pixel edges, its steps smoothed.
    """
    smallest, largest_hole = (options.min_piece_um / pixel_um) ** 2, (options.max_hole_um / pixel_um) ** 2
    pieces = []
    for piece in _faces(mask):
        holes = [hole for hole in piece.interiors if shapely.Polygon(hole).area > largest_hole]
        filled = shapely.Polygon(piece.exterior, holes)
        if filled.area >= smallest:
            pieces += polygons(shapely.make_valid(filled.simplify(SIMPLIFY_PX)))
    return sorted(pieces, key=lambda piece: (piece.bounds[1], piece.bounds[0]))


def on_slide(
    pieces: Sequence[shapely.Polygon], thumbnail: "Thumbnail", slide: "SlideRecord"
) -> list[shapely.Polygon]:
    """Polygons in pixels of a thumbnail, in level-0 pixels and cut to the scanned part of the slide."""
    x, y, width, height = slide.scanned
    frame = shapely.box(x, y, x + width, y + height)
    moved = [shapely.transform(piece, lambda xy: xy * thumbnail.scale + thumbnail.origin) for piece in pieces]
    return [part for piece in moved for part in polygons(shapely.intersection(piece, frame))]


def _faces(mask: np.ndarray) -> list[shapely.Polygon]:
    """The connected pieces of a mask, holes and all; pixels that touch at a corner only are apart."""
    if not mask.any():
        return []
    ends = _edges(mask).reshape(-1, 2).astype(float)
    pairs = np.arange(0, len(ends) + 1, 2)
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, ends, (pairs,))
    faces = shapely.get_parts(shapely.polygonize(lines))
    inside = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(int)
    return list(faces[mask[inside[:, 1], inside[:, 0]]])


def _edges(mask: np.ndarray) -> np.ndarray:
    """Lines (n, 2 ends, 2 coordinates) between pixels in a mask and those out of it, in straight runs."""
    found = []
    for axis in (0, 1):
        padded = np.pad(np.moveaxis(mask, axis, 0), 1).astype(np.int8)
        change = np.diff(padded, axis=0)[:, 1:-1]  # (lines, cells): the sign tells the side the mask is on
        line, start = np.nonzero(np.diff(np.pad(change, ((0, 0), (1, 1))), axis=1))
        drawn = np.flatnonzero(change[line[:-1], np.minimum(start[:-1], change.shape[1] - 1)])
        drawn = drawn[line[drawn] == line[drawn + 1]]
        ends = [np.stack([start[k], line[k]][:: 1 - 2 * axis], axis=1) for k in (drawn, drawn + 1)]
        found.append(np.stack(ends, axis=1))
    return np.concatenate(found)


def polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons in any geometry, collections taken apart."""
    parts: Iterable[shapely.Geometry] = shapely.get_parts(geometry, return_index=False)
    found = []
    for part in parts:
        if isinstance(part, shapely.Polygon):
            found += [part] if part.area > 0 else []
        elif shapely.get_num_geometries(part) > 1 or shapely.get_type_id(part) >= 4:
            found += polygons(part)
    return found


def geojson(pieces: Sequence[shapely.Polygon], slide_id: str, facts: Mapping[str, Any] | None = None) -> str:
    """A FeatureCollection that QuPath opens as annotations; coordinates in level-0 pixels.

    `facts` become properties of the collection, which GeoJSON allows and QuPath passes over.
    """
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{slide_id}/tissue/{number}")),
            "geometry": json.loads(shapely.to_geojson(shapely.set_precision(piece, 0.5))),
            "properties": {
                "objectType": "annotation",
                "name": f"Tissue {number}",
                "classification": CLASSIFICATION,
                "isLocked": False,
            },
        }
        for number, piece in enumerate(pieces, start=1)
    ]
    collection = {"type": "FeatureCollection", "properties": {"review": "", **(facts or {})}}
    return json.dumps({**collection, "features": features}) + "\n"
