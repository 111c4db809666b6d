"""Directories of TIFF and BigTIFF files, read without a library: which segments lie where.

OpenSlide calls a file cut short unknown or even opens it; here its directories say how long it must be.
Nothing in a damaged file is trusted: counts and offsets are held against the size of the file.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lowmag.record import RejectedError

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANAR, PREDICTOR, EXTRA_SAMPLES = 277, 284, 317, 338
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
STRIP_OFFSETS, STRIP_COUNTS = 273, 279
DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 270, 282, 283, 296
SUB_DIRECTORIES, JPEG_TABLES, ICC_PROFILE = 330, 347, 34675
JPEG, DEFLATE = 7, (8, 32946)  # values of COMPRESSION
RGB, YCBCR = 2, 6  # values of PHOTOMETRIC

INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # TIFF field types
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
TYPE_BYTES |= {17: 8, 18: 8}
PRIVATE = 32768  # tags of vendors from here on: what they refer to is their own affair
NDPI = 65420  # its 64-bit offsets sit in 32-bit fields, so a large one cannot be judged
MOST_DIRECTORIES = 10_000
MOST_TAGS = 250_000  # of all directories, which may lie over one another; each takes 200 bytes of memory
MOST_VALUES = 1 << 24  # of one tag
MOST_SHARED_BYTES = 64 << 20  # of values, beside twice the file: directories may name the same ones


@dataclass(frozen=True)
class Directory:
    """One directory: type, count and place of every tag's values, and the directories below it."""

    tiff: "Tiff"
    tags: dict[int, tuple[int, int, int]]
    below: list["Directory"] = field(default_factory=list)

    def numbers(self, tag: int) -> np.ndarray:
        """The integers of a tag as int64, none where it is absent or lies outside the file."""
        kind, count, place = self.tags.get(tag, (0, 0, 0))
        if kind not in INTEGERS or count > MOST_VALUES:
            return np.zeros(0, np.int64)
        dtype = np.dtype(self.tiff.order + INTEGERS[kind])
        return np.frombuffer(self.tiff.read(place, dtype.itemsize * count) or b"", dtype).astype(np.int64)

    def number(self, tag: int, default: int = 0) -> int:
        """The first integer of a tag."""
        found = self.numbers(tag)
        return int(found[0]) if len(found) else default

    def content(self, tag: int) -> bytes:
        """The bytes of a tag, none where it is absent or lies outside the file."""
        kind, count, place = self.tags.get(tag, (0, 0, 0))
        if count > MOST_VALUES:
            return b""
        return self.tiff.read(place, TYPE_BYTES.get(kind, 1) * count) or b""

    def text(self, tag: int) -> str:
        """A tag as text."""
        return self.content(tag).split(b"\0")[0].decode("utf-8", "replace")

    def ratio(self, tag: int) -> float | None:
        """A tag that is a positive fraction, else None."""
        content = self.content(tag)[:8]
        if len(content) < 8:
            return None
        above, below = struct.unpack(self.tiff.order + "II", content)
        return above / below if above and below else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.number(WIDTH), self.number(LENGTH)


