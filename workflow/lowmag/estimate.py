"""How many tiles and bytes a cohort will give, before any tile is cut.

Tissue and fields are found by the very code of the stages `tissue` and `tiles`, so the number of tiles is
exact; so are the bytes of the lower magnifications, which are stored raw. The JPEGs of the highest one are
estimated: a few of its tiles are read and encoded, evenly by their share of tissue, on which their size
depends most.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely

from lowmag import check, tissue
from lowmag.field_reader import BLOCK_PX, blocks
from lowmag.fields import Cut, tile_cut
from lowmag.grid import read_outline
from lowmag.magnification import factor_between
from lowmag.pieces import section_cut
from lowmag.reader import Slide, open_slide
from lowmag.record import SlideRecord, load_record, save_record
from lowmag.sections import Check, Tiles, Tissue
from lowmag.slides import SlideRow, read_slides
from lowmag.source import UnreadableError
from lowmag.stacks import encode
from lowmag.wording import count

SAMPLES = 24  # of a slide: the mean of their sizes is then known to about a tenth
INTERVAL = 1.96  # standard errors to either side: 95 %

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """The sections of the config that decide on tiles, and where x, y of GeoJSON masks start."""

    check: Check = field(default_factory=Check)
    tissue: Tissue = field(default_factory=Tissue)
    tiles: Tiles = field(default_factory=Tiles)
    origin: str = "bounds"


@dataclass(frozen=True)
class Estimate:
    """What one slide, or a cohort, will give.

    n_bytes: by magnification, without what the file itself takes (some tens of kilobytes a slide). `error` is
    the standard error of the highest magnification's, `sampled` the number of tiles it rests on.
    """

    slide_id: str
    verdict: str
    n: int = 0
    area_mm2: float = 0.0
    n_bytes: Mapping[float, float] = field(default_factory=dict)
    error: float = 0.0
    sampled: int = 0

    @property
    def total(self) -> float:
        """Bytes of all magnifications."""
        return sum(self.n_bytes.values())


def estimate_cohort(slides_csv: Path, records: Path | None, wanted: Wanted) -> Iterator[Estimate]:
    """The estimate of every slide of a sheet, in its order; a slide that is rejected gives nothing.

    Records found in the folder `records` are taken as they are; the others are made.
    """
    for row in read_slides(slides_csv, require_files=False):
        file = records / f"{row.slide_id}.json" if records else None
        if file and file.is_file():
            record = load_record(file)
        else:
            slide = check.SlideToCheck(row.slide_id, row.path, row.mpp)
            record = check.inspect(slide, wanted.tiles.teacher, wanted.check)
        found = estimate_slide(record, row, wanted)
        log.info("slide %s: %s, %s", row.slide_id, found.verdict, count(found.n, wanted.tiles.unit))
        yield found


def estimate_slide(record: SlideRecord, row: SlideRow, wanted: Wanted) -> Estimate:
    """The estimate of one slide; `row` has what the sheet says of it beyond the config."""
    if not record.usable:
        return Estimate(record.slide_id, record.verdict)
    outline = _outline(record, row, wanted)
    options = wanted.tiles
    try:
        with open_slide(record, icc=options.icc) as source:
            if options.unit == "section":
                cut = section_cut(source, record, outline, options)
            else:
                cut = tile_cut(source, record, outline, options, row.coords)
            sizes = _sample(source, _windows(cut, options), cut.ratio, options.jpeg_quality)
    except UnreadableError as error:
        log.warning("slide %s: %s", record.slide_id, error)
        return Estimate(record.slide_id, "unreadable")
    area_mm2 = float(shapely.area(outline)) * record.mpp[0] * record.mpp[1] / 1e6
    n_bytes, jpeg_error = _bytes(cut, sizes, options)
    return Estimate(
        record.slide_id, record.verdict, len(cut.fields), area_mm2, n_bytes, jpeg_error, len(sizes)
    )


def _outline(record: SlideRecord, row: SlideRow, wanted: Wanted) -> shapely.Geometry:
    """The tissue as the stage finds it, with what the sheet overrides."""
    options = Tissue.model_validate(wanted.tissue.model_dump() | dict(row.tissue))
    finder = None
    if row.mask:
        from lowmag.masks import GivenMask

        finder = GivenMask(row.mask, wanted.origin)
    elif options.model:
        from lowmag.segmenter import NetworkFinder

        finder = NetworkFinder(Path(options.model))
    with tempfile.TemporaryDirectory() as folder:
        stored, outline = Path(folder, "slide.json"), Path(folder, "outline.geojson")
        save_record(stored, record)
        tissue.write_outline(stored, outline, None, options, finder)
        return read_outline(outline)


@dataclass(frozen=True)
class _Window:
    """A part of a slide to be encoded: level-0 corner, and size in pixels at the highest magnification."""

    x: int
    y: int
    size: tuple[int, int]


def _windows(cut: Cut, options: Tiles) -> list[_Window]:
    """At most SAMPLES tiles, evenly by their share of tissue, or blocks of sections, evenly by place."""
    if options.unit == "tile":
        order = np.argsort([place.tissue_fraction for place in cut.fields], kind="stable")
        every = [_Window(cut.fields[k].x, cut.fields[k].y, cut.sizes[k]) for k in order]
    else:
        every = [
            _Window(
                round(place.x + left * cut.ratio[0]), round(place.y + top * cut.ratio[1]), (width, height)
            )
            for place, size in zip(cut.fields, cut.sizes, strict=True)
            for left, top, width, height in blocks(size, BLOCK_PX)
        ]
    if len(every) <= SAMPLES:
        return every
    return [every[int((k + 0.5) * len(every) / SAMPLES)] for k in range(SAMPLES)]


def _sample(
    source: Slide, windows: Sequence[_Window], ratio: tuple[float, float], quality: int
) -> list[tuple[int, int]]:
    """Pixels and bytes of every window, encoded as it would be stored; what cannot be read is left out."""
    found = []
    for window in windows:
        width, height = window.size
        extent = width * ratio[0], height * ratio[1]
        try:
            picture = source.read(window.x, window.y, window.size, extent)
        except UnreadableError:
            continue
        found.append((width * height, len(encode(picture, quality))))
    return found


def _bytes(cut: Cut, samples: Sequence[tuple[int, int]], options: Tiles) -> tuple[dict[float, float], float]:
    """Bytes by magnification, and the standard error of those of the highest.

    The error is that of a systematic sample: from differences of neighbours, less where most were taken. A
    section is one JPEG, so that its blocks never give its bytes exactly.
    """
    pixels = sum(width * height for width, height in cut.sizes)
    highest, *lower = options.magnifications
    raw = {m: 3.0 * pixels / factor_between(highest, m) ** 2 for m in lower}
    if not samples:
        return {highest: 0.0, **raw}, 0.0
    taken, encoded = np.array(samples, float).T
    rate = encoded.sum() / taken.sum()
    n = len(samples)
    squares = [((b - a) - rate * (q - p)) ** 2 for (p, a), (q, b) in pairwise(samples)]
    left_out = max(0.0, 1 - taken.sum() / pixels) if options.unit == "tile" else 1.0
    spread = np.sqrt(sum(squares) / (2 * (n - 1))) / taken.mean() if n > 1 else rate
    return {highest: rate * pixels, **raw}, float(pixels * spread * np.sqrt(left_out / n))


def total_of(estimates: Sequence[Estimate]) -> Estimate:
    """The estimates of a cohort added up; errors of different slides are independent."""
    magnifications = {m: None for found in estimates for m in found.n_bytes}
    return Estimate(
        "all",
        "",
        sum(found.n for found in estimates),
        sum(found.area_mm2 for found in estimates),
        {m: sum(found.n_bytes.get(m, 0.0) for found in estimates) for m in magnifications},
        float(np.sqrt(sum(found.error**2 for found in estimates))),
        sum(found.sampled for found in estimates),
    )
