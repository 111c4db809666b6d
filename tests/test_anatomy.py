"""The growth patterns differ in arrangement, and in no area."""

import numpy as np
import pytest
from lowmag import anatomy
from lowmag.anatomy import ACINAR, CRIBRIFORM, LAYOUT_MPP, N_PATTERNS, TRABECULAR
from lowmag.nuclei import SPINDLE

LAYOUT_PX = 768


@pytest.fixture(scope="module")
def laid_out():
    """Anatomy and nuclei of three slides of each growth pattern."""
    found = {growth: [] for growth in range(N_PATTERNS)}
    for growth in found:
        for seed in range(3):
            rng = np.random.default_rng(seed)
            slide = anatomy.lay_out(rng, LAYOUT_PX, growth, has_tissue=True)
            found[growth].append((slide, anatomy.place_nuclei(rng, slide, growth)))
    return found


def _mean_by_growth(laid_out, measure):
    return [np.mean([measure(*slide) for slide in slides]) for slides in laid_out.values()]


def test_areas_are_those_of_every_growth_pattern(laid_out):
    def gland(slide, _nuclei):
        return (slide.depth_um[slide.tissue > 0.5] > 0).mean()

    def lumen(slide, _nuclei):
        return slide.lumen[slide.tissue > 0.5].mean()

    def crowd(slide, nuclei):
        area_um2 = ((slide.depth_um > 0) & (slide.tissue > 0.5)).sum() * LAYOUT_MPP**2
        return (nuclei.kind != SPINDLE).sum() / area_um2

    for measure in (gland, lumen, crowd):
        values = _mean_by_growth(laid_out, measure)
        assert max(values) < 1.2 * min(values), (measure.__name__, values)


def test_lumina_are_smaller_and_more_in_cribriform():
    rng = np.random.default_rng(0)
    one, many = (anatomy._lumina(rng, 0.4, growth) for growth in (ACINAR, CRIBRIFORM))
    assert (len(one), len(many)) == (1, 7)
    areas = [(anatomy._lumina(rng, 0.4, g)[:, 2] ** 2).sum() for g in (ACINAR, CRIBRIFORM, TRABECULAR) * 200]
    by_growth = np.reshape(areas, (200, 3)).mean(0)
    assert by_growth == pytest.approx([0.16] * 3, rel=0.05)


def test_regions_follow_the_growth_pattern_with_the_stated_probability():
    rng = np.random.default_rng(0)
    drawn = anatomy._following(rng, CRIBRIFORM, 0.7, 6000)
    shares = np.bincount(drawn, minlength=N_PATTERNS) / len(drawn)
    assert shares == pytest.approx([0.15, 0.7, 0.15], abs=0.03)  # five standard errors


def test_nuclei_of_acini_lie_under_the_edge_of_the_gland(laid_out):
    def depth(slide, nuclei):
        column, row = (
            (axis[nuclei.kind != SPINDLE] / LAYOUT_MPP).astype(int) for axis in (nuclei.x_um, nuclei.y_um)
        )
        return slide.depth_um[row, column].mean()

    depths = _mean_by_growth(laid_out, depth)
    assert depths[ACINAR] < 0.8 * depths[CRIBRIFORM]


def test_nuclei_are_in_tissue_and_out_of_lumina(laid_out):
    for slides in laid_out.values():
        for slide, nuclei in slides:
            column, row = ((axis / LAYOUT_MPP).astype(int) for axis in (nuclei.x_um, nuclei.y_um))
            assert (slide.tissue[row, column] > 0.5).all()
            assert (slide.lumen[row, column] < 0.1).all()


def test_scaled_chances_have_the_target_mean_in_every_region():
    rng = np.random.default_rng(0)
    region, in_gland = rng.integers(3, size=3000), rng.random(3000) < 0.6
    weight = np.where(rng.random(3000) < 0.6, 1.0, 0.05) * in_gland
    target = np.array([0.2, 0.4, 0.5])
    chance = anatomy._scaled(weight, region, target, in_gland)
    assert chance.max() <= 1
    means = [chance[(region == i) & in_gland].mean() for i in range(3)]
    assert means == pytest.approx(target, rel=0.02)
