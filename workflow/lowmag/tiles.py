"""The tiles of one slide: the same fields of view at every magnification, in one file."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from lowmag import __version__
from lowmag.downsample import area_pyramid
from lowmag.grid import Field, fields_with_tissue, make_grid, read_outline
from lowmag.magnification import factor_between, mpp_of
from lowmag.reader import Slide, open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tiles
from lowmag.source import UnreadableError
from lowmag.store import Layout, TileRow, TileWriter, writing

READ_ERROR = 1  # bit of `flags`: the field could not be read and its pictures are grey
GREY = 128
LARGEST_ERROR_SHARE = 0.01
CURE = "copy the file again from its source, or take the slide out of slides.csv"
CLAM_TOLERANCE = 1e-3

log = logging.getLogger(__name__)


class _TooManyError(Exception):
    """More than LARGEST_ERROR_SHARE of the fields cannot be read; the message is the reason."""


def write_tiles(record: Path, outline: Path, out: Path, options: Tiles) -> None:
    """Write the tile file of one slide; without tissue or rejected, it is a valid file of no tiles.

    So it is when more than one field in a hundred cannot be read; its verdict is then `unreadable`, and a
    cohort goes on without the slide.
    """
    slide = load_record(record)
    layout = Layout(
        options.magnifications, {m: options.tile_px(m) for m in options.magnifications}, options.jpeg_quality
    )
    if slide.usable:
        require_same_file(slide)
        try:
            _write_readable(slide, outline, out, layout, options)
            return
        except _TooManyError as error:
            slide = replace(slide, verdict="unreadable", reason=str(error), cure=CURE)
            log.error("slide %s: %s; no tiles are kept. %s", slide.slide_id, slide.reason, slide.cure)
    with writing(out, layout, _attributes(slide, options)):
        log.info("slide %s: no tiles, its verdict is %s", slide.slide_id, slide.verdict)


def _write_readable(slide: SlideRecord, outline: Path, out: Path, layout: Layout, options: Tiles) -> None:
    with open_slide(slide, icc=options.icc) as source:
        extent = source.extent(
            options.tile_px(options.teacher), mpp_of(options.teacher), options.mpp_tolerance
        )
        fields = choose_fields(slide, read_outline(outline), extent, options)
        attributes = _attributes(slide, options) | {
            f"field_um_{axis}": n * mpp for axis, n, mpp in zip("xy", extent, slide.mpp, strict=True)
        }
        with writing(
            out, layout, attributes, coords_attributes=coords_attributes(slide, extent, options)
        ) as writer:
            _write_fields(source, fields, extent, writer, slide.slide_id)


def _write_fields(
    source: Slide, fields: Sequence[Field], extent: tuple[float, float], writer: TileWriter, slide_id: str
) -> None:
    start, n_failed = time.perf_counter(), 0
    for field in fields:
        pictures, flags = read_pictures(source, field, extent, writer.layout)
        n_failed += flags == READ_ERROR
        writer.append(
            TileRow(field.x, field.y, field.row, field.column, field.tissue_fraction, pictures, flags)
        )
    if n_failed > LARGEST_ERROR_SHARE * len(fields):
        raise _TooManyError(
            f"{n_failed} of {len(fields)} fields cannot be read, "
            f"at most {LARGEST_ERROR_SHARE:.0%} are tolerated"
        )
    seconds = time.perf_counter() - start
    log.info(
        "slide %s: %d tiles at %d magnifications in %.1f s (%.0f tiles/s), %d unreadable",
        slide_id, len(fields), len(writer.layout.magnifications), seconds,
        len(fields) / max(seconds, 1e-9), n_failed,
    )  # fmt: skip


def choose_fields(
    slide: SlideRecord, tissue: Any, extent: tuple[float, float], options: Tiles
) -> list[Field]:
    """Fields of the slide's grid with enough tissue, row by row; of too many, a choice fixed by the id."""
    ratio = extent[0] / options.tile_px(options.teacher)
    grid = make_grid(slide.scanned, extent, round(ratio) if ratio == round(ratio) else 1)
    if not grid.columns * grid.rows:
        log.warning("slide %s: smaller than one field of %g micrometres", slide.slide_id, options.field_um)
    fields = fields_with_tissue(grid, tissue, options.min_tissue)
    if options.max_per_slide is None or len(fields) <= options.max_per_slide:
        return fields
    seed = int.from_bytes(hashlib.sha256(slide.slide_id.encode()).digest()[:8])
    chosen = np.random.default_rng(seed).permutation(len(fields))[: options.max_per_slide]
    return [fields[k] for k in sorted(chosen)]


