"""Coordinate files of other programs: where TRIDENT, CLAM or AtlasPatch have put the tiles of a slide.

Only the formats are taken over: the dataset `coords` in level-0 pixels, and the attributes that say how large
the fields are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from lowmag.errors import UserError
from lowmag.hdf5 import attributes_of, open_hdf5
from lowmag.record import Level

CURE = (
    "expected the patches/*.h5 of TRIDENT or CLAM. Correct the column coords of slides.csv, or leave it empty"
)
MOST_TILES = 10_000_000
MOST_PX = 1e7  # a slide, and more so a field, is smaller
NEARLY_WHOLE = 0.01
SAME_SIZE = 0.01  # relative: readers may trim padding at the edges
TRIDENT = ("patch_size", "level0_magnification", "target_magnification")
CLAM = ("patch_size", "patch_level")
ATLASPATCH = "patch_size_level0"  # of the file; its coords are x, y, width, height, level
Source = Literal["trident", "clam", "atlaspatch"]


@dataclass(frozen=True)
class Coords:
    """Tiles of another program: level-0 x, y of corners (N, 2) int64, and their edge in level-0 pixels."""

    xy: np.ndarray
    field_px: float
    source: Source


def read_coords(path: Path, levels: Sequence[Level] = ()) -> Coords:
    """The tiles in a coordinate file of TRIDENT, CLAM or AtlasPatch.

    `levels` are the slide's: a file may count pixels of a coarser level without saying how much coarser it
    is. Raises UserError when the file is none of these, does not say how large its fields are, or is of
    another slide.
    """
    if not path.is_file():
        raise _refuse(path, "does not exist")
    with open_hdf5(path, "coordinates", CURE) as file:
        found = file.get("coords")
        if not isinstance(found, h5py.Dataset):
            raise _refuse(path, f"has no dataset coords, but {', '.join(file) or 'nothing'}")
        if found.ndim != 2 or found.shape[1] not in (2, 5) or found.dtype.kind not in "iuf":
            raise _refuse(path, f"has coords of shape {found.shape} and type {found.dtype}")
        if found.shape[0] > MOST_TILES:
            raise _refuse(path, f"has {found.shape[0]} rows of coords, more than any slide has tiles")
        try:
            table, of_coords, of_file = found[()], _plain(found), _plain(file)
        except OSError as error:
            raise _refuse(path, f"cannot be read ({error})") from error
    is_on_slide = (table > -MOST_PX) & (table < MOST_PX)  # not by np.abs: the least integer has none
    if not (is_on_slide.all() and (table == table.round()).all()):
        raise _refuse(path, "has coords that are no whole level-0 pixels")
    table = table.astype(np.int64)
    field_px, source = _field(path, of_coords, of_file, levels)
    if not 1 <= field_px < MOST_PX:
        raise _refuse(path, f"has fields of {field_px:g} level-0 pixels")
    if levels:
        _check_slide(path, table, field_px, of_coords, levels[0])
    return Coords(table[:, :2], field_px, source)


def _field(
    path: Path, of_coords: Mapping[str, Any], of_file: Mapping[str, Any], levels: Sequence[Level]
) -> tuple[float, Source]:
    """The edge of a field in level-0 pixels, as the program that wrote the file would read it."""
    try:
        if all(of_coords.get(name) is not None for name in TRIDENT):
            size, own, target = (float(of_coords[name]) for name in TRIDENT)
            return float(round(size * own / target)), "trident"
        if all(of_coords.get(name) is not None for name in CLAM):
            size, level = (float(of_coords[name]) for name in CLAM)
            further = float(of_coords.get("custom_downsample") or 1)  # as TRIDENT reads it: size is after it
            return size * _ratio(path, level, of_coords.get("downsample"), levels) * further, "clam"
        if of_file.get(ATLASPATCH) is not None:
            return float(of_file[ATLASPATCH]), "atlaspatch"
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise _refuse(path, f"has attributes that are no sizes ({error})") from error
    raise _refuse(
        path,
        f"does not say how large its fields are: coords has the attributes {', '.join(of_coords) or 'none'}, "
        f"TRIDENT writes {', '.join(TRIDENT)}, CLAM {', '.join(CLAM)} (a file of features has none of them)",
    )


def _check_slide(
    path: Path, table: np.ndarray, field_px: float, of_coords: Mapping[str, Any], whole: Level
) -> None:
    """Refuse the file of another slide: by the size TRIDENT says, or by fields beyond this one."""
    own = whole.width, whole.height
    this = f"this one has {own[0]} x {own[1]}"
    stated = [of_coords.get(f"level0_{edge}") for edge in ("width", "height")]
    sizes = [float(n) for n in stated if isinstance(n, int | float | np.number)]
    if len(sizes) == 2 and not np.allclose(sizes, own, rtol=SAME_SIZE):
        raise _refuse(path, f"is of another slide, of {sizes[0]:.0f} x {sizes[1]:.0f} pixels; {this}")
    beyond = (table[:, :2] <= -field_px) | (table[:, :2] >= own)
    if n := int(beyond.any(1).sum()):
        raise _refuse(path, f"is of another slide: {n} of {len(table)} fields lie beyond its pixels; {this}")


def _ratio(path: Path, level: float, stated: Any, levels: Sequence[Level]) -> float:
    """How much coarser than level 0 a level is; a whole number where it is nearly one."""
    if level == 0:
        return 1.0
    if level == int(level) and 0 <= level < len(levels):
        return levels[int(level)].downsample
    if stated is None:
        raise _refuse(path, f"counts pixels of level {level:g}, which the slide does not have")
    ratio = float(stated)
    return float(round(ratio)) if abs(ratio - round(ratio)) < NEARLY_WHOLE * ratio else ratio


def _plain(found: h5py.Dataset | h5py.File) -> dict[str, Any]:
    """Attributes with the first of several values, bytes as text, and TRIDENT's text `None` as None."""
    plain = {}
    for name, value in attributes_of(found).items():
        value = np.ravel(value)[0] if np.size(value) else None
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        plain[name] = None if isinstance(value, str) and value == "None" else value
    return plain


def _refuse(path: Path, problem: str) -> UserError:
    return UserError(f"coordinates {path}: the file {problem}; {CURE}")
