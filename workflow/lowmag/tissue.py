"""Where the tissue of a slide is: an outline in physical units, for QuPath and for the eye."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import shapely
from PIL import Image

from lowmag import staining
from lowmag.outline import geojson, on_slide, outline_of, polygons
from lowmag.overlay import overlay, placeholder
from lowmag.publish import publishing, write_text
from lowmag.reader import Thumbnail, open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.sections import Tissue
from lowmag.source import UnreadableError

LEAST_SHARE, MOST_SHARE = 0.001, 0.95  # of the scan; outside them a person is asked to look

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Tissue and pen as polygons in level-0 pixels, where they come from, and what a person should see."""

    pieces: list[shapely.Polygon]
    facts: dict[str, Any]
    pen: list[shapely.Polygon] = field(default_factory=list)
    review: list[str] = field(default_factory=list)


class Finder(Protocol):
    """Another way to find tissue than by its colour: a mask that was given, or a network."""

    @property
    def name(self) -> str:
        """What it is, for the outline's file."""
        ...

    def find(self, thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> list[shapely.Polygon]:
        """The tissue of a slide in level-0 pixels, as it goes into the outline."""
        ...


def write_outline(
    record: Path, outline: Path, picture: Path | None, options: Tissue, finder: Finder | None = None
) -> None:
    """Write the outline of one slide as GeoJSON in level-0 pixels, and a picture of it if one is wanted.

    The tissue is what `finder` says, else what is stained. A rejected slide gets a collection without
    features and a picture that says why.
    """
    slide = load_record(record)
    if not slide.usable:
        write_text(outline, geojson([], slide.slide_id))
        _save(picture, lambda: placeholder(slide, slide.verdict))
        log.info("slide %s: no tissue taken, its verdict is %s", slide.slide_id, slide.verdict)
        return
    require_same_file(slide)
    try:
        with open_slide(slide) as source:
            thumbnail = source.thumbnail(options.mpp, slide.scanned)
    except UnreadableError as error:
        review = f"the slide cannot be opened any more ({error})"
        write_text(outline, geojson([], slide.slide_id, {"review": review}))
        _save(picture, lambda: placeholder(slide, "unreadable"))
        log.warning("slide %s: %s", slide.slide_id, review)
        return
    if finder is None:
        found = _stained(thumbnail, slide, options)
    else:
        found = Finding(finder.find(thumbnail, slide, options), {"source": finder.name})
    if thumbnail.unread is not None and found.facts["source"] != "mask":
        found = replace(found, pieces=_with_unread(found.pieces, thumbnail, slide, options))
    review = "; ".join([*_doubts(found.pieces, slide), *_lost(thumbnail), *found.review])
    write_text(outline, geojson(found.pieces, slide.slide_id, {**found.facts, "review": review}))
    _save(picture, lambda: overlay(thumbnail, found.pieces, found.pen, review))
    _report(slide, found, review)


def _stained(thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> Finding:
    """Tissue by colour, without pen."""
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    mask = staining.find_tissue(thumbnail.picture, pixel_um, options)
    facts = {"source": "colour", "threshold": mask.threshold, "glass": list(mask.white)}
    facts["pen_share"] = round(mask.pen_share, 4)
    doubts = []
    if mask.pen_share > staining.MOST_PEN:
        doubts.append(f"{mask.pen_share:.0%} of the stain has the colours of pen; it was left in")
    pieces, pen = (
        on_slide(outline_of(found, pixel_um, options), thumbnail, slide) for found in (mask.tissue, mask.pen)
    )
    return Finding(pieces, facts, pen, doubts)


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


def _with_unread(
    pieces: Sequence[shapely.Polygon], thumbnail: Thumbnail, slide: SlideRecord, options: Tissue
) -> list[shapely.Polygon]:
    """The pieces and what could not be read: its tiles are then flagged and not missing unseen."""
    assert thumbnail.unread is not None
    whole = options.model_copy(update={"min_piece_um": 0.0})
    pixel_um = thumbnail.scale * sum(slide.mpp) / 2
    unread = on_slide(outline_of(thumbnail.unread, pixel_um, whole), thumbnail, slide)
    return polygons(shapely.union_all([*pieces, *unread]))


def _lost(thumbnail: Thumbnail) -> list[str]:
    """What of the picture could not be read."""
    if thumbnail.unread is None:
        return []
    return [f"{100 * thumbnail.unread.mean():.2g} % of the scan cannot be read and counts as tissue"]


def _report(slide: SlideRecord, found: Finding, review: str) -> None:
    share = _share(found.pieces, slide)
    area_mm2 = share * slide.scanned[2] * slide.scanned[3] * math.prod(slide.mpp) / 1e6
    log.info(
        "slide %s: %d piece%s, %.2f mm2, %.1f %% of the scan; %s",
        slide.slide_id, len(found.pieces), "s" * (len(found.pieces) != 1), area_mm2, 100 * share,
        ", ".join(f"{name} {value}" for name, value in found.facts.items()),
    )  # fmt: skip
    if review:
        log.warning(
            "slide %s needs review: %s. Look at the overlay; saturation_floor, min_piece_um, max_hole_um or "
            "mask in slides.csv change the outline of this slide",
            slide.slide_id,
            review,
        )


def _save(picture: Path | None, draw: Callable[[], Image.Image]) -> None:
    if picture is not None:
        with publishing(picture) as temporary:
            draw().save(temporary, format="PNG", optimize=True)
