"""The small picture of a slide: exact where the slide is whole, from finer levels or marked elsewhere."""

import logging
from pathlib import Path

import numpy as np
import pytest
from lowmag import thumbnail
from lowmag.source import UnreadableError, true_levels
from lowmag.thumbnail import read_thumbnail
from synthetic_slides import noise, reduced, slide_of, spoil_tile, write_slide


@pytest.fixture(scope="module")
def picture():
    return noise(600, 520)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, picture):
    """0.25 mpp, with levels 1, 4 and 8 that are exact fractions."""
    levels = [reduced(picture, 4), reduced(picture, 8)]
    return write_slide(tmp_path_factory.mktemp("slide") / "pyramid.tiff", picture, 0.25, levels)


def test_it_is_the_area_mean_with_its_place(pyramid, picture):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        small = slide.thumbnail(1.0, (0, 0, 520, 600))
        part = slide.thumbnail(1.0, (40, 80, 400, 480))
    assert (small.scale, small.origin, small.unread) == (4, (0, 0), None)
    np.testing.assert_array_equal(small.picture, reduced(picture, 4))
    assert part.origin == (40, 80)
    np.testing.assert_array_equal(part.picture, small.picture[20:140, 10:110])


def test_in_blocks_equals_one_read(pyramid, monkeypatch):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        whole = slide.thumbnail(0.75, (0, 0, 520, 600))
        monkeypatch.setattr("lowmag.thumbnail.LARGEST_WINDOW_PX", 64)
        np.testing.assert_array_equal(slide.thumbnail(0.75, (0, 0, 520, 600)).picture, whole.picture)


def test_what_no_level_gives_is_marked(tmp_path, picture, caplog):
    """The spoilt tile lies in the second row of 9, first column: inside the first 130 x 150 pixels."""
    path = write_slide(tmp_path / "spoilt.tiff", picture)
    spoil_tile(path, level=0, index=9)
    with slide_of(path, (0.5, 0.5)) as slide, caplog.at_level(logging.WARNING):
        found = slide.thumbnail(1.0, (0, 0, 520, 600))
    right = reduced(picture, 2)
    assert found.unread[32:64, :32].all()
    assert not found.unread[75:].any()
    assert not found.unread[:, 65:].any()
    np.testing.assert_array_equal(found.picture[~found.unread], right[~found.unread])
    assert found.picture[found.unread].min() == 255
    assert "cannot be read" in caplog.text


def test_what_a_level_does_not_give_comes_from_a_finer_one(tmp_path, picture, caplog):
    """Damage to a coarse level costs nothing: the picture is the same to rounding twice."""
    levels = [reduced(picture, 2), reduced(picture, 4)]
    path = write_slide(tmp_path / "spoilt.tiff", picture, 0.25, levels)
    with slide_of(path, (0.25, 0.25)) as slide:
        whole = slide.thumbnail(1.0, (0, 0, 520, 600)).picture
    for level, index in ((2, 0), (2, 5), (1, 2)):
        spoil_tile(path, level, index)
    with slide_of(path, (0.25, 0.25)) as slide, caplog.at_level(logging.WARNING):
        found = slide.thumbnail(1.0, (0, 0, 520, 600))
    assert found.unread is None
    assert np.abs(found.picture.astype(int) - whole).max() <= 1
    assert "0 % of the picture is lost" in caplog.text


class Broken:
    """A source of 40 000 x 40 000 pixels that gives none of them."""

    levels = true_levels([(40_000, 40_000), (10_000, 10_000), (2_500, 2_500)])
    background = (255, 255, 255)
    path = Path("broken.svs")
    n_reads = 0

    def read(self, *_):
        self.n_reads += 1
        raise UnreadableError("no")


def test_slide_that_gives_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(thumbnail, "MOST_FAILURES", 100)
    source = Broken()
    found = read_thumbnail(source, 32.0, (0, 0, 40_000, 40_000))
    assert found.unread.all()
    assert source.n_reads == 100
