"""How every figure looks: one colour and marker per method, one style, and the axis of magnification.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which stay apart under the common forms of
colour blindness; the marker repeats what the colour says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lowmag.magnification import mpp_of, name_of
from lowmag.study import Study

WIDTH_IN = 8.6
TEACHER_COLOUR = "#333333"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # one more than colours, so that 42 methods differ
FEW_SHARES = 2

# svg.fonttype none keeps text as text: searchable, and small. The salt makes ids, so files, repeatable.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lowmag",
}


@dataclass(frozen=True)
class Series:
    """A method at one share of unlabelled slides, and how it is drawn."""

    method: str
    share: int
    label: str
    colour: str
    marker: str
    filled: bool

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` and `Axes.errorbar`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": self.colour if self.filled else "white",
            "linestyle": "-" if self.filled else "--",
        }


def colour_of(study: Study, method: str) -> str:
    """The colour of a method, the same in every figure of a study."""
    return COLOURS[list(study.methods).index(method) % len(COLOURS)]


def marker_of(study: Study, method: str) -> str:
    """The marker of a method, the same in every figure of a study."""
    return MARKERS[list(study.methods).index(method) % len(MARKERS)]


def series_of(study: Study) -> list[Series]:
    """The series a figure shows: per method its lowest (open) and its highest (filled) unlabelled share."""
    several = len({share for method in study.methods for share in study.shares(method)}) > 1
    found = []
    for method in study.methods:
        shares = study.shares(method)
        if len(shares) > FEW_SHARES:
            shares = [shares[0], shares[-1]]
        for share in shares:
            label = f"{method}, {share} % unlabelled" if several and study.methods[method] else method
            filled = share == shares[-1]
            found.append(
                Series(method, share, label, colour_of(study, method), marker_of(study, method), filled)
            )
    return found


def main_series(study: Study) -> list[Series]:
    """One series per method: its highest unlabelled share."""
    return [series for series in series_of(study) if series.filled]


def dodges(n: int, span: float) -> np.ndarray:
    """n offsets around 0 that spread over `span`."""
    return (np.arange(n) - (n - 1) / 2) * (span / max(n, 1))


def magnification_axis(axes: Axes, magnifications: Sequence[float]) -> None:
    """Make x the magnification in octaves (log2), highest on the left, with its scale in µm per pixel."""
    axes.set_xlim(np.log2(max(magnifications)) + 0.5, np.log2(min(magnifications)) - 0.5)
    named = {float(np.log2(m)): f"{name_of(m)}\n{mpp_of(m):g}" for m in magnifications}
    axes.xaxis.set_major_locator(FixedLocator(sorted(named)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: named[min(named, key=lambda known: abs(known - x))])
    )
    axes.set_xlabel("magnification (below it: µm per pixel)")


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic with plain numbers at 1, 2 and 5 of every decade that `values` touch."""
    positive = [value for value in values if np.isfinite(value) and value > 0] or [1.0]
    low, high = min(positive) / 1.5, max(positive) * 1.5
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def panels_in_row(n: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of n panels side by side, the page wide."""
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])
