"""Sections: each connected piece of tissue as one picture, DiPalma's own unit (arXiv 2101.04170)."""

import logging
import math

import numpy as np
import shapely

from lowmag.coverage import covered_shares
from lowmag.fields import Cut, largest_factor, thinned
from lowmag.grid import Field
from lowmag.magnification import mpp_of
from lowmag.reader import Slide
from lowmag.record import SlideRecord
from lowmag.sections import Tiles

log = logging.getLogger(__name__)


def section_cut(source: Slide, slide: SlideRecord, tissue: shapely.Geometry, options: Tiles) -> Cut:
    """The pieces of a slide from top to bottom, in their bounding boxes.

    Boxes are padded to whole pixels of the lowest magnification, to the right and downwards also beyond the
    scan. `row` is the piece's rank, `column` -1. Pieces longer than `max_section_px` are left out and
    counted in the attribute `sections_left_out`. No attributes of other programs are given: they know
    squares only.
    """
    whole = largest_factor(options)
    extent = source.extent(whole, mpp_of(options.teacher), options.mpp_tolerance)
    boxes = _bounding_boxes(tissue, slide.scanned)
    corners, sizes = _padded(boxes, extent, whole)
    fits = sizes.max(axis=1, initial=0) <= options.max_section_px
    if not fits.all():
        log.warning(
            "slide %s: %d of %d sections are longer than %d pixels (the longest has %d) and left out; "
            "raise tiles.max_section_px or lower tiles.teacher",
            slide.slide_id, (~fits).sum(), len(fits), options.max_section_px, sizes.max(),
        )  # fmt: skip
    ratio = (extent[0] / whole, extent[1] / whole)
    corners, sizes = corners[fits], sizes[fits]
    shares = covered_shares(np.hstack([corners, corners + sizes * ratio]), tissue)
    fields = [
        Field(x, y, rank, -1, share)
        for rank, ((x, y), share) in enumerate(zip(corners.tolist(), shares.tolist(), strict=True))
    ]
    chosen = thinned(fields, slide.slide_id, options.max_per_slide)
    return Cut(
        chosen,
        [(int(sizes[k.row, 0]), int(sizes[k.row, 1])) for k in chosen],
        ratio,
        {"tiling": "sections", "sections_left_out": int((~fits).sum())},
        {"name": slide.slide_id, "level0_width": slide.width, "level0_height": slide.height},
    )


def _bounding_boxes(tissue: shapely.Geometry, scanned: tuple[int, int, int, int]) -> np.ndarray:
    """Bounding boxes (n, 4) of the pieces within the scan, from top to bottom."""
    x, y, width, height = scanned
    left, top, right, bottom = shapely.bounds(tissue)
    if left < x or top < y or right > x + width or bottom > y + height:
        tissue = shapely.intersection(tissue, shapely.box(x, y, x + width, y + height))
    pieces = shapely.get_parts(tissue)
    boxes = shapely.bounds(pieces[shapely.area(pieces) > 0])
    return boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]


def _padded(boxes: np.ndarray, extent: tuple[float, float], whole: int) -> tuple[np.ndarray, np.ndarray]:
    """Level-0 corners (n, 2), and sizes (n, 2) in the teacher's pixels, of boxes of blocks of `whole` pixels.

    `extent` is what a block measures in level-0 pixels. Where that is a whole number, boxes start on the
    pixels of coarse levels.
    """
    aligned = extent[0] == extent[1] == math.floor(extent[0])
    snap = np.array(extent if aligned else (1, 1))
    corners = np.floor(boxes[:, :2] / snap) * snap
    blocks = np.maximum(1, np.ceil((boxes[:, 2:] - corners) / extent - 1e-9))
    return corners.astype(np.int64), blocks.astype(np.int64) * whole
