"""One verdict per slide, before any other work: what is wrong with it and the line that cures it."""

import csv
import io
import logging
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lowmag import dicom, scale
from lowmag.colour import digest, read_profile
from lowmag.opening import CONVERT, Opened, open_file
from lowmag.publish import write_text
from lowmag.record import RejectedError, SlideRecord, digest_of, load_record, save_record, size_of
from lowmag.sections import Check
from lowmag.slides import read_slides
from lowmag.source import Source, UnreadableError
from lowmag.tiff import referenced_end

COLUMNS = (
    "slide_id",
    "verdict",
    "reason",
    "cure",
    "notes",
    "path",
    "width",
    "height",
    "mpp_x",
    "mpp_y",
    "mpp_source",
    "vendor",
)
PLACES = (0.03, 0.5, 0.97)  # of width and height, where every level is read
SAMPLE_PX = 16
FLAT_PX = 100_000_000  # a picture of one level above this is slow at low magnifications
LARGEST_GAP = 4.5  # ratio of neighbouring levels
COPY = "copy the file again from its source"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideToCheck:
    """One slide of the sheet; `mpp` overrides its own."""

    slide_id: str
    path: Path
    mpp: float | None = None


def write_record(out: Path, slide: SlideToCheck, magnification: float, options: Check) -> None:
    """Write the record of one slide to `out`, whatever the verdict, and log the verdict."""
    record = inspect(slide, magnification, options)
    save_record(out, record)
    log.info("%s", _line(record))


