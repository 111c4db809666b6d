"""Regions from the GeoJSON that QuPath writes, and from any other GeoJSON in pixels.

Read are a FeatureCollection, a list of features, a feature, a bare geometry, and children within a feature.
A class is `classification` (an object with `name` or `names`, or a text), else the object's `name`.
Measurements are not looked at.
"""

import json
from collections.abc import Iterator
from typing import Any

from lowmag.regions import Colour, Drawing, parse_colour

NO_CLASS = "(no class)"
GEOMETRIES = {
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
}  # fmt: skip
MOST_PARTS = 8_000_000  # lists and objects; each takes a hundred times the memory of its bracket
CELLS = {"cell", "PathCellObject"}  # too small to label a tile, and there may be a million


def read_geojson(content: bytes, drawing: Drawing) -> None:
    """Add the regions of a GeoJSON text to `drawing`; raises UserError when it is none."""
    n_parts = sum(content.count(sign) for sign in (b"[", b"{"))
    if n_parts > MOST_PARTS or content.count(b",") > 2 * MOST_PARTS:
        raise drawing.refuse(
            f"has more than {MOST_PARTS:,} brackets or twice as many commas; export annotations alone"
        )
    try:
        for feature in _features(json.loads(content), drawing):
            _add(feature, drawing)
    except RecursionError as error:
        raise drawing.refuse("is nested too deeply to be GeoJSON") from error
    except ValueError as error:
        raise drawing.refuse(f"is not JSON ({error}); export it again") from error


def _features(node: Any, drawing: Drawing) -> Iterator[dict[str, Any]]:
    """Every feature in document order, children after their parent; a bare geometry as a feature."""
    if isinstance(node, list):
        for item in node:
            yield from _features(item, drawing)
        return
    kind = _kind(node)
    if kind == "FeatureCollection":
        yield from _features(_list(node, "features", drawing), drawing)
    elif kind == "Feature":
        yield node
        properties = _properties(node)
        yield from _features(properties.get("childObjects") or properties.get("children") or [], drawing)
    elif kind in GEOMETRIES:
        yield {"geometry": node}
    else:
        raise drawing.refuse(
            f"is JSON but not GeoJSON (found type {kind[:40] or None!r}, expected FeatureCollection); "
            "export it from QuPath as GeoJSON"
        )


def _add(feature: dict[str, Any], drawing: Drawing) -> None:
    properties = _properties(feature)
    kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
    if isinstance(kind, str) and kind in CELLS:
        drawing.ignored["cell"] += 1
        return
    polygons = list(_polygons(feature.get("geometry"), drawing))
    if polygons:
        drawing.add(_names(properties), _colour(properties), polygons)


def _polygons(geometry: Any, drawing: Drawing) -> Iterator[list[Any]]:
    """The rings of every polygon in a geometry; what has no area is counted as ignored."""
    kind = _kind(geometry)
    if kind == "Polygon":
        yield _list(geometry, "coordinates", drawing)
    elif kind == "MultiPolygon":
        for rings in _list(geometry, "coordinates", drawing):
            if not isinstance(rings, list):
                raise drawing.refuse(
                    "has a MultiPolygon of something other than lists of rings; export it again"
                )
            yield rings
    elif kind == "GeometryCollection":
        for part in _list(geometry, "geometries", drawing):
            yield from _polygons(part, drawing)
    elif kind in GEOMETRIES:
        drawing.ignored[kind] += 1
    else:
        drawing.ignored["feature without geometry"] += 1


def _kind(node: Any) -> str:
    """The type that an object of GeoJSON names; empty where it names none."""
    found = node.get("type") if isinstance(node, dict) else None
    return found if isinstance(found, str) else ""


def _list(node: dict[str, Any], key: str, drawing: Drawing) -> list[Any]:
    found = node.get(key)
    if not isinstance(found, list):
        raise drawing.refuse(f"has a {node['type']} without a list of {key}; export it again")
    return found


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _names(properties: dict[str, Any]) -> tuple[str, ...]:
    """What the class may go by: its full name, then the class it is derived from (`Tumor: Positive`)."""
    found = properties.get("classification")
    if isinstance(found, dict):
        parent, names = found.get("parentClass"), found.get("names")
        if isinstance(names, list):
            found = ": ".join(str(name) for name in names)
        elif isinstance(parent, dict):  # as before QuPath 0.4
            found = f"{parent.get('name')}: {found.get('name')}"
        else:
            found = found.get("name")
    name = str(found or properties.get("name") or NO_CLASS)
    return (name, name.split(":")[0].strip()) if ":" in name else (name,)


def _colour(properties: dict[str, Any]) -> Colour | None:
    found = properties.get("classification")
    of_class = found if isinstance(found, dict) else {}
    for value in (of_class.get("color"), of_class.get("colorRGB"), properties.get("color")):
        if colour := parse_colour(value):
            return colour
    return None
