"""Views and colours: exact, the same whatever the batch, and frozen from version to version."""

import numpy as np
import pytest
import torch
from lowmag import augment
from lowmag.recipe import Augment
from skimage.transform import AffineTransform, warp
from torch.nn import functional
from torchvision.transforms.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)

IDS = np.arange(4000)
FROZEN_VIEWS = [3, 0, 2, 6]
FROZEN_COLOUR = [0.9454367, 0.9173653, 0.9713896, 0.9910874, 1.078459, 1.0722015]

# The released recipe of del Amor et al. 2024, but for its flips.
DELAMOR = Augment(rotation=45, zoom=(0.95, 1.2), shift=(0.05, 0.0), probability=0.5)


def options(**changes) -> Augment:
    return Augment.model_validate(changes)


def pictures(n: int = 8, px: int = 16) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_views_are_the_eight_symmetries_of_a_square():
    corner = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    views = [augment.dihedral(corner, view) for view in range(augment.N_VIEWS)]
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    named = [
        corner,
        corner.fliplr(),
        corner.flipud(),
        torch.rot90(corner, 2),
        corner.T,
        torch.rot90(corner, -1),
        torch.rot90(corner, 1),
        torch.rot90(corner.T, 2),
    ]
    assert all(torch.equal(view, expected) for view, expected in zip(views, named, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_apply_views_gives_each_picture_its_own(dtype):
    x, views = pictures(24).to(dtype), torch.arange(24) % 8
    expected = torch.stack([augment.dihedral(one, int(view)) for one, view in zip(x, views, strict=True)])
    found = augment.apply_views(x, views)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_apply_views_refuses_oblong_pictures():
    with pytest.raises(ValueError, match="4 x 6, expected square"):
        augment.apply_views(torch.rand(1, 3, 4, 6), torch.tensor([0]))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_views_commute_exactly_with_area_downsampling(factor):
    """So a teacher's and a student's view of a tile show the same tissue. Whole numbers: no rounding."""
    x, views = pictures().double(), torch.arange(8)
    first = functional.avg_pool2d(augment.apply_views(x, views), factor)
    last = augment.apply_views(functional.avg_pool2d(x, factor), views)
    assert torch.equal(first, last)


def test_generator_is_splitmix64():
    """The first numbers of the published generator for state 0."""
    state = np.arange(3, dtype=np.uint64) * augment._GOLDEN
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert augment._mix(state).tolist() == expected


def test_draws_are_frozen():
    """Resuming across versions and cached views rely on these very numbers."""
    assert augment.draw_views(1, 2, np.array([0, 1, 2, 10**12])).tolist() == FROZEN_VIEWS
    found = augment.draw_colour(1, 2, np.array([7]), options())[0]
    torch.testing.assert_close(found, torch.tensor(FROZEN_COLOUR), rtol=0, atol=1e-6)


def test_flips_alone_are_drawn_evenly_and_without_quarter_turns():
    views = augment.draw_views(0, 0, IDS, 4)
    counts = torch.bincount(views, minlength=8)
    assert counts[4:].sum() == 0
    # Four standard deviations of a binomial with n = 4000 and p = 1/4.
    assert (counts[:4] - len(IDS) / 4).abs().max() < 4 * (len(IDS) * 3 / 16) ** 0.5
    assert not torch.equal(views, augment.draw_views(0, 1, IDS, 4))


@pytest.mark.parametrize("draw", ["views", "colour", "geometry"])
def test_draws_do_not_depend_on_the_batch(draw):
    def drawn(ids):
        if draw == "views":
            return augment.draw_views(3, 5, ids)
        if draw == "geometry":
            return augment.draw_geometry(3, 5, ids, DELAMOR)
        return augment.draw_colour(3, 5, ids, options(hue=0.2))

    whole = drawn(IDS)
    order = np.random.default_rng(0).permutation(len(IDS))[:100]
    assert torch.equal(drawn(IDS[order]), whole[order])
    assert torch.equal(drawn(torch.from_numpy(IDS)), whole)
    assert torch.equal(torch.cat([drawn(IDS[i : i + 1]) for i in range(20)]), whole[:20])


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1), (1, 1)])
def test_draws_differ_between_seeds_and_epochs(seed, epoch):
    """Equal views in one tile of eight, as chance has it: the binomial spread is 0.005."""
    first, second = augment.draw_views(0, 0, IDS), augment.draw_views(seed, epoch, IDS)
    assert abs((first == second).float().mean().item() - 1 / 8) < 0.025


