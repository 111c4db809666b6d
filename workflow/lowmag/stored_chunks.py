"""Whether the stored chunks of a dataset hold what they should, found without unpacking more than that."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import h5py

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3  # numbers of HDF5's own filters
ORDER = (SHUFFLE, DEFLATE, CHECKSUM)  # as HDF5's libraries apply them
CHECKSUM_BYTES = 4
PART_BYTES = 1 << 20  # unpacked at once


def chunk_bytes(values: h5py.Dataset) -> int:
    """Bytes of one chunk as it is read; 0 where a dataset has none."""
    return math.prod(values.chunks) * values.dtype.itemsize if values.chunks else 0


def n_chunks(values: h5py.Dataset) -> int:
    """How many chunks the shape has."""
    edges = values.chunks or ()
    return math.prod(-(-n // of) for n, of in zip(values.shape, edges, strict=True))


def problem_of_chunks(values: h5py.Dataset, is_own: bool) -> str | None:
    """Why the chunks of a dataset are not to be read, or None; packed ones are unpacked for it."""
    if not values.chunks:
        return None
    plan = values.id.get_create_plist()
    filters = [plan.get_filter(n)[0] for n in range(plan.get_nfilters())]
    if filters != [number for number in ORDER if number in filters]:
        listed = ", ".join(map(str, filters))
        return f"is packed by the filters {listed}; HDF5's shuffle (2), deflate (1), checksum (3) are read"
    size, wrong = chunk_bytes(values), f"has a chunk that does not hold its {chunk_bytes(values)} bytes"
    if is_own and not filters:
        return None if values.id.get_storage_size() == values.id.get_num_chunks() * size else wrong
    stored: list[Any] = []
    values.id.chunk_iter(stored.append)
    if len(stored) > n_chunks(values):
        return f"has {len(stored)} chunks where its shape has {n_chunks(values)}"
    return None if all(_plain_bytes(values, chunk, filters) == size for chunk in stored) else wrong


def _plain_bytes(values: h5py.Dataset, chunk: Any, filters: Sequence[int]) -> int:
    """How many bytes a stored chunk is read to."""
    used = [number for bit, number in enumerate(filters) if not chunk.filter_mask >> bit & 1]
    if DEFLATE in used:
        return _unpacked_bytes(values, chunk, chunk_bytes(values))
    return chunk.size - CHECKSUM_BYTES * (CHECKSUM in used)


def _unpacked_bytes(values: h5py.Dataset, chunk: Any, most: int) -> int:
    """How many bytes a chunk unpacks to, counted a little beyond `most`; -1 where it is damaged."""
    if chunk.size > most + most // 100 + 1024:  # deflate adds no more
        return -1
    left = values.id.read_direct_chunk(chunk.chunk_offset)[1]
    unpacking = zlib.decompressobj()
    n_bytes = 0
    try:
        while left and not unpacking.eof and n_bytes <= most:
            n_bytes += len(unpacking.decompress(left, PART_BYTES))
            left = unpacking.unconsumed_tail
    except zlib.error:
        return -1
    return n_bytes if unpacking.eof or n_bytes > most else -1
