"""`tiles/{slide}.h5`: every tile, or section, of one slide at every magnification in one file.

Layout (schema `lowmag-tiles`, version 2); N tiles, K magnifications:

- root attributes: `schema, schema_version, slide_id, unit, n_tiles, magnifications, ratio, mpp_x, mpp_y,
  mpp_source, reader, lowres_source, icc, source_*, config_sha256, software` and `complete`, written last;
- `coords (N, 2) int64`: level-0 x, y of the top-left corner, with the attributes TRIDENT reads;
- `size (N, 2) int32`: width and height in pixels at the highest magnification; `ratio (2,)` of the root says
  how many level-0 pixels one of them is along x and y;
- `grid (N, 2) int32`: row and column on the slide's one grid;
- `tissue_fraction (N,) float32`, `flags (N,) uint16` (FLAGS), `label (N,) int16` (a class, or a name below);
- `qc (N, 6) float32` with the attribute `columns` (QC_COLUMNS), NaN where nothing was measured;
- `/mag/{name}`: attributes `magnification, mpp, tile_px` (0: any size), and pictures in a form of `stacks`:
  JPEGs at the highest magnification; below it an array, or raw pixels where pictures differ in size.

Version 1 had no `size`, `qc`, `unit` and `ratio`, and only the flag of fields that cannot be read.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lowmag.errors import UserError
from lowmag.hdf5 import open_hdf5, publishing_hdf5
from lowmag.magnification import factor_between, mpp_of, name_of
from lowmag.stacks import (
    ArrayWriter,
    JpegWriter,
    PixelWriter,
    StackWriter,
    dataset,
    decode,
    read_jpegs,
    read_picture,
)

SCHEMA = "lowmag-tiles"
SCHEMA_VERSION = 2
FLAGS = {"read_error": 1, "transparent": 2, "out_of_bounds": 4, "blur": 8, "pen": 16, "mask_edge": 32}
QC_COLUMNS = ("sharpness", "pen_share", "transparent_share", "mean_red", "mean_green", "mean_blue")
LABEL_OF_SLIDE = -1
NO_LABEL = -2  # of an annotated slide, outside all regions: not even the slide's label applies


@dataclass(frozen=True)
class Layout:
    """What is stored of a tile: magnifications (highest first), edges in pixels, quality of the highest.

    Of sections (`unit`) the edges differ: `tile_px` is empty.
    """

    magnifications: Sequence[float]
    tile_px: Mapping[float, int]
    jpeg_quality: int = 90
    unit: str = "tile"


@dataclass
class TileRow:
    """One tile: its place and its picture at every magnification, each (H, W, 3) uint8.

    `quality` is as QC_COLUMNS, empty where nothing was measured.
    """

    x: int
    y: int
    row: int
    column: int
    tissue_fraction: float
    pictures: Mapping[float, np.ndarray]
    flags: int = 0
    label: int = LABEL_OF_SLIDE
    quality: Sequence[float] = ()


@dataclass
class TileWriter:
    """Appends tiles to an open file; made by `writing`."""

    file: h5py.File
    layout: Layout
    n: int = 0
    _columns: dict[str, list[Any]] = field(default_factory=dict)
    _stacks: dict[float, StackWriter] = field(default_factory=dict)

    def append(self, tile: TileRow) -> None:
        """Add one tile; pictures must have the layout's sizes and show one field."""
        highest = self.layout.magnifications[0]
        height, width = tile.pictures[highest].shape[:2]
        for magnification in self.layout.magnifications:
            picture, factor = tile.pictures[magnification], factor_between(highest, magnification)
            expected = (height // factor, width // factor, 3)
            if self.layout.unit == "tile":
                expected = (self.layout.tile_px[magnification],) * 2 + (3,)
            assert picture.shape == expected, (picture.shape, expected)
            assert picture.dtype == np.uint8, picture.dtype
            self._stack(magnification).append(picture)
        for name, value in _values(tile, (width, height)).items():
            self._columns.setdefault(name, []).append(value)
        self.n += 1

    def _stack(self, magnification: float) -> StackWriter:
        if magnification not in self._stacks:
            group = self.file[f"mag/{name_of(magnification)}"]
            assert isinstance(group, h5py.Group)
            if magnification == self.layout.magnifications[0]:
                stack: StackWriter = JpegWriter(group, self.layout.jpeg_quality)
            elif self.layout.unit == "tile":
                stack = ArrayWriter(group, self.layout.tile_px[magnification])
            else:
                stack = PixelWriter(group)
            self._stacks[magnification] = stack
        return self._stacks[magnification]

    def close(self) -> None:
        """Write the rest of the pictures, the per-tile columns and, last, `complete`."""
        for magnification in self.layout.magnifications:
            self._stack(magnification).close()
        for name, (dtype, width) in _COLUMNS.items():
            values = np.asarray(self._columns.get(name, []), dtype=dtype)
            self.file.create_dataset(name, data=values.reshape((self.n, width) if width else (self.n,)))
        dataset(self.file, "qc").attrs["columns"] = list(QC_COLUMNS)
        self.file.attrs["n_tiles"] = self.n
        self.file.flush()
        self.file.attrs["complete"] = True


_COLUMNS = {
    "coords": (np.int64, 2),
    "size": (np.int32, 2),
    "grid": (np.int32, 2),
    "tissue_fraction": (np.float32, 0),
    "flags": (np.uint16, 0),
    "label": (np.int16, 0),
    "qc": (np.float32, len(QC_COLUMNS)),
}


def _values(tile: TileRow, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "coords": (tile.x, tile.y),
        "size": size,
        "grid": (tile.row, tile.column),
        "tissue_fraction": tile.tissue_fraction,
        "flags": tile.flags,
        "label": tile.label,
        "qc": tuple(tile.quality) or (np.nan,) * len(QC_COLUMNS),
    }


@contextmanager
def writing(
    path: Path | str,
    layout: Layout,
    attributes: Mapping[str, Any],
    *,
    coords_attributes: Mapping[str, Any] | None = None,
) -> Iterator[TileWriter]:
    """A writer whose file appears at `path` only when the block ends without an error.

    `attributes` go to the root (None is stored as the text `None`), `coords_attributes` to `coords`.
    """
    with publishing_hdf5(path) as file:
        file.attrs.update({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "complete": False})
        file.attrs.update({"unit": layout.unit} | _storable(attributes))
        file.attrs["magnifications"] = [name_of(m) for m in layout.magnifications]
        for magnification in layout.magnifications:
            file.create_group(f"mag/{name_of(magnification)}").attrs.update(
                {
                    "magnification": magnification,
                    "mpp": mpp_of(magnification),
                    "tile_px": layout.tile_px.get(magnification, 0),
                }
            )
        writer = TileWriter(file, layout)
        yield writer
        writer.close()
        dataset(file, "coords").attrs.update(_storable(coords_attributes or {}))


def _storable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "None" if value is None else value for name, value in attributes.items()}


