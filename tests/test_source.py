import pytest
from lowmag.source import true_levels


@pytest.mark.parametrize(
    ("sizes", "ratios"),
    [
        ([(4443, 3567), (2221, 1783)], [1, 2]),  # a TCGA slide: the mean ratio is 2.0005
        ([(8191, 8191), (2047, 2047), (511, 511)], [1, 4, 16]),  # 4.0015
        ([(1000, 800), (250, 201), (63, 50)], [1, 4, 16]),  # 3.9900: a scanner that rounds up
        ([(46000, 32914), (11500, 8228), (2875, 2057)], [1, 4, 16]),  # CMU-1: 4.00012
        ([(333, 411), (83, 102), (20, 25), (2, 3)], [1, 4, 16, 128]),  # quartered again and again: 16.5
        ([(3000, 2000), (200, 133)], [1, 15]),
        ([(2080, 256), (512, 64)], [1, 4.03125]),  # 520 pixels expected
        ([(1000, 1000), (667, 667)], [1, pytest.approx(1000 / 667)]),
    ],
)
def test_ratio_is_the_whole_number_that_explains_the_size(sizes, ratios):
    assert [level.downsample for level in true_levels(sizes)] == ratios


def test_true_ratio_does_not_drift():
    """At the far end of a level of ratio 2.0005 the mean ratio is off by more than a level-0 pixel."""
    level = true_levels([(4443, 3567), (2221, 1783)])[1]
    assert 2220 * level.downsample == 4440
    assert 2220 * (4443 / 2221 + 3567 / 1783) / 2 > 4441
