"""Shares of boxes under an outline, against intersecting polygons one by one."""

import time

import numpy as np
import pytest
import shapely
from lowmag import coverage
from lowmag.coverage import covered_shares


def intersected(boxes, outline):
    rectangles = shapely.box(*np.asarray(boxes, float).T)
    return shapely.area(shapely.intersection(outline, rectangles)) / shapely.area(rectangles)


def ragged(seed, n=30, holes=10, width=1000):
    random = np.random.default_rng(seed)
    blobs = [
        shapely.Point(*random.uniform(0, width, 2)).buffer(random.uniform(0.02, 0.12) * width)
        for _ in range(n + holes)
    ]
    return shapely.difference(shapely.union_all(blobs[:n]), shapely.union_all(blobs[n:]))


def boxes_at(corners, edge):
    return np.hstack([corners, np.asarray(corners) + edge])


@pytest.mark.parametrize("seed", range(4))
def test_side_by_side_overlapping_and_scattered_boxes_have_their_exact_share(seed):
    outline, random = ragged(seed), np.random.default_rng(seed)
    lattice = np.stack(np.meshgrid(np.arange(-100, 1100, 57.3), np.arange(-90, 1100, 57.3)), -1).reshape(
        -1, 2
    )
    for boxes in (
        boxes_at(lattice, 57.3),
        boxes_at(np.rint(lattice), 80.0),
        boxes_at(random.uniform(-200, 1100, (150, 2)), random.uniform(1, 400)),
    ):
        np.testing.assert_allclose(covered_shares(boxes, outline), intersected(boxes, outline), atol=1e-9)


def test_edges_on_the_lines_of_boxes_count_on_one_side_only():
    outline = shapely.box(100, 100, 300, 200).difference(shapely.box(150, 100, 200, 150))
    boxes = boxes_at([[x, y] for y in range(0, 400, 50) for x in range(0, 400, 50)], 50)
    np.testing.assert_allclose(covered_shares(boxes, outline), intersected(boxes, outline), atol=1e-12)


def test_rings_may_turn_either_way():
    ring, hole = [(0, 0), (10, 0), (10, 10), (0, 10)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    for outer in (ring, ring[::-1]):
        for inner in (hole, hole[::-1]):
            assert covered_shares(np.array([[0, 0, 10, 10]]), shapely.Polygon(outer, [inner])) == [0.96]


def test_box_outside_has_nothing_and_box_inside_has_all_without_rounding():
    outline = shapely.Point(500, 500).buffer(400)
    boxes = np.array([[0, 0, 10, 10], [480, 480, 520, 520.5], [2000, 0, 2001, 1000], [-50, 450, -1, 550]])
    assert covered_shares(boxes, outline).tolist() == [0, 1, 0, 0]


def test_empty_outline_and_no_boxes():
    box = np.array([[0, 0, 10, 10]])
    assert covered_shares(box, shapely.GeometryCollection()).tolist() == [0]
    assert covered_shares(box, shapely.union_all([])).tolist() == [0]
    assert covered_shares(np.zeros((0, 4)), shapely.box(0, 0, 1, 1)).shape == (0,)


def test_lines_that_mending_leaves_behind_do_not_count():
    outline = shapely.GeometryCollection([shapely.box(0, 0, 5, 10), shapely.LineString([(5, 5), (9, 9)])])
    assert covered_shares(np.array([[0, 0, 10, 10]]), outline).tolist() == [0.5]


def test_scattered_boxes_in_parts_are_the_same(monkeypatch):
    outline, boxes = ragged(1), boxes_at(np.random.default_rng(1).uniform(0, 1000, (90, 2)), 100)
    whole = covered_shares(boxes, outline)
    monkeypatch.setattr(coverage, "MOST_CELLS", 500)
    np.testing.assert_allclose(covered_shares(boxes, outline), whole, atol=1e-12)


def test_outline_of_100_000_corners_over_10_000_fields_takes_moments():
    angle = np.linspace(0, 2 * np.pi, 100_001)[:-1]
    radius = 40_000 + 5_000 * np.sin(900 * angle)
    points = np.stack([50_000 + radius * np.cos(angle), 50_000 + radius * np.sin(angle)], axis=1)
    lattice = np.stack(np.meshgrid(np.arange(0, 99_000, 1000), np.arange(0, 99_000, 1000)), -1).reshape(-1, 2)
    start = time.process_time()
    shares = covered_shares(boxes_at(lattice, 1000), shapely.Polygon(points))
    assert time.process_time() - start < 5  # 0.1 s on an idle machine; intersecting polygons takes a minute
    assert shares.sum() * 1e6 == pytest.approx(shapely.Polygon(points).area, rel=1e-9)