def write_table(
    out: Path, slides_csv: Path, records: Path | None, magnification: float, options: Check
) -> int:
    """Write check.tsv, one row per slide of the sheet, and return the number of slides rejected.

    Records found in the folder `records` are taken as they are; the others are made.
    """
    found = []
    for row in read_slides(slides_csv, require_files=False):
        file = records / f"{row.slide_id}.json" if records else None
        if file and file.is_file():
            found.append(load_record(file))
        else:
            found.append(inspect(SlideToCheck(row.slide_id, row.path, row.mpp), magnification, options))
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    # The table stands in the report, which is sent around: it names files, not the folders they are in.
    named = [replace(record, path=Path(record.path).name) for record in found]
    table.writerows([_cell(getattr(record, name)) for name in COLUMNS] for record in named)
    write_text(out, text.getvalue())
    for record in found:
        if not record.usable or record.notes:
            log.warning("%s", _line(record))
    verdicts = Counter(record.verdict for record in found)
    log.info(
        "%d slides: %s", len(found), ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    )
    return len(found) - verdicts["ok"]


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "; ".join(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else " ".join(str(value).split())


def _line(record: SlideRecord) -> str:
    if not record.usable:
        return f"slide {record.slide_id}: {record.verdict}: {record.reason}. {record.cure}"
    notes = "".join(f"; {note}" for note in record.notes)
    return (
        f"slide {record.slide_id}: ok, {record.width} x {record.height} px, {record.mpp[0]:.4g} "
        f"micrometres per pixel ({record.mpp_source}), {len(record.levels)} levels, read by {record.source}"
        f"{notes}"
    )


def inspect(slide: SlideToCheck, magnification: float, options: Check) -> SlideRecord:
    """The record of one slide, with the verdict on taking tiles at `magnification` from it.

    Never raises for a bad slide.
    """
    facts: dict[str, Any] = {}
    try:
        file = _find(slide, facts)
        opened = _open(slide, file, facts)
        try:
            _read_samples(slide, opened.source)
        finally:
            opened.source.close()
        _identify(file, facts)
        _scale(slide, magnification, options, facts, opened)
        facts["notes"] = tuple(opened.notes + _level_notes(slide, facts))
    except RejectedError as rejected:
        facts |= {"verdict": rejected.verdict, "reason": rejected.reason, "cure": rejected.cure}
    return SlideRecord(slide_id=slide.slide_id, path=str(slide.path), **facts)


def _find(slide: SlideToCheck, facts: dict[str, Any]) -> Path:
    """The file to open; of a folder that is a DICOM series, one of its files."""
    correct = f"correct column path of slide {slide.slide_id} in slides.csv, or take the row out"
    try:
        status = slide.path.stat()
        files = [slide.path] if slide.path.is_file() else _series(slide, correct)
        for file in files:
            with open(file, "rb"):
                pass
        size = size_of(slide.path)
    except (FileNotFoundError, NotADirectoryError):
        raise RejectedError(
            "missing", f"there is no file {slide.path.name} at the path given", correct
        ) from None
    except OSError as error:
        raise RejectedError(
            "unreadable",
            f"{slide.path.name} cannot be opened: {error.strerror}",
            "allow this user to read the file",
        ) from None
    facts |= {"source_size": size, "source_mtime": int(status.st_mtime)}
    if not size:
        raise RejectedError("truncated", f"{slide.path.name} is empty (0 bytes)", COPY)
    if files != [slide.path]:
        facts["file"] = str(files[0])
        return files[0]
    needed = referenced_end(slide.path)
    if needed is not None and needed > size:
        raise RejectedError(
            "truncated",
            f"{slide.path.name} has {size} bytes, its directory refers to at least {needed}",
            COPY,
        )
    return slide.path


def _series(slide: SlideToCheck, correct: str) -> list[Path]:
    """The files of the one DICOM series of a folder, the largest first: that is its finest level."""
    series = dicom.series_of(slide.path)
    if not series:
        raise RejectedError("unsupported", f"{slide.path.name} is a folder without DICOM files", correct)
    if len(series) > 1:
        found = ", ".join(f"{uid or 'none'} ({files[0].name})" for uid, files in series.items())
        raise RejectedError(
            "unsupported",
            f"{slide.path.name} holds {len(series)} DICOM series, expected one: {found}",
            f"give every series a folder and a row of its own in slides.csv (slide {slide.slide_id})",
        )
    return sorted(*series.values(), key=lambda file: -file.stat().st_size)


def _open(slide: SlideToCheck, file: Path, facts: dict[str, Any]) -> Opened:
    """Open the slide and note what it says of itself."""
    try:
        opened = open_file(file)
    except RejectedError as error:
        cures = {
            "unsupported": f"{error.cure or CONVERT} and correct column path of slide {slide.slide_id} in "
            "slides.csv, or take the row out",
        }
        raise RejectedError(error.verdict, error.reason, cures.get(error.verdict, COPY)) from None
    facts |= opened.facts
    facts |= {
        "levels": opened.source.levels,
        "source": opened.source.name,
        "icc": digest(read_profile(file)),
    }
    return opened


def _identify(file: Path, facts: dict[str, Any]) -> None:
    """Note a digest of the file where OpenSlide gives none."""
    if facts.get("source_quickhash"):
        return
    try:
        facts["source_digest"] = digest_of(file)
    except OSError as error:
        raise RejectedError("unreadable", f"{file.name} cannot be read: {error.strerror}", COPY) from None


def _read_samples(slide: SlideToCheck, source: Source) -> None:
    failures, n_samples = [], len(source.levels) * len(PLACES) ** 2
    for number, level in enumerate(source.levels):
        for down in PLACES:
            for across in PLACES:
                place = int(across * level.width), int(down * level.height)
                try:
                    source.read(number, *place, SAMPLE_PX, SAMPLE_PX)
                except UnreadableError as error:
                    failures.append(str(error))
    if failures:
        raise RejectedError(
            "unreadable",
            f"{slide.path.name} opens, but {len(failures)} of {n_samples} places cannot be read, "
            f"first {failures[0]}",
            f"{COPY}, or take slide {slide.slide_id} out of slides.csv",
        )


def _scale(
    slide: SlideToCheck, magnification: float, options: Check, facts: dict[str, Any], opened: Opened
) -> None:
    """Find micrometres per pixel and reject what they make impossible."""
    cure = f"give the true scale in slides.csv, column mpp of slide {slide.slide_id}"
    scales = scale.find_scales(opened.properties, slide.mpp, options.assume_mpp)
    if not scales:
        raise RejectedError(
            "no_mpp",
            "no micrometres per pixel in its properties, nor a TIFF resolution, OME-XML or objective power",
            f"{cure} (0.25 is usual for 40x, 0.5 for 20x), or set check.assume_mpp for all such slides",
        )
    found = scale.choose_scale(scales, options)
    facts |= {"mpp_x": found.x, "mpp_y": found.y, "mpp_source": found.source}
    scale.check_scale(found, facts.get("objective_power"), cure, options)
    scale.check_magnification(found, magnification, slide.slide_id)
    opened.notes += scale.scale_notes(found, scales, facts.get("objective_power"))


def _level_notes(slide: SlideToCheck, facts: dict[str, Any]) -> list[str]:
    """What is odd about the levels and does not reject the slide."""
    levels, notes = facts["levels"], []
    if len(levels) == 1 and facts["width"] * facts["height"] > FLAT_PX:
        stem, mpp = slide.path.stem, (facts["mpp_x"] + facts["mpp_y"]) / 2
        notes.append(
            f"one level of {facts['width']} x {facts['height']} px: finding its tissue is slow; "
            f"`lowmag pyramid --image {slide.path.name} --mpp {mpp:.6g} --out {stem}.pyramid.tif` adds levels"
        )
    for number, (finer, coarser) in enumerate(pairwise(levels)):
        if (gap := coarser.downsample / finer.downsample) > LARGEST_GAP:
            notes.append(f"level {number + 1} is {gap:.3g} times coarser than level {number}")
    return notes
