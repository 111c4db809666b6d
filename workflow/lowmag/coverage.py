"""How much of each of many boxes an outline covers: exact, and one pass over the outline.

Green's theorem: the area left of a line x = X is the integral of min(x, X) dy along the outline. So every
edge is cut at the lines of the boxes, its pieces are added up in the cells between the lines, and what a box
covers is read off the integral image of the cells. Intersecting polygons instead takes minutes where an
outline has 100 000 corners.
"""

import numpy as np
import shapely

MOST_CELLS = 1 << 22
LEAST_SHARE = 1e-9  # less is rounding


def covered_shares(boxes: np.ndarray, outline: shapely.Geometry) -> np.ndarray:
    """Shares (N,), 0 to 1, of boxes that a valid polygon or multipolygon covers.

    boxes: (N, 4) of x0, y0, x1, y1; they may overlap.
    """
    if not len(boxes):
        return np.zeros(0)
    areas = _covered_areas(np.asarray(boxes, float), _edges(outline))
    shares = areas / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return np.where(shares < LEAST_SHARE, 0.0, np.where(shares > 1 - LEAST_SHARE, 1.0, shares))


def _covered_areas(boxes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    xs, ys = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    if len(xs) * len(ys) > MOST_CELLS and len(boxes) > 1:
        axis = int(len(ys) > len(xs))
        order = np.argsort(boxes[:, axis], kind="stable")
        areas = np.empty(len(boxes))
        for half in np.array_split(order, 2):
            areas[half] = _covered_areas(boxes[half], edges)
        return areas
    integral = np.zeros((len(ys), len(xs)))
    np.cumsum(np.cumsum(_cell_areas(xs, ys, edges), axis=0), axis=1, out=integral[1:, 1:])
    left, right = (np.searchsorted(xs, boxes[:, k]) for k in (0, 2))
    top, bottom = (np.searchsorted(ys, boxes[:, k]) for k in (1, 3))
    return integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]


def _cell_areas(xs: np.ndarray, ys: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Areas (rows, columns) covered in the cells between the lines `xs` and `ys`."""
    edges = _cut(_cut(edges, ys, axis=1), xs, axis=0)
    middle = (edges[:, 0] + edges[:, 1]) / 2
    rows, columns = len(ys) - 1, len(xs) - 1
    row, column = np.searchsorted(ys, middle[:, 1]) - 1, np.searchsorted(xs, middle[:, 0]) - 1
    # Left of all lines an edge closes off no cell, right of them it closes off all.
    inside = (row >= 0) & (row < rows) & (column >= 0)
    row, column, middle = row[inside], column[inside], middle[inside]
    height = edges[inside, 1, 1] - edges[inside, 0, 1]
    cell = row * (columns + 1) + column
    size = rows * (columns + 1)
    own = np.bincount(cell, (middle[:, 0] - xs[np.minimum(column, columns)]) * height, size)
    closed = np.bincount(cell, height, size).reshape(rows, columns + 1)
    to_the_right = closed[:, ::-1].cumsum(axis=1)[:, ::-1]
    return own.reshape(rows, columns + 1)[:, :-1] + to_the_right[:, 1:] * np.diff(xs)


def _cut(edges: np.ndarray, lines: np.ndarray, *, axis: int) -> np.ndarray:
    """The edges (n, 2 ends, 2 coordinates) cut wherever they cross one of the sorted lines of an axis."""
    low, high = edges[:, :, axis].min(axis=1), edges[:, :, axis].max(axis=1)
    first, last = np.searchsorted(lines, low, "right"), np.searchsorted(lines, high, "left")
    cuts = np.maximum(0, last - first)
    pieces = cuts + 1
    number = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
    whole = np.repeat(edges, pieces, axis=0)
    start, along = whole[:, 0], whole[:, 1] - whole[:, 0]
    # Along a falling edge the lines come in falling order.
    ahead = np.where(along[:, axis] < 0, np.repeat(cuts, pieces) - 1 - number, number)
    line = lines[np.clip(np.repeat(first, pieces) + ahead, 0, len(lines) - 1)]
    is_last = number == np.repeat(cuts, pieces)
    end = np.ones(len(whole))  # how far along the edge a piece ends
    np.divide(line - start[:, axis], along[:, axis], out=end, where=~is_last)
    begin = np.where(number == 0, 0.0, np.roll(end, 1))
    return np.stack([start + along * begin[:, None], start + along * end[:, None]], axis=1)


def _edges(outline: shapely.Geometry) -> np.ndarray:
    """Edges (n, 2 ends, 2 coordinates) with the inside always on the same side."""
    parts = shapely.get_parts(outline)
    holes = shapely.get_num_interior_rings(parts)
    number = np.arange(holes.sum()) - np.repeat(holes.cumsum() - holes, holes)
    inner = shapely.get_interior_ring(np.repeat(parts, holes), number)
    rings = np.concatenate([shapely.get_exterior_ring(parts), inner])
    points, ring = shapely.get_coordinates(rings, return_index=True)
    edges = np.stack([points[:-1], points[1:]], axis=1)[ring[:-1] == ring[1:]]
    of_ring = ring[:-1][ring[:-1] == ring[1:]]
    turning = np.bincount(
        of_ring, edges[:, :, 0].sum(axis=1) * (edges[:, 1, 1] - edges[:, 0, 1]), minlength=len(rings)
    )
    wanted = np.where(np.arange(len(rings)) < len(parts), 1, -1)
    turned = (np.sign(turning) != wanted)[of_ring]
    edges[turned] = edges[turned, ::-1]
    return edges
