"""Area averages while a field is read: whole blocks of one segment after the other, fractional stretches."""

import numpy as np

from lowmag.downsample import add_columns, add_rows


class BlockMean:
    """Means of blocks of `factor` x `factor` pixels, halves up, for blocks of one size again and again.

    Its sums live in arrays that are kept: for the 256 x 256 pixels of a segment, memory taken anew costs as
    much as the sums. They are exact integers; a sum is divided once.
    """

    def __init__(self, factor: int, largest: tuple[int, int]) -> None:
        height, width = largest
        self._steps: list[tuple[int, np.ndarray, np.ndarray]] = []
        kind = np.uint16 if 255 * factor**2 + factor**2 // 2 < 2**16 else np.uint32
        self._half, self._area = kind(factor**2 // 2), kind(factor**2)
        self._shift = kind(2 * (factor.bit_length() - 1)) if factor & (factor - 1) == 0 else None
        while factor > 1:
            step = 2 if factor % 2 == 0 else factor
            rows = np.empty(height // step * width * 3, kind)
            height, width, factor = height // step, width // step, factor // step
            self._steps.append((step, rows, np.empty(height * width * 3, kind)))

    def write(self, block: np.ndarray, target: np.ndarray) -> None:
        """Write the means of `block` (h, w, 3) uint8 into `target` (h / factor, w / factor, 3) uint8."""
        if not self._steps:
            target[...] = block
            return
        values = block
        for step, rows, sums in self._steps:
            height, width = values.shape[0] // step, values.shape[1] // step
            rows = rows[: height * step * width * 3].reshape(height, step * width, 3)
            sums = sums[: height * width * 3].reshape(height, width, 3)
            add_rows(values, step, rows)
            add_columns(rows.reshape(-1, step, 3), sums.reshape(-1, 3))
            values = sums
        values += self._half
        if self._shift is not None:
            np.right_shift(values, self._shift, out=values)
        else:
            np.floor_divide(values, self._area, out=values)
        target[...] = values


def stretch_means(pixels: np.ndarray, offset: float, shrink: float, n: int) -> np.ndarray:
    """Exact means of `n` stretches of `shrink` rows from row `offset` on, (n, ...) float64."""
    total = np.zeros((len(pixels) + 1, *pixels.shape[1:]))
    np.cumsum(pixels, axis=0, out=total[1:])
    edges = np.minimum(offset + shrink * np.arange(n + 1), len(pixels))
    whole = np.minimum(edges.astype(np.intp), len(pixels) - 1)
    share = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    return np.diff(total[whole] + share * pixels[whole], axis=0) / shrink
