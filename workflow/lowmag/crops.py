"""Tile files out of pre-cut pictures: each picture is one tile, at every magnification."""

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from lowmag.downsample import area_pyramid
from lowmag.errors import UserError
from lowmag.magnification import factor_between, mpp_of, name_of
from lowmag.pictures import PictureRow
from lowmag.sections import Pictures, Tiles
from lowmag.store import Layout, TileRow, writing
from lowmag.trust import sha256_of

MPP_TOLERANCE = 0.25  # as for an objective: 20x is scanned at 0.44-0.55
USUAL_MAGNIFICATIONS = (40.0, 20.0, 10.0, 5.0, 2.5, 1.25, 0.625)
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # Pillow would run programs for others
SHOWN = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """How every picture is cut: border first, then the centred square of `edge` pixels."""

    border_px: int
    edge: int
    factors: Mapping[float, int]  # magnification -> pixels of the picture along an edge of one of its pixels

    def tile(self, picture: np.ndarray) -> dict[float, np.ndarray]:
        """The centre crop (edge, edge, 3) uint8 of a picture (H, W, 3) at every magnification."""
        height, width = picture.shape[:2]
        top, left = (height - self.edge) // 2, (width - self.edge) // 2
        centre = np.ascontiguousarray(picture[top : top + self.edge, left : left + self.edge])
        pyramid = area_pyramid(centre, list(self.factors.values()))
        return {magnification: pyramid[factor] for magnification, factor in self.factors.items()}


def write_tile_files(
    rows: Sequence[PictureRow], out_dir: Path, classes: Sequence[str], options: Pictures, tiles: Tiles
) -> None:
    """Write `{slide_id}.h5` for every slide id, its pictures in the order of the sheet.

    The picture's own pixels are the teacher's magnification; lower ones are area averages of it, rounded
    once. All pictures have one size and are centre-cropped to the largest square whose edge every
    magnification divides, so the edge of a tile comes from the pictures, not from `tiles.field_um`.
    Labels must be in `classes`. Raises UserError for pictures of another size or unreadable, one file in two
    splits, and an mpp more than 25 % off the teacher's.
    """
    _require_derived(tiles)
    _require_scale(rows, options, tiles)
    _refuse_copies(rows)
    cut = _cut(_common_size(rows), options, tiles)
    by_slide: dict[str, list[PictureRow]] = {}
    for row in rows:
        by_slide.setdefault(row.slide_id, []).append(row)
    layout = Layout(
        magnifications=tiles.magnifications,
        tile_px={magnification: cut.edge // factor for magnification, factor in cut.factors.items()},
        jpeg_quality=tiles.jpeg_quality,
    )
    for slide_id, pictures in by_slide.items():
        attributes = _attributes(pictures, classes, options, tiles) | {
            "slide_id": slide_id,
            "field_um": cut.edge * mpp_of(tiles.teacher),
        }
        with writing(Path(out_dir, f"{slide_id}.h5"), layout, attributes) as writer:
            for index, row in enumerate(pictures):
                label = classes.index(row.label) if row.label else -1
                writer.append(TileRow(index, 0, 0, index, 1.0, cut.tile(read_rgb(row.image)), label=label))


def picture_field_um(row: PictureRow, options: Pictures, tiles: Tiles) -> float:
    """Edge of the field of view that is cut from a picture, micrometres; reads no more than its header."""
    return _cut(_common_size([row]), options, tiles).edge * mpp_of(tiles.teacher)


def read_rgb(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8; transparency is laid on white, as a slide's background.

    Raises UserError when it cannot be decoded or has more than 8 bits per channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode not in EIGHT_BIT_MODES:
                raise UserError(f"{path} has pixels of type {image.mode}; convert it to 8 bits per channel")
            if image.has_transparency_data:
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image.convert("RGBA"))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be decoded ({error}); replace the file or take its row out"
        ) from error


def _require_derived(tiles: Tiles) -> None:
    if tiles.lowres != "derived" or tiles.unit != "tile":
        raise UserError(
            f"pictures are tiles without coarser levels, but tiles.lowres is {tiles.lowres} and tiles.unit "
            f"{tiles.unit}; set tiles: {{lowres: derived, unit: tile}}, or give slides in place of images"
        )


