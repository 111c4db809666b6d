"""Which fields are cut: overlap, choice, and the coordinates of other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from lowmag.errors import UserError
from lowmag.fields import Cut, choose_fields, distinct, extent_of, fields_at, step_px, thinned, tile_cut
from lowmag.grid import Field
from lowmag.record import SlideRecord
from lowmag.sections import Tiles

SLIDE = SlideRecord("S1", "a.svs", width=4096, height=3072, mpp_x=0.5, mpp_y=0.5, bounds=(0, 0, 4096, 3072))
WHOLE = shapely.box(0, 0, 4096, 3072)
NOT_READ: Any = None


@pytest.mark.parametrize(
    ("overlap", "step"), [(0, 512), (0.25, 384), (0.5, 256), (0.3, 352), (0.01, 512), (0.99, 16)]
)
def test_overlapping_tiles_start_on_pixels_of_the_lowest_magnification(overlap, step):
    """0.3 of 512 px is 358.4: 352 is the next multiple of 16, the factor between 10x and 0.625x."""
    assert step_px(Tiles(overlap=overlap)) == step


def test_edge_that_the_lowest_magnification_does_not_divide_overlaps_no_less():
    options = Tiles(field_um=500, students=[2.5], overlap=0.002)
    assert step_px(options) <= options.tile_px(10.0) == 500


@pytest.mark.parametrize("extent", [(1024.0, 1024.0), (1000.5, 1010.25)])
def test_overlapping_fields_share_what_was_asked_for(extent):
    fields = choose_fields(SLIDE, WHOLE, extent, Tiles(overlap=0.5))
    rows = {(f.row, f.column): (f.x, f.y) for f in fields}
    assert all(
        abs(x - column * extent[0] / 2) <= 0.5 and abs(y - row * extent[1] / 2) <= 0.5
        for (row, column), (x, y) in rows.items()
    )
    assert len(rows) == 7 * 5
    if extent == (1024.0, 1024.0):
        assert all(x % 2 == 0 and y % 2 == 0 for x, y in rows.values())


def test_choice_hangs_on_the_id_alone():
    fields = [Field(n, 0, 0, n, 1.0) for n in range(50)]
    assert thinned(fields, "A", 10) == thinned(fields, "A", 10) != thinned(fields, "B", 10)
    assert thinned(fields, "A", None) == thinned(fields, "A", 50) == fields


def test_boxes_follow_sizes_and_scale():
    cut = Cut([Field(10, 20, 0, 0, 1.0), Field(-4, 0, 0, 1, 1.0)], [(8, 4), (2, 2)], (2.0, 2.5))
    assert cut.boxes().tolist() == [[10, 20, 26, 30], [-4, 0, 0, 5]]
    assert Cut([], [], (1.0, 1.0)).boxes().shape == (0, 4)


def test_given_places_keep_their_order_and_are_all_taken():
    xy = np.array([[100, 0], [0, 50], [0, 0], [100, 50], [-60, 0]])
    fields = fields_at(xy, (50.0, 50.0), shapely.box(0, 0, 25, 100))
    assert [(f.x, f.y) for f in fields] == [tuple(place) for place in xy.tolist()]
    assert [(f.row, f.column) for f in fields] == [(0, 2), (1, 1), (0, 1), (1, 2), (0, 0)]
    assert [f.tissue_fraction for f in fields] == [0, 0.5, 0.5, 0, 0]
    assert fields_at(np.zeros((0, 2)), (50.0, 50.0), WHOLE) == []


@dataclass(frozen=True)
class Found:
    field_px: float
    source: str = "trident"
    xy: np.ndarray | None = None


@pytest.mark.parametrize(("field_px", "field_um"), [(1024, 512), (1010, 512), (512, 256), (1000, 500)])
def test_given_fields_keep_their_own_size_within_the_tolerance(field_px, field_um):
    """1010 pixels are 505 micrometres, 1.4 % less than 512."""
    options = Tiles(field_um=field_um)
    assert extent_of(Found(field_px), SLIDE, options, Path("c.h5")) == (field_px, field_px)


@pytest.mark.parametrize(("field_px", "cure"), [(512, "256"), (1060, "528"), (900, "448"), (20, "10")])
def test_given_fields_of_another_size_are_refused_with_the_option_to_set(field_px, cure):
    """The cure is the nearest field of whole pixels at every magnification; 10 um have none near."""
    with pytest.raises(UserError, match=rf"c\.h5 has fields of {field_px} .* set tiles.field_um: {cure}$"):
        extent_of(Found(field_px), SLIDE, Tiles(), Path("c.h5"))


@pytest.mark.parametrize(("field_um", "students"), [(300, [0.625]), (10, [2.5]), (0.4, [5])])
def test_field_that_a_magnification_does_not_show_in_whole_pixels_is_refused(field_um, students):
    """By the command alone the config's own check does not run."""
    options = Tiles(field_um=field_um, students=students)
    with pytest.raises(UserError, match=rf"field_um {field_um:g} is not a whole .* take a multiple of \d+ "):
        tile_cut(NOT_READ, SLIDE, WHOLE, options)


def test_places_given_twice_are_taken_once_and_said(caplog):
    xy = np.array([[512, 0], [0, 0], [512, 0], [0, 512], [0, 0]])
    assert distinct(xy, "S1").tolist() == [[512, 0], [0, 0], [0, 512]]
    assert "2 of 5 given tiles are there twice" in caplog.text


def test_places_given_once_stay_as_they_are(caplog):
    xy = np.array([[512, 0], [0, 0]])
    assert distinct(xy, "S1").tolist() == xy.tolist()
    assert distinct(np.zeros((0, 2)), "S1").shape == (0, 2)
    assert not caplog.text
