import errno
import itertools
from dataclasses import replace

import numpy as np
import pytest
from lowmag.openslide_source import OpenSlideSource
from lowmag.reader import Slide
from lowmag.segments import SegmentSource
from lowmag.source import UnreadableError
from synthetic_slides import REAL_SLIDES, reduced
from synthetic_tiffs import Form, encode_tiles, smooth, write_jpeg_tiff

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
SIZES = [(333, 411), (83, 102), (20, 25)]  # ratios 4.02, 4.03 and 16.5; truly 4 and 16
CMU = [(2220, 2967)]


@pytest.fixture(scope="module")
def levels():
    finest = smooth(411, 333)
    return [finest, reduced(finest, 4)[:102, :83], reduced(finest, 16)[:25, :20]]


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, levels):
    """A file of an odd-sized pyramid, and its levels as they decode."""
    path = tmp_path_factory.mktemp("segments") / "odd.tif"
    return path, write_jpeg_tiff(path, levels)


@pytest.mark.parametrize(
    ("order", "big", "tables", "subsampling"),
    [*itertools.product("<>", (False, True), (False, True), ["444"]), ("<", False, True, "420")],
)
def test_levels_are_read_exactly(tmp_path, levels, order, big, tables, subsampling):
    form = Form(order=order, big=big, tables=tables, subsampling=subsampling)
    expected = write_jpeg_tiff(tmp_path / "a.tif", levels, form)
    source = SegmentSource(tmp_path / "a.tif", SIZES)
    assert [level.downsample for level in source.levels] == [1, 4, 16]
    for number, pixels in enumerate(expected):
        region = source.read(number, 0, 0, *SIZES[number])
        np.testing.assert_array_equal(region.pixels, pixels)
        assert region.transparent == 0
    source.close()


@pytest.mark.parametrize(
    "window",
    [(0, 0, 64, 64), (64, 128, 128, 64), (5, 9, 30, 20), (60, 100, 200, 130), (-7, -3, 90, 80),
     (300, 390, 64, 64), (500, 0, 8, 8)],
)  # fmt: skip
def test_windows_anywhere_equal_the_level(pyramid, window):
    path, (expected, *_) = pyramid
    x, y, width, height = window
    padded = np.full((411 + 200, 333 + 400, 3), 255, np.uint8)
    padded[100:511, 100:433] = expected
    inside = np.zeros(padded.shape[:2])
    inside[100:511, 100:433] = 1
    rows, columns = slice(100 + y, 100 + y + height), slice(100 + x, 100 + x + width)
    region = SegmentSource(path, SIZES).read(0, *window)
    np.testing.assert_array_equal(region.pixels, padded[rows, columns])
    assert region.transparent == pytest.approx(1 - inside[rows, columns].mean())


@pytest.mark.parametrize(("x", "y"), [(0, 0), (64, 128), (8, 16), (3, 5), (-16, -16), (160, 240)])
@pytest.mark.parametrize("shrink", [2, 4, 8, 3])
def test_means_are_those_of_the_window(pyramid, x, y, shrink):
    source = SegmentSource(pyramid[0], SIZES)
    whole = source.read(0, x, y, 192, 192)
    small = source.read(0, x, y, 192, 192, shrink)
    np.testing.assert_array_equal(small.pixels, reduced(whole.pixels, shrink))
    assert small.transparent == pytest.approx(whole.transparent)


def test_equals_openslide(pyramid):
    path, _ = pyramid
    reference, source = OpenSlideSource(path), SegmentSource(path, SIZES)
    assert reference.levels == source.levels
    assert reference.exact == (True, False, False)
    for window in ((0, 0, 333, 411), (33, 71, 100, 90), (300, 400, 60, 60)):
        found, expected = source.read(0, *window), reference.read(0, *window)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert found.transparent == pytest.approx(expected.transparent, abs=1e-6)


def test_damaged_segment_is_named_and_its_neighbours_are_fine(tmp_path, levels):
    form = Form()
    tiles = [encode_tiles(level, form) for level in levels]
    tiles[0][7] = tiles[0][7][:200] + bytes(len(tiles[0][7]) - 200)
    tiles[0][8] = encode_tiles(levels[0][:32, :32], replace(form, tile=32))[0]
    tiles[1][0] = b"no JPEG at all"
    expected = write_jpeg_tiff(tmp_path / "a.tif", levels, form, tiles)
    source = SegmentSource(tmp_path / "a.tif", SIZES)
    for _ in range(2):
        with pytest.raises(UnreadableError, match=r"level 0, segment 7 of a.tif is damaged"):
            source.read(0, 64, 64, 64, 64)
        with pytest.raises(UnreadableError, match="segment 7"):
            source.read(0, 120, 120, 64, 64)
        with pytest.raises(UnreadableError, match=r"segment 8 of a\.tif is damaged: it has 32 x 32 pixels"):
            source.read(0, 128, 64, 64, 64, 2)
        with pytest.raises(UnreadableError, match=r"level 1, segment 0 of a\.tif is damaged: it is no JPEG"):
            source.read(1, 0, 0, 8, 8)
        for x, y in ((0, 64), (64, 0), (192, 64), (64, 128)):
            found = source.read(0, x, y, 64, 64).pixels
            np.testing.assert_array_equal(found, expected[0][y : y + 64, x : x + 64])


