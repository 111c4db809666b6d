"""One verdict per slide, before any other work: what is wrong with it and the line that cures it."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openslide

from lowmag.magnification import mpp_of, name_of
from lowmag.openslide_source import OpenSlideSource
from lowmag.publish import write_text
from lowmag.reader import COARSER_THAN_ASKED
from lowmag.record import Level, SlideRecord, load_record, save_record
from lowmag.sections import Check
from lowmag.slides import read_slides
from lowmag.source import UnreadableError, true_levels
from lowmag.tiff import referenced_end

COLUMNS = (
    "slide_id",
    "verdict",
    "reason",
    "cure",
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
LARGEST_DISAGREEMENT = 2.0  # between stated mpp and 10 / objective power
MICROMETRES = {"inch": 25_400.0, "centimeter": 10_000.0}  # of the units of TIFF resolution

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideToCheck:
    """One slide of the sheet; `mpp` overrides its own."""

    slide_id: str
    path: Path
    mpp: float | None = None


class RejectedError(Exception):
    """A slide that cannot be used: verdict, what was found and expected, and what to do."""

    def __init__(self, verdict: str, reason: str, cure: str) -> None:
        super().__init__(verdict, reason, cure)
        self.verdict, self.reason, self.cure = verdict, reason, cure


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
        if not record.usable:
            log.warning("%s", _line(record))
    verdicts = Counter(record.verdict for record in found)
    log.info(
        "%d slides: %s", len(found), ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    )
    return len(found) - verdicts["ok"]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else " ".join(str(value).split())


def _line(record: SlideRecord) -> str:
    if not record.usable:
        return f"slide {record.slide_id}: {record.verdict}: {record.reason}. {record.cure}"
    return (
        f"slide {record.slide_id}: ok, {record.width} x {record.height} px, {record.mpp[0]:.4g} "
        f"micrometres per pixel ({record.mpp_source}), {len(record.levels)} levels"
    )


def inspect(slide: SlideToCheck, magnification: float, options: Check) -> SlideRecord:
    """The record of one slide, with the verdict on taking tiles at `magnification` from it.

    Never raises for a bad slide.
    """
    facts: dict[str, Any] = {}
    try:
        _find(slide, facts)
        properties = _open(slide, facts)
        _read_samples(slide, facts["levels"])
        _scale(slide, magnification, options, facts, properties)
    except RejectedError as rejected:
        facts |= {"verdict": rejected.verdict, "reason": rejected.reason, "cure": rejected.cure}
    return SlideRecord(slide_id=slide.slide_id, path=str(slide.path), **facts)


def _find(slide: SlideToCheck, facts: dict[str, Any]) -> None:
    correct = f"correct column path of slide {slide.slide_id} in slides.csv, or take the row out"
    try:
        status = slide.path.stat()
        if not slide.path.is_file():
            raise RejectedError(
                "unsupported", f"{slide.path.name} is a folder", f"{correct}; of a DICOM series give one file"
            )
        with open(slide.path, "rb"):
            pass
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
    facts |= {"source_size": status.st_size, "source_mtime": int(status.st_mtime)}
    if not status.st_size:
        raise RejectedError(
            "truncated", f"{slide.path.name} is empty (0 bytes)", "copy the file again from its source"
        )
    needed = referenced_end(slide.path)
    if needed is not None and needed > status.st_size:
        raise RejectedError(
            "truncated",
            f"{slide.path.name} has {status.st_size} bytes, its directory refers to at least {needed}",
            "copy the file again from its source",
        )


def _open(slide: SlideToCheck, facts: dict[str, Any]) -> dict[str, str]:
    """Open the slide, note what it says of itself, and return its properties."""
    convert = (
        "convert it to a pyramidal TIFF (vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg) "
        f"and correct column path of slide {slide.slide_id} in slides.csv, or take the row out"
    )
    try:
        vendor = openslide.OpenSlide.detect_format(slide.path)
        handle = openslide.OpenSlide(slide.path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise RejectedError(
            "unsupported", f"OpenSlide knows no format that {slide.path.name} could be of", convert
        ) from None
    except openslide.OpenSlideError as error:
        raise RejectedError(
            "unsupported",
            f"OpenSlide takes {slide.path.name} for {vendor} but cannot open it: {_message(error, slide)}",
            convert,
        ) from None
    with handle:
        facts |= _facts_of(handle, vendor)
        return dict(handle.properties)


def _facts_of(handle: openslide.OpenSlide, vendor: str | None) -> dict[str, Any]:
    properties = handle.properties
    width, height = handle.dimensions
    corner = [int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy"]
    size = [
        int(properties.get("openslide.bounds-width", width)),
        int(properties.get("openslide.bounds-height", height)),
    ]
    return {
        "width": width,
        "height": height,
        "levels": true_levels(handle.level_dimensions),
        "bounds": (*corner, *size),
        "vendor": vendor,
        "objective_power": _positive(properties.get("openslide.objective-power")),
        "source_quickhash": properties.get("openslide.quickhash-1"),
        "icc": "present" if properties.get("openslide.icc-size") else "absent",
        "reader": f"openslide {openslide.__library_version__}",
    }


def _read_samples(slide: SlideToCheck, levels: tuple[Level, ...]) -> None:
    failures, n_samples = [], len(levels) * len(PLACES) ** 2
    with closing(OpenSlideSource(slide.path)) as source:
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
            f"copy the file again from its source, or take slide {slide.slide_id} out of slides.csv",
        )


def _message(error: Exception, slide: SlideToCheck) -> str:
    return str(error).replace(str(slide.path), slide.path.name)


def _scale(
    slide: SlideToCheck,
    magnification: float,
    options: Check,
    facts: dict[str, Any],
    properties: Mapping[str, str],
) -> None:
    """Find micrometres per pixel and reject what they make impossible."""
    cure = f"give the true scale in slides.csv, column mpp of slide {slide.slide_id}"
    found = find_mpp(properties, slide.mpp, options.assume_mpp)
    if found is None:
        raise RejectedError(
            "no_mpp",
            "no micrometres per pixel in its properties, nor a TIFF resolution, nor an objective power",
            f"{cure} (0.25 is usual for 40x, 0.5 for 20x), or set check.assume_mpp for all such slides",
        )
    x, y, facts["mpp_source"] = found
    facts |= {"mpp_x": x, "mpp_y": y}
    _check_plausible((x, y), options, facts, cure)
    if abs(x - y) / ((x + y) / 2) > options.max_anisotropy:
        raise RejectedError(
            "anisotropic",
            f"{x:.4g} micrometres per pixel across and {y:.4g} down "
            f"differ by more than {options.max_anisotropy:.0%}",
            f"{cure}, or raise check.max_anisotropy",
        )
    wanted = mpp_of(magnification)
    if max(x, y) > wanted * (1 + COARSER_THAN_ASKED):
        raise RejectedError(
            "too_coarse",
            f"level 0 has {max(x, y):.4g} micrometres per pixel, "
            f"{name_of(magnification)} needs {wanted:g} or less",
            f"nothing is enlarged: take slide {slide.slide_id} out of slides.csv, or lower tiles.teacher to "
            f"{10 / max(x, y):.3g} or less",
        )


def _check_plausible(mpp: tuple[float, float], options: Check, facts: Mapping[str, Any], cure: str) -> None:
    source, objective = facts["mpp_source"], facts["objective_power"]
    if min(mpp) < options.min_mpp or max(mpp) > options.max_mpp:
        raise RejectedError(
            "implausible_mpp",
            f"{mpp[0]:.4g} micrometres per pixel ({source}), "
            f"expected {options.min_mpp:g} to {options.max_mpp:g}",
            f"{cure}, or widen check.min_mpp and check.max_mpp",
        )
    if objective is None or source in ("override", "objective"):
        return
    expected = mpp_of(objective)
    if any(max(value / expected, expected / value) > LARGEST_DISAGREEMENT for value in mpp):
        raise RejectedError(
            "implausible_mpp",
            f"{mpp[0]:.4g} micrometres per pixel ({source}) does not fit the objective power {objective:g} "
            f"(about {expected:.3g})",
            cure,
        )


def find_mpp(
    properties: Mapping[str, str], override: float | None, assumed: float | None
) -> tuple[float, float, str] | None:
    """Micrometres per pixel along x and y and where they come from, or None when nothing says it.

    In order: the sheet, OpenSlide's properties, TIFF resolution, objective power, the config.
    """
    if override is not None:
        return override, override, "override"
    own = [_positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if own[0] and own[1]:
        return own[0], own[1], "openslide.mpp"
    unit = MICROMETRES.get(properties.get("tiff.ResolutionUnit", "").lower())
    per_unit = [_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    if unit and per_unit[0] and per_unit[1]:
        return unit / per_unit[0], unit / per_unit[1], "tiff"
    if objective := _positive(properties.get("openslide.objective-power")):
        return mpp_of(objective), mpp_of(objective), "objective"
    return (assumed, assumed, "assumed") if assumed is not None else None


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
