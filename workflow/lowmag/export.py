"""Tile files in the forms of other programs: coordinates as TRIDENT and CLAM write them, and a table.

Only the formats are taken over. The pictures stay where they are: those programs read the slide themselves.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowmag.errors import UserError
from lowmag.hdf5 import publishing_hdf5
from lowmag.publish import publishing
from lowmag.record import Level, SlideRecord
from lowmag.store import FLAGS, QC_COLUMNS, TileFile
from lowmag.tile_attributes import CLAM_TOLERANCE, clam_attributes
from lowmag.wording import count

TRIDENT_NAMES = (
    "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name",
    "savetodir", "level0_width", "level0_height",
)  # fmt: skip

log = logging.getLogger(__name__)


def write_trident(file: TileFile, out: Path) -> None:
    """Write the coordinates of a tile file as TRIDENT's `patches/<slide>_patches.h5`.

    Raises UserError for sections and for a slide that was rejected.
    """
    found = _fields_of(file)
    _write_coords(out, file, {name: found[name] for name in TRIDENT_NAMES if name in found})


def write_clam(file: TileFile, slide: SlideRecord, out: Path, level: int | None = None) -> None:
    """Write the coordinates of a tile file as CLAM's `patches/<slide>.h5`.

    CLAM reads `patch_size` pixels of one of the slide's levels and knows no other scale. Without `level` it
    is the one at the teacher's magnification. Raises UserError where no whole number of its pixels is the
    field within 0.1 %, and says which would do; also for sections and for a slide that was rejected.
    """
    if slide.slide_id != file.slide_id:
        raise UserError(
            f"--record is of slide {slide.slide_id}, the tiles of {file.slide_id}: its levels are not "
            f"theirs; give {file.slide_id}.json"
        )
    found = _fields_of(file)
    field_px, edge = float(found["patch_size_level0"]), int(found["patch_size"])
    sizes = _fitting_sizes(field_px, slide.levels)
    if level is None:
        level = next((number for number, size in sizes.items() if size == edge), None)
    if level is None or level not in sizes:
        fits = " or ".join(f"--level {number} ({size} px)" for number, size in sizes.items())
        shown = f"no level shows it in {edge} px" if level is None else f"level {level} does not show it so"
        raise UserError(
            f"slide {slide.slide_id}: CLAM reads a field as whole pixels of a level, and of the field of "
            f"{field_px:g} level-0 pixels {shown}; {'take ' + fits if fits else 'no other level does'}"
        )
    attributes = {"patch_size": sizes[level], "name": found["name"]}
    _write_coords(out, file, attributes | clam_attributes(level, slide.levels[level]))


def write_table(file: TileFile, out: Path) -> None:
    """Write a Parquet table with a row per tile and everything the tile file knows of it but the pictures.

    x, y, width and height are level-0 pixels, flags are booleans by name, `label` is the class's name or
    null, `label_number` the number in the file (-1: the slide's label applies, -2: none does).
    """
    import pyarrow as pa
    from pyarrow import parquet

    boxes, coords, grid = file.boxes(), file.column("coords"), file.column("grid")
    flags, numbers, quality = file.column("flags"), file.column("label"), file.column("qc")
    columns = {
        "slide_id": [file.slide_id] * file.n,
        "tile": np.arange(file.n),
        "x": coords[:, 0],
        "y": coords[:, 1],
        "width": boxes[:, 2] - boxes[:, 0],
        "height": boxes[:, 3] - boxes[:, 1],
        "row": grid[:, 0],
        "column": grid[:, 1],
        "tissue_fraction": file.column("tissue_fraction"),
        **{name: (flags & bit) > 0 for name, bit in FLAGS.items()},
        "label": pa.array(label_names(file), pa.string()),
        "label_number": numbers,
        **{name: quality[:, k] for k, name in enumerate(QC_COLUMNS)},
    }
    with publishing(out) as temporary:
        parquet.write_table(pa.table(columns), temporary)
    log.info("slide %s: %s", file.slide_id, count(file.n, "row"))


def label_names(file: TileFile) -> list[str | None]:
    """The class of every tile by name, None where it has no label of its own."""
    names = file.classes
    return [
        (names[number] if number < len(names) else f"class {number}") if number >= 0 else None
        for number in file.column("label").tolist()
    ]


def _fields_of(file: TileFile) -> Mapping[str, Any]:
    """What the file says of the size of its fields to other programs."""
    if file.unit != "tile":
        raise UserError(f"{file.path} holds {file.unit}s; TRIDENT and CLAM know squares of one size only")
    found = file.coords_attributes
    if "patch_size_level0" not in found:
        verdict = file.attributes.get("verdict", "unknown")
        raise UserError(
            f"{file.path} holds no tiles of a slide (its verdict is {verdict}); there is nothing to export"
        )
    return found


def _fitting_sizes(field_px: float, levels: Sequence[Level]) -> dict[int, int]:
    """The field in whole pixels of every level where that is right within CLAM_TOLERANCE."""
    sizes = {number: round(field_px / level.downsample) for number, level in enumerate(levels)}
    return {
        number: size
        for number, size in sizes.items()
        if abs(size * levels[number].downsample / field_px - 1) < CLAM_TOLERANCE
    }


def _write_coords(out: Path, file: TileFile, attributes: Mapping[str, Any]) -> None:
    with publishing_hdf5(out, libver="earliest") as target:
        target.create_dataset("coords", data=file.column("coords")).attrs.update(attributes)
    log.info("slide %s: %s", file.slide_id, count(file.n, "tile"))
