"""A gallery of test tiles: what the teacher and the students see, and where they look.

Above, the tile as a network is given it; below, the network's attention for the class it predicts. Cells are
drawn as they are, without smoothing: at low magnification a map of one cell says nothing of place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowmag import cam, models
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.magnification import name_of
from lowmag.models import ModelSpec
from lowmag.networks import FEATURES_MODEL, Network
from lowmag.palette import COLOURS, STYLE, WIDTH_IN
from lowmag.publish import publishing
from lowmag.splits import read_splits
from lowmag.store import TileFile

MOST_TILES = 4
MOST_SEARCHED = 64
BARS_UM = (100.0, 1000.0, 500.0, 200.0, 50.0, 20.0, 10.0, 5000.0, 2000.0)
MOST_PX = 1024  # of a picture's longer edge
BATCH = 8
DPI = 150
WRONG_COLOUR = COLOURS[0]


@dataclass(frozen=True)
class Viewer:
    """A network and what it is."""

    network: Network
    spec: ModelSpec

    @property
    def name(self) -> str:
        """`teacher, 10x` or `student, 1.25x`."""
        return f"{self.spec.role}, {name_of(self.spec.magnification)}"


@dataclass(frozen=True)
class View:
    """What a network sees of N tiles, or sections of any size, and says of them."""

    pictures: Sequence[np.ndarray]  # (H, W, 3) uint8
    probabilities: np.ndarray  # (N, K)
    attention: Sequence[np.ndarray]  # (h, w) for the predicted class, 0 to 1
    fields_um: Sequence[tuple[float, float]]  # width and height


def write_gallery(teacher: Path, students: Sequence[Path], tiles: Path, splits: Path, out: Path) -> None:
    """Draw the gallery as PNG: up to four test tiles, the teacher, and one student per magnification.

    Raises UserError when there is no labelled test tile.
    """
    viewers = [Viewer(*models.load_model(path)) for path in [teacher, *students]]
    viewers[1:] = sorted(viewers[1:], key=lambda viewer: -viewer.spec.magnification)
    if viewers[0].spec.model == FEATURES_MODEL:  # it sees no tiles: its features were computed elsewhere
        viewers = viewers[1:]
    classes = viewers[0].spec.classes
    index = index_tiles(tiles, [row for row in read_splits(splits) if row.split == "test"], classes)
    if not (index.usable & (index.labels >= 0)).any():
        raise UserError(f"{splits} has no labelled test tile to show; give some patients the split `test`")
    of_class, wrong = choose_tiles(index, viewers)
    chosen = np.array(of_class + wrong, int)
    headings = [f"label: {classes[label]}" for label in index.labels[chosen]]
    if wrong:
        headings[-1] += f" (shown because the {viewers[-1].name}, gets it wrong)"
    figure = draw(
        viewers, [look(viewer, index, chosen) for viewer in viewers], index.labels[chosen], headings
    )
    with mpl.rc_context(STYLE), publishing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "lowmag"})


def choose_tiles(index: TileIndex, viewers: Sequence[Viewer]) -> tuple[list[int], list[int]]:
    """Ids of tiles to show: by class the middle one of all its test tiles, and at most one that goes wrong.

    The latter is the first, of up to MOST_SEARCHED spread over the test tiles, that the student of the
    lowest magnification gets wrong, and the teacher right if there is such a one. No other look decides.
    """
    shown = np.flatnonzero(index.usable & (index.labels >= 0))
    of_class = [shown[index.labels[shown] == c] for c in np.unique(index.labels[shown])]
    middle = [int(ids[len(ids) // 2]) for ids in of_class]
    spread = np.unique(shown[np.linspace(0, len(shown) - 1, min(MOST_SEARCHED, len(shown))).astype(int)])
    wrong = _goes_wrong(index, viewers, np.setdiff1d(spread, middle))
    return middle[: MOST_TILES - len(wrong)], wrong


def _goes_wrong(index: TileIndex, viewers: Sequence[Viewer], ids: np.ndarray) -> list[int]:
    if len(viewers) == 1 or not len(ids):
        return []
    lowest_right = look(viewers[-1], index, ids).probabilities.argmax(1) == index.labels[ids]
    failed = ids[~lowest_right]
    if not len(failed):
        return []
    few = failed[:BATCH]
    teacher_right = look(viewers[0], index, few).probabilities.argmax(1) == index.labels[few]
    return [int(few[int(teacher_right.argmax())])]  # the first of all when the teacher is never right


@torch.inference_mode()
def look(viewer: Viewer, index: TileIndex, ids: np.ndarray) -> View:
    """What a network sees of tiles, says of them and looks at."""
    batch = BATCH if viewer.spec.tile_px else 1  # sections differ in size
    pictures: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    attention: list[np.ndarray] = []
    fields_um = index.size_at(viewer.spec.magnification, ids) * viewer.spec.mpp
    for some in np.array_split(ids, -(-len(ids) // batch)):
        part = np.stack([_read(index, int(i), viewer.spec.magnification) for i in some])
        pictures += map(_small, part)
        features, logits = viewer.network(models.prepare(torch.from_numpy(part), viewer.spec))
        maps = cam.attention(features, viewer.network.head.weight, relu="inside")
        predicted = maps[torch.arange(len(part)), logits.argmax(1)]
        probabilities.append(logits.float().softmax(1).numpy())
        attention += [*(predicted / predicted.amax((1, 2), keepdim=True).clamp(min=1e-6)).numpy()]
    return View(pictures, np.concatenate(probabilities), attention, fields_um.tolist())


def _small(picture: np.ndarray) -> np.ndarray:
    """The picture, or every n-th pixel of a large section, which is drawn a few hundred pixels wide."""
    step = max(1, max(picture.shape[:2]) // MOST_PX)
    return picture[::step, ::step]


def _read(index: TileIndex, tile: int, magnification: float) -> np.ndarray:
    with TileFile(index.path(int(index.slide[tile]))) as file:
        return file.read(magnification, int(index.row[tile]))


@mpl.rc_context(STYLE)
def draw(
    viewers: Sequence[Viewer], views: Sequence[View], labels: np.ndarray, headings: Sequence[str]
) -> Figure:
    """The gallery: two rows per tile (picture above attention), one column per network."""
    classes = viewers[0].spec.classes
    columns = max(len(viewers), 3)
    edge = WIDTH_IN / columns
    figure = Figure(figsize=(WIDTH_IN, (2 * edge + 0.72) * len(labels) + 0.3), layout="constrained")
    parts = figure.subfigures(len(labels), 1, squeeze=False)[:, 0]
    for n, (part, label) in enumerate(zip(parts, labels, strict=True)):
        part.suptitle(headings[n], x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        axes = part.subplots(2, columns, squeeze=False)
        for column, (viewer, view) in enumerate(zip(viewers, views, strict=True)):
            _picture(axes[0, column], view, n, viewer.name)
            _attention(axes[1, column], view, n)
            _say(axes[1, column], view.probabilities[n], int(label), classes)
        _scale_bar(axes[0, 0], *views[0].fields_um[n])
        for empty in axes[:, len(viewers) :].ravel():
            empty.set_axis_off()
    return figure


def _picture(axes: Axes, view: View, n: int, title: str) -> None:
    width, height = view.fields_um[n]
    axes.imshow(view.pictures[n], interpolation="nearest", extent=(0, width, height, 0))
    axes.set_title(title, fontsize=8.5, loc="center")
    _bare(axes)


def _attention(axes: Axes, view: View, n: int) -> None:
    width, height = view.fields_um[n]
    extent = (0, width, height, 0)
    grey = view.pictures[n].mean(2)
    heat = view.attention[n]
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    # vmax above 1 leaves out the palest colours, which would read as no attention on a pale picture
    axes.imshow(
        heat, cmap="plasma", vmin=0, vmax=1.2, alpha=0.1 + 0.5 * heat, interpolation="nearest", extent=extent
    )
    cells = "1 cell" if heat.size == 1 else f"{heat.shape[0]} × {heat.shape[1]} cells"
    axes.set_title(f"attention, {cells}", fontsize=7, loc="center", color="#555555", pad=2)
    _bare(axes)


def _say(axes: Axes, probabilities: np.ndarray, label: int, classes: Sequence[str]) -> None:
    predicted = int(probabilities.argmax())
    right = predicted == label
    text = f"{classes[predicted]}: {probabilities[predicted]:.2f}" + ("" if right else " (wrong)")
    axes.set_xlabel(text, fontsize=8, color="#222222" if right else WRONG_COLOUR, labelpad=3)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _scale_bar(axes: Axes, width: float, height: float) -> None:
    length = next((bar for bar in BARS_UM if width / 10 <= bar <= width / 2), width / 2)
    y, right = 0.94 * height, 0.95 * width
    outline: Any = [patheffects.withStroke(linewidth=4.5, foreground="black")]
    axes.plot(
        [right - length, right], [y, y], color="white", lw=2.5, solid_capstyle="butt", path_effects=outline
    )
    text = axes.text(right - length / 2, y - 0.025 * height, f"{length:g} µm", color="white", fontsize=7.5)
    text.set(ha="center", va="bottom", path_effects=[patheffects.withStroke(linewidth=2, foreground="black")])
