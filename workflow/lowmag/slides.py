"""`slides.csv`: the sheet of a cohort, read with everything that is wrong with it in one message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowmag.names import FILLED_IN, address_of, problem_of_address, problem_of_path
from lowmag.sheet import (
    ID_LENGTH,
    ID_PATTERN,
    SPLITS,
    Files,
    Problems,
    Row,
    check_alike,
    check_columns,
    check_labels,
    check_names,
    check_patients,
    id_problem,
    parse_grey_level,
    parse_mpp,
    parse_number,
    parse_split,
    read_header_and_rows,
)

REQUIRED = ("slide_id", "path")
GREY_LEVEL = r"^$|^([01]?[0-9]{1,2}|2[0-4][0-9]|25[0-5])$"
NUMBER = r"^$|^\+?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$"
FILE_NAME = "^(?!.*<[a-z][a-z0-9_]*>)[^{}]*$"
COLUMNS: dict[str, dict[str, Any]] = {
    "slide_id": {
        "type": "string",
        "pattern": rf"^(?!.*[.][.])(?!.*?(.+)\1{{19,}}$){ID_PATTERN}$",
        "maxLength": ID_LENGTH,
        "description": "unique name of the slide, also its file name in the results",
    },
    "path": {
        "type": "string",
        "pattern": FILE_NAME.replace("*$", "+$"),
        "description": "the slide, each file once; relative paths start at the folder of the sheet",
    },
    "label": {
        "type": "string",
        "description": "class of the slide; empty: unlabelled, used for distillation only",
    },
    "patient_id": {
        "type": "string",
        "description": "whose slide it is; empty for all: slide_id. Splits never part a patient's slides",
    },
    "split": {
        "type": "string",
        "enum": ["", *SPLITS],
        "description": "given split of the patient; empty for all: the workflow splits",
    },
    "mpp": {
        "type": "string",
        "pattern": NUMBER,
        "description": "micrometres per pixel of level 0, over what the slide itself says",
    },
    "annotations": {
        "type": "string",
        "pattern": FILE_NAME,
        "description": "QuPath GeoJSON or ASAP XML of labelled regions; relative as path",
    },
    "mask": {
        "type": "string",
        "pattern": FILE_NAME,
        "description": "GeoJSON or picture of the tissue, taken instead of finding it; relative as path",
    },
    "coords": {
        "type": "string",
        "pattern": FILE_NAME,
        "description": "TRIDENT or CLAM coordinate file whose tiles are taken as they are; relative as path",
    },
    "saturation_floor": {
        "type": "string",
        "pattern": GREY_LEVEL,
        "description": "over tissue.saturation_floor of the config, for this slide",
    },
    "min_piece_um": {
        "type": "string",
        "pattern": NUMBER,
        "description": "over tissue.min_piece_um of the config, for this slide",
    },
    "max_hole_um": {
        "type": "string",
        "pattern": NUMBER,
        "description": "over tissue.max_hole_um of the config, for this slide",
    },
}
FILE_COLUMNS = ("annotations", "mask", "coords")
TISSUE_COLUMNS = {
    "saturation_floor": parse_grey_level,
    "min_piece_um": parse_number,
    "max_hole_um": parse_number,
}
SHOWN_ROWS = 10


@dataclass(frozen=True)
class SlideRow:
    """One slide of the sheet; files are joined to its folder, `tissue` holds what overrides the config."""

    slide_id: str
    path: Path
    label: str | None
    patient_id: str
    split: str | None
    mpp: float | None
    annotations: Path | None = None
    mask: Path | None = None
    coords: Path | None = None
    tissue: Mapping[str, float] = field(default_factory=dict)


def read_slides(
    path: Path, classes: Sequence[str] | None = None, *, require_files: bool = True
) -> list[SlideRow]:
    """The slides of a sheet in its order.

    Raises one UserError that names row, column, finding and cure of every problem: columns missing or
    misspelt, ids empty, doubled (also by case alone) or unfit for a file name, files that are not there or
    stand in two rows, patients given for a part of the rows or differing by case alone, labels outside
    `classes` (when given), a patient in two splits, splits and mpp that are none. Columns of other names
    are allowed. `require_files=False` does not look for the files, for a sheet made ahead of its slides.
    """
    path = Path(path)
    header, rows = read_header_and_rows(path)
    problems = Problems(path)
    check_columns(header, list(COLUMNS), REQUIRED, problems)
    problems.raise_any()  # without its columns every row would be wrong as well
    check_names(rows, ("path", "label", "patient_id", *FILE_COLUMNS), problems)
    slides = [_slide(row, path.parent, problems) for row in rows]
    _check_ids(rows, problems)
    _check_patient_ids(rows, problems)
    _check_paths(rows, slides, problems)
    if classes is not None:
        check_labels(rows, classes, problems)
    else:
        check_alike(((row.number, row.get("label")) for row in rows), "label", problems)
    numbered = zip(rows, slides, strict=True)
    check_patients(((row.number, slide.patient_id, slide.split) for row, slide in numbered), problems)
    if require_files:
        _check_files(rows, slides, problems)
    problems.raise_any()
    return slides


def schema() -> dict[str, Any]:
    """JSON Schema of one row of slides.csv, all cells as text; rows are also checked against each other."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slides.csv",
        "description": "One slide per row. Further columns are allowed.",
        "type": "object",
        "properties": COLUMNS,
        "required": list(REQUIRED),
    }


