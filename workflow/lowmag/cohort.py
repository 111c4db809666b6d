"""The cohort in the report: who is in which split, the verdict on every slide, and the tissue found."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowmag.index import TileIndex, index_tiles
from lowmag.page import Cell, Table, jpeg_uri
from lowmag.splits import SplitRow, read_splits
from lowmag.study import Study
from lowmag.tile_table import read_verdicts
from lowmag.wording import NONE, count, three_digits, whole, without_folders

SPLITS = {"train": "training", "val": "validation", "test": "test"}
MOST_OVERLAYS = 60
CheckRow = dict[str, str]


@dataclass(frozen=True)
class Cohort:
    """The slides of a study with their tiles, and the verdicts; no verdicts for pre-cut pictures."""

    rows: list[SplitRow]
    index: TileIndex
    checked: list[CheckRow]

    @property
    def tiles_of(self) -> dict[str, int]:
        """Number of tiles by slide."""
        return {row.slide_id: int(n) for row, n in zip(self.rows, self.index.counts, strict=True)}


@dataclass(frozen=True)
class Overlay:
    """One tissue overlay: its picture and what stands below it."""

    slide: str
    picture: str
    note: str
    is_bad: bool


def read_cohort(results: Path, study: Study) -> Cohort:
    """The cohort of a folder of results."""
    rows = read_splits(results / "splits.csv")
    check = results / "check.tsv"
    checked: list[CheckRow] = []
    if check.is_file():
        with check.open(encoding="utf-8", newline="") as lines:
            checked = list(csv.DictReader(lines, delimiter="\t"))
    cohort = Cohort(rows, index_tiles(results / "tiles", rows, study.classes), checked)
    found_while_cut = read_verdicts(results / "tiles.tsv")
    for row in checked:
        row |= found_while_cut.get(row["slide_id"], {})
    return cohort


def split_table(cohort: Cohort, classes: Sequence[str]) -> Table:
    """Patients, slides and tiles per split, labelled and not, and the tiles and slides of every class."""
    table = Table(["split", "patients", "slides", "tiles", *(f"{name}: tiles (slides)" for name in classes)])
    labels = cohort.index.labels
    of_slide = np.array([row.split for row in cohort.rows])[cohort.index.slide] if cohort.rows else labels
    labelled = {cohort.rows[i].slide_id for i in np.unique(cohort.index.slide[labels >= 0])}
    for split, name in SPLITS.items():
        for is_labelled, kind in ((True, ""), (False, ", unlabelled")):
            slides = [
                row
                for row in cohort.rows
                if row.split == split and (bool(row.label) or row.slide_id in labelled) == is_labelled
            ]
            if not slides and not is_labelled:
                continue
            chosen = (of_slide == split) & ((labels >= 0) == is_labelled)
            patients = len({row.patient_id for row in slides})
            per_class = [_of_class(cohort.index, chosen & (labels == c)) for c in range(len(classes))]
            numbers = [whole(n) for n in (patients, len(slides), chosen.sum())]
            table.add(f"{name}{kind}", *numbers, *(per_class if is_labelled else [NONE] * len(classes)))
    return table


def _of_class(index: TileIndex, chosen: np.ndarray) -> str:
    return f"{whole(chosen.sum())} ({whole(len(np.unique(index.slide[chosen])))})"


def check_summary(cohort: Cohort) -> str:
    """How many slides passed, and the verdicts of those that did not."""
    verdicts = Counter(row["verdict"] for row in cohort.checked)
    n_ok = verdicts.pop("ok", 0)
    text = f"{n_ok} of {count(len(cohort.checked), 'slide')} can be used"
    if verdicts:
        text += "; " + ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    tiles_of = cohort.tiles_of
    bad = {row["slide_id"] for row in cohort.checked if row["verdict"] != "ok"}
    if empty := sum(not n for slide, n in tiles_of.items() if slide not in bad):
        text += f". {count(empty, 'usable slide')} gave no tile"
    return f"{text}."


def check_rows(cohort: Cohort) -> Table:
    """The verdict on every slide, rejected ones first, then those without a tile; paths are not shown."""
    table = Table(
        ["slide", "verdict", "why, and what cures it", "size (px)", "µm per px", "scale from", "tiles"], 3
    )
    tiles_of = cohort.tiles_of
    for row in _bad_first(cohort):
        reason, cure, notes = (without_folders(row.get(name) or "") for name in ("reason", "cure", "notes"))
        size = f"{row['width']} × {row['height']}" if row.get("width") else NONE
        mpp = three_digits(float(row["mpp_x"])) if row.get("mpp_x") else NONE
        n = tiles_of.get(row["slide_id"])
        verdict = Cell(row["verdict"], "good" if row["verdict"] == "ok" else "bad")
        if n == 0 and row["verdict"] == "ok":
            verdict, reason = (
                Cell("ok, empty", "bad"),
                "no tile: no tissue found, or too little of it in every tile",
            )
        table.add(
            row["slide_id"],
            verdict,
            Cell(" Cure: ".join(f"{text.rstrip('.')}." for text in (reason or notes, cure) if text), "text"),
            size,
            mpp,
            row.get("mpp_source") or NONE,
            NONE if n is None else whole(n),
        )
    return table


def _bad_first(cohort: Cohort) -> list[CheckRow]:
    tiles_of = cohort.tiles_of
    return sorted(
        cohort.checked,
        key=lambda row: (row["verdict"] == "ok", tiles_of.get(row["slide_id"], 0) > 0),
    )


def overlays(results: Path, cohort: Cohort) -> tuple[list[Overlay], int]:
    """Small pictures of the tissue found, bad and empty slides first, and how many were left out.

    At most MOST_OVERLAYS are given, which keeps the page small enough to send.
    """
    tiles_of = cohort.tiles_of
    paths = {row["slide_id"]: results / "tissue" / f"{row['slide_id']}.png" for row in _bad_first(cohort)}
    there = [slide for slide, path in paths.items() if path.is_file()]
    verdicts = {row["slide_id"]: row["verdict"] for row in cohort.checked}
    found = []
    for slide in there[:MOST_OVERLAYS]:
        n = tiles_of.get(slide)
        note = verdicts[slide] if n is None else count(n, "tile")
        found.append(Overlay(slide, jpeg_uri(paths[slide]), note, verdicts[slide] != "ok" or not n))
    return found, len(there) - len(found)
