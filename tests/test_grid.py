import json

import numpy as np
import pytest
import shapely
from lowmag.errors import UserError
from lowmag.grid import fields_with_tissue, make_grid, read_outline
from lowmag.tissue import geojson


def test_fields_lie_inside_the_bounds_and_side_by_side():
    grid = make_grid((0, 0, 1050, 800), (256.0, 256.0), snap=4)
    assert (grid.columns, grid.rows) == (4, 3)
    assert grid.corner(2, 3) == (768, 512)


def test_origin_is_the_first_multiple_inside_the_bounds():
    grid = make_grid((1001, 64, 530, 600), (256.0, 256.0), snap=16)
    assert grid.origin == (1008, 64)
    assert (grid.columns, grid.rows) == (2, 2)
    assert make_grid((0, 0, 200, 2000), (256.0, 256.0), snap=1).columns == 0


def test_overlapping_fields_stay_inside():
    grid = make_grid((0, 0, 1050, 800), (256.0, 256.0), snap=4, step=(192.0, 192.0))
    assert (grid.columns, grid.rows) == (5, 3)
    assert grid.corner(2, 4) == (768, 384)
    assert grid.corner(2, 4)[0] + 256 <= 1050 < grid.corner(2, 5)[0] + 256
    fields = fields_with_tissue(grid, shapely.box(0, 0, 256, 800), 0.0)
    assert [f.tissue_fraction for f in fields if f.row == 0] == [1.0, 0.25]


def test_corners_are_those_of_every_field_row_by_row():
    grid = make_grid((7, 3, 1000, 700), (131.7, 131.7), snap=1)
    expected = [grid.corner(r, c) for r in range(grid.rows) for c in range(grid.columns)]
    assert grid.corners().tolist() == [list(corner) for corner in expected]


def test_fractional_step_does_not_drift():
    grid = make_grid((0, 0, 100_000, 600), (527.835, 527.835), snap=1)
    corners = [grid.corner(0, column)[0] for column in range(grid.columns)]
    assert grid.columns == int(100_000 / 527.835)
    assert max(abs(x - column * 527.835) for column, x in enumerate(corners)) <= 0.5


def test_share_is_the_exact_area():
    tissue = shapely.box(128, 0, 400, 192)
    grid = make_grid((0, 0, 512, 512), (256.0, 256.0), snap=1)
    fields = fields_with_tissue(grid, tissue, 0.0)
    shares = {(field.row, field.column): field.tissue_fraction for field in fields}
    assert shares == pytest.approx({(0, 0): 0.5 * 0.75, (0, 1): 144 / 256 * 0.75})


def test_share_of_a_ragged_outline_agrees_with_counting_points():
    random = np.random.default_rng(1)
    blobs = [shapely.Point(*random.uniform(0, 1000, 2)).buffer(random.uniform(20, 120)) for _ in range(40)]
    tissue = shapely.difference(shapely.union_all(blobs[:30]), shapely.union_all(blobs[30:]))
    grid = make_grid((0, 0, 1000, 1000), (131.7, 131.7), snap=1)
    fields = fields_with_tissue(grid, tissue, 0.2)
    steps = (np.arange(200) + 0.5) / 200 * 131.7
    for field in fields[::5]:
        x, y = np.meshgrid(field.x + steps, field.y + steps)
        counted = shapely.contains_xy(tissue, x.ravel(), y.ravel()).mean()
        assert field.tissue_fraction == pytest.approx(counted, abs=0.01)  # 200 points along an edge
    assert 10 < len(fields) < grid.rows * grid.columns
    assert min(field.tissue_fraction for field in fields) >= 0.2


def test_threshold_is_inclusive_and_fields_without_tissue_are_left_out():
    grid = make_grid((0, 0, 512, 256), (256.0, 256.0), snap=1)
    half = shapely.box(0, 0, 128, 256)
    assert len(fields_with_tissue(grid, half, 0.5)) == 1
    assert len(fields_with_tissue(grid, half, 0.51)) == 0
    assert len(fields_with_tissue(grid, half, 0.0)) == 1
    assert fields_with_tissue(grid, shapely.GeometryCollection(), 0.0) == []


def test_fields_come_row_by_row():
    grid = make_grid((0, 0, 800, 800), (256.0, 256.0), snap=1)
    fields = fields_with_tissue(grid, shapely.box(0, 0, 800, 800), 0.5)
    assert [(f.row, f.column) for f in fields] == [(r, c) for r in range(3) for c in range(3)]


def test_outline_survives_its_file(tmp_path):
    pieces = [
        shapely.box(0, 0, 100, 50).difference(shapely.box(10, 10, 20, 20)),
        shapely.box(200, 0, 250, 50),
    ]
    (tmp_path / "o.geojson").write_text(geojson(pieces, "S1"))
    assert read_outline(tmp_path / "o.geojson").equals(shapely.union_all(pieces))


def test_outline_drawn_by_hand_is_mended(tmp_path):
    crossing = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    content = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": crossing}] * 2}
    (tmp_path / "o.geojson").write_text(json.dumps(content))
    assert read_outline(tmp_path / "o.geojson").area == 50


@pytest.mark.parametrize(
    "text", ["", "[]", '{"type": "FeatureCollection"}', '{"features": [{"geometry": {}}]}']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "o.geojson").write_text(text)
    with pytest.raises(UserError, match=r"o\.geojson is not a GeoJSON FeatureCollection"):
        read_outline(tmp_path / "o.geojson")