def _slide(row: Row, folder: Path, problems: Problems) -> SlideRow:
    slide_id, path = row.get("slide_id"), row.get("path")
    if problem := id_problem(slide_id):
        problems.add(row.number, "slide_id", problem)
    if not path:
        problems.add(row.number, "path", "is empty; give the slide's file, or take the row out")
    if problem := problem_of_address(path):
        problems.add(row.number, "path", problem)
    files = {name: _joined(folder, row.get(name)) if row.get(name) else None for name in FILE_COLUMNS}
    tissue = {name: parse(row, name, problems) for name, parse in TISSUE_COLUMNS.items()}
    return SlideRow(
        slide_id=slide_id,
        path=_joined(folder, path),
        label=row.get("label") or None,
        patient_id=row.get("patient_id") or slide_id,
        split=parse_split(row, problems),
        mpp=parse_mpp(row, problems),
        **files,
        tissue={name: value for name, value in tissue.items() if value is not None},
    )


def _joined(folder: Path, name: str) -> Path:
    """A file by its place; one that commands would take for an option, by its whole path."""
    if address_of(name):
        return Path(name)
    path = folder / name
    return path.absolute() if str(path).startswith("-") else path


def _check_ids(rows: Sequence[Row], problems: Problems) -> None:
    first: dict[str, tuple[int, str]] = {}
    for row in rows:
        slide_id = row.get("slide_id")
        if not slide_id:
            continue
        number, other = first.setdefault(slide_id.casefold(), (row.number, slide_id))
        if number == row.number:
            continue
        why = "is also" if other == slide_id else f"differs from {other!r} by case alone, which is"
        problems.add(
            row.number, "slide_id", f"{slide_id!r} {why} in row {number}; give every slide its own id"
        )


def _check_patient_ids(rows: Sequence[Row], problems: Problems) -> None:
    """Patients are given for every slide or for none: a blank one may be a patient of another row."""
    blank = [row.number for row in rows if not row.get("patient_id")]
    if blank and len(blank) < len(rows):
        others = ", ".join(map(str, blank[1 : SHOWN_ROWS + 1]))
        more = f" and {len(blank) - 1 - SHOWN_ROWS} more" if len(blank) - 1 > SHOWN_ROWS else ""
        also = f", as in row{'s' if len(blank) > 2 else ''} {others}{more}" if others else ""
        problems.add(
            blank[0], "patient_id", f"is empty{also}, and filled in others; fill in all or leave all empty"
        )
    check_alike(((row.number, row.get("patient_id")) for row in rows), "patient_id", problems)


def _check_paths(rows: Sequence[Row], slides: Sequence[SlideRow], problems: Problems) -> None:
    """A file stands in one row, lest it be in two splits."""
    files, first = Files(), {}
    for row, slide in zip(rows, slides, strict=True):
        if not row.get("path"):
            continue
        _check_names(row, slide, problems)
        real = files.real(slide.path)
        if first.setdefault(real, row.number) != row.number:
            problems.add(
                row.number,
                "path",
                f"{row.get('path')!r} is the same file as in row {first[real]}; take one of them out",
            )


def _check_names(row: Row, slide: SlideRow, problems: Problems) -> None:
    """Snakemake can name the files of a row."""
    for name in ("path", *FILE_COLUMNS):
        file = str(getattr(slide, name))
        if FILLED_IN.search(file) and (problem := problem_of_path(file)):
            problems.add(row.number, name, problem)


def _check_files(rows: Sequence[Row], slides: Sequence[SlideRow], problems: Problems) -> None:
    files = Files()
    for row, slide in zip(rows, slides, strict=True):
        if row.get("path") and not address_of(slide.path) and (problem := files.problem(slide.path)):
            problems.add(row.number, "path", f"{problem}; correct the path or take the row out")
        for name in FILE_COLUMNS:
            file = getattr(slide, name)
            if file and address_of(file):
                problems.add(
                    row.number, name, f"{row.get(name)!r} is an address; give a file on this machine"
                )
            elif file and (problem := files.problem(file)):
                problems.add(row.number, name, f"{problem}; correct it or leave it empty")
