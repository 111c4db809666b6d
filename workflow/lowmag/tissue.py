"""Where the tissue of a slide is: an outline in physical units, for QuPath and for the eye."""

import logging
import math
from pathlib import Path

import shapely
from PIL import Image

from lowmag.outline import geojson, outline_of
from lowmag.overlay import overlay, placeholder
from lowmag.publish import publishing, write_text
from lowmag.reader import open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tissue
from lowmag.staining import Mask, find_tissue

WARN_BELOW, WARN_ABOVE = 0.001, 0.95
WARN_PEN = 0.5

log = logging.getLogger(__name__)


def write_outline(record: Path, outline: Path, picture: Path, options: Tissue) -> None:
    """Write the outline of one slide as GeoJSON in level-0 pixels, and a picture of it.

    A rejected slide gets a collection without features and a picture that says why.
    """
    slide = load_record(record)
    if not slide.usable:
        write_text(outline, geojson([], slide.slide_id))
        _save(picture, placeholder(slide))
        log.info("slide %s: no tissue taken, its verdict is %s", slide.slide_id, slide.verdict)
        return
    require_same_file(slide)
    with open_slide(slide) as source:
        thumbnail = source.thumbnail(options.mpp, slide.scanned)
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    mask = find_tissue(thumbnail.picture, pixel_um, options)
    pieces = outline_of(mask.tissue, pixel_um, options)
    pieces = [
        shapely.transform(piece, lambda xy: xy * thumbnail.scale + thumbnail.origin) for piece in pieces
    ]
    write_text(outline, geojson(pieces, slide.slide_id))
    _save(picture, overlay(thumbnail, pieces))
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


def _save(path: Path, image: Image.Image) -> None:
    with publishing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)
