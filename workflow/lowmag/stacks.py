"""How the pictures of one magnification are kept in a tile file: an array, raw pixels in a row, or JPEGs.

Each form is a few datasets in the group of its magnification; N pictures:

- array: `imgs (N, H, W, 3) uint8` in chunks of one picture, for pictures of one size;
- pixels: `pixels (bytes,) uint8` with `offsets (N + 1,) int64` and `size (N, 2) int32` (width, height);
- JPEGs: `jpeg (bytes,) uint8` with `offsets (N + 1,) int64`.
"""

from itertools import pairwise
from typing import Protocol

import h5py
import numpy as np
import simplejpeg

GROWTH = 64  # pictures an array grows by: h5py takes half a millisecond for a resize and a write of its own
MOST_PIXELS = 1 << 30  # of one picture: far above any section
BUFFER_BYTES = 4 << 20
CHUNK_BYTES = 1 << 18


class StackWriter(Protocol):
    """Appends pictures (H, W, 3) uint8 to a group."""

    def append(self, picture: np.ndarray) -> None: ...
    def close(self) -> None: ...


class ArrayWriter:
    """Writes pictures of `edge` x `edge` pixels as an array, each straight into its chunk."""

    def __init__(self, group: h5py.Group, edge: int) -> None:
        shape = (edge, edge, 3)
        self._images = group.create_dataset(
            "imgs", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
        )
        self._n = 0

    def append(self, picture: np.ndarray) -> None:
        """Add one picture."""
        if self._n % GROWTH == 0:
            self._images.resize(self._n + GROWTH, axis=0)
        self._images.id.write_direct_chunk((self._n, 0, 0, 0), np.ascontiguousarray(picture))
        self._n += 1

    def close(self) -> None:
        """Give the array its final length."""
        self._images.resize(self._n, axis=0)


class PixelWriter:
    """Writes pictures of any size as raw pixels."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._row = _Row(group, "pixels")
        self._sizes: list[tuple[int, int]] = []

    def append(self, picture: np.ndarray) -> None:
        """Add one picture."""
        self._sizes.append((picture.shape[1], picture.shape[0]))
        self._row.append(np.ascontiguousarray(picture).reshape(-1))

    def close(self) -> None:
        """Write what is left, the offsets and the sizes."""
        self._row.close()
        self._group.create_dataset("size", data=np.array(self._sizes, np.int32).reshape(-1, 2))


class JpegWriter:
    """Writes pictures as JPEG without subsampling of colours."""

    def __init__(self, group: h5py.Group, quality: int) -> None:
        self._quality = quality
        self._row = _Row(group, "jpeg")

    def append(self, picture: np.ndarray) -> None:
        """Add one picture."""
        self._row.append(np.frombuffer(encode(picture, self._quality), np.uint8))

    def close(self) -> None:
        """Write what is left and the offsets."""
        self._row.close()


class _Row:
    """Pieces of bytes one after another in a dataset, written some megabytes at a time."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self._group = group
        self._data = group.create_dataset(name, (0,), np.uint8, maxshape=(None,), chunks=(CHUNK_BYTES,))
        self._offsets, self._n_written = [0], 0
        self._pending: list[np.ndarray] = []

    def append(self, piece: np.ndarray) -> None:
        self._pending.append(piece)
        self._offsets.append(self._offsets[-1] + len(piece))
        if self._offsets[-1] - self._n_written >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            pieces = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
            self._data.resize(self._offsets[-1], axis=0)
            self._data[self._n_written :] = pieces
            self._pending, self._n_written = [], self._offsets[-1]

    def close(self) -> None:
        self._flush()
        self._group.create_dataset("offsets", data=np.array(self._offsets, np.int64))


def read_picture(group: h5py.Group, index: int) -> np.ndarray:
    """One picture (H, W, 3) uint8 of a group, whatever its form; ValueError for a damaged JPEG."""
    if "imgs" in group:
        return np.asarray(dataset(group, "imgs")[index])
    first, last = dataset(group, "offsets")[index : index + 2]
    if "jpeg" in group:
        return decode(dataset(group, "jpeg")[first:last].tobytes())
    width, height = dataset(group, "size")[index]
    return np.asarray(dataset(group, "pixels")[first:last]).reshape(height, width, 3)


def read_jpegs(group: h5py.Group) -> list[bytes]:
    """All pictures of a group of JPEGs, still encoded."""
    offsets, blob = dataset(group, "offsets")[()], dataset(group, "jpeg")[()]
    return [blob[a:b].tobytes() for a, b in pairwise(offsets)]


def encode(picture: np.ndarray, quality: int) -> bytes:
    """A picture (H, W, 3) uint8 as JPEG, its colours not subsampled."""
    picture = np.ascontiguousarray(picture)
    return simplejpeg.encode_jpeg(picture, quality=quality, colorspace="RGB", colorsubsampling="444")


def decode(blob: bytes) -> np.ndarray:
    """One JPEG as (H, W, 3) uint8; ValueError for a damaged block, or for more than a tile or section has."""
    height, width = (int(edge) for edge in simplejpeg.decode_jpeg_header(blob)[:2])
    if height * width > MOST_PIXELS:
        raise ValueError(f"it claims {width} x {height} pixels")
    return simplejpeg.decode_jpeg(blob, colorspace="RGB")


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset by its name."""
    found = parent[name]
    assert isinstance(found, h5py.Dataset), name
    return found
