"""The tiles of one slide: the same fields of view at every magnification, in one file."""

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely

from lowmag.errors import UserError
from lowmag.field_reader import FieldReader
from lowmag.fields import Cut, tile_cut
from lowmag.grid import read_outline
from lowmag.pieces import section_cut
from lowmag.reader import Slide, open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tiles
from lowmag.source import UnreadableError
from lowmag.store import FLAGS, LABEL_OF_SLIDE, Layout, TileRow, TileWriter, writing
from lowmag.tile_attributes import root_attributes

LARGEST_ERROR_SHARE = 0.01
CURE = "copy the file again from its source, or take the slide out of slides.csv"

log = logging.getLogger(__name__)


class Labels(Protocol):
    """What gives fields their labels, numbers of `classes`; see lowmag.tile_labels."""

    @property
    def classes(self) -> Sequence[str]: ...
    def labels(self, boxes: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class _Request:
    """What is to be cut out of one slide."""

    outline: Path
    options: Tiles
    layout: Layout
    labels: Labels | None
    coords: Path | None


class _TooManyError(Exception):
    """More than LARGEST_ERROR_SHARE of the fields cannot be read; the message is the reason."""


def write_tiles(
    record: Path,
    outline: Path,
    out: Path,
    options: Tiles,
    *,
    labels: Labels | None = None,
    coords: Path | None = None,
) -> None:
    """Write the tile file of one slide; without tissue or rejected, it is a valid file of no tiles.

    So it is when more than one field in a hundred cannot be read; its verdict is then `unreadable`, and a
    cohort goes on without the slide. `labels` gives the fields labels of their own, `coords` is a file of
    TRIDENT's or CLAM's whose fields are taken instead of the grid's.
    """
    if coords is not None and options.unit != "tile":
        raise UserError(
            f"{coords} holds square fields, but tiles.unit is {options.unit}; "
            "set tiles.unit: tile, or empty the column coords of slides.csv"
        )
    slide = load_record(record)
    request = _Request(outline, options, layout_of(options), labels, coords)
    if slide.usable:
        require_same_file(slide)
        try:
            _write_readable(slide, request, out)
            return
        except (_TooManyError, UnreadableError) as error:
            slide = replace(slide, verdict="unreadable", reason=str(error), cure=CURE)
            log.error("slide %s: %s; no tiles are kept. %s", slide.slide_id, slide.reason, slide.cure)
    with writing(out, request.layout, root_attributes(slide, options)):
        log.info("slide %s: no tiles, its verdict is %s", slide.slide_id, slide.verdict)


def layout_of(options: Tiles) -> Layout:
    """What is stored of every tile or section."""
    tile_px = {m: options.tile_px(m) for m in options.magnifications} if options.unit == "tile" else {}
    return Layout(options.magnifications, tile_px, options.jpeg_quality, options.unit)


def _write_readable(slide: SlideRecord, request: _Request, out: Path) -> None:
    options, tissue = request.options, read_outline(request.outline)
    _require_on_slide(tissue, slide, request.outline)
    with open_slide(slide, icc=options.icc) as source:
        if options.unit == "section":
            cut = section_cut(source, slide, tissue, options)
        else:
            cut = tile_cut(source, slide, tissue, options, request.coords)
        attributes = root_attributes(slide, options) | {"ratio": cut.ratio} | dict(cut.attributes)
        if request.labels is not None:
            attributes["classes"] = json.dumps(list(request.labels.classes))
        with writing(out, request.layout, attributes, coords_attributes=cut.coords_attributes) as writer:
            _write_fields(source, cut, request, writer)


def _require_on_slide(tissue: shapely.Geometry, slide: SlideRecord, outline: Path) -> None:
    """Raise UserError for the outline of another slide, which would leave this one without a tile."""
    x0, y0, x1, y1 = shapely.bounds(tissue).tolist()  # not a number where there is no tissue
    if x0 >= (slide.width or 0) or y0 >= (slide.height or 0) or x1 <= 0 or y1 <= 0:
        raise UserError(
            f"{outline} has its tissue at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}, but slide "
            f"{slide.slide_id} is {slide.width} x {slide.height} pixels; give the outline of this slide"
        )


def _write_fields(source: Slide, cut: Cut, request: _Request, writer: TileWriter) -> None:
    reader = FieldReader(source, request.layout, cut.ratio, request.options.lowres)
    labels = _labels(cut, request.labels)
    start, lost, flagged = time.perf_counter(), np.zeros(len(labels)), Counter[str]()
    for n, (field, size) in enumerate(zip(cut.fields, cut.sizes, strict=True)):
        shot = reader.read(field, size)
        lost[n] = shot.lost
        flagged.update(name for name, bit in FLAGS.items() if shot.flags & bit)
        writer.append(
            TileRow(
                field.x, field.y, field.row, field.column, field.tissue_fraction, shot.pictures,
                shot.flags, labels[n], shot.quality,
            )
        )  # fmt: skip
    _require_readable(lost, np.array(cut.sizes, float).reshape(-1, 2).prod(axis=1))
    seconds = time.perf_counter() - start
    log.info(
        "slide %s: %d %s%s at %d magnifications in %.1f s (%.0f/s), %d unreadable; flags: %s",
        writer.file.attrs["slide_id"], writer.n, request.options.unit, "s" * (writer.n != 1),
        len(request.layout.magnifications),
        seconds, writer.n / max(seconds, 1e-9), (lost > 0).sum(),
        ", ".join(f"{n} {name}" for name, n in flagged.items()) or "none",
    )  # fmt: skip


def _labels(cut: Cut, labels: Labels | None) -> list[int]:
    if labels is None or not len(cut.fields):
        return [LABEL_OF_SLIDE] * len(cut.fields)
    return labels.labels(cut.boxes()).tolist()


def _require_readable(lost: np.ndarray, areas: np.ndarray) -> None:
    """Raise _TooManyError when too much of the fields' area is lost."""
    share = float(lost @ areas) / max(1.0, float(areas.sum()))
    if share > LARGEST_ERROR_SHARE:
        raise _TooManyError(
            f"{(lost > 0).sum()} of {len(lost)} fields cannot be read, {share:.1%} of their area; "
            f"at most {LARGEST_ERROR_SHARE:.0%} is tolerated"
        )
