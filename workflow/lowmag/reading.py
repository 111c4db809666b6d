"""How long reading a slide's tissue takes at every magnification: what a student pays before it computes."""

import csv
import io
import logging
import time
from pathlib import Path

from lowmag.publish import write_text
from lowmag.reader import open_slide
from lowmag.record import load_record, require_same_file
from lowmag.store import TileFile

COLUMNS = ("slide_id", "magnification", "n_tiles", "mm2", "seconds")

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


def time_slide(record: Path, tiles: Path) -> list[tuple[str, int, str, str]]:
    """Magnification, number of tiles, mm2 and seconds of reading the slide's tiles, lowest first.

    Each magnification is read by itself from the coarsest level that serves, nominal levels included. Lowest
    first: what the system's file cache gains from earlier reads favours high magnifications. One read
    beforehand takes what the first read of a process costs out of the first figure.
    """
    slide = load_record(record)
    with TileFile(tiles) as file:
        if not slide.usable or not file.n:
            return []
        corners = file.column("coords")
        edges = {m: file.tile_px(m) for m in sorted(file.magnifications)}
        field_um = [float(file.attributes[f"field_um_{axis}"]) for axis in "xy"]
    require_same_file(slide)
    extent = (field_um[0] / slide.mpp[0], field_um[1] / slide.mpp[1])
    extent = tuple(round(n) if abs(n - round(n)) < 1e-6 else n for n in extent)
    mm2 = len(corners) * field_um[0] * field_um[1] / 1e6
    rows = []
    with open_slide(slide) as source:
        x, y = corners[0].tolist()
        source.read(x, y, min(edges.values()), (extent[0], extent[1]), exact=False)
    for magnification, edge in edges.items():
        start = time.perf_counter()
        with open_slide(slide) as source:
            for x, y in corners.tolist():
                source.read(x, y, edge, (extent[0], extent[1]), exact=False)
        seconds = time.perf_counter() - start
        rows.append((f"{magnification:g}", len(corners), f"{mm2:.6g}", f"{seconds:.4g}"))
        log.info("%s at %gx: %d tiles in %.2f s", slide.slide_id, magnification, len(corners), seconds)
    return rows
