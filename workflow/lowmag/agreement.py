"""Figures of predictions against labels: confusion matrices and reliability curves.

Predictions of a group come as one (N, K) array per seed and are pooled: a tile counts once per seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowmag.palette import STYLE, WIDTH_IN, panels_in_row

CURVE_BINS = 10
LONGEST_NAME = 14
MOST_COUNTED = 8
Probabilities = Sequence[np.ndarray]


@mpl.rc_context(STYLE)
def confusion(groups: Mapping[str, Probabilities], labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrices by title: share of the label's tiles in per cent and colour, counts below it."""
    n_columns = min(3, len(groups))
    n_rows = -(-len(groups) // n_columns)
    figure = Figure(figsize=(WIDTH_IN, 0.3 + WIDTH_IN / 3 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (title, probabilities) in zip(panels, groups.items(), strict=False):
        _matrix(axes, confusion_counts(probabilities, labels), classes)
        axes.set_title(title, fontsize=8.5)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    return figure


def confusion_counts(probabilities: Probabilities, labels: np.ndarray) -> np.ndarray:
    """Counts over all seeds (K, K): rows the labels, columns the most probable classes."""
    k = probabilities[0].shape[1]
    counts = np.zeros((k, k), int)
    for of_seed in probabilities:
        np.add.at(counts, (labels, of_seed.argmax(1)), 1)
    return counts


def _matrix(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = float(np.clip(36 / len(classes), 4, 9))
    for (i, j), share in np.ndenumerate(shares):
        text = (
            f"{100 * share:.0f} %\n{counts[i, j]}" if len(classes) <= MOST_COUNTED else f"{100 * share:.0f}"
        )
        colour = "white" if share > 0.55 else "#222222"
        axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("label", fontsize=8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


@mpl.rc_context(STYLE)
def calibration(
    panels: Mapping[str, Mapping[str, Probabilities]],
    labels: np.ndarray,
    looks: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """Reliability curves, one panel per title, one curve per label; `looks` gives every label's line.

    A point is a tenth of the tiles by rising confidence, so that none stands for a handful.
    """
    figure, all_axes = panels_in_row(len(panels), 4.6)
    n_classes = next(iter(next(iter(panels.values())).values()))[0].shape[1]
    for (title, curves), axes in zip(panels.items(), all_axes, strict=True):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":", label="perfectly calibrated")
        for label, probabilities in curves.items():
            confidence, right = reliability(probabilities, labels)
            axes.plot(confidence, right, label=label, **looks[label])
        axes.set_title(title)
        axes.set(xlabel="probability of the predicted class", ylabel="share of tiles predicted right")
        axes.set(xlim=(1 / n_classes - 0.05, 1.02), ylim=(0, 1.04))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8)
    return figure


def reliability(
    probabilities: Probabilities, labels: np.ndarray, n_bins: int = CURVE_BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability of the predicted class and share right, in `n_bins` bins of equal count."""
    pooled = np.concatenate(probabilities)
    confidence = pooled.max(1)
    right = pooled.argmax(1) == np.tile(labels, len(probabilities))
    bins = [part for part in np.array_split(np.argsort(confidence, kind="stable"), n_bins) if len(part)]
    return np.array([confidence[part].mean() for part in bins]), np.array(
        [right[part].mean() for part in bins]
    )
