"""Bars of a measure over the cohort."""

import pytest
from lowmag.distributions import LEAST_HEIGHT, N_BARS, distribution


def test_every_slide_is_in_a_bar_of_its_place():
    values = {f"s{n}": float(n) for n in range(4 * N_BARS)}
    found = distribution("Tissue", "mm²", values)
    assert found
    assert len(found.bars) == N_BARS
    assert {bar.height for bar in found.bars} == {100.0}
    assert found.bars[0].x == 0
    assert found.bars[-1].x + 100 / N_BARS == pytest.approx(100)
    assert (found.low, found.high) == ("0", "159")
    assert found.summary == "median 79.5 mm²"


def test_one_among_thousands_is_still_seen():
    values = {f"s{n}": 0.0 for n in range(10_000)} | {"odd": 1.0}
    found = distribution("Pen", "%", values, {"odd"})
    assert found
    assert [bar.height for bar in found.bars] == [100.0, 100 * LEAST_HEIGHT]
    assert [bar.has_outlier for bar in found.bars] == [False, True]
    assert found.summary.endswith("1 unusual")


def test_one_value_is_one_bar_and_fewer_than_two_slides_none():
    found = distribution("Scale", "", {"a": 0.25, "b": 0.25})
    assert found
    assert len(found.bars) == 1
    assert (found.low, found.high) == ("", "0.25")
    assert distribution("Scale", "", {"a": 0.25}) is None
