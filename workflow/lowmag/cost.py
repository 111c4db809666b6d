"""`cost.tsv`: what a model costs at each magnification, per tile, per square millimetre and per slide."""

import csv
import json
import logging
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from lowmag.comparisons import TEACHER
from lowmag.errors import UserError
from lowmag.magnification import name_of
from lowmag.predictions import Group, groups
from lowmag.study import Study

log = logging.getLogger(__name__)

COLUMNS = (
    "role",
    "methods",
    "model",
    "magnification",
    "parameters",
    "gmac_per_tile",
    "gmac_per_mm2",
    "tiles_per_s",
    "batch_size",
    "precision",
    "mm2_per_s",
    "read_s_per_slide",
    "read_mb_per_slide",
    "network_s_per_slide",
    "seconds_per_slide",
    "compute_saving",
    "bytes_saving",
    "time_saving",
)
ALIKE = ("model", "parameters", "gmac_per_tile", "gmac_per_mm2")
Alike = tuple[Any, ...]  # role, magnification, and the values of ALIKE


def cost_rows(
    predictions: Path, reading: Path | None, study: Study, tiles_per_slide: float
) -> list[dict[str, Any]]:
    """One row for the teacher and one per network of students at each magnification, with the keys `COLUMNS`.

    `methods` names, separated by ", ", the methods whose students are that network: of the same arithmetic.
    tiles_per_s is the median over the runs of the row, of batches of `batch_size` in `precision`. A slide is
    one of `tiles_per_slide` tiles, read at the median seconds and bytes per mm2 of `reading`; without reading
    times (pictures) the figures per slide are None. The savings are ratios to the teacher: of gmac_per_mm2,
    of bytes read, and of seconds_per_slide or, without it, of network time per mm2. Of a
    teacher on features, whose network ran elsewhere, nothing is measured, and computation is as the config
    states it or None.
    """
    seconds_per_mm2, bytes_per_mm2 = (_reading_per_mm2(reading, name) for name in ("seconds", "bytes"))
    records: dict[Alike, list[dict[str, Any]]] = defaultdict(list)
    methods: dict[Alike, dict[str, None]] = defaultdict(dict)
    for group in groups(study):
        for record in _records(predictions, group, study):
            alike = (group.role, group.magnification, *(record[name] for name in ALIKE))
            records[alike].append(record)
            methods[alike][group.method] = None
    timed = [r for of_row in records.values() for r in of_row if r["tiles_per_s"] is not None]
    _warn_of_mixed_conditions(timed)
    rows: list[dict[str, Any]] = []
    for alike in sorted(records, key=_teacher_first_then_down):
        (role, magnification), of_row = alike[:2], records[alike]
        row = dict.fromkeys(COLUMNS) | {name: of_row[0][name] for name in ALIKE}
        row |= {"role": role, "magnification": magnification, "methods": ", ".join(methods[alike])}
        rows.append(row)
        if of_row[0]["tiles_per_s"] is None:  # a head on features: what computed them was not timed
            continue
        tiles_per_s = median(record["tiles_per_s"] for record in of_row)
        mm2_per_tile = of_row[0]["gmac_per_tile"] / of_row[0]["gmac_per_mm2"]
        row |= {"tiles_per_s": tiles_per_s, "mm2_per_s": tiles_per_s * mm2_per_tile}
        row |= {"batch_size": of_row[0]["batch_size"], "precision": of_row[0].get("precision", "float32")}
        if seconds_per_mm2:
            read = tiles_per_slide * mm2_per_tile * _at(magnification, seconds_per_mm2)
            network = tiles_per_slide / tiles_per_s
            row |= {"read_s_per_slide": read, "network_s_per_slide": network}
            row |= {"seconds_per_slide": read + network}
        if bytes_per_mm2:
            of_slide = tiles_per_slide * mm2_per_tile * _at(magnification, bytes_per_mm2)
            row |= {"read_mb_per_slide": of_slide / 1e6}
    return [row | _savings(row, rows[0]) for row in rows]


def _teacher_first_then_down(alike: Alike) -> tuple[Any, ...]:
    """Its place in the table: high magnifications before low ones, and at each the cheapest network first."""
    return alike[0] != TEACHER, -alike[1], alike[-1] or 0


def _records(predictions: Path, group: Group, study: Study) -> list[dict[str, Any]]:
    found = []
    for seed in study.seeds:
        path = predictions / group.folder(seed) / "cost.json"
        if not path.is_file():
            raise UserError(
                f"{path} is missing, `lowmag predict` writes it beside the predictions; "
                "delete that folder and run `snakemake` again"
            )
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def _warn_of_mixed_conditions(records: list[dict[str, Any]]) -> None:
    conditions = sorted(
        {
            f"{record['device']} with {record['threads']} threads in {record.get('precision', 'float32')}"
            for record in records
        }
    )
    if len(conditions) > 1:
        log.warning(
            "models were timed under different conditions (%s): their speeds do not compare",
            "; ".join(conditions),
        )


def _reading_per_mm2(reading: Path | None, column: str) -> dict[float, float]:
    """Median seconds or bytes of reading per mm2 of tissue by magnification; empty where none are known."""
    if reading is None:
        return {}
    found: dict[float, list[float]] = defaultdict(list)
    with reading.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            if float(row["mm2"]) > 0 and row.get(column):  # older tables, and other systems, have no bytes
                found[float(row["magnification"])].append(float(row[column]) / float(row["mm2"]))
    return {magnification: median(seconds) for magnification, seconds in found.items()}


def _at(magnification: float, seconds_per_mm2: dict[float, float]) -> float:
    if magnification not in seconds_per_mm2:
        timed = ", ".join(name_of(m) for m in seconds_per_mm2)
        raise UserError(
            f"reading.tsv times {timed} but not {name_of(magnification)}, which the study has; "
            "delete it and run `snakemake` again"
        )
    return seconds_per_mm2[magnification]


def _savings(row: dict[str, Any], teacher: dict[str, Any]) -> dict[str, float | None]:
    """How many times the teacher's compute, bytes and time a row needs less; None where not known."""
    if row["seconds_per_slide"] is None:
        time_saving = _ratio(row["mm2_per_s"], teacher["mm2_per_s"])
    else:
        time_saving = _ratio(teacher["seconds_per_slide"], row["seconds_per_slide"])
    return {
        "compute_saving": _ratio(teacher["gmac_per_mm2"], row["gmac_per_mm2"]),
        "bytes_saving": _ratio(teacher["read_mb_per_slide"], row["read_mb_per_slide"]),
        "time_saving": time_saving,
    }


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None
