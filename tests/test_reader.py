import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.openslide_source import require_library
from lowmag.source import UnreadableError
from synthetic_slides import noise, reduced, slide_of, spoil_tile, write_slide


@pytest.fixture(scope="module")
def picture():
    return noise(600, 520)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, picture):
    """0.25 mpp, with levels 1, 4 and 8 that are exact fractions; the last is black, so that its use shows."""
    levels = [reduced(picture, 4), np.zeros((75, 65, 3), np.uint8)]
    return write_slide(tmp_path_factory.mktemp("slide") / "pyramid.tiff", picture, 0.25, levels)


def test_level_zero_is_read_as_it_is(pyramid, picture):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        found = slide.read(37, 101, 128, slide.extent(128, 0.25))
    np.testing.assert_array_equal(found, picture[101:229, 37:165])


@pytest.mark.parametrize("corner", [(0, 0), (8, 40), (3, 5)])
def test_whole_ratio_is_the_mean_of_whole_blocks(pyramid, picture, corner):
    x, y = corner
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        found = slide.read(x, y, 32, slide.extent(32, 1.0))
    np.testing.assert_array_equal(found, reduced(picture[y : y + 128, x : x + 128], 4))


def test_coarsest_fitting_level_serves(pyramid):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        assert slide.read(8, 16, 16, slide.extent(16, 2.0)).max() == 0  # the black level, 8 times coarser
        assert slide.read(4, 16, 16, slide.extent(16, 2.0)).max() > 0  # 4 is no multiple of 8


def test_large_field_read_in_parts_equals_the_whole(pyramid, picture, monkeypatch):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        whole = slide.read(1, 2, 170, slide.extent(170, 0.75))
        monkeypatch.setattr("lowmag.reader.LARGEST_WINDOW_PX", 100)
        np.testing.assert_array_equal(slide.read(1, 2, 170, slide.extent(170, 0.75)), whole)
    means = picture[2:512, 1:511].reshape(170, 3, 170, 3, 3).mean(axis=(1, 3))
    assert np.abs(whole - means).max() < 0.56  # Pillow's fixed-point ninth rounds 5/9 down


def test_fractional_ratio_is_the_exact_area_mean(pyramid, picture):
    ratio = 2.5
    with slide_of(pyramid, (0.4, 0.4)) as slide:
        extent = slide.extent(64, 1.0)
        found = slide.read(10, 20, 64, extent)
    assert extent == (160, 160)
    fine = picture[20:180, 10:170].repeat(2, 0).repeat(2, 1).astype(float)  # 2.5 pixels are 5 halves
    expected = fine.reshape(64, 5, 64, 5, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    assert ratio * 64 == extent[0]


def test_fractional_ratio_keeps_a_constant(tmp_path):
    path = write_slide(tmp_path / "flat.tiff", np.full((300, 300, 3), 201, np.uint8))
    with slide_of(path, (0.97, 0.97)) as slide:
        assert np.unique(slide.read(7, 9, 200, slide.extent(200, 1.3))).tolist() == [201]


@pytest.mark.parametrize(
    ("own", "expected"),
    [(0.5, 512), (0.499, 512), (0.2527, 1024), (1.0, 256), (1.015, 256), (0.97, 256 / 0.97), (0.33, 768)],
)
def test_extent_takes_whole_ratios_within_the_tolerance(pyramid, own, expected):
    with slide_of(pyramid, (own, own)) as slide:
        width, height = slide.extent(256, 1.0, tolerance=0.02)
    assert width == height == pytest.approx(expected, abs=1e-9)


def test_extent_of_unequal_scales_is_physical(pyramid):
    with slide_of(pyramid, (0.46, 0.5)) as slide:
        assert slide.extent(100, 1.0) == pytest.approx((100 / 0.46, 200))


@pytest.mark.parametrize(
    ("own", "expected"),
    [((1.01, 0.95), (100, 100 / 0.95)), ((0.95, 1.02), (100 / 0.95, 100)), ((1.01, 0.99), (100, 100))],
)
def test_axis_slightly_too_coarse_counts_as_the_scale_asked_for(pyramid, own, expected):
    with slide_of(pyramid, own) as slide:
        assert slide.extent(100, 1.0) == pytest.approx(expected)


def test_too_coarse_slide_is_refused(pyramid):
    with (
        slide_of(pyramid, (1.2, 1.2)) as slide,
        pytest.raises(UserError, match=r"1\.2 .*1 or less.*tiles\.teacher"),
    ):
        slide.extent(256, 1.0)


@pytest.mark.parametrize(("width", "nominal"), [(2050, True), (2080, False)])
def test_nominal_levels_serve_only_when_asked(tmp_path, width, nominal):
    """A black level of ratio 4.002 (of width 2050) shows that it is read; 4.03 is too far for that."""
    picture = noise(256, width)
    path = write_slide(tmp_path / "odd.tiff", picture, 0.25, [np.zeros((64, 512, 3), np.uint8)])
    expected = reduced(picture[64:192, 64:192], 4)
    with slide_of(path, (0.25, 0.25)) as slide:
        assert (slide.levels[1].downsample == 4) == nominal
        assert not slide.source.exact[1] or not nominal
        np.testing.assert_array_equal(slide.read(64, 64, 32, (128, 128)), expected)
        quick = slide.read(64, 64, 32, (128, 128), exact=False)
    assert (quick.max() == 0) == nominal
    assert (quick == expected).all() != nominal


def test_outside_the_slide_is_white(pyramid, picture):
    with slide_of(pyramid, (0.25, 0.25)) as slide:
        found = slide.read(500, 580, 64, (64, 64))
    np.testing.assert_array_equal(found[:20, :20], picture[580:, 500:])
    assert found[20:].min() == 255


def test_error_does_not_spread_to_other_places(tmp_path, picture):
    path = write_slide(tmp_path / "spoilt.tiff", picture)
    spoil_tile(path, level=0, index=0)
    with slide_of(path, (0.5, 0.5)) as slide:
        for _ in range(2):
            with pytest.raises(UnreadableError):
                slide.read(0, 0, 32, (32, 32))
            np.testing.assert_array_equal(slide.read(64, 0, 32, (32, 32)), picture[:32, 64:96])


def test_old_library_is_refused():
    require_library("4.0.1")
    require_library("4.1.0")
    with pytest.raises(UserError, match=r"4\.0\.0 found, 4\.0\.1 or newer"):
        require_library("4.0.0")
