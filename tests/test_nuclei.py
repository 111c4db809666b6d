"""Chromatin patterns tell themselves apart by detail alone."""

import numpy as np
import pytest
from lowmag import nuclei
from lowmag.nuclei import CHROMATIN, LAYER_DENSITY, SPINDLE, Nuclei


def _light_taken(mpp):
    """Share of green light that every picture of a nucleus takes away, (kind, n, edge, edge)."""
    bank = nuclei._bank(mpp)[:SPINDLE]
    return 1 - np.exp(-LAYER_DENSITY * bank.reshape(SPINDLE, -1, *bank.shape[-2:]).astype(float))


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_patterns_take_the_same_light(mpp):
    taken = _light_taken(mpp)
    mean, square = taken.mean((1, 2, 3)), (taken**2).mean((1, 2, 3))
    assert mean == pytest.approx([mean.mean()] * SPINDLE, rel=0.02)
    assert square == pytest.approx([square.mean()] * SPINDLE, rel=0.06)


def test_patterns_differ_at_10x_and_hardly_at_2_5x():
    pictures = _light_taken(1.0).mean(1)[:, 1:-2, 1:-2]  # (kind, 16, 16): the mean picture of each pattern
    contrasts = []
    for factor in (1, 4):
        blocks = pictures.reshape(SPINDLE, 16 // factor, factor, 16 // factor, factor).mean((2, 4))
        contrasts.append(np.ptp(blocks, axis=0).max() / blocks.max())
    assert contrasts[0] > 0.3
    assert contrasts[1] < contrasts[0] / 2


def test_ringed_nuclei_are_pale_and_cored_ones_dark_in_the_middle():
    taken = _light_taken(0.5).mean(1)
    middle = taken.shape[-1] // 2
    centre = dict(zip(CHROMATIN, taken[:, middle, middle], strict=True))
    assert centre["ringed"] < 0.7 * centre["cored"]


def _one(x_um, y_um, kind=SPINDLE, angle=0.0):
    return Nuclei(
        *(np.array([value]) for value in (float(x_um), float(y_um), kind, False, angle))  # type: ignore[arg-type]
    )


def test_stamp_is_centred_where_asked_and_long_along_its_angle():
    layer = np.zeros((80, 100), np.uint8)
    nuclei.stamp(layer, _one(60, 40), 1.0, np.random.default_rng(0))
    y, x = np.nonzero(layer > 30)
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((60, 40), abs=0.6)
    assert np.ptp(x) > 1.8 * np.ptp(y)
    upright = np.zeros_like(layer)
    nuclei.stamp(upright, _one(60, 40, angle=np.pi / 2), 1.0, np.random.default_rng(0))
    y, x = np.nonzero(upright > 30)
    assert np.ptp(y) > 1.8 * np.ptp(x)


def test_stamp_leaves_out_what_crosses_the_edge_and_never_lightens():
    layer = np.full((60, 60), 90, np.uint8)
    nuclei.stamp(layer, _one(2, 30), 1.0, np.random.default_rng(0))
    assert (layer == 90).all()
    nuclei.stamp(layer, _one(30, 30, kind=0), 1.0, np.random.default_rng(0))
    assert layer.min() == 90
    assert layer.max() > 120
