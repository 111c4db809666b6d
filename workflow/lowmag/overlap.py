"""How much of every box of a slide each class covers, exactly, for many boxes and long outlines."""

import numpy as np
import shapely

from lowmag.regions import mended

WHOLE = 1 - 1e-9
STRIPS = 8  # a wider fan passes the vertices less often, up to a point
# Clipping takes a sixth of the time of an intersection, but goes wrong where vertices lie on the frame: so
# frames get margins (pixels) that no program writes, smaller from one clipping to the next.
MARGINS = np.array([0.271828182, 0.314159265])


def class_shares(boxes: np.ndarray, shapes: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """The share of each box (N, 4: x0, y0, x1, y1) that each class covers, (N, n_classes) in 0..1.

    `shapes` (M,) are valid polygons of `classes` (M,). Of overlapping ones the smaller lies on top, of equal
    ones the later. Boxes are parted again and again and the shapes clipped with them, so that the work goes
    with the boxes on an outline and the logarithm of all boxes, not with boxes times vertices.
    """
    shares = np.zeros((len(boxes), n_classes))
    lowest_first = np.argsort(-shapely.area(shapes), kind="stable")
    waiting = [(1, np.arange(len(boxes)), shapes[lowest_first], classes[lowest_first])]
    while waiting:
        depth, rows, shapes, classes = waiting.pop()
        if not len(rows):
            continue
        low = boxes[rows, :2].min(axis=0) - MARGINS / depth
        high = boxes[rows, 2:].max(axis=0) + MARGINS / depth
        shapes, areas, kept = _clipped(shapes, low, high)
        classes = classes[kept]
        if not len(shapes):
            continue
        covering = np.flatnonzero(areas >= WHOLE * np.prod(high - low))
        if len(covering):  # what lies below a shape that covers everything is not seen
            shapes, classes = shapes[covering[-1] :], classes[covering[-1] :]
        if len(covering) and len(shapes) == 1:
            shares[rows, classes[0]] = 1
        elif len(rows) == 1:
            shares[rows[0]] = _seen(shapes, classes, n_classes, boxes[rows[0]])
        else:
            waiting += [(depth + 1, strip, shapes, classes) for strip in _strips(boxes, rows)]
    return shares


def _clipped(
    shapes: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of shapes in a frame, their areas, and which shapes they are parts of."""
    bounds = shapely.bounds(shapes)
    kept = np.flatnonzero((bounds[:, :2] < high).all(axis=1) & (bounds[:, 2:] > low).all(axis=1))
    shapes, bounds = shapes[kept], bounds[kept]
    cut = ~((bounds[:, :2] >= low).all(axis=1) & (bounds[:, 2:] <= high).all(axis=1))
    clipped = shapely.clip_by_rect(shapes[cut], *low, *high)
    for broken in np.flatnonzero(~shapely.is_valid(clipped)):  # where outlines touch themselves
        clipped[broken] = mended(clipped[broken])
    shapes[cut] = clipped
    areas = shapely.area(shapes)
    seen = areas > 0
    return shapes[seen], areas[seen], kept[seen]


def _seen(shapes: np.ndarray, classes: np.ndarray, n_classes: int, box: np.ndarray) -> np.ndarray:
    """The share of a box that each class has where no later shape lies above it, (n_classes,)."""
    areas = np.zeros(n_classes)
    free = shapely.box(*box)
    whole = free.area
    for i in reversed(range(len(shapes))):
        left = shapely.difference(free, shapes[i])
        areas[classes[i]] += free.area - left.area
        free = left
        if free.is_empty:
            break
    return areas / whole


def _strips(boxes: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """The rows in parts of about the same number, apart along the longer side of where they lie."""
    centres = boxes[rows, :2] + boxes[rows, 2:]
    axis = int(np.ptp(centres, axis=0).argmax())
    return np.array_split(rows[np.argsort(centres[:, axis], kind="stable")], STRIPS)