def test_pairs_of_views_in_consecutive_epochs_are_uniform():
    pairs = augment.draw_views(0, 0, IDS) * 8 + augment.draw_views(0, 1, IDS)
    counts = torch.bincount(pairs, minlength=64).double()
    chi_square = ((counts - len(IDS) / 64).square() / (len(IDS) / 64)).sum().item()
    assert 25 < chi_square < 115  # 63 degrees of freedom: each bound is passed once in ten thousand


def test_colour_factors_fill_their_ranges_and_are_independent():
    changes = options(brightness=0.1, contrast=0.2, saturation=0.3, stain=0.4)
    factors = augment.draw_colour(0, 0, IDS, changes).double().numpy()
    bounds = np.array([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert factors.shape == (len(IDS), len(augment.COLOUR_PARAMETERS) - 1)  # without hue
    assert (np.abs(factors - 1) <= bounds + 1e-7).all()
    np.testing.assert_allclose(factors.std(0), bounds / np.sqrt(3), rtol=0.04)
    views = augment.draw_views(0, 0, IDS).numpy()[:, None]
    correlation = np.corrcoef(np.hstack([factors, views]), rowvar=False)
    assert np.abs(correlation - np.eye(7)).max() < 0.07


def test_options_of_zero_leave_the_pictures_alone():
    nothing = options(brightness=0, contrast=0, saturation=0, stain=0)
    params = augment.draw_colour(0, 0, IDS[:8], nothing)
    assert torch.equal(params, torch.ones(8, 6))
    x = pictures() / 255
    torch.testing.assert_close(augment.apply_colour(x, params), x, rtol=0, atol=1e-6)


def test_colour_is_its_steps_one_picture_at_a_time():
    x = 0.3 + 0.4 * pictures(4) / 255  # away from the ends, where clipping would hide a difference
    params = augment.draw_colour(0, 0, IDS[:4], options())
    weights = torch.tensor(augment.LUMINANCE)[:, None, None]
    for one, factors, found in zip(x, params, augment.apply_colour(x, params), strict=True):
        brightness, contrast, saturation, *stain = factors
        one = torch.exp(one.log() * torch.stack(stain)[:, None, None]) * brightness
        one = contrast * one + (1 - contrast) * (one * weights).sum(0).mean()
        one = saturation * one + (1 - saturation) * (one * weights).sum(0)
        torch.testing.assert_close(found, one, rtol=0, atol=1e-6)


def test_colours_are_those_of_torchvisions_functions_one_after_the_other():
    """Each clips to 0..1: a bright picture made brighter and then paler does not come back from above 1."""
    x = torch.rand(200, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    changes = options(brightness=0.5, contrast=0.5, saturation=0.5, stain=0, hue=0.2)  # DiPalma et al. 2021
    params = augment.draw_colour(0, 0, IDS[:200], changes)
    found = augment.apply_colour(x, params)
    for one, factors, changed in zip(x, params.tolist(), found, strict=True):
        one = adjust_contrast(adjust_brightness(one, factors[0]), factors[1])
        expected = adjust_hue(adjust_saturation(one, factors[2]), factors[6])
        # Their luminance has 0.2989 of the red where ITU-R BT.601 has 0.299; hue amplifies it in near-greys.
        torch.testing.assert_close(changed, expected, rtol=0, atol=5e-4)


def test_stain_factor_multiplies_the_optical_density_of_one_channel():
    x = 0.2 + 0.6 * pictures(1) / 255
    found = augment.apply_colour(x, torch.tensor([[1, 1, 1, 1.3, 1, 1]]))
    torch.testing.assert_close(-found[:, 0].log(), -1.3 * x[:, 0].log(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 1:], x[:, 1:], rtol=0, atol=1e-6)


def test_colours_stay_in_range():
    x = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4), torch.rand(3, 4, 4)])
    params = torch.tensor([[1.9, 1.9, 1.9, 0.1, 1.9, 1.0]] * 3)
    found = augment.apply_colour(x, params)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_colour_does_not_depend_on_the_rest_of_the_batch():
    x, params = pictures(6) / 255, augment.draw_colour(0, 0, IDS[:6], options())
    whole = augment.apply_colour(x, params)
    torch.testing.assert_close(augment.apply_colour(x[2:3], params[2:3]), whole[2:3], rtol=0, atol=1e-6)


def test_more_kinds_of_change_leave_the_others_as_they_were():
    """Studies without hue keep their colours when one with hue is run, whatever is drawn beside."""
    plain = augment.draw_colour(1, 2, IDS, options())
    assert torch.equal(augment.draw_colour(1, 2, IDS, options(hue=0.2, rotation=45))[:, :6], plain)
    some = augment.draw_colour(1, 2, IDS, options(hue=0.2, probability=0.5))
    changed = (some != torch.tensor([1.0] * 6 + [0.0])).all(1)
    assert torch.equal(some[changed, :6], plain[changed])
    assert (some[~changed] == torch.tensor([1.0] * 6 + [0.0])).all(), "a tile is changed in all or in none"
    # Four standard deviations of a binomial with n = 4000 and p = 1/2.
    assert abs(int(changed.sum()) - len(IDS) / 2) < 4 * (len(IDS) / 4) ** 0.5


