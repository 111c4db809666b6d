"""The pictures of a field at every magnification, what is wrong with them, and what was measured on them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lowmag import quality
from lowmag.downsample import area_pyramid
from lowmag.grid import Field
from lowmag.magnification import factor_between, mpp_of
from lowmag.reader import Slide
from lowmag.source import UnreadableError
from lowmag.store import FLAGS, Layout

GREY = 128  # of what cannot be read
MOST_TRANSPARENT = 0.05
QUALITY_MPP = 2.0
BLOCK_PX = 512  # of the teacher: what a section loses at once where it cannot be read
MEASURED_PX = 1024  # measured at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """A field as read: pictures by magnification, flags, what was measured (QC_COLUMNS), share unreadable."""

    pictures: dict[float, np.ndarray]
    flags: int
    quality: tuple[float, ...]
    lost: float = 0.0


class _Part(NamedTuple):
    pixels: np.ndarray
    transparent: float
    lost: float


class FieldReader:
    """Reads the fields of one slide; `ratio` is level-0 pixels per pixel at the highest magnification.

    With `lowres` derived, lower magnifications are area means of the highest, before anything is encoded;
    with pyramid each is read by itself from the coarsest level that serves, as a deployed student will.
    """

    def __init__(self, source: Slide, layout: Layout, ratio: tuple[float, float], lowres: str) -> None:
        self._source, self._ratio = source, ratio
        self._edge = BLOCK_PX if layout.unit == "section" else None
        self._is_derived = lowres == "derived"
        highest = layout.magnifications[0]
        self._factors = {m: factor_between(highest, m) for m in layout.magnifications}
        self._mpp = mpp_of(highest)

    def read(self, field: Field, size: tuple[int, int]) -> Shot:
        """The field as pictures, the highest of `size` (width, height); what cannot be read is grey."""
        picture, transparent, lost = self._highest(field, size)
        measuring = math.gcd(max(1, round(QUALITY_MPP / self._mpp)), *size)
        factors = set(self._factors.values()) if self._is_derived else {1}
        pyramid = area_pyramid(picture, sorted(factors | {measuring}))
        if self._is_derived:
            pictures = {m: pyramid[factor] for m, factor in self._factors.items()}
        else:
            pictures, failed = self._from_levels(field, size, picture)
            lost = max(lost, failed)
        flags = self._geometry(field, size) | FLAGS["read_error"] * (lost > 0)
        if lost == 1:
            return Shot(pictures, flags, (), lost)
        found = _measured(pyramid[measuring], self._mpp * measuring)
        flags |= FLAGS["transparent"] * (transparent > MOST_TRANSPARENT)
        flags |= FLAGS["blur"] * found.is_blurred | FLAGS["pen"] * found.has_pen
        means = pyramid[max(pyramid)].reshape(-1, 3).mean(axis=0).tolist()
        return Shot(pictures, flags, (found.sharpness, found.pen_share, transparent, *means), lost)

    def _highest(self, field: Field, size: tuple[int, int]) -> _Part:
        """The picture at the highest magnification; a section in blocks, so that a bad one loses no more."""
        if self._edge is None:
            return self._part(field, (0, 0, *size))
        picture = np.empty((size[1], size[0], 3), np.uint8)
        n_pixels = size[0] * size[1]
        transparent = lost = 0.0
        for left, top, width, height in blocks(size, self._edge):
            part = self._part(field, (left, top, width, height))
            picture[top : top + height, left : left + width] = part.pixels
            transparent += part.transparent * width * height / n_pixels
            lost += part.lost * width * height / n_pixels
        return _Part(picture, transparent, min(1.0, lost))

    def _part(self, field: Field, window: tuple[int, int, int, int]) -> _Part:
        """A part (left, top, width, height) of a field; grey and lost where it cannot be read."""
        left, top, width, height = window
        x, y = field.x + left * self._ratio[0], field.y + top * self._ratio[1]
        extent = width * self._ratio[0], height * self._ratio[1]
        try:
            region = self._source.read_region(x, y, (width, height), extent)
        except UnreadableError as error:
            self._warn(x, y, error)
            return _Part(_grey((width, height)), 0.0, 1.0)
        return _Part(region.pixels, region.transparent, 0.0)

    def _from_levels(
        self, field: Field, size: tuple[int, int], highest: np.ndarray
    ) -> tuple[dict[float, np.ndarray], float]:
        """Each magnification from the slide's own levels, and 1 if any cannot be read, else 0."""
        pictures, lost = {}, 0.0
        extent = size[0] * self._ratio[0], size[1] * self._ratio[1]
        for magnification, factor in self._factors.items():
            small = size[0] // factor, size[1] // factor
            try:
                read = self._source.read
                pictures[magnification] = (
                    highest if factor == 1 else read(field.x, field.y, small, extent, exact=False)
                )
            except UnreadableError as error:
                self._warn(field.x, field.y, error)
                pictures[magnification], lost = _grey(small), 1.0
        return pictures, lost

    def _warn(self, x: float, y: float, error: UnreadableError) -> None:
        log.warning("%s: field at %g, %g cannot be read: %s", self._source.path.name, x, y, error)

    def _geometry(self, field: Field, size: tuple[int, int]) -> int:
        """The flags that follow from where the field lies."""
        right, bottom = field.x + size[0] * self._ratio[0], field.y + size[1] * self._ratio[1]
        scan = self._source.levels[0]
        is_inside = field.x >= 0 and field.y >= 0 and right <= scan.width and bottom <= scan.height
        is_on_edge = 0 < field.tissue_fraction < 1
        return FLAGS["out_of_bounds"] * (not is_inside) | FLAGS["mask_edge"] * is_on_edge


def _grey(size: tuple[int, int]) -> np.ndarray:
    return np.full((size[1], size[0], 3), GREY, np.uint8)


def blocks(size: tuple[int, int], edge: int) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, width and height of the parts of a picture, none longer than `edge`."""
    for top in range(0, size[1], edge):
        for left in range(0, size[0], edge):
            yield left, top, min(edge, size[0] - left), min(edge, size[1] - top)


def _measured(picture: np.ndarray, mpp: float) -> quality.Quality:
    """Sharpness and pen of a picture of any size.

    A large one is measured in parts: means, blurred if most parts are that show anything, pen if any has it.
    """
    height, width = picture.shape[:2]
    if max(height, width) <= MEASURED_PX:
        return quality.measure(picture, mpp)
    parts = [
        (w * h, quality.measure(picture[top : top + h, left : left + w], mpp))
        for left, top, w, h in blocks((width, height), MEASURED_PX)
    ]
    areas = np.array([area for area, _ in parts]) / (width * height)
    shows = [part for _, part in parts if part.sharpness < 1]
    return quality.Quality(
        float(areas @ [part.sharpness for _, part in parts]),
        float(areas @ [part.pen_share for _, part in parts]),
        2 * sum(part.is_blurred for part in shows) > len(shows),
        any(part.has_pen for _, part in parts),
    )
