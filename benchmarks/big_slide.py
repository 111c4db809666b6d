"""A slide of any size out of a real region: mirrored, repeated, JPEG tiles of 256 px, levels as Aperio's."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import openslide
import simplejpeg
from lowmag.downsample import area_mean

TILE = 256
QUALITY = 80
TISSUE_PX = (768, 1792)
MPP = 0.5
SIZES = {3: 2, 4: 4, 16: 8}  # bytes of a TIFF number, by type
REGION = "CMU-1-Small-Region.svs"


def write_big_slide(out: Path, region: Path, edge: int, ratios: tuple[int, ...]) -> Path:
    """Write a slide of `edge` x `edge` pixels with levels at `ratios`; distinct tiles are encoded once."""
    with openslide.OpenSlide(region) as slide:
        pattern = mirrored(np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")))
    text = f"Aperio Image Library\r\n{edge}x{edge}|AppMag = 20|MPP = {MPP}".encode() + b"\0"
    with open(out, "wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        link = 8  # where the offset of the next directory is to stand
        for ratio in ratios:
            offsets, counts = [], []
            for tile in _tiles(area_mean(pattern, ratio), edge // ratio):
                offsets.append(file.tell())
                counts.append(file.write(tile))
            link = _write_directory(file, link, edge // ratio, (offsets, counts, text))
    return out


def _write_directory(
    file: BinaryIO, link: int, size: int, content: tuple[list[int], list[int], bytes]
) -> int:
    """Write the BigTIFF directory of a level; the place of the link to the next one."""
    offsets, counts, text = content
    tags = [
        (254, 4, [0]), (256, 4, [size]), (257, 4, [size]), (258, 3, [8, 8, 8]), (259, 3, [7]), (262, 3, [6]),
        (270, 2, text), (277, 3, [3]), (284, 3, [1]), (322, 3, [TILE]), (323, 3, [TILE]), (324, 16, offsets),
        (325, 16, counts), (530, 3, [2, 2]),
    ]  # fmt: skip
    entries = b""
    for tag, kind, values in tags:
        value = values if isinstance(values, bytes) else np.array(values, f"<u{SIZES[kind]}").tobytes()
        if len(value) > 8:
            place = file.tell()
            file.write(value)
            value = struct.pack("<Q", place)
        entries += struct.pack("<HHQ", tag, kind, len(values)) + value.ljust(8, b"\0")
    start = file.tell()
    file.write(struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", 0))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<Q", start))
    file.seek(end)
    return end - 8


def mirrored(region: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) that goes on without a seam when repeated: the tissue and its three mirror images.

    The region is cut to the columns that are mostly tissue, and to whole tiles at a ratio of 2.
    """
    height = region.shape[0] // (2 * TILE) * 2 * TILE
    quarter = region[:height, slice(*TISSUE_PX)]
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([half, half[::-1]], axis=0)


def _tiles(pattern: np.ndarray, size: int) -> Iterator[bytes]:
    """The encoded tiles of a level of size x size pixels, row by row."""
    height, width = pattern.shape[:2]
    encoded: dict[tuple[int, int], bytes] = {}
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            place = (y % height, x % width)
            if place not in encoded:
                rows, columns = (place[0] + np.arange(TILE)) % height, (place[1] + np.arange(TILE)) % width
                pixels = np.ascontiguousarray(pattern[np.ix_(rows, columns)])
                encoded[place] = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorsubsampling="420")
            yield encoded[place]
