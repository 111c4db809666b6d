"""TIFFs with JPEG tiles, written byte by byte: both byte orders, classic and Big, shared tables, gaps."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

KINDS = {3: "H", 4: "I", 5: "I", 7: "B", 2: "B", 16: "Q"}


@dataclass(frozen=True)
class Form:
    """How a file is written; `tables` puts the JPEG tables into the directory, as Aperio does."""

    order: str = "<"
    big: bool = False
    tile: int = 64
    tables: bool = False
    subsampling: str = "444"
    mpp: float | None = 0.5
    description: str = ""
    photometric: int = 6


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture (h, w, 3) uint8 that JPEG keeps well and that has no two places alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3))
    fine = coarse.astype(float).repeat(16, 0).repeat(16, 1)
    for axis in (0, 1):
        total = np.cumsum(fine, axis=axis)
        fine = (np.roll(total, -16, axis) - total) / 16
    return np.ascontiguousarray(fine[:height, :width].clip(0, 255).astype(np.uint8))


def encode_tiles(level: np.ndarray, form: Form) -> list[bytes]:
    """The tiles of a level as JPEG, padded at the edges."""
    edge, found = form.tile, []
    for top in range(0, level.shape[0], edge):
        for left in range(0, level.shape[1], edge):
            part = level[top : top + edge, left : left + edge]
            pad = [(0, edge - part.shape[0]), (0, edge - part.shape[1]), (0, 0)]
            tile = np.ascontiguousarray(np.pad(part, pad, mode="edge"))
            found.append(simplejpeg.encode_jpeg(tile, quality=92, colorsubsampling=form.subsampling))
    return found


def decoded(blobs: Sequence[bytes], shape: tuple[int, int], edge: int) -> np.ndarray:
    """The level (h, w, 3) that tiles make up."""
    across = -(-shape[1] // edge)
    picture = np.zeros((-(-shape[0] // edge) * edge, across * edge, 3), np.uint8)
    for index, blob in enumerate(blobs):
        top, left = index // across * edge, index % across * edge
        picture[top : top + edge, left : left + edge] = simplejpeg.decode_jpeg(blob)
    return picture[: shape[0], : shape[1]]


def write_jpeg_tiff(
    path: Path, levels: Sequence[np.ndarray], form: Form | None = None, tiles: Sequence[list[bytes]] = ()
) -> list[np.ndarray]:
    """Write a pyramid and return the pixels of its levels as they decode; `tiles` replaces encoded ones."""
    form = form or Form()
    encoded = [encode_tiles(level, form) for level in levels]
    with open(path, "wb") as file:
        head = struct.pack(form.order + ("HHH" if form.big else "H"), *((43, 8, 0) if form.big else (42,)))
        file.write((b"II" if form.order == "<" else b"MM") + head)
        link = file.tell()
        file.write(bytes(8 if form.big else 4))
        for number, level in enumerate(levels):
            blobs = tiles[number] if tiles else encoded[number]
            link = _directory(file, link, _tags(level, form, number), blobs, form)
    return [decoded(own, level.shape[:2], form.tile) for own, level in zip(encoded, levels, strict=True)]


def _tags(level: np.ndarray, form: Form, number: int) -> dict[int, tuple[int, list[int]]]:
    height, width = level.shape[:2]
    tags = {
        254: (4, [int(number > 0)]), 256: (4, [width]), 257: (4, [height]), 258: (3, [8, 8, 8]),
        259: (3, [7]), 262: (3, [form.photometric]), 277: (3, [3]), 284: (3, [1]), 322: (3, [form.tile]),
        323: (3, [form.tile]), 530: (3, [1, 1] if form.subsampling == "444" else [2, 2]),
    }  # fmt: skip
    if form.mpp:
        per_unit = [round(1e7 / form.mpp), 1000]
        tags |= {282: (5, per_unit), 283: (5, per_unit), 296: (3, [3])}
    if form.description:
        tags[270] = (2, [*form.description.encode(), 0])
    return tags


def _directory(file, link: int, tags: dict, blobs: Sequence[bytes], form: Form) -> int:
    """Append tiles and a directory, point `link` at it, and return where the link to the next one is."""
    if form.tables:
        tags[347] = (7, [*split_tables(blobs[0])[0]])
        blobs = [blob and split_tables(blob)[1] for blob in blobs]
    offsets = []
    for blob in blobs:
        offsets.append(file.tell() if blob else 0)
        file.write(blob)
    large = 16 if form.big else 4
    tags |= {324: (large, offsets), 325: (large, [len(blob) for blob in blobs])}
    word, count = ("Q", "Q") if form.big else ("I", "H")
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        content = struct.pack(f"{form.order}{len(values)}{KINDS[kind]}", *values)
        n = len(values) // 2 if kind == 5 else len(values)
        if len(content) > struct.calcsize(word):
            file.write(bytes(file.tell() % 2))
            place = struct.pack(form.order + word, file.tell())
            file.write(content)
        else:
            place = content.ljust(struct.calcsize(word), b"\0")
        entries += struct.pack(form.order + ("HHQ" if form.big else "HHI"), tag, kind, n) + place
    file.write(bytes(file.tell() % 2))
    start = file.tell()
    file.write(struct.pack(form.order + count, len(tags)) + entries + bytes(struct.calcsize(word)))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack(form.order + word, start))
    file.seek(end)
    return end - struct.calcsize(word)


def split_tables(blob: bytes) -> tuple[bytes, bytes]:
    """A JPEG as its tables (DQT, DHT) and the rest, both complete streams; application markers go."""
    tables, rest, place = b"\xff\xd8", b"\xff\xd8", 2
    while blob[place + 1] != 0xDA:
        length = 2 + int.from_bytes(blob[place + 2 : place + 4])
        marker = blob[place : place + length]
        if marker[1] in (0xDB, 0xC4):
            tables += marker
        elif not 0xE0 <= marker[1] <= 0xEF:
            rest += marker
        place += length
    return tables + b"\xff\xd9", rest + blob[place:]
