"""How a measure is spread over the cohort, as bars a page can draw without a plotting library."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from lowmag.wording import three_digits

N_BARS = 40
LEAST_HEIGHT = 0.08  # of the highest bar: a single slide among thousands is still seen


@dataclass(frozen=True)
class Bar:
    """One bar in a picture of 100 x 100: left edge, width, height, and whether an outlier is in it."""

    x: float
    width: float
    height: float
    has_outlier: bool


@dataclass(frozen=True)
class Distribution:
    """Bars of a measure with what is written around them."""

    title: str
    bars: list[Bar]
    low: str
    high: str
    summary: str


def distribution(
    title: str, unit: str, values: Mapping[str, float], outliers: Collection[str] = ()
) -> Distribution | None:
    """The spread of `values` by slide, those of `outliers` marked; None for fewer than two."""
    if len(values) < 2:
        return None
    numbers = np.array(list(values.values()))
    low, middle, high = float(numbers.min()), float(np.median(numbers)), float(numbers.max())
    summary = f"median {three_digits(middle)} {unit}".strip()
    if outliers:
        summary += f", {len(outliers)} unusual"
    if low == high:
        return Distribution(title, [Bar(49, 2, 100, bool(outliers))], "", three_digits(high), summary)
    places = np.minimum((numbers - low) / (high - low) * N_BARS, N_BARS - 1).astype(int)
    counts = np.bincount(places, minlength=N_BARS)
    marked = {int(place) for name, place in zip(values, places, strict=True) if name in outliers}
    step = 100 / N_BARS
    bars = [
        Bar(n * step, step * 0.8, 100 * max(LEAST_HEIGHT, counts[n] / counts.max()), n in marked)
        for n in np.flatnonzero(counts)
    ]
    return Distribution(title, bars, three_digits(low), three_digits(high), summary)
