"""Where a TIFF file must end: finds files cut short, which OpenSlide calls unknown or even opens."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

SEGMENTS = ((273, 279), (324, 325))  # tags of offsets and byte counts: strips, tiles
INTEGERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # TIFF field types
NDPI = 65420  # its 64-bit offsets sit in 32-bit fields, so a large one cannot be judged
MOST_DIRECTORIES = 10_000


def referenced_end(path: Path) -> int | None:
    """How many bytes a TIFF or BigTIFF must have, by its directories and segments; None if it is no TIFF.

    Where the file ends before its last directory, the number is what is known to be missing so far.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(16).ljust(16, b"\0")
        order = {b"II*\0": "<", b"II+\0": "<", b"MM\0*": ">", b"MM\0+": ">"}.get(header[:4])
        if order is None:
            return None
        large = header[2:4] in (b"+\0", b"\0+")
        offset = struct.unpack_from(order + ("Q" if large else "I"), header, 8 if large else 4)[0]
        end, seen = 16, set()
        while offset and offset not in seen and len(seen) < MOST_DIRECTORIES and end <= size:
            seen.add(offset)
            needed, tags, offset = _directory(file, offset, order, large=large)
            if NDPI in tags and size >= 1 << 32:
                return None
            end = max(end, needed, _segments_end(file, tags, order))
        return end


Tags = dict[int, tuple[int, int, int, bytes]]


def _directory(file: BinaryIO, offset: int, order: str, *, large: bool) -> tuple[int, Tags, int]:
    """The end of one directory, its tags as (type, count, place of the value, its field), the next offset."""
    head, entry, word = ("Q", "HHQ8s", "Q") if large else ("H", "HHI4s", "I")
    n_bytes = _read(file, offset, struct.calcsize(order + head))
    if n_bytes is None:
        return offset + struct.calcsize(order + head), {}, 0
    n, width = struct.unpack(order + head, n_bytes)[0], struct.calcsize(order + entry)
    start = offset + len(n_bytes)
    end = start + n * width + struct.calcsize(order + word)
    body = _read(file, start, end - start)
    if body is None:
        return end, {}, 0
    tags = {}
    for k in range(n):
        tag, kind, count, value = struct.unpack_from(order + entry, body, k * width)
        tags[tag] = (kind, count, start + (k + 1) * width - len(value), value)
    return end, tags, struct.unpack_from(order + word, body, n * width)[0]


def _segments_end(file: BinaryIO, tags: Tags, order: str) -> int:
    ends = [0]
    for offsets_tag, counts_tag in SEGMENTS:
        if offsets_tag in tags and counts_tag in tags:
            offsets, missing = _numbers(file, tags[offsets_tag], order)
            counts, also_missing = _numbers(file, tags[counts_tag], order)
            stored = (
                (offsets + counts)[(offsets > 0) & (counts > 0)] if len(offsets) == len(counts) else offsets
            )
            ends += [missing, also_missing, int(stored.max(initial=0))]
    return max(ends)


def _numbers(file: BinaryIO, tag: tuple[int, int, int, bytes], order: str) -> tuple[np.ndarray, int]:
    """The integers of a tag, and where they end if that is past the end of the file (else 0)."""
    kind, count, place, value = tag
    dtype = np.dtype(order + INTEGERS.get(kind, "u4"))
    length = dtype.itemsize * count
    if length > len(value):
        place = struct.unpack(order + ("Q" if len(value) == 8 else "I"), value)[0]
    content = _read(file, place, length)
    if content is None:
        return np.zeros(0, np.int64), place + length
    return np.frombuffer(content, dtype).astype(np.int64), 0


def _read(file: BinaryIO, offset: int, length: int) -> bytes | None:
    """`length` bytes at `offset`, or None where the file is shorter."""
    file.seek(0, 2)
    if offset + length > file.tell():
        return None
    file.seek(offset)
    return file.read(length)
