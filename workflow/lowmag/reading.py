"""How long reading a slide's tissue takes at every magnification: what a student pays before it computes."""

import csv
import io
import logging
import math
import time
from pathlib import Path

import numpy as np

from lowmag.magnification import factor_between
from lowmag.publish import write_text
from lowmag.reader import open_slide
from lowmag.record import SlideRecord, load_record, require_same_file
from lowmag.store import TileFile

COLUMNS = ("slide_id", "magnification", "n_tiles", "mm2", "seconds", "bytes")
COUNTERS = Path("/proc/self/io")
WHOLE = 1e-6  # level-0 pixels: what dividing micrometres leaves

log = logging.getLogger(__name__)


def write_timings(records: Path, tiles: Path, splits: Path, n_slides: int, out: Path) -> None:
    """Write reading.tsv: seconds to read all tiles of up to `n_slides` test slides, by magnification.

    Slides without a record (pre-cut pictures) or without tiles are passed over. Opening the slide counts.
    """
    rows: list[tuple[object, ...]] = []
    timed = 0
    for slide_id in _test_slides(splits):
        record, file = records / f"{slide_id}.json", tiles / f"{slide_id}.h5"
        if timed == n_slides or not record.is_file():
            continue
        found = time_slide(record, file)
        rows += [(slide_id, *row) for row in found]
        timed += bool(found)
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows)
    write_text(out, text.getvalue())
    log.info("reading timed on %d slides", timed)


def _test_slides(splits: Path) -> list[str]:
    with open(splits, encoding="utf-8", newline="") as file:
        return [row["slide_id"] for row in csv.DictReader(file) if row["split"] == "test"]


def time_slide(record: Path, tiles: Path) -> list[tuple[str, int, str, str, str]]:
    """Magnification, number of tiles, mm2, seconds and bytes of reading the slide's tiles, lowest first.

    Bytes are those the process asked the system for, from disk or from its file cache; none where the system
    does not count them.

    Each magnification is read by itself from the coarsest level that serves, nominal levels included. Lowest
    first: what the system's file cache gains from earlier reads favours high magnifications. One read
    beforehand takes what the first read of a process costs out of the first figure.
    """
    slide = load_record(record)
    with TileFile(tiles) as file:
        if not slide.usable or not file.n:
            return []
        boxes, sizes = file.boxes(), file.column("size")
        highest = file.magnifications[0]
        factors = {m: factor_between(highest, m) for m in sorted(file.magnifications)}
        icc = "srgb" if file.icc == "srgb" else "keep"
    require_same_file(slide)
    extents = boxes[:, 2:] - boxes[:, :2]
    mm2 = float(extents.prod(axis=1).sum()) * math.prod(slide.mpp) / 1e6
    rows = []
    _read(slide, icc, boxes[:1], extents, sizes // max(factors.values()))
    for magnification, factor in factors.items():
        before, start = bytes_asked_for(), time.perf_counter()
        _read(slide, icc, boxes, extents, sizes // factor)
        seconds, after = time.perf_counter() - start, bytes_asked_for()
        n_bytes = str(after[0] - before[1]) if before and after else ""
        rows.append((f"{magnification:g}", len(boxes), f"{mm2:.6g}", f"{seconds:.4g}", n_bytes))
        log.info("%s at %gx: %d tiles in %.2f s", slide.slide_id, magnification, len(boxes), seconds)
    return rows


def bytes_asked_for() -> tuple[int, int] | None:
    """Bytes this process has read before it asked for their number, and after; None where none are counted.

    Of files and their cache alike. The answer is a file itself, of a length that differs from run to run.
    """
    if not COUNTERS.is_file():
        return None
    answer = COUNTERS.read_bytes()
    counts = dict(line.split(": ") for line in answer.decode().splitlines())
    return int(counts["rchar"]), int(counts["rchar"]) + len(answer)


def _read(slide: SlideRecord, icc: str, boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray) -> None:
    whole = np.rint(extents)
    extents = np.where(np.abs(extents - whole) < WHOLE, whole, extents)
    fields = zip(boxes[:, :2].astype(int).tolist(), extents.tolist(), sizes.tolist(), strict=False)
    with open_slide(slide, icc=icc) as source:
        for (x, y), (width, height), (columns, rows) in fields:
            source.read(x, y, (columns, rows), (width, height), exact=False)
