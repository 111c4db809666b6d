"""Growing, opening and closing of masks (h, w) of booleans by squares of pixels."""

import numpy as np


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` dilated by a square of `radius` pixels to every side."""
    for axis in (0, 1):
        reached = 0
        while reached < radius:
            step = min(2 * reached + 1, radius - reached)
            mask = _spread(mask, axis, step)
            reached += step
    return mask


def opened(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` without what is narrower than 2 `radius` + 1 pixels, the edge of the picture aside."""
    return grown(~grown(~mask, radius), radius)


def closed(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` with gaps of up to 2 `radius` pixels bridged."""
    shrunk = ~grown(~grown(np.pad(mask, radius), radius), radius)
    inside = slice(radius, -radius or None)
    return shrunk[inside, inside]


def _spread(mask: np.ndarray, axis: int, step: int) -> np.ndarray:
    """`mask` or itself shifted by `step` pixels to either side."""
    spread = mask.copy()
    source, target = np.moveaxis(mask, axis, 0), np.moveaxis(spread, axis, 0)
    if step < len(source):
        target[step:] |= source[:-step]
        target[:-step] |= source[step:]
    else:
        target |= source.any(axis=0)
    return spread
