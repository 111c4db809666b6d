"""Pictures of a slide with the outline of its tissue, to look at."""

from collections.abc import Sequence

import numpy as np
import shapely
from PIL import Image, ImageDraw

from lowmag.reader import Thumbnail
from lowmag.record import SlideRecord

OUTLINE_COLOUR, PEN_COLOUR, REVIEW_COLOUR = (0, 128, 0), (230, 159, 0), (170, 0, 0)
OVERLAY_PX = 1000
PLACEHOLDER_PX = (400, 300)
BAND_PX = 16


def overlay(
    thumbnail: Thumbnail, pieces: Sequence[shapely.Polygon], pen: Sequence[shapely.Polygon], review: str
) -> Image.Image:
    """The slide with tissue outlined in green, holes too, and pen in orange; above it what to review."""
    image = Image.fromarray(thumbnail.picture)
    shrink = max(1, -(-max(image.size) // OVERLAY_PX))
    image = image.reduce(shrink)
    draw = ImageDraw.Draw(image)
    for colour, shapes in ((PEN_COLOUR, pen), (OUTLINE_COLOUR, pieces)):
        for ring in (ring for shape in shapes for ring in (shape.exterior, *shape.interiors)):
            points = (np.asarray(ring.coords) - thumbnail.origin) / (thumbnail.scale * shrink)
            draw.line([tuple(point) for point in points], fill=colour, width=2)
    return _under_band(image, f"needs review: {review}") if review else image


def placeholder(slide: SlideRecord, verdict: str) -> Image.Image:
    """A picture for a slide that is not used, which says why."""
    image = Image.new("RGB", PLACEHOLDER_PX, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, PLACEHOLDER_PX[0] - 1, PLACEHOLDER_PX[1] - 1), outline="grey")
    draw.text((20, PLACEHOLDER_PX[1] // 2), f"{slide.slide_id}: not used ({verdict})", fill="black")
    return image


def _under_band(image: Image.Image, text: str) -> Image.Image:
    """The image below a band with a line of text."""
    taller = Image.new("RGB", (image.width, image.height + BAND_PX), REVIEW_COLOUR)
    taller.paste(image, (0, BAND_PX))
    ImageDraw.Draw(taller).text((4, 1), text, fill="white")
    return taller