def read_pictures(
    source: Slide, field: Field, extent: tuple[float, float], layout: Layout
) -> tuple[dict[float, np.ndarray], int]:
    """The pictures of a field at every magnification, and its flags; grey if it cannot be read."""
    highest = layout.magnifications[0]
    edge = layout.tile_px[highest]
    flags = 0
    try:
        picture = source.read(field.x, field.y, edge, extent)
    except UnreadableError as error:
        log.warning("%s: field at %d, %d cannot be read: %s", source.path.name, field.x, field.y, error)
        picture, flags = np.full((edge, edge, 3), GREY, np.uint8), READ_ERROR
    factors = {m: factor_between(highest, m) for m in layout.magnifications}
    pyramid = area_pyramid(picture, list(factors.values()))
    return {m: pyramid[factor] for m, factor in factors.items()}, flags


def _attributes(slide: SlideRecord, options: Tiles) -> dict[str, Any]:
    text = json.dumps(options.model_dump(), sort_keys=True)
    versions = {"lowmag": __version__, "openslide": openslide.__library_version__, "numpy": np.__version__}
    return {
        "slide_id": slide.slide_id,
        "verdict": slide.verdict,
        "reason": slide.reason,
        "cure": slide.cure,
        "vendor": slide.vendor,
        "mpp_x": slide.mpp_x,
        "mpp_y": slide.mpp_y,
        "mpp_source": slide.mpp_source,
        "objective_power": slide.objective_power,
        "bounds": slide.bounds,
        "icc": slide.icc,
        "reader": slide.source,
        "lowres_source": "derived",
        "field_um": options.field_um,
        "source_size": slide.source_size,
        "source_mtime": slide.source_mtime,
        "source_quickhash": slide.source_quickhash,
        "options": text,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "software": json.dumps(versions, sort_keys=True),
    }


def coords_attributes(slide: SlideRecord, extent: tuple[float, float], options: Tiles) -> Mapping[str, Any]:
    """Attributes of `coords` that TRIDENT reads, and CLAM's where a level has the teacher's scale.

    TRIDENT takes the field to be patch_size * level0_magnification / target_magnification level-0 pixels,
    so level0_magnification is chosen to give exactly ours. CLAM reads patch_size pixels of patch_level, so
    without a fitting level that is left out: CLAM then stops instead of reading another field.
    """
    edge = options.tile_px(options.teacher)
    field_px = round(sum(extent) / 2)
    attributes: dict[str, Any] = {
        "patch_size": edge,
        "patch_size_level0": field_px,
        "level0_magnification": options.teacher * field_px / edge,
        "target_magnification": options.teacher,
        "overlap": 0,
        "name": slide.slide_id,
        "savetodir": "",
        "level0_width": slide.width,
        "level0_height": slide.height,
    }
    for number, level in enumerate(slide.levels):
        if abs(level.downsample * edge / field_px - 1) < CLAM_TOLERANCE:
            attributes |= {
                "patch_level": number,
                "downsample": [level.downsample] * 2,
                "downsampled_level_dim": [level.width, level.height],
                "level_dim": [level.width, level.height],
                "save_path": "",
            }
    return attributes
