"""Pixels of tiled JPEG and deflate TIFFs (SVS among them) from the file's own segments, decoded strictly.

OpenSlide spends most of a read on drawing, and maps places through a mean downsample. Here each segment is
read where it lies and decoded once; a damaged one is an error, where tolerant decoders give magenta and
libtiff passes over the checksum of deflate.
"""

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from lowmag import tiff
from lowmag.averaging import BlockMean
from lowmag.downsample import area_mean
from lowmag.source import WHITE, Region, UnreadableError, true_levels
from lowmag.tiff import DEFLATE, JPEG, RGB, YCBCR, Directory, Tiff, every_directory, open_tiff

CACHE_BYTES = 128 << 20
LARGEST_SEGMENT_PX = 4096
MOST_REMEMBERED = 4096  # segments decoded and not kept
NO_PREDICTOR, BY_ROW = 1, 2  # values of PREDICTOR
START = b"\xff\xd8"
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # and the transform: 0 RGB, 1 YCbCr


@dataclass(frozen=True)
class SegmentLevel:
    """Where the segments of a level lie, row by row; all measure `tile` (width, height), also at the edges.

    `prefix` stands in for the start of each JPEG: the tables they share, and a marker of their colours,
    without which decoders guess. It is None of deflated segments, which hold differences if `by_row`.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: np.ndarray
    counts: np.ndarray
    prefix: bytes | None
    by_row: bool = False

    @property
    def across(self) -> int:
        """Segments in a row."""
        return -(-self.size[0] // self.tile[0])

    def place(self, index: int) -> tuple[int, int]:
        """Level-pixel x, y of a segment's top-left pixel."""
        return index % self.across * self.tile[0], index // self.across * self.tile[1]


def find_levels(file: Tiff, sizes: Sequence[tuple[int, int]]) -> list[SegmentLevel] | None:
    """The levels of these sizes, or None unless each has a directory of tiles that are read here."""
    found = {}
    for directory in every_directory(file):
        if directory.size in sizes and directory.size not in found and (level := _level_of(directory)):
            found[directory.size] = level
    return [found[size] for size in sizes] if len(set(sizes)) == len(sizes) == len(found) else None


def _level_of(directory: Directory) -> SegmentLevel | None:
    size, tile = directory.size, (directory.number(tiff.TILE_WIDTH), directory.number(tiff.TILE_LENGTH))
    colours, compression = directory.number(tiff.PHOTOMETRIC), directory.number(tiff.COMPRESSION)
    predictor = directory.number(tiff.PREDICTOR, 1)
    if (
        (colours not in (RGB, YCBCR) if compression == JPEG else colours != RGB)
        or compression not in (JPEG, *DEFLATE)
        or predictor not in (NO_PREDICTOR, BY_ROW)
        or directory.numbers(tiff.BITS).tolist() != [8, 8, 8]
        or directory.number(tiff.SAMPLES, 1) != 3
        or directory.number(tiff.PLANAR, 1) != 1
        or not 0 < min(tile) <= max(tile) <= LARGEST_SEGMENT_PX
    ):
        return None
    offsets, counts = directory.numbers(tiff.TILE_OFFSETS), directory.numbers(tiff.TILE_COUNTS)
    expected = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    if not len(offsets) == len(counts) == expected:
        return None
    if compression != JPEG:
        return SegmentLevel(size, tile, offsets, counts, None, predictor == BY_ROW)
    tables = directory.content(tiff.JPEG_TABLES)
    shared = tables[2:-2] if tables.startswith(START) and tables.endswith(b"\xff\xd9") else b""
    prefix = START + ADOBE + bytes([colours == YCBCR]) + shared
    return SegmentLevel(size, tile, offsets, counts, prefix)


