"""The pictures of many tiles, or sections, at one magnification, on the device when they fit."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lowmag.device import free_bytes
from lowmag.errors import UserError
from lowmag.index import TileIndex
from lowmag.magnification import name_of
from lowmag.prefetch import one_ahead
from lowmag.store import TileFile, decode

# Of the free memory; the other half is for network, activations, validation tiles and targets.
RESIDENT_SHARE = 0.5
# Of sections: activations of a large one take most of a GPU, and copying it there a thousandth of its step.
SECTIONS_SHARE = 0.125
# A JPEG of quality 90 is about a sixth of its pixels; a quarter is on the safe side.
JPEG_SHARE = 0.25
# Read at a time, 16 tiles of 512 px: on the CPU the process keeps what it read through (`keep_freed_memory`).
READ_PIXELS = 1 << 22
STATISTICS_PIXELS = 1 << 24  # 64 tiles of 512 px: enough for the mean, and less than a second
OPEN_FILES = 256  # a quarter of what a process may usually open
Place = Literal["device", "memory", "encoded", "files"]
Channels = tuple[float, float, float]

logger = logging.getLogger(__name__)


def place_for(decoded: int, card: float, host: float) -> Place:
    """The first place with room for pictures of so many bytes; `card` (0: none) and `host` are that room."""
    if card and decoded <= card:
        return "device"
    if decoded <= host:
        return "memory"
    return "encoded" if JPEG_SHARE * decoded <= host else "files"


class Ragged:
    """Pictures of different sizes, taken like the rows of a tensor; those taken together are of one size."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self._pictures = pictures

    def __getitem__(self, positions: Tensor) -> Tensor:
        return torch.stack([self._pictures[position] for position in positions.tolist()])


