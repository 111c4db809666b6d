"""Where the tissue of a slide is: an outline in physical units, for QuPath and for the eye."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from PIL import Image

from lowmag import staining
from lowmag.outline import geojson, outline_of, polygons
from lowmag.overlay import overlay, placeholder
from lowmag.publish import publishing, write_text
from lowmag.reader import Thumbnail, open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tissue
from lowmag.source import UnreadableError

if TYPE_CHECKING:
    from lowmag.masks import GivenMask

LEAST_SHARE, MOST_SHARE = 0.001, 0.95  # of the scan; outside them a person is asked to look
SCALE_TOLERANCE = 0.02  # a network is shown the scale it was made for within this

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Tissue and pen as polygons in level-0 pixels, where they come from, and what a person should see."""

    pieces: list[shapely.Polygon]
    facts: dict[str, Any]
    pen: list[shapely.Polygon] = field(default_factory=list)
    review: list[str] = field(default_factory=list)


def write_outline(
    record: Path, outline: Path, picture: Path, options: Tissue, mask: "GivenMask | None" = None
) -> None:
    """Write the outline of one slide as GeoJSON in level-0 pixels, and a picture of it.

    The tissue is that of `mask` where there is one, else what the network of `options.model` sees, else what
    is stained. A rejected slide gets a collection without features and a picture that says why.
    """
    slide = load_record(record)
    if not slide.usable:
        _write(outline, geojson([], slide.slide_id), picture, placeholder(slide, slide.verdict))
        log.info("slide %s: no tissue taken, its verdict is %s", slide.slide_id, slide.verdict)
        return
    require_same_file(slide)
    try:
        with open_slide(slide) as source:
            thumbnail = source.thumbnail(options.mpp, slide.scanned)
    except UnreadableError as error:
        review = f"the slide cannot be opened any more ({error})"
        found = geojson([], slide.slide_id, {"review": review})
        _write(outline, found, picture, placeholder(slide, "unreadable"))
        log.warning("slide %s: %s", slide.slide_id, review)
        return
    found = _find(thumbnail, slide, options, mask)
    review = "; ".join([*_doubts(found.pieces, slide), *_lost(thumbnail), *found.review])
    content = geojson(found.pieces, slide.slide_id, {**found.facts, "review": review})
    _write(outline, content, picture, overlay(thumbnail, found.pieces, found.pen, review))
    _report(slide, found, review)


def _find(thumbnail: Thumbnail, slide: SlideRecord, options: Tissue, mask: "GivenMask | None") -> Finding:
    if mask is not None:
        from lowmag.masks import read_mask  # libvips is wanted for masks alone

        return Finding(read_mask(mask, slide, options.mpp), {"source": "mask"})
    return _seen(thumbnail, slide, options) if options.model else _stained(thumbnail, slide, options)


def _seen(thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> Finding:
    """Tissue by a network of the user's, at the scale asked for."""
    from lowmag import segmenter

    factor = thumbnail.scale * sum(slide.mpp) / 2 / options.mpp
    if abs(factor - 1) > SCALE_TOLERANCE:
        image = Image.fromarray(thumbnail.picture)
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        unread = thumbnail.unread
        if unread is not None:
            unread = np.asarray(Image.fromarray(unread).resize(size, Image.Resampling.NEAREST))
        thumbnail = Thumbnail(pixels, thumbnail.origin, thumbnail.scale / factor, unread)
    model = Path(str(options.model))
    tissue = segmenter.find_tissue(thumbnail.picture, model)
    return Finding(_pieces(tissue, thumbnail, slide, options), {"source": "model", "model": model.name})


def _stained(thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> Finding:
    """Tissue by colour, without pen."""
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    mask = staining.find_tissue(thumbnail.picture, pixel_um, options)
    facts = {"source": "colour", "threshold": mask.threshold, "glass": list(mask.white)}
    facts["pen_share"] = round(mask.pen_share, 4)
    doubts = []
    if mask.pen_share > staining.MOST_PEN:
        doubts.append(f"{mask.pen_share:.0%} of the stain has the colours of pen; it was left in")
    pieces = _pieces(mask.tissue, thumbnail, slide, options)
    pen = _on_slide(outline_of(mask.pen, pixel_um, options), thumbnail, slide)
    return Finding(pieces, facts, pen, doubts)


def _pieces(
    mask: np.ndarray, thumbnail: Thumbnail, slide: SlideRecord, options: Tissue
) -> list[shapely.Polygon]:
    """The pieces of a mask of the thumbnail in level-0 pixels, without debris and small holes.

    What could not be read counts as tissue: its tiles are then flagged, where they would be missing unseen.
    """
    if thumbnail.unread is not None:
        mask = mask | thumbnail.unread
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    return _on_slide(outline_of(mask, pixel_um, options), thumbnail, slide)


def _on_slide(
    pieces: Sequence[shapely.Polygon], thumbnail: Thumbnail, slide: SlideRecord
) -> list[shapely.Polygon]:
    """Polygons from pixels of the thumbnail to level 0, cut to the scanned part of the slide."""
    x, y, width, height = slide.scanned
    frame = shapely.box(x, y, x + width, y + height)
    moved = [shapely.transform(piece, lambda xy: xy * thumbnail.scale + thumbnail.origin) for piece in pieces]
    return [part for piece in moved for part in polygons(shapely.intersection(piece, frame))]


def _share(pieces: Sequence[shapely.Polygon], slide: SlideRecord) -> float:
    return sum(piece.area for piece in pieces) / (slide.scanned[2] * slide.scanned[3])


def _doubts(pieces: Sequence[shapely.Polygon], slide: SlideRecord) -> list[str]:
    """What is odd about the amount of tissue."""
    share = _share(pieces, slide)
    if not pieces:
        return ["no tissue was found"]
    if LEAST_SHARE <= share <= MOST_SHARE:
        return []
    return [f"{100 * share:.3g} % of the scan is tissue"]


def _lost(thumbnail: Thumbnail) -> list[str]:
    """What of the picture could not be read."""
    if thumbnail.unread is None:
        return []
    return [f"{100 * thumbnail.unread.mean():.2g} % of the scan cannot be read and counts as tissue"]


def _report(slide: SlideRecord, found: Finding, review: str) -> None:
    share = _share(found.pieces, slide)
    area_mm2 = share * slide.scanned[2] * slide.scanned[3] * math.prod(slide.mpp) / 1e6
    log.info(
        "slide %s: %d pieces, %.2f mm2, %.1f %% of the scan; %s",
        slide.slide_id, len(found.pieces), area_mm2, 100 * share,
        ", ".join(f"{name} {value}" for name, value in found.facts.items()),
    )  # fmt: skip
    if review:
        log.warning(
            "slide %s needs review: %s. Look at the overlay; saturation_floor, min_piece_um, max_hole_um or "
            "mask in slides.csv change the outline of this slide",
            slide.slide_id,
            review,
        )


def _write(outline: Path, content: str, picture: Path, image: Image.Image) -> None:
    write_text(outline, content)
    with publishing(picture) as temporary:
        image.save(temporary, format="PNG", optimize=True)
