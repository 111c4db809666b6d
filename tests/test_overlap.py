"""Shares of boxes by class: exact, whatever lies on whatever, and quick."""

import time

import numpy as np
import pytest
import shapely
from lowmag.overlap import class_shares

N_CLASSES = 3


def grid_of(n: int, edge: float) -> np.ndarray:
    corners = np.stack(np.meshgrid(np.arange(n) * edge, np.arange(n) * edge), axis=-1).reshape(-1, 2)
    return np.column_stack([corners, corners + edge])


def one_by_one(boxes, shapes, classes):
    """The same by intersections of every shape with every box, the smallest shape first."""
    shares = np.zeros((len(boxes), N_CLASSES))
    smallest_first = np.argsort(-shapely.area(shapes), kind="stable")[::-1]
    for k, box in enumerate(shapely.box(*boxes.T)):
        above = shapely.Polygon()
        for i in smallest_first:
            parts = [part for part in shapely.get_parts(shapely.intersection(shapes[i], box)) if part.area]
            with_shape = shapely.union_all([above, *parts])
            shares[k, classes[i]] += (with_shape.area - above.area) / box.area
            above = with_shape
    return shares


def scribbles(random, n: int, step: float) -> np.ndarray:
    """Random outlines, some with holes; with a step, on a raster, as drawn by a program."""
    found = []
    while len(found) < n:
        points = random.uniform(0, 100, 2) + random.normal(size=(random.integers(3, 25), 2)) * 30
        hole = np.sort(random.uniform(0, 100, (2, 2)), axis=0)
        if step:
            points, hole = np.round(points / step) * step, np.round(hole / step) * step
        shape = shapely.make_valid(shapely.Polygon(points), method="structure", keep_collapsed=False)
        if random.random() < 0.5:
            shape = shapely.difference(shape, shapely.box(*hole.ravel()))
        found += [part for part in shapely.get_parts(shape) if part.area and part.geom_type == "Polygon"]
    return np.array(found, dtype=object)


@pytest.mark.parametrize("step", [0, 5, 10], ids=["anywhere", "on half boxes", "on the boxes' edges"])
@pytest.mark.parametrize("seed", range(6))
def test_shares_equal_those_taken_one_by_one(seed, step):
    random = np.random.default_rng(seed)
    shapes = scribbles(random, 5, step)
    classes = random.integers(0, N_CLASSES, len(shapes))
    corners = random.uniform(-10, 100, (30, 2))
    anywhere = np.column_stack([corners, corners + random.uniform(1, 40, (30, 2))])  # overlapping, oblong
    for boxes in (grid_of(10, 10.0), anywhere):
        found = class_shares(boxes, shapes, classes, N_CLASSES)
        np.testing.assert_allclose(found, one_by_one(boxes, shapes, classes), atol=1e-9)


def test_smaller_shapes_lie_on_top_and_of_equal_ones_the_later():
    boxes = np.array([[0.0, 0, 10, 10]])
    large, small = shapely.box(-50, -50, 50, 50), shapely.box(0, 0, 10, 5)
    for order in ([0, 1], [1, 0]):
        shapes = np.array([large, small], dtype=object)[order]
        assert class_shares(boxes, shapes, np.array(order), 2).tolist() == [[0.5, 0.5]]
    twice = np.array([small, small], dtype=object)
    assert class_shares(boxes, twice, np.array([0, 1]), 2).tolist() == [[0, 0.5]]


def test_same_boxes_no_boxes_and_no_shapes():
    shape = np.array([shapely.box(0, 0, 5, 10)], dtype=object)
    same = np.repeat([[0.0, 0, 10, 10]], 20, axis=0)
    assert (class_shares(same, shape, np.array([0]), 1) == 0.5).all()
    assert class_shares(np.zeros((0, 4)), shape, np.array([0]), 1).shape == (0, 1)
    assert class_shares(same, np.zeros(0, object), np.zeros(0, int), 2).tolist() == [[0, 0]] * 20


def test_many_boxes_and_long_outlines_take_seconds():
    """100 000 boxes, 100 000 vertices: half a second of a core; one by one it would be an hour."""
    random = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    radii = 38_000 * (1 + 0.2 * np.sin(5 * angles)) + 15 * random.normal(size=len(angles))
    outline = shapely.Polygon(48_000 + (radii * (np.cos(angles), np.sin(angles))).T)
    outline = shapely.make_valid(outline, method="structure", keep_collapsed=False)
    boxes = grid_of(320, 300.0)
    start = time.process_time()
    shares = class_shares(boxes, np.array([outline], dtype=object), np.array([0]), 1)
    assert time.process_time() - start < 15
    inside = shapely.intersection(outline, shapely.box(0, 0, 96_000, 96_000))
    assert shares.sum() * 300**2 == pytest.approx(inside.area, rel=1e-9)
