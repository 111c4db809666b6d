import numpy as np
import pytest
from lowmag import morphology
from skimage.morphology import closing, dilation, footprint_rectangle, opening


@pytest.fixture
def mask():
    return np.random.default_rng(3).random((37, 52)) < 0.08


def square(radius):
    return footprint_rectangle((2 * radius + 1, 2 * radius + 1))


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 60])
def test_growing_agrees_with_scikit_image(mask, radius):
    expected = dilation(mask, square(radius)) if radius else mask
    np.testing.assert_array_equal(morphology.grown(mask, radius), expected)


@pytest.mark.parametrize("radius", [1, 3])
def test_opening_agrees_with_scikit_image(mask, radius):
    mask = morphology.grown(mask, 2)
    np.testing.assert_array_equal(morphology.opened(mask, radius), opening(mask, square(radius)))


@pytest.mark.parametrize("radius", [0, 2, 4])
def test_closing_agrees_with_scikit_image_inside(mask, radius):
    expected = closing(mask, square(radius)) if radius else mask
    inside = np.s_[radius : -radius or None, radius : -radius or None]
    np.testing.assert_array_equal(morphology.closed(mask, radius)[inside], expected[inside])


def test_closing_does_not_reach_for_the_edge():
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = True
    assert not morphology.closed(mask, 4)[0].any()


def test_growing_leaves_its_argument_alone(mask):
    before = mask.copy()
    morphology.grown(mask, 3)
    np.testing.assert_array_equal(mask, before)