class TileFile:
    """Reads a tile file; a context manager.

    Raises UserError when the file is not one of ours, of a newer version, or not complete: it is not trusted.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(
                f"there is no tile file {self.path}; correct the path, or make it by `lowmag tiles`"
            )
        self._file = open_hdf5(self.path, "tile file", "delete it to have it made again", is_own=True)
        try:
            self._check()
        except UserError:
            self._file.close()
            raise

    def _check(self) -> None:
        found = self.attributes
        if found.get("schema") != SCHEMA:
            raise UserError(
                f"{self.path} has schema {found.get('schema')!r}, expected {SCHEMA!r}: not a lowmag tile file"
            )
        if int(found["schema_version"]) > SCHEMA_VERSION:
            raise UserError(
                f"{self.path} has schema version {found['schema_version']}; this is up to {SCHEMA_VERSION}"
            )
        if not found.get("complete"):
            raise UserError(f"{self.path} is not complete (its writer was stopped); delete it and rerun")
        if len(dataset(self._file, "coords")) != self.n:
            raise UserError(f"{self.path} says {self.n} tiles but holds another number; delete it and rerun")

    def __enter__(self) -> "TileFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes."""
        return dict(self._file.attrs)

    @property
    def n(self) -> int:
        """Number of tiles."""
        return int(self.attributes["n_tiles"])

    @property
    def slide_id(self) -> str:
        """Id of the slide."""
        return str(self._file.attrs["slide_id"])

    @property
    def magnifications(self) -> list[float]:
        """Stored magnifications, highest first."""
        return [float(str(name).removesuffix("x")) for name in self.attributes["magnifications"]]

    @property
    def unit(self) -> str:
        """`tile` or `section`."""
        return str(self.attributes.get("unit", "tile"))

    @property
    def classes(self) -> list[str]:
        """Names of the classes that `label` counts; none where tiles have no labels of their own."""
        return json.loads(str(self.attributes.get("classes", "[]")))

    @property
    def coords_attributes(self) -> dict[str, Any]:
        """What TRIDENT, and perhaps CLAM, read of the fields' size; none in a file of a rejected slide."""
        return dict(dataset(self._file, "coords").attrs)

    @property
    def icc(self) -> str:
        """What was done with the slide's colour profile: `absent`, `kept` or `srgb`."""
        found = str(self.attributes.get("icc", "absent"))
        return {"present": "kept", "None": "absent"}.get(found, found)  # version 1 said whether there was one

    def column(self, name: str) -> np.ndarray:
        """A per-tile column: coords, size, grid, tissue_fraction, flags, label or qc."""
        if name in self._file or name not in ("size", "qc"):
            return np.asarray(dataset(self._file, name)[()])
        if name == "size":
            return np.full((self.n, 2), self.tile_px(self.magnifications[0]), np.int32)
        return np.full((self.n, len(QC_COLUMNS)), np.nan, np.float32)

    def boxes(self) -> np.ndarray:
        """Where the tiles lie: level-0 x0, y0, x1, y1, (N, 4) float64."""
        found, edge = self.attributes, self.tile_px(self.magnifications[0])
        ratio = found.get("ratio")
        if ratio is None and "field_um_x" in found:
            ratio = [found[f"field_um_{axis}"] / found[f"mpp_{axis}"] / edge for axis in "xy"]
        coords = self.column("coords").astype(float)
        return np.hstack([coords, coords + self.column("size") * np.asarray(1.0 if ratio is None else ratio)])

    def tile_px(self, magnification: float) -> int:
        """Edge of a tile in pixels at a magnification; 0 in a file of sections."""
        attributes: dict[str, Any] = dict(self._group(magnification).attrs)
        return int(attributes["tile_px"])

    def is_jpeg(self, magnification: float) -> bool:
        """Whether tiles of a magnification are stored as JPEG."""
        return "jpeg" in self._group(magnification)

    def jpegs(self, magnification: float) -> list[bytes]:
        """All tiles of a JPEG magnification, still encoded."""
        return read_jpegs(self._group(magnification))

    def read(self, magnification: float, index: int) -> np.ndarray:
        """One tile or section, (H, W, 3) uint8; UserError for a damaged one."""
        group = self._group(magnification)
        try:
            return read_picture(group, index)
        except (ValueError, OSError) as error:
            raise UserError(
                f"tile {self.slide_id}[{index}] cannot be decoded at {name_of(magnification)} ({error}); "
                f"delete {self.path} and rerun"
            ) from error

    def read_all(self, magnification: float) -> np.ndarray:
        """All tiles, (N, H, W, 3) uint8; not for sections, whose sizes differ."""
        assert self.unit == "tile", self.unit
        if not self.is_jpeg(magnification):
            return np.asarray(dataset(self._group(magnification), "imgs")[()])
        edge = self.tile_px(magnification)
        tiles = [decode(blob) for blob in self.jpegs(magnification)]
        return np.stack(tiles) if tiles else np.zeros((0, edge, edge, 3), np.uint8)

    def read_rows(self, magnification: float, rows: np.ndarray) -> np.ndarray:
        """Raw tiles at these rows, (n, H, W, 3) uint8, by one read from the first to the last."""
        # h5py picks rows a hundred times slower.
        first, last = int(rows.min()), int(rows.max())
        between = np.asarray(dataset(self._group(magnification), "imgs")[first : last + 1])
        return between if len(between) == len(rows) else between[rows - first]

    def _group(self, magnification: float) -> h5py.Group:
        found = self._file.get(f"mag/{name_of(magnification)}")
        if not isinstance(found, h5py.Group):
            stored = ", ".join(name_of(m) for m in self.magnifications)
            raise UserError(
                f"{os.fspath(self.path)} holds no {name_of(magnification)} tiles, only {stored}; "
                "add the magnification to tiles.students and rerun"
            )
        return found
