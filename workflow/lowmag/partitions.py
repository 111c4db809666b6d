"""A folder of pictures as SICAPv2 is downloaded: spreadsheets say which pictures are in which split.

images/{slide}_Block_Region_....jpg
partition/Test/Test.xlsx                        image_name, and one column per grade that holds 0 or 1
partition/Validation/Val{1..4}/{Train,Test}.xlsx
wsi_labels.xlsx                                 slide_id, patient_id
"""

import codecs
import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lowmag.errors import UserError
from lowmag.markup import read_elements
from lowmag.sheet import Problems, Row

GRADES = ("NC", "G3", "G4", "G5")  # others (G4C, the cribriform ones among G4) are no classes of their own
HEADER = ["image", "slide_id", "patient_id", "label", "split"]
PATIENTS = "wsi_labels.xlsx"
MOST_BYTES = 32 << 20  # of a spreadsheet, as it is and unpacked; those of SICAPv2 have a few
MOST_ELEMENTS = 500_000  # of XML; three a cell
MOST_ROWS, MOST_COLUMNS = 100_000, 100  # by their numbers: rows that are not there are counted
FORMATS = "xl/styles.xml"  # of cells: each is an object of a kilobyte, and none is asked for
LAYOUT = "give an images.csv, or the folder SICAPv2 as it is unpacked, with images and partition in it"

logger = logging.getLogger(__name__)


def partition_sheets(folder: Path, fold: int) -> dict[str, Path]:
    """The spreadsheet of every split, the published test pictures and one fold of the others.

    Raises UserError when one of them is not there.
    """
    validation = folder / "partition" / "Validation" / f"Val{fold}"
    sheets = {
        "train": validation / "Train.xlsx",
        "val": validation / "Test.xlsx",
        "test": folder / "partition" / "Test" / "Test.xlsx",
    }
    for path in sheets.values():
        if not path.is_file():
            raise UserError(f"{folder} has no {path.relative_to(folder)}; {LAYOUT}")
    return sheets


def files_of(folder: Path, fold: int) -> list[Path]:
    """Every spreadsheet that the pictures of a fold are read from."""
    patients = folder / PATIENTS
    return [*partition_sheets(folder, fold).values(), *([patients] if patients.is_file() else [])]


def read_partitions(folder: Path, fold: int) -> tuple[list[str], list[Row]]:
    """Header and rows as of an images.csv; a row's number is that in its own spreadsheet.

    A picture's slide is what stands before `_Block` in its name, its patient that of wsi_labels.xlsx, or the
    slide where there is no such file. Raises UserError for a missing or unreadable spreadsheet or column,
    rows that are not of exactly one grade, pictures that stand in two splits or twice in one, and slides
    without a patient.
    """
    problems, rows = Problems(folder), []
    first: dict[str, tuple[str, int]] = {}
    patients = _patients(folder)
    for split, path in partition_sheets(folder, fold).items():
        place = str(path.relative_to(folder))
        for number, cells in _records(path, ["image_name", *GRADES]):
            name = _text(cells["image_name"])
            grades = [grade for grade in GRADES if cells[grade] not in (0, None, "", "0")]
            if len(grades) != 1:
                found = " and ".join(grades) or "no grade"
                problems.add(number, None, f"{place}: {name} has {found}; expected a 1 for one of the grades")
            before, row = first.setdefault(name, (place, number))
            if before != place:
                problems.add(number, None, f"{place}: {name} is in {before} too; take it out of one of them")
            elif row != number:
                problems.add(number, None, f"{place}: {name} is in row {row} too; take one of them out")
            slide = name.split("_Block")[0]
            if patients is not None and slide not in patients:
                problems.add(number, None, f"{place}: slide {slide} is not in {PATIENTS}; add its patient_id")
            patient = slide if patients is None else patients.get(slide, slide)
            values = (name, slide, patient, grades[0] if grades else "", split)
            rows.append(Row(number, dict(zip(HEADER, values, strict=True))))
    problems.raise_any()
    return HEADER, rows


def _patients(folder: Path) -> dict[str, str] | None:
    path = folder / PATIENTS
    if not path.is_file():
        logger.warning("%s has no %s: every slide counts as a patient of its own", folder, PATIENTS)
        return None
    rows = _records(path, ["slide_id", "patient_id"])
    return {_text(cells["slide_id"]): _text(cells["patient_id"]) for _, cells in rows}


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and cells of the rows of a spreadsheet's first sheet that are not blank."""
    header: list[str] = []
    places: dict[str, int] = {}
    for number, cells in enumerate(_rows(path), start=1):
        if number > MOST_ROWS:
            raise UserError(f"{path} has more than {MOST_ROWS:,} rows; {LAYOUT}")
        if number == 1:
            header = [_text(cell) for cell in cells]
            places = {name: header.index(name) for name in columns if name in header}
        elif len(places) == len(columns) and any(cell is not None for cell in cells):
            yield number, {name: cells[place] for name, place in places.items()}
    if missing := [name for name in columns if name not in places]:
        found = ", ".join(name for name in header if name) or "nothing"
        raise UserError(f"{path} has no column {', '.join(missing)} (found {found}); {LAYOUT}")


def _rows(path: Path) -> Iterator[Sequence[Any]]:
    """The cells of every row of the first sheet, MOST_ROWS + 1 at most; UserError where it is none."""
    from openpyxl import load_workbook  # only for cohorts that come as spreadsheets

    try:
        with closing(load_workbook(_checked(path), read_only=True, data_only=True, keep_links=False)) as book:
            yield from book.worksheets[0].iter_rows(
                values_only=True, max_row=MOST_ROWS + 1, max_col=MOST_COLUMNS
            )
    except Exception as error:  # openpyxl raises what the damage leads to
        raise UserError(f"{path} cannot be read as a spreadsheet ({error}); download it again") from error


def _checked(path: Path) -> io.BytesIO:
    """The parts of a spreadsheet that are XML, held against the limits; ValueError for others.

    openpyxl knows none, and expands entities where defusedxml is not installed.
    """
    n_elements, checked = 0, io.BytesIO()

    def count(*_: object) -> None:
        nonlocal n_elements
        n_elements += 1
        if n_elements > MOST_ELEMENTS:
            raise ValueError(f"it has more than {MOST_ELEMENTS:,} elements")

    with zipfile.ZipFile(path) as given, zipfile.ZipFile(checked, "w") as kept:
        if max(path.stat().st_size, sum(part.file_size for part in given.infolist())) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MB")
        for name in {*given.namelist()} - {FORMATS}:
            content = given.read(name)
            if content.removeprefix(codecs.BOM_UTF8).startswith(b"<"):
                read_elements(content, count)
                kept.writestr(name, content)
    return checked


def _text(cell: Any) -> str:
    """A cell as text; a whole number without a decimal point."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
