"""What one field gives: pictures at every magnification, flags, measurements."""

from pathlib import Path

import numpy as np
import pytest
from lowmag import field_reader
from lowmag.field_reader import GREY, FieldReader
from lowmag.grid import Field
from lowmag.record import Level
from lowmag.source import Region, UnreadableError
from lowmag.store import FLAGS, Layout
from PIL import Image, ImageFilter
from synthetic_slides import noise, reduced

LAYOUT = Layout([10.0, 5.0, 2.5], {10.0: 64, 5.0: 32, 2.5: 16})
SECTIONS = Layout([10.0, 5.0, 2.5], {}, unit="section")


class FakeSource:
    """A slide of 256 x 192 pixels in memory: its pixels, a transparent share, places that cannot be read."""

    path = Path("a.svs")
    levels = (Level(256, 192, 1.0),)

    def __init__(self, picture, transparent=0.0, broken=()):
        self.picture, self.transparent, self.broken, self.asked = picture, transparent, broken, []

    def read_region(self, x, y, size, extent, *, exact=True):
        self.asked.append((x, y, size, extent, exact))
        if any(x <= bx < x + extent[0] and y <= by < y + extent[1] for bx, by in self.broken):
            raise UnreadableError("damaged")
        factor = round(extent[0] / size[0])
        x, y = int(x), int(y)
        pixels = self.picture[y : y + size[1] * factor, x : x + size[0] * factor]
        return Region(reduced(pixels, factor), self.transparent)

    def read(self, *args, **kwargs):
        return self.read_region(*args, **kwargs).pixels


def shot(source, field=None, size=(64, 64), layout=LAYOUT, lowres="derived", ratio=(1.0, 1.0)):
    return FieldReader(source, layout, ratio, lowres).read(field or Field(64, 64, 1, 1, 1.0), size)


@pytest.fixture
def picture():
    """Grey levels alike in every colour: neither pen nor blur."""
    return np.repeat(noise(192, 256)[..., :1] // 4 + 150, 3, axis=2)


def test_faultless_field_has_no_flags_and_its_means(picture):
    found = shot(FakeSource(picture))
    assert (found.flags, found.lost) == (0, 0)
    np.testing.assert_array_equal(found.pictures[2.5], reduced(picture[64:128, 64:128], 4))
    assert found.quality[2] == 0
    assert found.quality[3:] == pytest.approx(picture[64:128, 64:128].mean((0, 1)), abs=0.5)


@pytest.mark.parametrize(
    ("field", "flags"),
    [
        (Field(192, 128, 0, 0, 1.0), 0),
        (Field(193, 128, 0, 0, 1.0), FLAGS["out_of_bounds"]),
        (Field(0, -1, 0, 0, 1.0), FLAGS["out_of_bounds"]),
        (Field(0, 0, 0, 0, 0.999), FLAGS["mask_edge"]),
        (Field(0, 0, 0, 0, 0.0), 0),
    ],
)
def test_place_gives_flags(picture, field, flags):
    class Anywhere(FakeSource):
        def read_region(self, x, y, size, extent, *, exact=True):
            return super().read_region(64, 64, size, extent)

    assert shot(Anywhere(picture), field).flags == flags


@pytest.mark.parametrize(("share", "flags"), [(0.05, 0), (0.051, FLAGS["transparent"])])
def test_more_than_a_twentieth_transparent_is_flagged(picture, share, flags):
    found = shot(FakeSource(picture, share))
    assert found.flags == flags
    assert found.quality[2] == pytest.approx(share)


def test_blur_and_pen_are_flagged(picture):
    blocks = np.kron(noise(12, 16)[..., :1], np.ones((16, 16, 3), np.uint8))
    smooth = np.asarray(Image.fromarray(blocks).filter(ImageFilter.GaussianBlur(4)))
    assert shot(FakeSource(smooth)).flags & FLAGS["blur"]
    inked = picture.copy()
    inked[64:128, 64:96] = (20, 30, 200)
    assert shot(FakeSource(inked)).flags & FLAGS["pen"]


def test_measuring_is_at_about_2_micrometres(picture, monkeypatch):
    seen = []
    measure = field_reader.quality.measure
    monkeypatch.setattr(
        field_reader.quality, "measure", lambda p, mpp: seen.append((p.shape, mpp)) or measure(p, mpp)
    )
    for magnification in (10.0, 20.0, 5.0):
        layout = Layout([magnification, magnification / 4], {magnification: 64})
        shot(FakeSource(picture), layout=layout)
    assert seen == [((32, 32, 3), 2.0), ((16, 16, 3), 2.0), ((64, 64, 3), 2.0)]


def test_field_that_cannot_be_read_is_grey_and_not_measured(picture, caplog):
    found = shot(FakeSource(picture, broken=[(70, 70)]))
    assert (found.flags, found.lost, found.quality) == (FLAGS["read_error"], 1, ())
    assert all((p == GREY).all() for p in found.pictures.values())
    assert "a.svs: field at 64, 64 cannot be read: damaged" in caplog.text


def test_pyramid_reads_every_magnification_by_itself(picture):
    source = FakeSource(picture)
    found = shot(source, lowres="pyramid")
    assert source.asked == [
        (64, 64, (64, 64), (64.0, 64.0), True),
        (64, 64, (32, 32), (64.0, 64.0), False),
        (64, 64, (16, 16), (64.0, 64.0), False),
    ]
    assert list(found.pictures) == [10.0, 5.0, 2.5]
    np.testing.assert_array_equal(found.pictures[2.5], reduced(picture[64:128, 64:128], 4))


def test_pyramid_whose_coarse_level_is_damaged_is_flagged(picture):
    class Damaged(FakeSource):
        def read(self, x, y, size, extent, *, exact):
            if size[0] == 16:
                raise UnreadableError("damaged")
            return super().read(x, y, size, extent, exact=exact)

    found = shot(Damaged(picture), lowres="pyramid")
    assert found.flags & FLAGS["read_error"]
    assert (found.pictures[2.5] == GREY).all()
    np.testing.assert_array_equal(found.pictures[5.0], reduced(picture[64:128, 64:128], 2))


def test_section_is_read_in_blocks_and_loses_only_the_bad_one(picture, monkeypatch):
    monkeypatch.setattr(field_reader, "BLOCK_PX", 64)
    source = FakeSource(picture, broken=[(130, 10)])
    found = shot(source, Field(0, 0, 0, -1, 0.5), (192, 128), SECTIONS)
    expected = picture[:128, :192].copy()
    expected[:64, 128:192] = GREY
    np.testing.assert_array_equal(found.pictures[10.0], expected)
    np.testing.assert_array_equal(found.pictures[2.5], reduced(expected, 4))
    assert len(source.asked) == 6
    assert found.lost == pytest.approx(1 / 6)
    assert found.flags & FLAGS["read_error"]


def test_large_section_is_measured_in_parts(monkeypatch):
    monkeypatch.setattr(field_reader, "MEASURED_PX", 32)
    sharp = np.repeat(noise(192, 256)[..., :1] // 4 + 150, 3, axis=2)
    sharp[:, 128:] = 240
    found = shot(FakeSource(sharp), Field(0, 0, 0, -1, 1.0), (256, 192), SECTIONS)
    assert found.flags == 0
    assert 0 < found.quality[0] <= 1
    inked = sharp.copy()
    inked[:64, :64] = (20, 30, 200)
    found = shot(FakeSource(inked), Field(0, 0, 0, -1, 1.0), (256, 192), SECTIONS)
    assert found.flags == FLAGS["pen"]
    assert found.quality[1] == pytest.approx(64 * 64 / (256 * 192), rel=0.2)