def test_segment_beyond_the_end_is_an_error(tmp_path, levels):
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, levels[:1])
    source = SegmentSource(path, SIZES[:1])
    with open(path, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(UnreadableError, match=r"segment 10 of a\.tif lies outside the file"):
        source.read(0, 256, 64, 32, 32)


def test_segment_never_written_is_background(tmp_path, levels):
    tiles = [encode_tiles(level, Form()) for level in levels]
    tiles[0][0] = b""
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, levels, tiles=tiles)
    region = SegmentSource(path, SIZES).read(0, 0, 0, 128, 64, 2)
    assert region.pixels[:, :32].min() == 255
    assert region.pixels[:, 32:].min() < 255
    assert region.transparent == 0.5
    assert OpenSlideSource(path).read(0, 0, 0, 128, 64).transparent == pytest.approx(0.5)


@pytest.fixture
def decodes(monkeypatch):
    """Segments decoded, in order."""
    seen = []
    decode = SegmentSource._decode

    def watched(self, level, index, into=None):
        seen.append((level, index))
        return decode(self, level, index, into)

    monkeypatch.setattr(SegmentSource, "_decode", watched)
    return seen


def test_parts_of_segments_are_kept_and_whole_ones_pass(pyramid, decodes):
    source = SegmentSource(pyramid[0], SIZES)
    for x in range(0, 320, 32):  # each of 5 segments in two windows
        source.read(0, x, 0, 32, 64)
    assert decodes == [(0, k) for k in range(5)]
    decodes.clear()
    for _ in range(2):
        source.read(0, 0, 64, 128, 64)
    source.read(0, 64, 64, 128, 64)
    # Passed on at first; asked for again, windows overlap, and all are kept from then on.
    assert decodes == [(0, 6), (0, 7), (0, 6), (0, 7), (0, 8)]


def test_what_is_kept_is_bounded(pyramid, decodes):
    room = 3 * 64 * 64 * 3
    source = SegmentSource(pyramid[0], SIZES, cache_bytes=room)
    for x in (0, 64, 128, 192, 0):
        source.read(0, x, 0, 32, 32)
    assert [index for _, index in decodes] == [0, 1, 2, 3, 0]
    assert source._kept_bytes == room


@pytest.mark.parametrize("sizes", [[(333, 410)], [*SIZES, (10, 12)], []])
def test_levels_that_are_not_there_are_refused(pyramid, sizes):
    with pytest.raises(UnreadableError, match="as such tiles"):
        SegmentSource(pyramid[0], [*sizes, *sizes[:1]] or [(1, 1)])


@pytest.mark.parametrize("compression", ["lzw", "webp", "none"])
def test_other_compressions_are_not_taken(tmp_path, compression):
    import pyvips

    picture = pyvips.Image.new_from_array(smooth(100, 100))
    picture.tiffsave(tmp_path / "a.tif", tile=True, tile_width=64, tile_height=64, compression=compression)
    with pytest.raises(UnreadableError, match="as such tiles"):
        SegmentSource(tmp_path / "a.tif", [(100, 100)])


def test_coarse_level_of_an_odd_pyramid_shows_the_same_field(tmp_path, levels):
    """Field of view: a level of nominal ratio 4.02 is read at exactly 4, so fields stay in place."""
    path = tmp_path / "a.tif"
    expected = write_jpeg_tiff(path, levels)
    with Slide(SegmentSource(path, SIZES), (0.5, 0.5)) as slide:
        extent = slide.extent(16, 2.0)
        assert extent == (64, 64)
        found = slide.read(256, 320, 16, extent)
    np.testing.assert_array_equal(found, expected[1][80:96, 64:80])
    means = reduced(levels[0][320:384, 256:320], 4).astype(int)
    assert np.abs(found - means).mean() < np.abs(np.roll(found, 1, axis=1).astype(int) - means).mean() / 2


@real
def test_real_svs_equals_openslide():
    path = REAL_SLIDES / "CMU-1-Small-Region.svs"
    source, reference = SegmentSource(path, CMU), OpenSlideSource(path)
    for window in ((0, 0, 700, 500), (1001, 1777, 480, 333), (2000, 2900, 240, 80)):
        found, expected = source.read(0, *window), reference.read(0, *window)
        assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= 2  # another libjpeg
        assert found.transparent == pytest.approx(expected.transparent, abs=1e-6)


def test_a_file_that_goes_while_it_is_read_is_an_error_of_reading(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, [smooth(128, 128)])
    source = SegmentSource(path, [(128, 128)])
    path.unlink()

    def stale(*_: int) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("lowmag.segments.os.pread", stale)
    with pytest.raises(UnreadableError, match=r"segment 0 of a\.tif cannot be read: No such file"):
        source.read(0, 0, 0, 64, 64)
    source.close()
