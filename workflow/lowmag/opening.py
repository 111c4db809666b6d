"""Which reader a slide file gets, and what the file says of itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from lowmag import dicom, scale, tiff
from lowmag import tiff_pictures as pictures
from lowmag.openslide_source import OpenSlideSource, require_library
from lowmag.record import RejectedError
from lowmag.segments import SegmentSource
from lowmag.source import Source, UnreadableError
from lowmag.tiff import Directory, Tiff
from lowmag.vips_source import VipsSource

SEGMENT_VENDORS = (None, "generic-tiff", "aperio")  # whose tiles lie side by side as the directory says
SAMPLES = 3  # segments that must agree with the reference
MOST_TRIES = 12
LARGEST_SHIFT = 0.05  # pixels of a level: what OpenSlide draws further off is blurred
LARGEST_DIFFERENCE = 2.0  # mean absolute difference in grey levels
CONVERT = "convert it to a pyramidal TIFF (`lowmag pyramid` does so with TIFF, PNG and JPEG)"
TO_RGB = "save it as a TIFF of 8-bit RGB (`lowmag pyramid` does so with grey and CMYK of 8 bits)"


@dataclass
class Opened:
    """An open slide: the reader for its pixels, its facts for the record, its properties, and remarks."""

    source: Source
    facts: dict[str, Any]
    properties: dict[str, str]
    notes: list[str] = field(default_factory=list)


def open_file(path: Path) -> Opened:
    """The slide at `path` with the best reader for it; raises RejectedError when there is none.

    OpenSlide is the reference. libvips takes its place for TIFFs that OpenSlide refuses, for those whose
    levels lie below the first page (as in OME-TIFF), of which OpenSlide sees that page alone, and for those
    with a fourth sample that is no alpha. Tiles fit for it are read by segment once some of them agree with
    the reference.
    """
    require_library()
    file = tiff.open_tiff(path)
    if file is None:
        opened = _by_openslide(path)
        _limit(path, opened.source)
        return opened
    with file:
        pages = pictures.find_pages(file)
        if pages and (problem := pictures.size_problem(pictures.directory_of(file, pages[0]))):
            raise RejectedError("unsupported", f"{path.name} {problem}", "")
        opened = _reference(path, file, pages)
        if pages:
            opened.properties |= scale.ome_properties(file.directories[0].text(tiff.DESCRIPTION))
            _require_rgb(path, file, pages, opened)
        _limit(path, opened.source)
        _prefer_segments(opened)
        return opened


def _reference(path: Path, file: Tiff, pages: list[pictures.Page]) -> Opened:
    refused = None
    try:
        opened = _by_openslide(path)
        if not _misses(opened, file, pages):
            return opened
        opened.source.close()
    except RejectedError as error:
        refused = error
    if not pages:
        raise refused or RejectedError("unsupported", f"{path.name} is a TIFF without a picture", CONVERT)
    try:
        return _by_vips(path, file, pages)
    except UnreadableError as error:
        if refused is None:
            return _by_openslide(path)
        raise RejectedError("unsupported", f"{refused.reason}, nor can libvips: {error}", CONVERT) from None


def _misses(opened: Opened, file: Tiff, pages: list[pictures.Page]) -> bool:
    """Whether OpenSlide sees fewer levels than a plain TIFF has, or takes a sample for alpha that is none."""
    if opened.facts["vendor"] != "generic-tiff" or not pages:
        return False
    if pages[0].size != (opened.facts["width"], opened.facts["height"]):
        return False
    return len(opened.source.levels) < len(pages) or pictures.has_odd_sample(file, pages[0])


def _by_openslide(path: Path) -> Opened:
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        with openslide.OpenSlide(path) as handle:
            facts, properties = _facts_of(handle, vendor), dict(handle.properties)
        return Opened(OpenSlideSource(path), facts, properties)
    except openslide.OpenSlideUnsupportedFormatError:
        said, reason = "unknown format", f"OpenSlide knows no format that {path.name} could be of"
    except (openslide.OpenSlideError, UnreadableError) as error:
        said = str(error).replace(str(path), path.name)
        reason = f"OpenSlide takes {path.name} for {vendor} but cannot open it: {said}"
    if dicom.is_dicom(path):
        raise RejectedError(
            "unsupported",
            f"{path.name} is DICOM, but no whole-slide picture that OpenSlide reads ({said})",
            "give the folder of the slide's series, or a file of its VOLUME pictures",
        )
    raise RejectedError("unsupported", reason, CONVERT)


def _facts_of(handle: openslide.OpenSlide, vendor: str | None) -> dict[str, Any]:
    properties = handle.properties
    width, height = handle.dimensions
    corner = [int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy"]
    size = [
        int(properties.get("openslide.bounds-width", width)),
        int(properties.get("openslide.bounds-height", height)),
    ]
    if min(size) <= 0:
        raise RejectedError("unreadable", "its finest level holds no tile at all", "")
    return {
        "width": width,
        "height": height,
        "bounds": (*corner, *size),
        "vendor": vendor,
        "objective_power": scale.positive(properties.get("openslide.objective-power")),
        "source_quickhash": properties.get("openslide.quickhash-1"),
        "reader": f"openslide {openslide.__library_version__}",
    }


def _by_vips(path: Path, file: Tiff, pages: list[pictures.Page]) -> Opened:
    """A TIFF through libvips; raises UnreadableError when that cannot open it either."""
    base = pictures.directory_of(file, pages[0])
    if problem := pictures.flat_problem(base):
        raise RejectedError("unsupported", f"{path.name} {problem}", CONVERT)
    if problem := pictures.kind_problem(base, _alike(file, base)):
        raise RejectedError("unsupported", f"{path.name} {problem}", TO_RGB)
    if missing := sum(pictures.missing_segments(pictures.directory_of(file, page)) for page in pages):
        raise RejectedError("truncated", f"{path.name}: {missing} of its segments were never written", "")
    source = VipsSource(path)
    source.open_all()
    width, height = pages[0].size
    facts = {
        "width": width,
        "height": height,
        "bounds": (0, 0, width, height),
        "vendor": None,
        "reader": f"libvips {source.library}",
    }
    opened = Opened(source, facts, _tiff_properties(base))
    if base.number(tiff.COMPRESSION) == tiff.JPEG and tiff.TILE_OFFSETS not in base.tags:
        opened.notes.append(f"damage to its JPEG strips goes unnoticed; {CONVERT}")
    return opened


def _tiff_properties(directory: Directory) -> dict[str, str]:
    """Resolution under the names that OpenSlide gives it."""
    unit = {2: "inch", 3: "centimeter"}.get(directory.number(tiff.RESOLUTION_UNIT, 2), "")
    found = {"tiff.ResolutionUnit": unit}
    for axis, tag in (("X", tiff.X_RESOLUTION), ("Y", tiff.Y_RESOLUTION)):
        if per_unit := directory.ratio(tag):
            found[f"tiff.{axis}Resolution"] = repr(per_unit)
    return found


def _require_rgb(path: Path, file: Tiff, pages: list[pictures.Page], opened: Opened) -> None:
    """Refuse grey, 16-bit and fluorescence pictures, which OpenSlide turns into 8-bit RGB without a word."""
    base = pictures.directory_of(file, pages[0])
    vendor = opened.facts["vendor"]
    if vendor in SEGMENT_VENDORS and (problem := pictures.kind_problem(base, _alike(file, base))):
        opened.source.close()
        raise RejectedError("unsupported", f"{path.name} {problem}", TO_RGB)


def _alike(file: Tiff, base: Directory) -> int:
    return sum(directory.size == base.size for directory in file.directories)


def _limit(path: Path, source: Source) -> None:
    width, height = source.levels[0].width, source.levels[0].height
    if max(width, height) > pictures.LARGEST_EDGE_PX:
        source.close()
        limit = f"at most {pictures.LARGEST_EDGE_PX} along an edge are read"
        raise RejectedError("unsupported", f"{path.name} claims {width} x {height} pixels, {limit}", "")


def _prefer_segments(opened: Opened) -> None:
    """Read by segment where the file has tiles fit for it that agree with the reference."""
    reference = opened.source
    vendor, path = opened.facts["vendor"], reference.path
    if vendor not in SEGMENT_VENDORS:
        return
    try:
        segments = SegmentSource(path, [(level.width, level.height) for level in reference.levels])
    except UnreadableError:
        return
    # Of an SVS without some tiles, OpenSlide draws those from another level.
    sparse = vendor == "aperio" and any((level.counts == 0).any() for level in segments.segments)
    difference = None if sparse else largest_difference(segments, reference)
    if difference is not None and difference <= LARGEST_DIFFERENCE:
        opened.source = segments
        reference.close()
        return
    segments.close()
    if difference is not None:
        opened.notes.append(
            f"its tiles decode to other colours than {reference.name} gives (by {difference:.1f} grey "
            f"levels on average): {reference.name} reads it, at a third of the speed"
        )


def largest_difference(segments: SegmentSource, reference: Source) -> float | None:
    """The largest mean absolute difference over sampled segments; None when not one could be compared.

    Segments that the strict decoder alone refuses are damaged and passed over. Only where it refuses all that
    OpenSlide reads do they count as other colours altogether; libvips is known to pass over damage.
    """
    found: list[float] = []
    refused = False
    for number, (level, index) in enumerate(_segments_with_content(segments)):
        if len(found) == SAMPLES or number == MOST_TRIES:
            break
        window = _window(segments, reference, level, index)
        if _shift(reference, level, window) > LARGEST_SHIFT:
            continue
        try:
            expected = reference.read(level, *window).pixels
        except UnreadableError:
            continue
        try:
            pixels = segments.read(level, *window).pixels
        except UnreadableError:
            refused |= reference.name == "openslide"
            continue
        found.append(float(np.abs(pixels.astype(np.int16) - expected).mean()))
    return max(found, default=255.0 if refused else None)


def _segments_with_content(segments: SegmentSource) -> Iterator[tuple[int, int]]:
    """Level and index of segments of most bytes, which glass has few of; from level to level."""
    orders = [np.argsort(-level.counts, kind="stable") for level in segments.segments]
    for rank in range(MOST_TRIES):
        for level, order in enumerate(orders):
            if rank < len(order) and segments.segments[level].counts[order[rank]]:
                yield level, int(order[rank])


def _shift(reference: Source, level: int, window: tuple[int, int, int, int]) -> float:
    if not isinstance(reference, OpenSlideSource):
        return 0.0
    return max(reference.shift(level, place) for place in window[:2])


def _window(segments: SegmentSource, reference: Source, level: int, index: int) -> tuple[int, int, int, int]:
    """Of a segment the part that the reference gives unshifted: x, y, width, height in level pixels."""
    found = segments.segments[level]
    corner, window = found.place(index), []
    for start, edge, size in zip(corner, found.tile, found.size, strict=True):
        stop = min(start + edge, size)
        first = start
        if isinstance(reference, OpenSlideSource):
            first = reference.steadiest(level, start, max(1, (stop - start) // 2))
        window.append((first, stop - first))
    return window[0][0], window[1][0], window[0][1], window[1][1]
