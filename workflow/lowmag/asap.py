"""Regions from the XML that ASAP writes: polygons, rectangles and splines, by group.

The text is not trusted: see `markup`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lowmag.markup import read_elements
from lowmag.regions import LEAST_RING, MOST_VERTICES, Drawing, parse_colour

NO_GROUP = "None"
WITH_AREA = ("Polygon", "Rectangle", "Spline")
SPLINE_STEP_PX = 16.0  # a hand-drawn outline has a point every few pixels, and then stays as it is
MOST_STEPS = 32
MOST_NESTED = 100  # groups within groups
MOST_ANNOTATIONS = 500_000  # and groups; each takes a hundred times the memory of its text


def read_xml(content: bytes, drawing: Drawing) -> None:
    """Add the regions of an ASAP file to `drawing`; raises UserError when it is none."""
    document = _Document(drawing)
    document.parse(content)
    for annotation in document.annotations:
        kind = annotation["Type"]
        if kind not in WITH_AREA:
            drawing.ignored[kind] += 1
            continue
        points = drawing.points([xy for _, xy in sorted(annotation["points"], key=lambda point: point[0])])
        outline = _curve(points, drawing) if kind == "Spline" else points
        names = tuple(document.groups_of(annotation)) or (annotation["Name"],)
        colour = document.colours.get(names[0]) or annotation["Color"]
        drawing.add(names, parse_colour(colour), [[outline]])


class _Document:
    """What an ASAP file holds: annotations with points, and the parents and colours of its groups."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.annotations: list[dict[str, Any]] = []
        self.parents: dict[str, str] = {}
        self.colours: dict[str, str] = {}
        self._is_asap = False
        self._n = 0  # annotations and groups

    def parse(self, content: bytes) -> None:
        """Read a whole document; raises UserError when it is not well-formed, or not ASAP's."""
        try:
            read_elements(content, self._element)
        except ValueError as error:
            raise self.drawing.refuse(f"is not well-formed XML ({error}); save it again in ASAP") from error
        if not self._is_asap:
            raise self.drawing.refuse("is XML, but has no ASAP_Annotations; save it from ASAP")

    def groups_of(self, annotation: dict[str, Any]) -> Iterator[str]:
        """The annotation's group, the one that is part of, and so on; none for `None`."""
        seen = {NO_GROUP, ""}
        name = annotation["PartOfGroup"]
        while name not in seen:
            seen.add(name)
            if len(seen) > MOST_NESTED:
                raise self.drawing.refuse(f"nests groups more than {MOST_NESTED} deep; save it again in ASAP")
            yield name
            name = self.parents.get(name, NO_GROUP)

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        if name == "ASAP_Annotations":
            self._is_asap = True
        elif name in ("Annotation", "Group"):
            self._n += 1
            if self._n > MOST_ANNOTATIONS:
                raise self.drawing.refuse(f"has more than {MOST_ANNOTATIONS:,} annotations and groups")
        if name == "Annotation":
            defaults = {"Name": "", "Type": "without type", "PartOfGroup": NO_GROUP, "Color": ""}
            self.annotations.append({**defaults, **attributes, "points": []})
        elif name == "Group":
            self.parents[attributes.get("Name", "")] = attributes.get("PartOfGroup", NO_GROUP)
            self.colours[attributes.get("Name", "")] = attributes.get("Color", "")
        elif name == "Coordinate" and self.annotations:
            self.annotations[-1]["points"].append(self._point(attributes))

    def _point(self, attributes: dict[str, str]) -> tuple[int, tuple[float, float]]:
        try:
            return int(attributes["Order"]), (float(attributes["X"]), float(attributes["Y"]))
        except (KeyError, ValueError) as error:
            raise self.drawing.refuse(
                f"has a Coordinate without Order, X and Y as numbers ({error}); save it again in ASAP"
            ) from error


def _curve(points: np.ndarray, drawing: Drawing) -> np.ndarray:
    if len(points) * MOST_STEPS > MOST_VERTICES and int(_steps(points).sum()) > MOST_VERTICES:
        raise drawing.refuse(f"has a spline of more than {MOST_VERTICES:,} points when it is drawn out")
    return closed_spline(points)


def _steps(points: np.ndarray) -> np.ndarray:
    """Into how many straight pieces the curve behind each point is cut, (N,)."""
    chords = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
    return np.clip(np.ceil(chords / SPLINE_STEP_PX), 1, MOST_STEPS).astype(int)


def closed_spline(points: np.ndarray) -> np.ndarray:
    """The closed centripetal Catmull-Rom curve through `points` (N, 2), as ASAP draws a spline.

    Points stand about every 16 pixels of the curve (Yuksel et al. 2011, doi 10.1016/j.cad.2010.08.008).
    """
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    if len(points) < LEAST_RING:
        return points
    before, after, second = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    knots = np.sqrt(np.linalg.norm(after - points, axis=1, keepdims=True))  # square roots of the chords
    knots_before, knots_after = np.roll(knots, 1, axis=0), np.roll(knots, -1, axis=0)
    velocity = (points - before) / knots_before - (after - before) / (knots_before + knots)
    start = knots * (velocity + (after - points) / knots)
    velocity = (after - points) / knots - (second - points) / (knots + knots_after)
    end = knots * (velocity + (second - after) / knots_after)
    steps = _steps(points)
    segment = np.repeat(np.arange(len(points)), steps)
    place = np.arange(len(segment)) - np.repeat(np.cumsum(steps) - steps, steps)
    t = (place / steps[segment])[:, None]
    return (
        (2 * t**3 - 3 * t**2 + 1) * points[segment]
        + (t**3 - 2 * t**2 + t) * start[segment]
        + (3 * t**2 - 2 * t**3) * after[segment]
        + (t**3 - t**2) * end[segment]
    )
