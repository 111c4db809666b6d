"""Tissue that the user gives: polygons in GeoJSON (or ASAP's XML), or a picture of the slide."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
import shapely

from lowmag.annotations import read_annotations
from lowmag.errors import UserError
from lowmag.flat import load
from lowmag.outline import outline_of, polygons
from lowmag.reader import Thumbnail
from lowmag.record import SlideRecord
from lowmag.regions import Region
from lowmag.sections import Tissue

PICTURES = {".png", ".tif", ".tiff", ".jpg", ".jpeg"}
LOSSY = {".jpg", ".jpeg"}
TISSUE_CLASSES = {"tissue", "region"}
NOT_TISSUE = "ignore"  # QuPath's name for what is to be left out
ASPECT_TOLERANCE = 0.02

logging.getLogger("pyvips").setLevel(logging.WARNING)  # it reports every worker at INFO

Frame = tuple[int, int, int, int]


@dataclass(frozen=True)
class GivenMask:
    """A file that says where the tissue is; `origin` (bounds or level0) is where x, y of GeoJSON start."""

    path: Path
    origin: str = "bounds"
    name: str = "mask"

    def find(self, thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> list[shapely.Polygon]:
        """The tissue of the file; the thumbnail is not looked at."""
        return read_mask(self, slide, options.mpp)


def read_mask(given: GivenMask, slide: SlideRecord, mpp: float) -> list[shapely.Polygon]:
    """The tissue of a file as it stands there, as valid polygons in level-0 pixels, cut to the slide.

    Polygons: those of class Tissue or Region where there are such, else all but those to be ignored. A
    picture: what is not zero (in a JPEG: above half), at any scale; it shows the scanned part of the slide
    or all of level 0, and is traced at about `mpp`. Raises UserError for files that are neither, whose
    polygons all lie beside the slide, or whose picture has another shape than the slide.
    """
    if given.path.suffix.lower() in PICTURES:
        pieces = _traced(given.path, slide, mpp)
    else:
        pieces = _drawn(given, slide)
    whole = shapely.box(0, 0, slide.width or 0, slide.height or 0)
    inside = polygons(shapely.intersection(shapely.union_all(pieces), whole))
    if pieces and not inside:
        x0, y0, x1, y1 = shapely.total_bounds(pieces).tolist()
        raise _refused(
            given.path,
            f"has its polygons at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}, but slide {slide.slide_id} "
            f"is {slide.width} x {slide.height} pixels; give it its own file, or see annotations.origin",
        )
    return sorted(inside, key=lambda piece: (piece.bounds[1], piece.bounds[0]))


def _drawn(given: GivenMask, slide: SlideRecord) -> list[shapely.Polygon]:
    drawing = read_annotations(given.path, "mask")
    tissue = [region for region in drawing.regions if _classes(region) & TISSUE_CLASSES]
    taken = tissue or [region for region in drawing.regions if NOT_TISSUE not in _classes(region)]
    shape = shapely.union_all([region.shape for region in taken])
    if given.origin == "bounds" and not drawing.is_level0:
        shape = shapely.transform(shape, lambda xy: xy + np.array(slide.scanned[:2], float))
    return polygons(shape)


def _classes(region: Region) -> set[str]:
    return {name.rstrip("*").casefold() for name in region.names}


def _traced(path: Path, slide: SlideRecord, mpp: float) -> list[shapely.Polygon]:
    """What a picture shows as tissue, along the edges of its pixels or of blocks of about `mpp`."""
    if not path.is_file():
        raise _refused(path, "does not exist; correct the path in slides.csv")
    try:
        image = load(path, access="sequential", fail_on="error")
        x, y, width, height = _frame(path, image.width, image.height, slide)
        shrink = max(1, round(mpp / (slide.mpp[0] * width / image.width)))
        mask = _shrunk(_solid(image, is_lossy=path.suffix.lower() in LOSSY), shrink)
    except UserError as error:
        raise UserError(f"mask {error}") from error
    except pyvips.Error as error:
        raise _refused(
            path, f"cannot be read as a picture ({_first_line(error)}); export it again"
        ) from error
    scale = shrink * np.array([width / image.width, height / image.height])
    pieces = outline_of(mask, 1.0, Tissue(min_piece_um=0, max_hole_um=0))
    return [shapely.transform(piece, lambda xy: xy * scale + (x, y)) for piece in pieces]


def _frame(path: Path, width: int, height: int, slide: SlideRecord) -> Frame:
    """The part of level 0 that a picture of that shape shows: what was scanned, or all of it."""
    frames = [slide.scanned, (0, 0, slide.width or 0, slide.height or 0)]
    errors = [abs(width / height * frame[3] / frame[2] - 1) for frame in frames]
    if min(errors) > ASPECT_TOLERANCE:
        shapes = " or ".join(sorted({f"{frame[2]} x {frame[3]}" for frame in frames}))
        raise _refused(
            path,
            f"is {width} x {height} pixels, which is not the shape of slide {slide.slide_id} ({shapes}) "
            f"within {ASPECT_TOLERANCE:.0%}; export it for the whole slide, at any scale",
        )
    return frames[errors.index(min(errors))]


def _solid(image: pyvips.Image, *, is_lossy: bool) -> pyvips.Image:
    """255 where a picture has any colour, and is not transparent; compression leaves traces of grey."""
    is_transparent = image.hasalpha()
    colour = image.extract_band(0, n=image.bands - is_transparent)
    solid = (colour > (127 if is_lossy else 0)).bandor()
    return solid & (image[image.bands - 1] > 0) if is_transparent else solid


def _shrunk(solid: pyvips.Image, shrink: int) -> np.ndarray:
    """Which blocks of `shrink` pixels are more than half solid, (h, w); beyond the edge nothing is."""
    width, height = (-(-size // shrink) * shrink for size in (solid.width, solid.height))
    return solid.embed(0, 0, width, height).shrink(shrink, shrink).numpy() > 127


def _refused(path: Path, problem: str) -> UserError:
    return UserError(f"mask {path}: the file {problem}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
