"""Where the tissue of a slide is: a classical outline in physical units, for QuPath and for the eye."""

import json
import logging
import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFilter

from lowmag.publish import publishing, write_text
from lowmag.reader import Slide, Thumbnail
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tissue

CLASSIFICATION = {"name": "Tissue", "color": [0, 128, 0]}
OUTLINE_COLOUR = (0, 128, 0)
OVERLAY_PX = 1000
PLACEHOLDER_PX = (400, 300)
MEDIAN_PX = 3
CLOSE_UM = 16.0  # half the width of the gaps that closing bridges
DARKEST = 50  # brightest channel below this: black ink, a fold's core, the edge of the glass
HIGHEST_THRESHOLD = 3.0  # times the floor: Otsu on a field full of tissue would cut through the tissue
PEN_SPREAD_UM = 24.0  # ink fades at the edge of a stroke
PEN_STRENGTH = 0.08  # optical density
INK_RED, INK_CUT = 0.6, 0.75
SIMPLIFY_PX = 0.75
WARN_BELOW, WARN_ABOVE = 0.001, 0.95
WARN_PEN = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mask:
    """Tissue (h, w) booleans, the saturation threshold, and the share of stained pixels taken for pen."""

    tissue: np.ndarray
    threshold: int
    pen_share: float


def write_outline(record: Path, outline: Path, overlay: Path, options: Tissue) -> None:
    """Write the outline of one slide as GeoJSON in level-0 pixels, and a picture of it.

    A rejected slide gets a collection without features and a picture that says why.
    """
    slide = load_record(record)
    if not slide.usable:
        write_text(outline, geojson([], slide.slide_id))
        _save(overlay, _placeholder(slide))
        log.info("slide %s: no tissue taken, its verdict is %s", slide.slide_id, slide.verdict)
        return
    require_same_file(slide)
    with Slide(slide.path, slide.mpp) as source:
        thumbnail = source.thumbnail(options.mpp, slide.scanned)
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    mask = find_tissue(thumbnail.picture, pixel_um, options)
    pieces = outline_of(mask.tissue, pixel_um, options)
    pieces = [
        shapely.transform(piece, lambda xy: xy * thumbnail.scale + thumbnail.origin) for piece in pieces
    ]
    write_text(outline, geojson(pieces, slide.slide_id))
    _save(overlay, _overlay(thumbnail, pieces))
    _report(slide, pieces, mask)


def _report(slide: SlideRecord, pieces: list[shapely.Polygon], mask: Mask) -> None:
    area_px = sum(piece.area for piece in pieces)
    share = area_px / (slide.scanned[2] * slide.scanned[3])
    log.info(
        "slide %s: %d pieces, %.2f mm2, %.1f %% of the scan, saturation above %d, pen %.1f %% of the stain",
        slide.slide_id, len(pieces), area_px * math.prod(slide.mpp) / 1e6, 100 * share, mask.threshold,
        100 * mask.pen_share,
    )  # fmt: skip
    if not WARN_BELOW <= share <= WARN_ABOVE:
        log.warning(
            "slide %s: %.2f %% of the scan is tissue; look at the overlay", slide.slide_id, 100 * share
        )
    if mask.pen_share > WARN_PEN:
        log.warning(
            "slide %s: more than half of what is stained is taken for pen; look at the overlay",
            slide.slide_id,
        )


def find_tissue(picture: np.ndarray, pixel_um: float, options: Tissue) -> Mask:
    """The tissue of an H&E picture (h, w, 3) uint8 whose pixels are `pixel_um` micrometres wide.

    Saturation after a median, above Otsu's threshold (kept between the floor and three times the floor),
    without dark pixels and pen, closed.
    """
    saturation = np.asarray(
        Image.fromarray(picture).convert("HSV").getchannel("S").filter(ImageFilter.MedianFilter(MEDIAN_PX))
    )
    bright = picture.max(axis=2) >= DARKEST
    pen = _grown(pen_mask(picture), round(PEN_SPREAD_UM / pixel_um))
    counts = np.bincount(saturation[bright & ~pen], minlength=256)
    floor = options.saturation_floor
    threshold = min(max(otsu(counts), floor), round(HIGHEST_THRESHOLD * floor))
    stained = (saturation > threshold) & bright
    pen_share = float((stained & pen).sum() / max(1, stained.sum()))
    tissue = stained & ~pen
    radius = round(CLOSE_UM / pixel_um)
    closed = ~_grown(~_grown(np.pad(tissue, radius), radius), radius)
    inside = slice(radius, -radius or None)
    return Mask(closed[inside, inside] & ~pen, threshold, pen_share)


