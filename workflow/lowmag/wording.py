"""How the report writes numbers, differences and names, so that a person can read them."""

import math
import re
from collections.abc import Mapping

from lowmag.magnification import name_of

NONE = "–"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "kappa_quadratic": "quadratic kappa",
    "ovr_accuracy": "one-vs-rest accuracy",
    "ece": "ECE",
}
# An absolute path up to its last part; a relative one, as in slides.csv, stays.
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/]+[^\\/\s:;,'\"()]+)*[\\/]+(?=[^\\/\s])")


def three_digits(value: float | None) -> str:
    """A number with three digits: 1 231 011, 26.2, 0.0126."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", THIN_SPACE)
    if abs(value) >= 100:
        return f"{value:.0f}"
    shown = f"{value:.3g}"
    return f"{value:.2g}" if "e" in shown else shown


def whole(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}".replace(",", THIN_SPACE)


def score(value: float | None) -> str:
    """A score with two decimals."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference with its sign and two decimals, a true minus; nothing is shown as -0.00."""
    if value is None or not math.isfinite(value):
        return NONE
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", MINUS)


def with_interval(row: Mapping[str, float | None], name: str = "value") -> str:
    """`0.87 [0.80, 0.93]`, or of a difference `−0.02 [−0.05, +0.01]`."""
    if name == "value":
        value, low, high = (score(row[key]) for key in ("value", "low", "high"))
    else:
        value, low, high = (signed(row[key]) for key in (name, "low", "high"))
    return value if NONE in (value, low, high) else f"{value} [{low}, {high}]"


def probability(p: float | None) -> str:
    """A p-value: 0.34, 0.020, and `<0.001` below that."""
    if p is None or not math.isfinite(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def times(ratio: float) -> str:
    """A ratio as a person says it: 64, 3.2."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}".removesuffix(".0")


def seconds(value: float) -> str:
    """A time in the unit that fits: 0.28 s, 41 s, 3.5 min, 2.1 h."""
    if value < 120:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"


def count(n: float, noun: str) -> str:
    """`1 slide`, `12 slides`."""
    return f"{whole(n)} {noun}" + ("" if n == 1 else "s")


def student_name(method: str, magnification: float, unlabelled: float) -> str:
    """`1.25x student (dipalma2021, 100 % of the unlabelled slides)`."""
    share = f", {unlabelled:.0f} % of the unlabelled slides" if unlabelled else ""
    return f"{name_of(magnification)} student ({method}{share})"


def without_folders(text: str) -> str:
    """A message with every absolute path cut to its last part, so that no folder of a machine is told."""
    return _FOLDERS.sub("", text)


def byte_size(n_bytes: float) -> str:
    """Bytes in the unit that fits, by thousands: 512 B, 34 kB, 1.2 MB, 85 GB."""
    units = ("B", "kB", "MB", "GB", "TB")
    step = 0
    while n_bytes >= 999.5 and step < len(units) - 1:
        n_bytes, step = n_bytes / 1000, step + 1
    return f"{three_digits(n_bytes) if step else whole(n_bytes)} {units[step]}"


def percent(share: float) -> str:
    """A share as per cent: 0.3 %, 5.2 %, 34 %, 0 %."""
    value = 100 * share
    return f"{value:.1f}{THIN_SPACE}%" if 0 < value < 9.95 else f"{value:.0f}{THIN_SPACE}%"
