"""`tiles/{slide}.h5`: every tile of one slide at every magnification in one file.

Layout (schema `lowmag-tiles`, version 1); N tiles, K magnifications:

- root attributes: `schema, schema_version, slide_id, n_tiles, magnifications, mpp_x, mpp_y, mpp_source,
  reader, lowres_source, source_*, config_sha256, software` and `complete`, which is written last;
- `coords (N, 2) int64`: level-0 x, y of the top-left corner, with the attributes TRIDENT reads;
- `grid (N, 2) int32`: row and column on the slide's one grid;
- `tissue_fraction (N,) float32`, `flags (N,) uint16`, `label (N,) int16` (-1: none);
- `/mag/{name}`: attributes `magnification, mpp, tile_px`; either `imgs (N, H, W, 3) uint8` in chunks of one
  tile, or `jpeg (bytes,) uint8` with `offsets (N + 1,) int64`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import simplejpeg

from lowmag.errors import UserError
from lowmag.magnification import mpp_of, name_of
from lowmag.publish import publishing

SCHEMA = "lowmag-tiles"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Layout:
    """What is stored of a tile: magnifications (highest first), edges in pixels, quality of the highest."""

    magnifications: Sequence[float]
    tile_px: Mapping[float, int]
    jpeg_quality: int = 90


@dataclass
class TileRow:
    """One tile: its place and its picture at every magnification, each (H, W, 3) uint8."""

    x: int
    y: int
    row: int
    column: int
    tissue_fraction: float
    pictures: Mapping[float, np.ndarray]
    flags: int = 0
    label: int = -1


@dataclass
class TileWriter:
    """Appends tiles to an open file; made by `writing`."""

    file: h5py.File
    layout: Layout
    n: int = 0
    _columns: dict[str, list[Any]] = field(default_factory=dict)
    _jpeg_end: int = 0

    def append(self, tile: TileRow) -> None:
        """Add one tile; pictures must have the layout's sizes."""
        highest = self.layout.magnifications[0]
        for magnification in self.layout.magnifications:
            picture = np.ascontiguousarray(tile.pictures[magnification])
            edge = self.layout.tile_px[magnification]
            assert picture.shape == (edge, edge, 3), (picture.shape, edge)
            assert picture.dtype == np.uint8, picture.dtype
            group = self.file[f"mag/{name_of(magnification)}"]
            assert isinstance(group, h5py.Group)
            if magnification == highest:
                self._append_jpeg(group, picture)
            else:
                images = _dataset(group, "imgs")
                images.resize(self.n + 1, axis=0)
                images[self.n] = picture
        for name, value in _values(tile).items():
            self._columns.setdefault(name, []).append(value)
        self.n += 1

    def _append_jpeg(self, group: h5py.Group, picture: np.ndarray) -> None:
        blob = simplejpeg.encode_jpeg(
            picture, quality=self.layout.jpeg_quality, colorspace="RGB", colorsubsampling="444"
        )
        data, offsets = _dataset(group, "jpeg"), _dataset(group, "offsets")
        data.resize(self._jpeg_end + len(blob), axis=0)
        data[self._jpeg_end :] = np.frombuffer(blob, np.uint8)
        self._jpeg_end += len(blob)
        offsets.resize(self.n + 2, axis=0)
        offsets[self.n + 1] = self._jpeg_end

    def close(self) -> None:
        """Write the per-tile columns and, last, `complete`."""
        for name, (dtype, width) in _COLUMNS.items():
            values = np.asarray(self._columns.get(name, []), dtype=dtype)
            self.file.create_dataset(name, data=values.reshape((self.n, width) if width else (self.n,)))
        self.file.attrs["n_tiles"] = self.n
        self.file.flush()
        self.file.attrs["complete"] = True


