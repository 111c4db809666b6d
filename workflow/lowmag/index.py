"""Which tiles there are: those of many slides counted through in one order, with their labels.

Tile ids count through the slides in the order of splits.csv and through a slide in the order of its file.
They key the views, the order of training and the teacher's targets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lowmag.errors import UserError
from lowmag.magnification import factor_between, name_of
from lowmag.store import FLAGS, NO_LABEL, TileFile

BAD_TILE = FLAGS["read_error"]  # the only flag that keeps a tile from training
COLUMNS = ("label", "flags", "coords", "size")
EVERY = slice(None)


class Slide(Protocol):
    """A row of splits.csv."""

    @property
    def slide_id(self) -> str: ...
    @property
    def patient_id(self) -> str: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class TileIndex:
    """Every tile, or section (`unit`), of some slides, N in all; a tile's id is its place here.

    `counts` are the tiles of each slide, `tile_px` their edge by magnification (0: sections, of any size).
    `slide` (N,) points into `slides`, `row` (N,) is the row in the slide's file, `labels` (N,) the class or
    -1, `coords` (N, 2) level-0 x and y, `size` (N, 2) width and height in pixels at the highest
    magnification. `identity` changes with the files.
    """

    folder: Path
    slides: list[Any]
    counts: np.ndarray
    slide: np.ndarray
    row: np.ndarray
    labels: np.ndarray
    flags: np.ndarray
    coords: np.ndarray
    size: np.ndarray
    tile_px: dict[float, int]
    unit: str
    identity: str

    @property
    def n(self) -> int:
        """Number of tiles."""
        return len(self.slide)

    @property
    def usable(self) -> np.ndarray:
        """Whether a tile is not flagged bad, (N,)."""
        return (self.flags & BAD_TILE) == 0

    def size_at(self, magnification: float, ids: np.ndarray | slice = EVERY) -> np.ndarray:
        """Width and height in pixels at a magnification, (n, 2)."""
        return self.size[ids] // factor_between(max(self.tile_px), magnification)

    def path(self, slide: int) -> Path:
        """The file of a slide."""
        return self.folder / f"{self.slides[slide].slide_id}.h5"

    def patients(self, ids: np.ndarray) -> set[str]:
        """Patients that tiles come from."""
        return {self.slides[i].patient_id for i in np.unique(self.slide[ids])}

    def name(self, tile_id: int) -> str:
        """A tile as a person finds it: slide and row in its file."""
        return f"{self.slides[self.slide[tile_id]].slide_id}[{self.row[tile_id]}]"


def index_tiles(folder: Path, slides: Sequence[Slide], classes: Sequence[str]) -> TileIndex:
    """The tiles of `slides` in their order; a tile's own label goes before its slide's.

    Raises UserError for a missing or incomplete file, a label that is not among `classes`, or tiles that
    were made in different ways.
    """
    columns = (
        [np.zeros(0, np.int64)],
        [np.zeros(0, np.uint16)],
        [np.zeros((0, 2), np.int64)],
        [np.zeros((0, 2), np.int64)],
    )
    digest = hashlib.sha256()
    counts: list[int] = []
    tile_px: dict[float, int] = {}
    made = _Made()
    for slide in slides:
        with TileFile(folder / f"{slide.slide_id}.h5") as file:
            stored = [file.column(name) for name in COLUMNS]
            attributes = {k: str(v) for k, v in file.attributes.items()}
            found_px = {m: file.tile_px(m) for m in file.magnifications}
            made.check(file)
        tile_px = tile_px or found_px
        _check_sizes(found_px, tile_px, slide, slides[0])
        counts.append(len(stored[1]))
        digest.update(json.dumps([slide.slide_id, attributes], sort_keys=True).encode())
        for values in stored:
            digest.update(values.tobytes())
        stored[0] = _labels(stored[0].astype(np.int64), slide, classes)
        for column, values in zip(columns, stored, strict=True):
            column.append(values)
    labels, flags, coords, size = (np.concatenate(column) for column in columns)
    return TileIndex(
        folder=folder,
        slides=list(slides),
        counts=np.array(counts, np.int64),
        slide=np.repeat(np.arange(len(counts)), counts),
        row=np.concatenate([np.zeros(0, np.int64), *(np.arange(n) for n in counts)]),
        labels=labels,
        flags=flags,
        coords=coords,
        size=size,
        tile_px=tile_px,
        unit=made.unit,
        identity=digest.hexdigest(),
    )


def _labels(stored: np.ndarray, slide: Slide, classes: Sequence[str]) -> np.ndarray:
    if slide.label and slide.label not in classes:
        raise UserError(
            f"slide {slide.slide_id} has label {slide.label!r}, the classes are {', '.join(classes)}; "
            "add it to `classes` or correct the label"
        )
    if stored.max(initial=-1) >= len(classes):
        raise UserError(
            f"the tiles of {slide.slide_id} have class number {stored.max()}, but there are {len(classes)} "
            "classes; delete the tile file and rerun"
        )
    of_slide = list(classes).index(slide.label) if slide.label else -1
    return np.where(stored >= 0, stored, np.where(stored == NO_LABEL, -1, of_slide))


class _Made:
    """How the tiles of a cohort were made: what must be the same of every file, and who said so first."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    @property
    def unit(self) -> str:
        """`tile` or `section`."""
        return self._first.get("tiles.unit", ("", "tile"))[1]

    def check(self, file: TileFile) -> None:
        """Raise UserError for a file that does not go with those before it."""
        found = file.attributes
        of_file = {
            "tiles.unit": file.unit,
            "tiles.lowres": str(found.get("lowres_source", "derived")),
            "tiles.icc": "" if file.icc == "absent" else file.icc,  # nothing to keep or convert
            "tiles.field_um": f"{found['field_um']:g}" if "field_um" in found else "",
        }
        for option, value in of_file.items():
            slide, expected = self._first.setdefault(option, (file.slide_id, value)) if value else ("", "")
            if value != expected:
                raise UserError(
                    f"tiles of {file.slide_id} were made with {option} {value}, those of {slide} with "
                    f"{expected}; the two are not to be mixed: delete the older tile files and rerun"
                )


def _check_sizes(found: dict[float, int], expected: dict[float, int], slide: Slide, first: Slide) -> None:
    if found != expected:
        shown = [
            ", ".join(f"{px} px at {name_of(m)}" for m, px in sizes.items()) for sizes in (found, expected)
        ]
        raise UserError(
            f"tiles of {slide.slide_id} are {shown[0]}, those of {first.slide_id} {shown[1]}; "
            "delete the tile files made with another field_um and rerun"
        )
