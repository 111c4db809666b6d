"""How much of every box of a slide each class covers where regions lie on one another."""

import numpy as np
import shapely

from lowmag.coverage import covered_shares


def class_shares(boxes: np.ndarray, shapes: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """The share of each box (N, 4: x0, y0, x1, y1) that each class covers, (N, n_classes) in 0..1.

    `shapes` (M,) are valid polygons of `classes` (M,). Of overlapping ones the smaller lies on top, of equal
    ones the later.
    """
    seen = _seen(shapes, classes)
    shares = [covered_shares(boxes, shapely.union_all(seen[classes == k])) for k in range(n_classes)]
    return np.column_stack(shares) if shares else np.zeros((len(boxes), 0))


def _seen(shapes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """What of each shape is not under a shape of another class, (M,)."""
    height = np.empty(len(shapes), int)
    height[np.argsort(-shapely.area(shapes), kind="stable")] = np.arange(len(shapes))
    lower, upper = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    covers = (height[upper] > height[lower]) & (classes[upper] != classes[lower])
    lower, upper = lower[covers], upper[covers]
    order = np.argsort(lower)
    covered, starts = np.unique(lower[order], return_index=True)
    seen = shapes.copy()
    for i, above in zip(covered, np.split(upper[order], starts[1:]), strict=False):  # none: one empty part
        seen[i] = shapely.difference(shapes[i], shapely.union_all(shapes[above]))
    return seen
