"""Where a TIFF file must end: finds files cut short, which OpenSlide calls unknown or even opens."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

SEGMENTS = ((273, 279), (324, 325))  # tags of offsets and byte counts: strips, tiles
INTEGERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # TIFF field types
TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
PRIVATE = 32768  # tags of vendors from here on: what they refer to is their own affair
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


# type, count, where the values are, by tag number
Tags = dict[int, tuple[int, int, int]]


def _directory(file: BinaryIO, offset: int, order: str, *, large: bool) -> tuple[int, Tags, int]:
    """How far one directory and the values of its tags reach, its tags, and the offset of the next."""
    head, entry, word = ("Q", "HHQ", "Q") if large else ("H", "HHI", "I")
    n_bytes = _read(file, offset, struct.calcsize(order + head))
    if n_bytes is None:
        return offset + struct.calcsize(order + head), {}, 0
    n, field = struct.unpack(order + head, n_bytes)[0], struct.calcsize(order + word)
    width = struct.calcsize(order + entry) + field
    start = offset + len(n_bytes)
    end = start + n * width + field
    body = _read(file, start, end - start)
    if body is None:
        return end, {}, 0
    tags = {}
    for k in range(n):
        tag, kind, count = struct.unpack_from(order + entry, body, k * width)
        length, place = TYPE_BYTES.get(kind, 1) * count, (k + 1) * width - field
        place = struct.unpack_from(order + word, body, place)[0] if length > field else start + place
        tags[tag] = (kind, count, place)
        if tag < PRIVATE:
            end = max(end, place + length)
    return end, tags, struct.unpack_from(order + word, body, n * width)[0]


def _segments_end(file: BinaryIO, tags: Tags, order: str) -> int:
    """How far the strips or tiles reach; 0 where that is not said."""
    furthest = 0
    for offsets_tag, counts_tag in SEGMENTS:
        if offsets_tag in tags and counts_tag in tags:
            offsets, counts = (_numbers(file, tags[tag], order) for tag in (offsets_tag, counts_tag))
            if len(offsets) == len(counts):
                stored = (offsets > 0) & (counts > 0)  # a sparse tile has neither
                furthest = max(furthest, int((offsets + counts)[stored].max(initial=0)))
    return furthest


def _numbers(file: BinaryIO, tag: tuple[int, int, int], order: str) -> np.ndarray:
    """The integers of a tag, none where the file ends before them."""
    kind, count, place = tag
    dtype = np.dtype(order + INTEGERS.get(kind, "u4"))
    content = _read(file, place, dtype.itemsize * count)
    return np.frombuffer(content or b"", dtype).astype(np.int64)


def _read(file: BinaryIO, offset: int, length: int) -> bytes | None:
    """`length` bytes at `offset`, or None where the file is shorter."""
    if offset + length > file.seek(0, 2):
        return None
    file.seek(offset)
    return file.read(length)
