"""Area averages against plain arithmetic."""

import numpy as np
import pytest
from lowmag.downsample import area_mean, area_pyramid


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mean_rounded_half_up(values: np.ndarray, factor: int) -> np.ndarray:
    height, width = values.shape[:2]
    blocks = values.reshape(height // factor, factor, width // factor, factor, 3)
    return np.floor(blocks.mean((1, 3), dtype=np.float64) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("factors", [[1, 2, 4, 8, 16], [3, 6, 2, 12], [16], [48], [5, 7]])
def test_every_factor_is_the_exact_mean(factors):
    edge = 48 if 48 % max(factors) == 0 else 70
    values = picture(edge, 2 * edge)
    pyramid = area_pyramid(values, factors)
    assert set(pyramid) == set(factors)
    for factor, averaged in pyramid.items():
        assert averaged.dtype == np.uint8
        np.testing.assert_array_equal(averaged, mean_rounded_half_up(values, factor))


def test_factors_do_not_see_each_other():
    values = picture(64, 64)
    together, alone = area_pyramid(values, [2, 4, 8, 16])[16], area_pyramid(values, [16])[16]
    np.testing.assert_array_equal(together, alone)


def test_sums_do_not_overflow_on_white():
    white = np.full((512, 512, 3), 255, np.uint8)
    for factor, averaged in area_pyramid(white, [2, 16, 128, 512]).items():
        assert (averaged == 255).all(), factor


def test_factor_one_is_the_picture():
    values = picture(4, 4)
    assert area_pyramid(values, [1])[1] is values


def test_flipping_and_averaging_commute():
    values = picture(32, 32)
    flipped = np.ascontiguousarray(values[:, ::-1])
    np.testing.assert_array_equal(area_pyramid(flipped, [8])[8], area_pyramid(values, [8])[8][:, ::-1])


def test_pictures_without_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="30 x 32 pixels has no whole blocks of 16"):
        area_pyramid(picture(32, 30), [2, 16])
    with pytest.raises(ValueError, match="uint8"):
        area_pyramid(picture(32, 32).astype(np.float32), [2])


def test_large_pictures_are_averaged_in_strips_without_a_seam():
    """Wider and higher than a strip, and no whole number of strips high."""
    values = picture(1104, 1104)
    for factor, averaged in area_pyramid(values, [2, 3, 16]).items():
        np.testing.assert_array_equal(averaged, mean_rounded_half_up(values, factor))


def test_one_factor_alone_is_the_same():
    values = picture(96, 48)
    np.testing.assert_array_equal(area_mean(values, 3), area_pyramid(values, [3])[3])
    assert area_mean(values, 1) is values


def test_part_of_a_picture_needs_no_copy():
    values = picture(64, 64)
    np.testing.assert_array_equal(area_mean(values[8:40, 16:48], 4), area_mean(values, 4)[2:10, 4:12])
