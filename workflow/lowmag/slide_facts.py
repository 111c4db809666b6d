"""What a folder of results says of every slide: verdict, scale, tissue, tiles with their flags, time."""

import csv
import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lowmag.errors import UserError
from lowmag.record import SlideRecord, load_record
from lowmag.store import FLAGS, TileFile

_LOGGED_SECONDS = re.compile(r"magnifications in ([0-9.]+) s\b")
CheckRow = dict[str, str]


@dataclass(frozen=True)
class TissueFacts:
    """The outline of a slide: its pieces, their area, their share of the scanned part.

    `review` is why a person should look at it (empty: no need), `source` what it was found by.
    """

    pieces: int
    area_mm2: float
    share: float
    review: str = ""
    source: str = ""


@dataclass(frozen=True)
class TileFacts:
    """The tile file of a slide: pictures in it, how many have each flag, its bytes, the seconds it took."""

    n: int
    flags: dict[str, int]
    magnifications: tuple[float, ...]
    field_um: float | None
    n_bytes: int
    seconds: float | None
    unit: str = "tile"

    def share(self, flag: str) -> float:
        """Share of the tiles that have a flag; 0 without tiles."""
        return self.flags.get(flag, 0) / self.n if self.n else 0.0


@dataclass(frozen=True)
class SlideFacts:
    """One slide; `tissue` and `tiles` are None where that stage left no file."""

    record: SlideRecord
    tissue: TissueFacts | None = None
    tiles: TileFacts | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def slide_id(self) -> str:
        return self.record.slide_id

    @property
    def is_empty(self) -> bool:
        """Whether a usable slide gave no tile."""
        return self.record.usable and self.tiles is not None and self.tiles.n == 0

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel, the mean over both axes."""
        x, y = self.record.mpp_x, self.record.mpp_y
        return None if x is None or y is None else (x + y) / 2


def read_cohort_facts(results: Path) -> list[SlideFacts]:
    """The facts of every slide of `check.tsv`, in its order.

    Records, outlines, tile files and logs that are missing leave their part out. Raises UserError when
    there is no check.tsv, and when a tile file is damaged.
    """
    table = results / "check.tsv"
    if not table.is_file():
        raise UserError(
            f"{results} has no check.tsv, which the page is made of; run `snakemake` or `lowmag check` first"
        )
    with table.open(encoding="utf-8", newline="") as lines:
        return [read_facts(results, row) for row in csv.DictReader(lines, delimiter="\t")]


def read_facts(results: Path, row: CheckRow) -> SlideFacts:
    """The facts of the slide of one row of check.tsv."""
    slide_id = row["slide_id"]
    path = results / "slides" / f"{slide_id}.json"
    record = load_record(path) if path.is_file() else _record_of_row(row)
    notes = tuple(record.notes) or tuple(filter(None, (row.get("notes") or "").split("; ")))
    tiles, found = _read_tiles(results, slide_id)
    if record.usable and found.get("verdict", "ok") != "ok":  # found only when the tiles were cut
        verdict, reason, cure = (str(found.get(key, "")) for key in ("verdict", "reason", "cure"))
        record = replace(record, verdict=verdict, reason=reason, cure=cure)
    return SlideFacts(record, _read_tissue(results, record), tiles, notes)


def _record_of_row(row: CheckRow) -> SlideRecord:
    """As much of a record as check.tsv holds."""
    width, height = (int(row[key]) if row.get(key) else None for key in ("width", "height"))
    mpp_x, mpp_y = (float(row[key]) if row.get(key) else None for key in ("mpp_x", "mpp_y"))
    return SlideRecord(
        slide_id=row["slide_id"],
        path=row.get("path") or "",
        verdict=row["verdict"],
        reason=row.get("reason") or "",
        cure=row.get("cure") or "",
        width=width,
        height=height,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=row.get("mpp_source") or None,
        vendor=row.get("vendor") or None,
    )


def _read_tissue(results: Path, record: SlideRecord) -> TissueFacts | None:
    path = results / "tissue" / f"{record.slide_id}.geojson"
    if not record.usable or record.bounds is None or not path.is_file():
        return None
    try:
        text = path.read_text("utf-8")
        shapes = shapely.get_parts(shapely.from_geojson(text))
        said = json.loads(text).get("properties") or {}
    except (shapely.GEOSException, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not GeoJSON ({error}); delete it and rerun") from error
    area_px = float(shapely.area(shapely.union_all(shapely.make_valid(shapes))))
    return TissueFacts(
        len(shapes),
        area_px * math.prod(record.mpp) / 1e6,
        area_px / max(1, record.scanned[2] * record.scanned[3]),
        str(said.get("review") or ""),
        str(said.get("source") or ""),
    )


def _read_tiles(results: Path, slide_id: str) -> tuple[TileFacts | None, dict[str, Any]]:
    path = results / "tiles" / f"{slide_id}.h5"
    if not path.is_file():
        return None, {}
    with TileFile(path) as file:
        attributes = file.attributes
        bits = file.column("flags").astype(int)
        facts = TileFacts(
            n=file.n,
            flags={name: n for name, bit in FLAGS.items() if (n := int(np.count_nonzero(bits & bit)))},
            magnifications=tuple(file.magnifications),
            field_um=_number(attributes.get("field_um")),
            n_bytes=path.stat().st_size,
            seconds=_seconds(results, slide_id),
            unit=file.unit,
        )
    return facts, attributes


def _seconds(results: Path, slide_id: str) -> float | None:
    """What cutting took, by the log of its rule; tile files are equal whenever they are made again."""
    log = results / "logs/tiles" / f"{slide_id}.log"
    found = _LOGGED_SECONDS.search(log.read_text("utf-8", errors="replace")) if log.is_file() else None
    return float(found[1]) if found else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