class Bank:
    """The pictures of the tiles `ids` (ascending) of an index at one magnification.

    `place` is where they are: `device` and `memory` hold them decoded; `encoded` keeps JPEG in memory and
    decodes every batch; `files` reads every batch, so that a cohort of any size can be trained on. The first
    that fits is taken unless one is asked for. Of sections `px` is 0, and a batch is of one size.
    """

    def __init__(
        self,
        index: TileIndex,
        ids: np.ndarray,
        magnification: float,
        device: torch.device,
        *,
        threads: int = 1,
        place: Place | None = None,
    ) -> None:
        self.index, self.ids, self.magnification, self.device = index, ids, magnification, device
        self.px = _tile_px(index, magnification)
        self._position = np.full(index.n, -1, np.int64)
        self._position[ids] = np.arange(len(ids))
        self._workers = ThreadPoolExecutor(max(1, threads))
        self._open = lru_cache(OPEN_FILES)(lambda slide: TileFile(index.path(slide)))
        self._pixels: Tensor | Ragged = torch.empty(0)
        self._blobs: list[bytes] = []
        self.place = place or self._choose_place()
        if self.place in ("device", "memory"):
            self._load_pixels()
        elif self.place == "encoded":
            self._load_blobs()
        edge = f"{index.unit}s of {self.px} px" if self.px else f"{index.unit}s"
        logger.info("%d %s at %s, in %s", len(ids), edge, name_of(magnification), self.place)

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """Pictures of the tiles `order` in batches, uint8 (n, H, W, 3) on the device; the last may be short.

        What must be read, decoded or copied is fetched one batch ahead in the background.
        """
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if self.place == "device" or (self.place == "memory" and self.device.type == "cpu"):
            positions = torch.from_numpy(self._position[order])
            if self.px:  # sections are found by the host
                positions = positions.to(self.device)
            yield from (self._pixels[part] for part in positions.split(batch_size) if len(part))
            return
        for batch in one_ahead(partial(self._fetch, part) for part in parts):
            yield batch.to(self.device, non_blocking=True)

    def mean_and_std(self, ids: np.ndarray) -> tuple[Channels, Channels]:
        """Mean and standard deviation of pixels in 0..1, over 64 to 512 evenly spaced `ids`, to 4 digits."""
        n = min(512, max(64, STATISTICS_PIXELS // self.px**2)) if self.px else 64
        order = ids[np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(int)]
        # How often every level occurs in each channel: exact, and small for pictures of any size.
        counts = np.zeros((3, 256))
        for batch in self.batches(order, 16 if self.px else 1):
            for channel, values in enumerate(batch.view(-1, 3).unbind(1)):
                counts[channel] += torch.bincount(values, minlength=256).cpu().numpy()
        levels = np.arange(256) / 255
        shares = counts / counts.sum(1, keepdims=True)
        mean = shares @ levels
        variance = shares @ levels**2 - mean**2
        std = np.sqrt(np.maximum(variance, 1e-4))  # tiles of one flat colour still have a divisor
        return _channels(mean), _channels(std)

    def _choose_place(self) -> Place:
        decoded = 3 * int(self.index.size_at(self.magnification, self.ids).prod(1).sum())
        share = RESIDENT_SHARE if self.px else SECTIONS_SHARE
        card = share * free_bytes(self.device) if self.device.type == "cuda" else 0.0
        host = RESIDENT_SHARE * free_bytes(torch.device("cpu"))
        place = place_for(decoded, card, host)
        if place != "encoded":
            return place
        first = self._open(int(self.index.slide[self.ids[0]]))
        return place if first.is_jpeg(self.magnification) else "files"

    def _by_slide(self) -> Iterator[tuple[int, np.ndarray]]:
        """Slides with tiles in the bank, and the ids of those tiles."""
        slides, starts = np.unique(self.index.slide[self.ids], return_index=True)
        yield from zip(slides.tolist(), np.split(self.ids, starts[1:]), strict=False)

    def _load_pixels(self) -> None:
        device = self.device if self.place == "device" else torch.device("cpu")
        if not self.px:
            found = [picture for part in self._by_slide() for picture in self._read_sections(*part)]
            self._pixels = Ragged([torch.from_numpy(picture).to(device) for picture in found])
            return
        self._pixels = torch.empty((len(self.ids), self.px, self.px, 3), dtype=torch.uint8, device=device)
        end = 0
        for slide, ids in self._by_slide():
            for pictures in self._read_tiles(slide, ids):
                self._pixels[end : end + len(pictures)] = torch.from_numpy(pictures)
                end += len(pictures)

    def _read_sections(self, slide: int, ids: np.ndarray) -> list[np.ndarray]:
        with TileFile(self.index.path(slide)) as file:
            return list(
                self._workers.map(partial(file.read, self.magnification), self.index.row[ids].tolist())
            )

    def _read_tiles(self, slide: int, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Tiles of a slide in parts, (n, H, W, 3) uint8."""
        at_once = max(1, READ_PIXELS // self.px**2)
        with TileFile(self.index.path(slide)) as file:
            blobs = file.jpegs(self.magnification) if file.is_jpeg(self.magnification) else None
            for start in range(0, len(ids), at_once):
                some = ids[start : start + at_once]
                rows = self.index.row[some]
                if blobs is None:
                    yield file.read_rows(self.magnification, rows)
                else:
                    yield np.stack(list(self._workers.map(self._decode, some, [blobs[row] for row in rows])))

    def _load_blobs(self) -> None:
        for slide, ids in self._by_slide():
            with TileFile(self.index.path(slide)) as file:
                blobs = file.jpegs(self.magnification)
            self._blobs += [blobs[row] for row in self.index.row[ids]]

    def _fetch(self, ids: np.ndarray) -> Tensor:
        if self.place == "memory":
            batch = self._pixels[torch.from_numpy(self._position[ids])]
        else:
            batch = torch.from_numpy(np.stack(list(self._workers.map(self._read, ids))))
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _read(self, tile_id: int) -> np.ndarray:
        if self.place == "encoded":
            return self._decode(tile_id, self._blobs[self._position[tile_id]])
        file = self._open(int(self.index.slide[tile_id]))
        return file.read(self.magnification, int(self.index.row[tile_id]))

    def _decode(self, tile_id: int, blob: bytes) -> np.ndarray:
        try:
            return decode(blob)
        except ValueError as error:
            path = self.index.path(int(self.index.slide[tile_id]))
            raise UserError(
                f"tile {self.index.name(tile_id)} cannot be decoded ({error}); delete {path} and rerun"
            ) from error


def _channels(values: np.ndarray) -> Channels:
    red, green, blue = values.round(4).tolist()
    return red, green, blue


def _tile_px(index: TileIndex, magnification: float) -> int:
    if magnification not in index.tile_px:
        stored = ", ".join(name_of(m) for m in index.tile_px) or "no slide"
        raise UserError(
            f"the tile files hold no {name_of(magnification)} tiles (found {stored}); add the magnification "
            "to tiles.students and rerun"
        )
    return index.tile_px[magnification]
