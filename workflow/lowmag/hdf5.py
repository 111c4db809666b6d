"""HDF5 files that appear only when complete, also where the disk is full, and are read without trust.

A file that someone gives may point to other files (external links, external storage, virtual datasets), hold
types that are decoded by more than copying, or claim far more values than it has bytes. HDF5 itself unpacks a
chunk to whatever size its stored bytes have, and fills one that is too short with what lies in memory: so
chunks are looked at here first (`stored_chunks`).
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from lowmag.errors import UserError
from lowmag.publish import publishing
from lowmag.stored_chunks import chunk_bytes, n_chunks, problem_of_chunks

MOST_OBJECTS = 1000
MOST_PACKING = 100  # values of whole numbers in a row, as coordinates, pack to a fiftieth
MOST_PACKED_BYTES = 64 << 20  # what may be packed to any part, unpacked
MOST_UNSTORED_BYTES = 1 << 20  # of values that were never written
LARGEST_CHUNK_BYTES = 256 << 20
PLAIN_KINDS = "biufS"  # of numpy: truth values, integers, floats, bytes
ERRNO = re.compile(r"errno = (\d+)")


def open_hdf5(path: Path | str, purpose: str, cure: str, *, is_own: bool = False) -> h5py.File:
    """A file open for reading after a look at everything in it; `purpose` and `cure` are for messages.

    `is_own`: of a kind that this workflow writes, with a chunk a tile: sizes of chunks that are not packed
    are compared in sum and not one by one, which takes some microseconds each.

    Raises UserError for what is no HDF5, and for links to other places, virtual datasets, values stored in
    other files, types other than numbers and text, and more values than the file can hold.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{purpose} {path}: the file cannot be opened as HDF5 ({error}); {cure}") from error
    try:
        problem = _problem(file, Path(path).stat().st_size, is_own)
    except (RuntimeError, OSError, KeyError, TypeError, ValueError) as error:  # of damaged headers
        problem = f"is damaged ({error})"
    if problem:
        file.close()
        raise UserError(f"{purpose} {path}: the file {problem}; {cure}")
    return file


def attributes_of(found: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a stranger's object that are numbers or a single text.

    Of many texts each may be the same, as long as the file, and HDF5 would hold every one in memory.
    """
    plain = {}
    for name in found.attrs:
        own = found.attrs.get_id(name)
        is_text = h5py.check_string_dtype(own.dtype) is not None
        if own.shape is not None and (own.dtype.kind in "biuf" or (is_text and math.prod(own.shape) <= 1)):
            plain[name] = found.attrs[name]
    return plain


def _problem(file: h5py.File, n_bytes: int, is_own: bool) -> str | None:
    """Why a file is not to be read, or None."""
    waiting: list[h5py.Group] = [file]
    n_objects = 0
    while waiting:
        group = waiting.pop()
        names: list[str] = list(group)
        for name in names:
            n_objects += 1
            if n_objects > MOST_OBJECTS:
                return f"holds more than {MOST_OBJECTS} objects"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"holds the link {name[:40]!r} to another place"
            found = group[name]
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif not isinstance(found, h5py.Dataset):
                return f"holds {name[:40]!r}, which is no dataset"
            elif problem := _problem_of(found, n_bytes) or problem_of_chunks(found, is_own):
                return f"has a dataset {name[:40]!r} that {problem}"
    return None


def _problem_of(found: h5py.Dataset, n_bytes: int) -> str | None:
    if found.is_virtual or found.external:
        return "lies in other files"
    if found.shape is None:
        return "holds no values"
    if found.dtype.kind not in PLAIN_KINDS and h5py.check_string_dtype(found.dtype) is None:
        return f"is of type {found.dtype}"
    if not found.chunks:
        return _too_much(found.nbytes, n_bytes)
    if chunk_bytes(found) > LARGEST_CHUNK_BYTES:
        return f"has chunks of {chunk_bytes(found)} bytes"
    if not found.id.get_create_plist().get_nfilters():
        return _too_much(found.nbytes, n_bytes)  # of chunks that reach beyond the values no more is read
    room = max(MOST_PACKED_BYTES, MOST_PACKING * n_bytes)
    return _too_much(n_chunks(found) * chunk_bytes(found), n_bytes, room)


def _too_much(claimed: int, n_bytes: int, room: int | None = None) -> str | None:
    most = n_bytes if room is None else room
    return f"claims {claimed} bytes in a file of {n_bytes}" if claimed > most + MOST_UNSTORED_BYTES else None


@contextmanager
def publishing_hdf5(path: Path | str, *, libver: str = "latest") -> Iterator[h5py.File]:
    """A new HDF5 file that becomes `path` when the block ends without an error; see `publish.publishing`.

    With `libver="earliest"` programs built on any HDF5 1.x can read it.
    """
    with publishing(path) as temporary:
        file = h5py.File(temporary, "w", libver=libver, locking=False)
        try:
            yield file
            file.flush()  # the last moment that an error of writing can be told without harm
        except BaseException as error:
            _discard(file)
            number = ERRNO.search(str(error))
            if isinstance(error, RuntimeError) and number:
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise
        file.close()


def _discard(file: h5py.File) -> None:
    """Close a file that is not kept.

    HDF5 writes on closing what it still holds and, where it cannot, crashes the process some time later: so
    it is given memory to write to.
    """
    if hasattr(os, "memfd_create"):  # Linux
        sink = os.memfd_create("discarded")
        os.dup2(sink, file.id.get_vfd_handle())
        os.close(sink)
    file.close()