def _refuse_copies(rows: Sequence[PictureRow]) -> None:
    """Raise UserError when one and the same file stands in two splits under two names; warn within one."""
    by_size: dict[int, list[PictureRow]] = {}
    for row in rows:
        by_size.setdefault(row.image.stat().st_size, []).append(row)
    by_content: dict[str, list[PictureRow]] = {}
    for same_size in by_size.values():
        for row in same_size if len(same_size) > 1 else []:
            by_content.setdefault(sha256_of(row.image), []).append(row)
    copies = [same for same in by_content.values() if len(same) > 1]
    leaks = [same for same in copies if len({row.split for row in same}) > 1]
    if leaks:
        shown = [
            ", ".join(f"{row.name} ({row.split or 'no split'})" for row in same) for same in leaks[:SHOWN]
        ]
        raise UserError(
            f"{len(leaks)} pictures stand in several splits under different names: the test would be easier "
            "than it is, so take them out of all but one:\n  " + "\n  ".join(shown)
        )
    if copies:
        names = [" = ".join(row.name for row in same) for same in copies[:SHOWN]]
        logger.warning("%d pictures are there more than once: %s", len(copies), "; ".join(names))


def _require_scale(rows: Sequence[PictureRow], options: Pictures, tiles: Tiles) -> None:
    expected = mpp_of(tiles.teacher)
    off = Counter(
        mpp
        for row in rows
        if (mpp := row.mpp or options.mpp) and abs(mpp / expected - 1) > MPP_TOLERANCE + 1e-9
    )
    if off:
        mpp, n = off.most_common(1)[0]
        raise UserError(
            f"{n} of {len(rows)} pictures have {mpp:g} mpp, tiles.teacher {name_of(tiles.teacher)} is "
            f"{expected:g} mpp; pictures are stored at their own scale, so set "
            f"tiles: {_fitting_ladder(mpp, tiles)}, or correct mpp (column mpp, or pictures.mpp)"
        )


def _fitting_ladder(mpp: float, tiles: Tiles) -> str:
    native = 10 / mpp
    nearest = min(USUAL_MAGNIFICATIONS, key=lambda usual: abs(math.log(usual / native)))
    teacher = nearest if abs(mpp_of(nearest) / mpp - 1) < MPP_TOLERANCE else native
    lower = [m for m in tiles.students if m < teacher and (teacher / m) % 1 == 0]
    students = lower or [teacher / factor_between(tiles.teacher, m) for m in tiles.students]
    return f"{{teacher: {teacher:g}, students: [{', '.join(f'{m:g}' for m in students)}]}}"


def _cut(size: tuple[int, int], options: Pictures, tiles: Tiles) -> Cut:
    width, height = size
    factors = {m: factor_between(tiles.teacher, m) for m in tiles.magnifications}
    whole = math.lcm(*factors.values())
    edge = (min(width, height) - 2 * options.border_px) // whole * whole
    if edge <= 0:
        raise UserError(
            f"pictures of {width} x {height} pixels less a border of {options.border_px} hold no square of "
            f"{whole} pixels, which {name_of(min(tiles.magnifications))} needs; "
            "leave out the lowest of tiles.students"
        )
    return Cut(options.border_px, edge, factors)


def _common_size(rows: Sequence[PictureRow]) -> tuple[int, int]:
    sizes: dict[str, tuple[int, int]] = {}
    problems = []
    for row in rows:
        try:
            with Image.open(row.image, formats=FORMATS) as image:
                sizes[row.name] = image.size
        except (OSError, Image.DecompressionBombError) as error:
            problems.append(f"{row.name} is not a picture that can be read ({error})")
    counts = Counter(sizes.values())
    usual = max(counts, key=lambda size: counts[size], default=(0, 0))
    for name, (width, height) in sizes.items():
        if (width, height) != usual:
            problems.append(f"{name} has {width} x {height} pixels, most have {usual[0]} x {usual[1]}")
    if problems:
        shown = problems[:SHOWN] + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])
        raise UserError(
            "pictures of one size are needed; crop these like the others or take their rows out:\n  "
            + "\n  ".join(shown)
        )
    return usual


def _attributes(
    pictures: Sequence[PictureRow], classes: Sequence[str], options: Pictures, tiles: Tiles
) -> dict[str, object]:
    given = [row.mpp for row in pictures if row.mpp]
    if given:
        mpp, source = median(given), "sheet"
    elif options.mpp:
        mpp, source = options.mpp, "config"
    else:
        mpp, source = mpp_of(tiles.teacher), "unknown"  # the teacher's, for want of another
    return {
        "mpp_x": mpp,
        "mpp_y": mpp,
        "mpp_source": source,
        "reader": "picture",
        "lowres_source": "derived",
        "classes": json.dumps(list(classes)),
        "images": json.dumps([row.name for row in pictures]),
    }