def otsu(counts: np.ndarray) -> int:
    """The grey level with the most variance between the two sides of a histogram (Otsu 1979); 0 if empty."""
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * np.arange(len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return int(np.argmax(np.nan_to_num(between)))


def pen_mask(picture: np.ndarray) -> np.ndarray:
    """Pixels (h, w) whose colour no mixture of haematoxylin and eosin has.

    Both stains absorb green most (Ruifrok and Johnston 2001: optical densities 0.65, 0.70, 0.29 and 0.07,
    0.99, 0.11). Ink that takes more red than green is blue or green; ink that takes blue about as much as
    green, and little red, is red.
    """
    density = -np.log10((picture.astype(np.float32) + 1) / 256)
    red, green, blue = np.moveaxis(density, 2, 0)
    cold = red > 1.1 * green + PEN_STRENGTH
    warm = (green > INK_RED) & (blue > INK_CUT * green) & (red < 0.4 * green)
    return cold | warm


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` dilated by a square of `radius` pixels."""
    for axis in (0, 1):
        grown = mask.copy()
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
        for shift in range(1, min(radius, len(source) - 1) + 1):
            target[shift:] |= source[:-shift]
            target[:-shift] |= source[shift:]
        mask = grown
    return mask


def outline_of(mask: np.ndarray, pixel_um: float, options: Tissue) -> list[shapely.Polygon]:
    """Pieces of a mask as valid polygons with holes, in pixels of the mask, from top to bottom.

    Small holes are filled, small pieces dropped; the outline runs along pixel edges, its steps smoothed.
    """
    smallest, largest_hole = (options.min_piece_um / pixel_um) ** 2, (options.max_hole_um / pixel_um) ** 2
    pieces = []
    for piece in _faces(mask):
        holes = [hole for hole in piece.interiors if shapely.Polygon(hole).area > largest_hole]
        filled = shapely.Polygon(piece.exterior, holes)
        if filled.area >= smallest:
            pieces += polygons(shapely.make_valid(filled.simplify(SIMPLIFY_PX)))
    return sorted(pieces, key=lambda piece: (piece.bounds[1], piece.bounds[0]))


def _faces(mask: np.ndarray) -> list[shapely.Polygon]:
    """The connected pieces of a mask, holes and all; pixels that touch at a corner only are apart."""
    if not mask.any():
        return []
    ends = _edges(mask).reshape(-1, 2).astype(float)
    pairs = np.arange(0, len(ends) + 1, 2)
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, ends, (pairs,))
    faces = shapely.get_parts(shapely.polygonize(lines))
    inside = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(int)
    return list(faces[mask[inside[:, 1], inside[:, 0]]])


def _edges(mask: np.ndarray) -> np.ndarray:
    """Lines (n, 2 ends, 2 coordinates) between pixels in a mask and those out of it, in straight runs."""
    found = []
    for axis in (0, 1):
        padded = np.pad(np.moveaxis(mask, axis, 0), 1).astype(np.int8)
        change = np.diff(padded, axis=0)[:, 1:-1]  # (lines, cells): the sign tells the side the mask is on
        line, start = np.nonzero(np.diff(np.pad(change, ((0, 0), (1, 1))), axis=1))
        drawn = np.flatnonzero(change[line[:-1], np.minimum(start[:-1], change.shape[1] - 1)])
        drawn = drawn[line[drawn] == line[drawn + 1]]
        ends = [np.stack([start[k], line[k]][:: 1 - 2 * axis], axis=1) for k in (drawn, drawn + 1)]
        found.append(np.stack(ends, axis=1))
    return np.concatenate(found)


def polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons in any geometry, collections taken apart."""
    parts: Iterable[shapely.Geometry] = shapely.get_parts(geometry, return_index=False)
    found = []
    for part in parts:
        if isinstance(part, shapely.Polygon):
            found += [part] if part.area > 0 else []
        elif shapely.get_num_geometries(part) > 1 or shapely.get_type_id(part) >= 4:
            found += polygons(part)
    return found


def geojson(pieces: list[shapely.Polygon], slide_id: str) -> str:
    """A FeatureCollection that QuPath opens as annotations; coordinates in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{slide_id}/tissue/{number}")),
            "geometry": json.loads(shapely.to_geojson(shapely.set_precision(piece, 0.5))),
            "properties": {
                "objectType": "annotation",
                "name": f"Tissue {number}",
                "classification": CLASSIFICATION,
                "isLocked": False,
            },
        }
        for number, piece in enumerate(pieces, start=1)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"


def _overlay(thumbnail: Thumbnail, pieces: list[shapely.Polygon]) -> Image.Image:
    image = Image.fromarray(thumbnail.picture)
    shrink = max(1, -(-max(image.size) // OVERLAY_PX))
    image = image.reduce(shrink)
    scale = thumbnail.scale * shrink
    draw = ImageDraw.Draw(image)
    for piece in pieces:
        for ring in (piece.exterior, *piece.interiors):
            points = (np.asarray(ring.coords) - thumbnail.origin) / scale
            draw.line([tuple(point) for point in points], fill=OUTLINE_COLOUR, width=2)
    return image


def _placeholder(slide: SlideRecord) -> Image.Image:
    image = Image.new("RGB", PLACEHOLDER_PX, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, PLACEHOLDER_PX[0] - 1, PLACEHOLDER_PX[1] - 1), outline="grey")
    draw.text((20, PLACEHOLDER_PX[1] // 2), f"{slide.slide_id}: not used ({slide.verdict})", fill="black")
    return image


def _save(path: Path, image: Image.Image) -> None:
    with publishing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)
