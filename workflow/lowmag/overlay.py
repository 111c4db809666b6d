"""Pictures of a slide with the outline of its tissue, to look at."""

import numpy as np
import shapely
from PIL import Image, ImageDraw

from lowmag.reader import Thumbnail
from lowmag.record import SlideRecord

OUTLINE_COLOUR = (0, 128, 0)
OVERLAY_PX = 1000
PLACEHOLDER_PX = (400, 300)


def overlay(thumbnail: Thumbnail, pieces: list[shapely.Polygon]) -> Image.Image:
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


def placeholder(slide: SlideRecord) -> Image.Image:
    image = Image.new("RGB", PLACEHOLDER_PX, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, PLACEHOLDER_PX[0] - 1, PLACEHOLDER_PX[1] - 1), outline="grey")
    draw.text((20, PLACEHOLDER_PX[1] // 2), f"{slide.slide_id}: not used ({slide.verdict})", fill="black")
    return image
