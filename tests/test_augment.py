"""Views and colours: exact, the same whatever the batch, and frozen from version to version."""

import numpy as np
import pytest
import torch
from lowmag import augment
from lowmag.recipe import Augment
from torch.nn import functional

IDS = np.arange(4000)
FROZEN_VIEWS = [3, 0, 2, 6]
FROZEN_COLOUR = [0.9454367, 0.9173653, 0.9713896, 0.9910874, 1.078459, 1.0722015]


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
    views = augment.draw_views(0, 0, IDS, with_turns=False)
    counts = torch.bincount(views, minlength=8)
    assert counts[4:].sum() == 0
    # Four standard deviations of a binomial with n = 4000 and p = 1/4.
    assert (counts[:4] - len(IDS) / 4).abs().max() < 4 * (len(IDS) * 3 / 16) ** 0.5
    assert not torch.equal(views, augment.draw_views(0, 1, IDS, with_turns=False))


@pytest.mark.parametrize("draw", ["views", "colour"])
def test_draws_do_not_depend_on_the_batch(draw):
    def drawn(ids):
        if draw == "views":
            return augment.draw_views(3, 5, ids)
        return augment.draw_colour(3, 5, ids, options())

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
    assert factors.shape == (len(IDS), len(augment.COLOUR_PARAMETERS))
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