class SegmentSource:
    """A tiled JPEG or deflate TIFF read by segment; `sizes` are those of the levels wanted, finest first.

    Segments that a window takes in part are kept, `cache_bytes` of them at most; those it takes whole are
    decoded into the window, and kept only once it shows that windows overlap. Raises UnreadableError when the
    file does not have these levels.
    """

    name = "segments"
    background = WHITE

    def __init__(
        self, path: Path | str, sizes: Sequence[tuple[int, int]], cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.path = Path(path)
        file, found = open_tiff(self.path), None
        if file is not None:
            with file:
                found = find_levels(file, sizes)
        if found is None:
            raise UnreadableError(f"{self.path.name} does not have its {len(sizes)} levels as such tiles")
        self.segments = found
        self.levels = true_levels(sizes)
        self.exact = (True,) * len(sizes)
        self._descriptor = os.open(self.path, os.O_RDONLY)
        self._bytes = os.fstat(self._descriptor).st_size
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cache_bytes, self._kept_bytes = cache_bytes, 0
        self._passed: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._keep_all = False
        self._means: dict[tuple[int, int, int], BlockMean] = {}
        self._scratch = [np.empty((level.tile[1], level.tile[0], 3), np.uint8) for level in found]

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1) -> Region:
        """A window of a level, averaged over blocks of `shrink`; an UnreadableError names the segment."""
        found = self.segments[level]
        if shrink > 1 and not _blocks_fit(found, (x, y, x + width, y + height), shrink):
            region = self.read(level, x, y, width, height)
            return Region(area_mean(region.pixels, shrink), region.transparent)
        shape = (height // shrink, width // shrink, 3)
        within = x >= 0 and y >= 0 and x + width <= found.size[0] and y + height <= found.size[1]
        pixels = np.empty(shape, np.uint8) if within else np.full(shape, self.background, np.uint8)
        mean = self._mean(found.tile, shrink)
        covered = 0
        for index, inside, target in _parts(found, (x, y, x + width, y + height)):
            rows, columns = (slice(part.start // shrink, part.stop // shrink) for part in target)
            if not found.counts[index]:
                pixels[rows, columns] = self.background
                continue
            block = self._segment(level, index, whole=_is_whole(inside, found.tile))[inside]
            mean.write(block, pixels[rows, columns])
            covered += block.shape[0] * block.shape[1]
        return Region(pixels, 1 - covered / (width * height))

    def _mean(self, tile: tuple[int, int], shrink: int) -> BlockMean:
        """What averages parts of a segment; made once."""
        key = (shrink, tile[1], tile[0])
        if key not in self._means:
            self._means[key] = BlockMean(shrink, key[1:])
        return self._means[key]

    def _segment(self, level: int, index: int, *, whole: bool) -> np.ndarray:
        """A decoded segment, valid until the next call."""
        key = (level, index)
        kept = self._cache.get(key)
        if kept is not None:
            self._cache.move_to_end(key)
            return kept
        if whole and not self._keep_all:
            self._keep_all = key in self._passed
            self._passed[key] = None
            if len(self._passed) > MOST_REMEMBERED:
                self._passed.popitem(last=False)
            if not self._keep_all:
                return self._decode(level, index, self._scratch[level])
        pixels = self._decode(level, index)
        self._cache[key] = pixels
        self._kept_bytes += pixels.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._cache.popitem(last=False)[1].nbytes
        return pixels

    def _decode(self, level: int, index: int, into: np.ndarray | None = None) -> np.ndarray:
        found = self.segments[level]
        offset, count = int(found.offsets[index]), int(found.counts[index])
        where = f"level {level}, segment {index} of {self.path.name}"
        if offset <= 0 or offset + count > self._bytes:
            raise UnreadableError(f"{where} lies outside the file")
        content = self._fetch(offset, count, where)
        try:
            pixels = _inflated(content, found) if found.prefix is None else _unpacked(content, found, into)
        except (ValueError, zlib.error) as error:
            raise UnreadableError(f"{where} is damaged: {error}") from error
        if pixels.shape != (found.tile[1], found.tile[0], 3):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise UnreadableError(f"{where} has {size} pixels, its directory says {found.tile}")
        return pixels

    def _fetch(self, offset: int, count: int, where: str) -> bytes:
        """Bytes of the file; a failed read reopens it and is tried once more."""
        problem = "lies outside the file"
        for again in (False, True):
            try:
                if again:
                    self._reopen()
                content = os.pread(self._descriptor, count, offset)
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
                continue
            if len(content) == count:
                return content
        raise UnreadableError(f"{where} {problem}")

    def _reopen(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        os.close(self._descriptor)
        self._descriptor = descriptor


def _unpacked(content: bytes, level: SegmentLevel, into: np.ndarray | None) -> np.ndarray:
    """The pixels of a JPEG segment; one that claims more than its tile has is not given the memory."""
    if content[:2] != START:
        raise ValueError("it is no JPEG")
    jpeg = (level.prefix or b"") + content[2:]
    height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    if (width, height) != level.tile:
        raise ValueError(f"it has {width} x {height} pixels, its directory says {level.tile}")
    return simplejpeg.decode_jpeg(jpeg, "RGB", buffer=into)


def _inflated(content: bytes, level: SegmentLevel) -> np.ndarray:
    """The pixels of a deflated segment; its checksum and its size must fit."""
    width, height = level.tile
    stream = zlib.decompressobj()
    unpacked = stream.decompress(content, width * height * 3 + 1)
    if not stream.eof or len(unpacked) != width * height * 3:
        raise ValueError("it does not unpack to the pixels of a tile")
    pixels = np.frombuffer(unpacked, np.uint8).reshape(height, width, 3)
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if level.by_row else pixels


Window = tuple[int, int, int, int]  # left, top, right, bottom in level pixels


def _parts(level: SegmentLevel, window: Window) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """Segments under a window: index, rows and columns within the segment, and those within the window."""
    columns = list(_steps(window[0], min(window[2], level.size[0]), level.tile[0]))
    for row, own_rows, rows in _steps(window[1], min(window[3], level.size[1]), level.tile[1]):
        for column, own_columns, across in columns:
            yield row * level.across + column, (own_rows, own_columns), (rows, across)


def _steps(start: int, stop: int, edge: int) -> Iterator[tuple[int, slice, slice]]:
    """Along one axis: the number of every segment up to `stop`, the part within it, and that from `start`."""
    for number in range(max(start, 0) // edge, -(-stop // edge)):
        corner = number * edge
        first, last = max(start, corner, 0), min(stop, corner + edge)
        yield number, slice(first - corner, last - corner), slice(first - start, last - start)


def _is_whole(inside: tuple[slice, ...], tile: tuple[int, int]) -> bool:
    return all(
        part.start == 0 and part.stop == edge for part, edge in zip(inside, reversed(tile), strict=True)
    )


def _blocks_fit(level: SegmentLevel, window: Window, shrink: int) -> bool:
    """Whether no edge of a segment, nor of the level, cuts through a block of `shrink` pixels."""
    corners = (window[0], window[1])
    ends = [min(stop, size) for stop, size in zip(window[2:], level.size, strict=True)]
    return all(n % shrink == 0 for n in (*level.tile, *corners, *ends))
