"""Magnification and micrometres per pixel: 10x is 1.0 mpp, 1.25x is 8.0 mpp."""

MPP_AT_1X = 10.0
NAME_PRECISION = 1e-5  # a name has six digits: 6.66667x is a third of 20x


def mpp_of(magnification: float) -> float:
    """Micrometres per pixel of a magnification (10 -> 1.0)."""
    return MPP_AT_1X / magnification


def name_of(magnification: float) -> str:
    """The name a person reads and files carry: 10 -> `10x`, 1.25 -> `1.25x`."""
    return f"{magnification:g}x"


def factor_between(high: float, low: float) -> int:
    """The whole number of `high` pixels along one edge of a `low` pixel (10, 1.25 -> 8).

    Raises ValueError when the ratio is not a whole number of at least 1.
    """
    ratio = high / low
    if ratio < 1 or abs(ratio / round(ratio) - 1) > NAME_PRECISION:
        raise ValueError(f"{name_of(high)} is not a whole multiple of {name_of(low)}")
    return round(ratio)
