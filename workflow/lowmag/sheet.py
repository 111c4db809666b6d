"""A CSV sheet a person has made: its rows, and everything that is wrong with it in one message."""

import csv
import difflib
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowmag.errors import UserError
from lowmag.names import REPEATED, alike, problem_of_name

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
ID_LENGTH = 100
SPLITS = ("train", "val", "test")
SEPARATORS = (",", ";", "\t")
SHOWN_PROBLEMS = 30
MOST_BYTES = 128 << 20
MOST_ROWS = 1_000_000
MOST_COLUMNS = 1000
LARGEST_GREY = 255
LIKE_A_TYPO = 0.75  # similarity of difflib: catches `slide`, `patientid`, `Label`; lets `site`, `case` pass


@dataclass(frozen=True)
class Row:
    """One row of a sheet: its number as a spreadsheet counts (the header is 1) and its cells by column."""

    number: int
    cells: Mapping[str, str]

    def get(self, column: str) -> str:
        """The cell without surrounding white space; empty when the column is absent."""
        return self.cells.get(column, "")


@dataclass
class Problems:
    """Collects what is wrong with a sheet, so that one message tells all of it."""

    sheet: Path
    found: list[tuple[int, str]] = field(default_factory=list)  # row (0: the whole sheet) and text

    def add(self, row: int | None, column: str | None, problem: str) -> None:
        """Note a problem; `problem` says what was found and how to cure it."""
        place = [f"row {row}"] if row else []
        place += [f"column {column}"] if column else []
        self.found.append((row or 0, ": ".join([", ".join(place), problem]) if place else problem))

    def raise_any(self) -> None:
        """Raise UserError with one line per problem, in the order of the rows, if there is any."""
        if not self.found:
            return
        lines = [f"  {text}" for _, text in sorted(self.found, key=lambda problem: problem[0])]
        shown = lines[:SHOWN_PROBLEMS]
        if len(lines) > SHOWN_PROBLEMS:
            shown.append(f"  and {len(lines) - SHOWN_PROBLEMS} more")
        many = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise UserError(f"{self.sheet} has {many}:\n" + "\n".join(shown))


