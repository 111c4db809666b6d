"""Area averages of a picture at whole factors, rounded once."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

MAX_FACTOR = 4096  # 255 * 4096**2 still fits in uint32, with room for the rounding
STRIP_BYTES = 1 << 19  # a strip and its sums stay in the processor's cache


def area_mean(picture: np.ndarray, factor: int) -> np.ndarray:
    """The picture (H, W, 3) uint8 averaged over factor x factor blocks; see `area_pyramid`."""
    return area_pyramid(picture, [factor])[factor]


def area_pyramid(picture: np.ndarray, factors: Sequence[int]) -> dict[int, np.ndarray]:
    """The picture averaged over factor x factor blocks, for every factor asked for.

    picture: (H, W, 3) uint8; H and W must be multiples of every factor, and there are no more factors than
    that: any whole numbers from 1 to 4096. Sums are exact integers; a sum is divided once, at the end,
    halves up, so no factor sees the rounding of another. Factor 1 is the picture itself, not a copy.
    """
    _require_whole_blocks(picture, factors)
    height, width = picture.shape[:2]
    pyramid = {f: np.empty((height // f, width // f, 3), np.uint8) for f in sorted(set(factors)) if f > 1}
    whole = math.lcm(*pyramid)
    rows = max(1, STRIP_BYTES // (3 * width * whole)) * whole
    for top in range(0, height if pyramid else 0, rows):
        _average_strip(picture[top : top + rows], {f: p[top // f :] for f, p in pyramid.items()})
    return pyramid | ({1: picture} if 1 in factors else {})


def _average_strip(strip: np.ndarray, targets: Mapping[int, np.ndarray]) -> None:
    """Write the averages of a strip into the first rows of each factor's target."""
    sums = {1: strip}
    for factor, target in targets.items():
        base = max(known for known in sums if factor % known == 0)
        sums[factor] = _block_sums(sums[base], factor // base, factor)
        target[: len(sums[factor])] = _rounded_mean(sums[factor], factor * factor)


def _block_sums(values: np.ndarray, step: int, factor: int) -> np.ndarray:
    """Sums over step x step blocks, of the smallest type that holds factor**2 pixels of 255."""
    dtype = np.uint16 if 255 * factor * factor + factor * factor // 2 < 2**16 else np.uint32
    while step % 2 == 0:
        values, step = _strided_sum(values, 2, dtype), step // 2
    return _strided_sum(values, step, dtype) if step > 1 else values


def _strided_sum(values: np.ndarray, step: int, dtype: type[np.unsignedinteger]) -> np.ndarray:
    height, width = values.shape[0] // step, values.shape[1] // step
    rows = np.empty((height, step * width, 3), dtype)
    sums = np.empty((height, width, 3), dtype)
    add_rows(values, step, rows)
    add_columns(rows.reshape(-1, step, 3), sums.reshape(-1, 3))
    return sums


def add_rows(values: np.ndarray, step: int, rows: np.ndarray) -> None:
    """Write sums of every `step` rows; adding whole rows is contiguous, so this comes before the columns."""
    np.add(values[0::step], values[1::step], out=rows, dtype=rows.dtype)
    for offset in range(2, step):
        rows += values[offset::step]


def add_columns(groups: np.ndarray, sums: np.ndarray) -> None:
    """Write sums (n, 3) of groups (n, step, 3), by channel: numpy is slow on an inner axis of 3."""
    for channel in range(3):
        target = sums[:, channel]
        np.add(groups[:, 0, channel], groups[:, 1, channel], out=target)
        for offset in range(2, groups.shape[1]):
            target += groups[:, offset, channel]


def _rounded_mean(sums: np.ndarray, area: int) -> np.ndarray:
    return (sums + sums.dtype.type(area // 2)) // sums.dtype.type(area)


def _require_whole_blocks(picture: np.ndarray, factors: Sequence[int]) -> None:
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, this is {picture.shape} {picture.dtype}")
    height, width = picture.shape[:2]
    for factor in factors:
        if not 1 <= factor <= MAX_FACTOR or height % factor or width % factor:
            raise ValueError(f"a picture of {width} x {height} pixels has no whole blocks of {factor}")