class Tiff:
    """An open TIFF or BigTIFF: its byte order ("<" or ">") and its directories.

    `end` is how many bytes the file must have by its directories and their values; where it ends before its
    last directory, what is known to be missing so far.
    """

    def __init__(self, path: Path, order: str, *, large: bool) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.bytes = os.fstat(self._descriptor).st_size
        self.order, self._large = order, large
        self.end = 16
        self.directories: list[Directory] = []
        self._seen: set[int] = set()
        self._n_tags = 0
        self.value_bytes = 0  # of all tags, as often as they are named; looked at no further where `repeats`
        head = self.read(8, 8) if large else self.read(4, 4)
        offset = struct.unpack(order + ("Q" if large else "I"), head)[0] if head else 0
        while offset and len(self._seen) < MOST_DIRECTORIES and self.end <= self.bytes:
            directory, offset = self._directory(offset)
            if directory is not None:
                self.directories.append(directory)

    def __enter__(self) -> "Tiff":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def repeats(self) -> bool:
        """Whether the directories name the same values over and over, which would take any time to read."""
        return self.value_bytes > 2 * self.bytes + MOST_SHARED_BYTES

    def read(self, offset: int, length: int) -> bytes | None:
        """`length` bytes at `offset`, or None where the file is shorter."""
        if offset < 0 or length < 0 or offset + length > self.bytes:
            return None
        content = os.pread(self._descriptor, length, offset)
        return content if len(content) == length else None

    def _directory(self, offset: int, *, top: bool = True) -> tuple[Directory | None, int]:
        """The directory at `offset`, if it is there and new, and the offset of the next one.

        Those below it are read if it is at the top: nothing nests deeper, except to do harm.
        """
        if offset in self._seen:
            return None, 0
        self._seen.add(offset)
        head, entry, word = ("Q", "HHQ", "Q") if self._large else ("H", "HHI", "I")
        start = offset + struct.calcsize(self.order + head)
        count = self.read(offset, start - offset)
        if count is None:
            self.end = max(self.end, start)
            return None, 0
        n, value = struct.unpack(self.order + head, count)[0], struct.calcsize(self.order + word)
        width = struct.calcsize(self.order + entry) + value
        self.end = max(self.end, start + n * width + value)
        self._n_tags += n
        body = self.read(start, n * width + value) if self._n_tags <= MOST_TAGS else None
        if body is None:
            return None, 0
        tags = {}
        for k in range(n):
            tag, kind, count = struct.unpack_from(self.order + entry, body, k * width)
            length, place = TYPE_BYTES.get(kind, 1) * count, start + (k + 1) * width - value
            if length > value:
                place = struct.unpack_from(self.order + word, body, place - start)[0]
            tags[tag] = (kind, count, place)
            if place + length <= self.bytes:
                self.value_bytes += length
            if tag < PRIVATE:
                self.end = max(self.end, place + length)
        if self.repeats:
            return None, 0
        directory = Directory(self, tags)
        below = directory.numbers(SUB_DIRECTORIES)[:MOST_DIRECTORIES] if top else np.zeros(0, np.int64)
        for child in below.tolist():
            if len(self._seen) < MOST_DIRECTORIES and (found := self._directory(child, top=False)[0]):
                directory.below.append(found)
        return directory, struct.unpack_from(self.order + word, body, n * width)[0]


def open_tiff(path: Path) -> Tiff | None:
    """The file's directories, or None when it is no TIFF."""
    with open(path, "rb") as file:
        start = file.read(4)
    order = {b"II*\0": "<", b"II+\0": "<", b"MM\0*": ">", b"MM\0+": ">"}.get(start)
    return None if order is None else Tiff(path, order, large=start[2:] in (b"+\0", b"\0+"))


def every_directory(tiff: Tiff) -> list[Directory]:
    """Directories of the chain, each followed by those below it."""
    found, waiting = [], list(reversed(tiff.directories))
    while waiting:
        directory = waiting.pop()
        found.append(directory)
        waiting.extend(reversed(directory.below))
    return found


def referenced_end(path: Path) -> int | None:
    """How many bytes a TIFF must have by its directories and segments; None if that cannot be judged.

    Where the file ends before its last directory, the number is what is known to be missing so far. Raises
    RejectedError where reading the directories' values would not end in time, neither here nor in OpenSlide.
    """
    tiff = open_tiff(path)
    if tiff is None:
        return None
    with tiff:
        if tiff.repeats:
            raise RejectedError(
                "unsupported",
                f"the directories of {path.name} name {tiff.value_bytes >> 20} MB of values, in a file of "
                f"{tiff.bytes >> 20} MB",
                "it is damaged, or made to do harm; copy it again from its source, or take its row out",
            )
        directories = every_directory(tiff)
        if tiff.bytes >= 1 << 32 and any(NDPI in directory.tags for directory in directories):
            return None
        return max([tiff.end, *(_segments_end(directory) for directory in directories)])


def _segments_end(directory: Directory) -> int:
    """How far the strips or tiles reach; 0 where that is not said."""
    furthest = 0
    for tags in ((STRIP_OFFSETS, STRIP_COUNTS), (TILE_OFFSETS, TILE_COUNTS)):
        offsets, counts = (directory.numbers(tag) for tag in tags)
        if len(offsets) == len(counts):
            stored = (offsets > 0) & (counts > 0)  # a sparse tile has neither
            furthest = max(furthest, int((offsets + counts)[stored].max(initial=0)))
    return furthest
