"""`tiles.tsv`: one row per tile file of a cohort, from one look into each.

What reads the whole cohort waits for this table in place of thousands of files, which Snakemake would have to
look at for every single run. Small files it compares by content: `written`, in nanoseconds, tells a file made
anew from the one of the same size in its place (other labels, say), so that training on it starts anew, too.
"""

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path

from lowmag.publish import write_text
from lowmag.store import TileFile

COLUMNS = ("slide_id", "n_tiles", "bytes", "written", "verdict", "reason", "cure")
VERDICT = ("verdict", "reason", "cure")

log = logging.getLogger(__name__)


def write_table(out: Path, tiles: Path, slides: Iterable[str]) -> None:
    """Write the table of files of slides in the folder `tiles`; UserError for one that is not whole."""
    text, n_tiles, n_bytes = io.StringIO(), 0, 0
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    for slide in dict.fromkeys(slides):
        path = tiles / f"{slide}.h5"
        with TileFile(path) as file:
            found, count = file.attributes, file.n
        stored = path.stat()
        n_tiles, n_bytes = n_tiles + count, n_bytes + stored.st_size
        columns = [slide, count, stored.st_size, stored.st_mtime_ns]
        table.writerow([*columns, *(str(found.get(name, "")) for name in VERDICT)])
    write_text(out, text.getvalue())
    log.info("%d tiles, %.3g GB", n_tiles, n_bytes / 1e9)


def read_verdicts(path: Path) -> dict[str, dict[str, str]]:
    """Verdict, reason and cure of the slides that were rejected only when they were cut, by slide id."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return {
        row["slide_id"]: {name: row[name] for name in VERDICT}
        for row in rows
        if row["verdict"] not in {"", "ok"}
    }