_COLUMNS = {
    "coords": (np.int64, 2),
    "grid": (np.int32, 2),
    "tissue_fraction": (np.float32, 0),
    "flags": (np.uint16, 0),
    "label": (np.int16, 0),
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
    with publishing(path) as temporary, h5py.File(temporary, "w", libver="latest", locking=False) as file:
        file.attrs.update({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "complete": False})
        file.attrs.update(_storable(attributes))
        file.attrs["magnifications"] = [name_of(m) for m in layout.magnifications]
        for position, magnification in enumerate(layout.magnifications):
            _make_group(file, magnification, layout.tile_px[magnification], jpeg=position == 0)
        writer = TileWriter(file, layout)
        yield writer
        writer.close()
        _dataset(file, "coords").attrs.update(_storable(coords_attributes or {}))


def _make_group(file: h5py.File, magnification: float, edge: int, *, jpeg: bool) -> None:
    group = file.create_group(f"mag/{name_of(magnification)}")
    group.attrs.update({"magnification": magnification, "mpp": mpp_of(magnification), "tile_px": edge})
    if jpeg:
        group.create_dataset("jpeg", (0,), np.uint8, maxshape=(None,), chunks=(1 << 18,))
        group.create_dataset("offsets", data=np.zeros(1, np.int64), maxshape=(None,), chunks=(1 << 12,))
    else:
        group.create_dataset(
            "imgs", (0, edge, edge, 3), np.uint8, maxshape=(None, edge, edge, 3), chunks=(1, edge, edge, 3)
        )


def _values(tile: TileRow) -> dict[str, Any]:
    return {
        "coords": (tile.x, tile.y),
        "grid": (tile.row, tile.column),
        "tissue_fraction": tile.tissue_fraction,
        "flags": tile.flags,
        "label": tile.label,
    }


def _storable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "None" if value is None else value for name, value in attributes.items()}


def _dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    found = parent[name]
    assert isinstance(found, h5py.Dataset), name
    return found


class TileFile:
    """Reads a tile file; a context manager.

    Raises UserError when the file is not one of ours, of a newer version, or not complete: it is not trusted.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be opened as HDF5 ({error}); delete it and rerun to make it again"
            ) from error
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
        if len(_dataset(self._file, "coords")) != self.n:
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

    def column(self, name: str) -> np.ndarray:
        """A per-tile column: coords, grid, tissue_fraction, flags or label."""
        return np.asarray(_dataset(self._file, name)[()])

    def tile_px(self, magnification: float) -> int:
        """Edge of a tile in pixels at a magnification."""
        attributes: dict[str, Any] = dict(self._group(magnification).attrs)
        return int(attributes["tile_px"])

    def is_jpeg(self, magnification: float) -> bool:
        """Whether tiles of a magnification are stored as JPEG."""
        return "jpeg" in self._group(magnification)

    def jpegs(self, magnification: float) -> list[bytes]:
        """All tiles of a JPEG magnification, still encoded."""
        group = self._group(magnification)
        offsets, blob = _dataset(group, "offsets")[()], _dataset(group, "jpeg")[()]
        return [blob[a:b].tobytes() for a, b in pairwise(offsets)]

    def read(self, magnification: float, index: int) -> np.ndarray:
        """One tile, (H, W, 3) uint8."""
        group = self._group(magnification)
        if "imgs" in group:
            return np.asarray(_dataset(group, "imgs")[index])
        first, last = _dataset(group, "offsets")[index : index + 2]
        return decode(_dataset(group, "jpeg")[first:last].tobytes())

    def read_all(self, magnification: float) -> np.ndarray:
        """All tiles, (N, H, W, 3) uint8."""
        if not self.is_jpeg(magnification):
            return np.asarray(_dataset(self._group(magnification), "imgs")[()])
        edge = self.tile_px(magnification)
        tiles = [decode(blob) for blob in self.jpegs(magnification)]
        return np.stack(tiles) if tiles else np.zeros((0, edge, edge, 3), np.uint8)

    def _group(self, magnification: float) -> h5py.Group:
        found = self._file.get(f"mag/{name_of(magnification)}")
        if not isinstance(found, h5py.Group):
            stored = ", ".join(name_of(m) for m in self.magnifications)
            raise UserError(
                f"{os.fspath(self.path)} holds no {name_of(magnification)} tiles, only {stored}; "
                "add the magnification to tiles.students and rerun"
            )
        return found


def decode(blob: bytes) -> np.ndarray:
    """One JPEG as (H, W, 3) uint8; the decoder is strict, a damaged block raises ValueError."""
    return simplejpeg.decode_jpeg(blob, colorspace="RGB")
