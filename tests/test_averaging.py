import numpy as np
import pytest
from lowmag.averaging import BlockMean, stretch_means
from lowmag.downsample import area_mean
from synthetic_slides import noise


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 8, 16, 24])
def test_block_means_are_exact_for_any_size_up_to_the_largest(factor):
    mean = BlockMean(factor, (10 * factor, 12 * factor))
    for rows, columns in ((10, 12), (1, 1), (3, 12), (10, 5)):
        block = noise(20 * factor, 20 * factor, seed=rows)[: rows * factor, factor : (columns + 1) * factor]
        target = np.zeros((rows + 2, columns + 2, 3), np.uint8)
        mean.write(block, target[1:-1, 1:-1])
        np.testing.assert_array_equal(target[1:-1, 1:-1], area_mean(np.ascontiguousarray(block), factor))
        assert target[0].max() == target[:, -1].max() == 0


def test_block_means_of_white_are_white():
    for factor in (2, 16, 48, 256):
        target = np.zeros((1, 1, 3), np.uint8)
        BlockMean(factor, (factor, factor)).write(np.full((factor, factor, 3), 255, np.uint8), target)
        assert target.tolist() == [[[255, 255, 255]]]


def test_stretches_are_weighted_by_their_share():
    rows = np.array([0.0, 10, 20, 30, 40])[:, None]
    found = stretch_means(rows, 0.5, 1.5, 2)[:, 0]
    np.testing.assert_allclose(found, [(0.5 * 0 + 10) / 1.5, (20 + 0.5 * 30) / 1.5])
    np.testing.assert_allclose(stretch_means(rows, 0, 1, 5), rows)