def read_header_and_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The header and the rows that are not blank; cells are stripped.

    UTF-8, with or without a byte order mark. Separated by commas, semicolons or tabs: the one that occurs
    most in the header. Raises UserError when the file is missing, not text, empty, has a column name twice,
    or has rows longer than its header.
    """
    problems = Problems(path)
    records = _records(path)
    if not records or not any(records[0]):
        raise UserError(f"{path} is empty; its first row must name the columns")
    header = records[0]
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(header)} columns, which no sheet of a cohort has")
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        problems.add(1, name, "is there more than once; remove all but one")
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if len(record) > len(header) and any(record[len(header) :]):
            problems.add(
                number,
                None,
                f"has {len(record)} cells, the header {len(header)}; quote cells with separators",
            )
        if any(record):
            rows.append(Row(number, dict(zip(header, record, strict=False))))
    problems.raise_any()
    if not rows:
        raise UserError(f"{path} has a header but no rows; add one row per slide or picture")
    return header, rows


def _records(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; check the path in the config")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES >> 20} MB, which no sheet of a cohort is")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); save it as CSV in UTF-8") from error
    header = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=header.count)
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            records.append([cell.strip() for cell in record])
            if len(records) > MOST_ROWS:
                raise UserError(f"{path} has more than {MOST_ROWS:,} rows; give a cohort in several studies")
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}); save it as CSV in UTF-8") from error
    return records


def check_columns(
    header: Sequence[str], known: Sequence[str], required: Iterable[str], problems: Problems
) -> None:
    """Note required columns that are missing and further ones that look like a typo of a known one.

    Other columns are allowed and left alone.
    """
    absent = [name for name in known if name not in header]
    typos = {}
    for name in header:
        if name and name not in known:
            like = difflib.get_close_matches(name.lower().replace(" ", "_"), absent, 1, LIKE_A_TYPO)
            typos.update({name: like[0]} if like else {})
    for name, like in typos.items():
        problems.add(1, name, f"looks like {like}; rename it to {like} (or to something less like it)")
    for name in required:
        if name in absent and name not in typos.values():
            problems.add(1, name, f"is missing; found {', '.join(header)}")


def check_names(rows: Iterable[Row], columns: Iterable[str], problems: Problems) -> None:
    """Note cells of `columns` that hold what no name may."""
    columns = list(columns)
    for row in rows:
        for column in columns:
            if problem := problem_of_name(row.get(column)):
                problems.add(row.number, column, problem)


def id_problem(value: str) -> str | None:
    """What is wrong with an id that becomes a file name, or None."""
    if not value:
        return "is empty; give every row an id"
    if len(value) > ID_LENGTH:
        return f"{value[:20]!r}... has {len(value)} characters; use at most {ID_LENGTH}"
    if not re.fullmatch(ID_PATTERN, value) or ".." in value:
        return (
            f"found {value!r}; it becomes a file name: use letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, and no two dots in a row"
        )
    if REPEATED.search(value):
        return f"found {value!r}; it ends in one thing twenty times, which Snakemake refuses: shorten it"
    return None


def parse_mpp(row: Row, problems: Problems) -> float | None:
    """The cell of column mpp, None when empty; anything but a positive number is noted."""
    text = row.get("mpp")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and value > 0:
        return value
    cure = f"write {text.replace(',', '.')}" if "," in text else "write micrometres per pixel, as 0.5"
    problems.add(row.number, "mpp", f"found {text!r}, expected a positive number; {cure}, or leave it empty")
    return None


def parse_number(row: Row, column: str, problems: Problems) -> float | None:
    """The cell of a column of numbers from 0 up, None when empty; anything else is noted."""
    text = row.get(column)
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.nan
    if not text or (math.isfinite(value) and value >= 0):
        return value if text else None
    problems.add(row.number, column, f"found {text!r}, expected a number from 0 up, or nothing")
    return None


def parse_grey_level(row: Row, column: str, problems: Problems) -> int | None:
    """The cell of a column of grey levels, None when empty; anything but a whole number to 255 is noted."""
    text = row.get(column)
    if not text or (re.fullmatch(r"[0-9]{1,3}", text) and int(text) <= LARGEST_GREY):
        return int(text) if text else None
    problems.add(row.number, column, f"found {text!r}, expected a whole number from 0 to 255, or nothing")
    return None


def parse_split(row: Row, problems: Problems) -> str | None:
    """The cell of column split, None when empty; anything but train, val or test is noted."""
    text = row.get("split")
    if text and text not in SPLITS:
        problems.add(
            row.number, "split", f"found {text!r}; write train, val or test, or leave all of them empty"
        )
        return None
    return text or None


def check_labels(rows: Iterable[Row], classes: Sequence[str], problems: Problems) -> None:
    """Note every label that is no class."""
    for row in rows:
        label = row.get("label")
        if label and label not in classes:
            problems.add(
                row.number,
                "label",
                f"found {label!r}, expected one of {', '.join(classes)}; correct it, leave it empty "
                "(unlabelled) or add it to classes in the config",
            )


def check_patients(rows: Iterable[tuple[int, str, str | None]], problems: Problems) -> None:
    """Note every patient that stands in two splits; rows are (number, patient id, split or None)."""
    first: dict[str, tuple[int, str]] = {}
    for number, patient, split in rows:
        if split is None:
            continue
        seen, other = first.setdefault(patient, (number, split))
        if other != split:
            problems.add(
                number,
                "split",
                f"patient {patient} is in {split} here and in {other} in row {seen}; "
                "a patient belongs to one split",
            )


def check_alike(cells: Iterable[tuple[int, str]], column: str, problems: Problems) -> None:
    """Note every name that a person would take for another one; cells are (number, name).

    They would be two patients, one of them maybe in another split, or two classes.
    """
    first: dict[str, tuple[int, str]] = {}
    for number, name in cells:
        seen, other = first.setdefault(alike(name), (number, name))
        if other == name:
            continue
        how = "case" if other.casefold() == name.casefold() else "case, spaces or Unicode's ways of writing"
        problems.add(
            number,
            column,
            f"{name!r} differs by {how} alone from {other!r} in row {seen}; write both the same, "
            "or rename one",
        )


class Files:
    """Tells which files are there with one listing per folder, for sheets of many thousands of rows."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._folders: dict[Path, Path] = {}

    def problem(self, path: Path) -> str | None:
        """Why there is no file or folder at `path`, or None; reading a pipe or device may never end."""
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = {entry.name for entry in os.scandir(folder or ".") if _is_plain(entry)}
            except OSError:
                self._names[folder] = set()
        if name in self._names[folder] or path.is_file() or path.is_dir():
            return None
        return f"{path} is neither a file nor a folder" if path.exists() else f"there is no {path}"

    def real(self, path: Path) -> Path:
        """The place of a file behind links and `..`: the same for every name that it goes by."""
        if path.parent not in self._folders:
            self._folders[path.parent] = path.parent.resolve()
        place = self._folders[path.parent] / path.name
        return place.resolve() if place.is_symlink() else place


def _is_plain(entry: os.DirEntry) -> bool:
    """Whether an entry of a folder is a file or folder itself, as its listing says."""
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