def test_one_flip_alone_is_the_first_of_two_views():
    views = augment.draw_views(0, 0, IDS, 2)
    assert set(views.tolist()) == {0, augment.LEFT_RIGHT}
    assert set(augment.draw_views(0, 0, IDS, 1).tolist()) == {0}


def test_hue_is_turned_as_torchvision_turns_it():
    x = torch.rand(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    x[0] = 0.5  # grey
    x[1, 0] = x[1, 1]  # two channels are the largest
    turns = torch.linspace(-0.5, 0.5, 64)
    expected = torch.stack([adjust_hue(one, float(turn)) for one, turn in zip(x, turns, strict=True)])
    torch.testing.assert_close(augment.turn_hue(x, turns), expected, rtol=0, atol=2e-6)


def test_a_third_of_the_circle_exchanges_the_channels():
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = augment.apply_colour(x, torch.tensor([[1.0] * 6 + [1 / 3]] * 5))
    torch.testing.assert_close(found, x.roll(1, 1), rtol=0, atol=2e-6)


def test_turns_zooms_and_shifts_fill_their_ranges_and_are_independent():
    drawn = augment.draw_geometry(0, 0, IDS, DELAMOR).double()
    neutral = torch.tensor([0, 1, 0, 0])
    changed = drawn != neutral
    assert not changed[:, 3].any(), "no shift up or down is asked for"
    share = changed[:, :3].double().mean(0)
    assert (share - 0.5).abs().max() < 4 * (0.25 / len(IDS)) ** 0.5
    pairs = [(changed[:, a] & changed[:, b]).double().mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert max(abs(pair - 0.25) for pair in pairs) < 4 * (0.1875 / len(IDS)) ** 0.5
    angle, zoom, right = (drawn[changed[:, k], k] for k in range(3))
    for values, low, high in ((angle, -np.pi / 4, np.pi / 4), (zoom, 0.95, 1.2), (right, -0.05, 0.05)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / (12 * len(values)) ** 0.5


def test_quarter_turns_and_flips_of_the_picture_are_those_of_the_views():
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = augment.apply_geometry(x, torch.tensor([[torch.pi / 2, 1, 0, 0]] * 2), "black")
    torch.testing.assert_close(turned, augment.dihedral(x, 6), rtol=0, atol=1e-5)  # counter-clockwise
    shifted = augment.apply_geometry(x, torch.tensor([[0, 1, 1 / 6, -2 / 6]] * 2), "reflect")
    torch.testing.assert_close(shifted[:, :, :4, 1:], x[:, :, 2:, :5], rtol=0, atol=1e-5)
    torch.testing.assert_close(shifted[:, :, 4:, 1:], x[:, :, [5, 4], :5], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("border", "mode"), [("reflect", "symmetric"), ("black", "constant")])
@pytest.mark.parametrize("size", [(24, 24), (20, 32)])
def test_geometry_is_that_of_scikit_image(border, mode, size):
    """Turn about the centre, then zoom, then shift, in pixels and with pixel centres at whole numbers."""
    x = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(0))
    params = torch.tensor([[0.7, 1.0, 0, 0], [0, 1.3, 0, 0], [0, 1, 0.1, -0.2], [-0.4, 0.8, 0.07, 0.3]])
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    for one, (angle, zoom, right, down), found in zip(
        x, params.double().tolist(), augment.apply_geometry(x, params, border), strict=True
    ):
        moved = AffineTransform(translation=-centre)
        moved += AffineTransform(rotation=-angle)  # their y axis points up
        moved += AffineTransform(scale=zoom)
        moved += AffineTransform(translation=centre + np.array([right * width, down * height]))
        expected = warp(one.permute(1, 2, 0).numpy(), moved.inverse, order=1, mode=mode, cval=0)
        found = found.permute(1, 2, 0).numpy()
        # Black borders are interpolated here, theirs are cut off at the outermost pixel centres.
        inside = np.ones(size, bool) if border == "reflect" else expected.sum(2) > 0
        np.testing.assert_allclose(found[inside], expected[inside], atol=2e-5)


def test_nothing_drawn_leaves_the_picture_as_it_is():
    x = pictures(2) / 255
    neutral = augment.draw_geometry(0, 0, IDS[:2], options())
    torch.testing.assert_close(augment.apply_geometry(x, neutral, "reflect"), x, rtol=0, atol=1e-5)
