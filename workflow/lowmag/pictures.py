"""The sheet of pre-cut pictures, `images.csv` or SICAPv2's spreadsheets: all that is wrong in one message."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lowmag.partitions import files_of, read_partitions
from lowmag.sections import Pictures, Tiles
from lowmag.sheet import (
    Files,
    Problems,
    Row,
    check_alike,
    check_columns,
    check_labels,
    check_names,
    check_patients,
    id_problem,
    parse_mpp,
    parse_split,
    read_header_and_rows,
)

REQUIRED = ("image",)
COLUMNS = ("image", "slide_id", "patient_id", "label", "split", "mpp")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureRow:
    """One picture: its file, its name in the sheet, and whose it is."""

    image: Path
    name: str
    slide_id: str
    patient_id: str
    label: str | None
    split: str | None
    mpp: float | None


def read_pictures(
    images_csv: Path, options: Pictures, classes: Sequence[str] | None = None
) -> list[PictureRow]:
    """The pictures of a sheet in its order; of a folder laid out as SICAPv2, those of its spreadsheets.

    `options.columns` says which column of the sheet stands for ours, as {image: file, patient_id: case_id}.
    An empty or absent slide_id is the patient_id, an empty or absent patient_id the slide_id; a picture
    with neither is a slide and a patient of its own, named after its file. Raises one UserError naming row,
    column, finding and cure of every problem, as `slides.read_slides` does; labels outside `classes`, where
    given, are among them.
    """
    images_csv = Path(images_csv)
    is_folder = images_csv.is_dir()
    header, rows = (
        read_partitions(images_csv, options.fold) if is_folder else read_header_and_rows(images_csv)
    )
    problems = Problems(images_csv)
    header, rows = _with_our_columns(header, rows, options.columns, problems)
    check_columns(header, COLUMNS, REQUIRED, problems)
    if "image" not in header:
        problems.add(None, None, "say which column names the picture: pictures.columns: {image: <column>}")
    problems.raise_any()
    check_names(rows, COLUMNS, problems)
    usual = images_csv / "images" if is_folder else images_csv.parent
    folder = Path(options.folder) if options.folder else usual
    pictures = [_picture(row, folder, problems) for row in rows]
    numbered = list(zip((row.number for row in rows), pictures, strict=True))
    _check_files(numbered, problems)
    _check_slides(numbered, problems)
    check_alike(((number, row.patient_id) for number, row in numbered), "patient_id", problems)
    if classes is not None:
        check_labels(rows, classes, problems)
    else:
        check_alike(((row.number, row.get("label")) for row in rows), "label", problems)
    check_patients(((number, row.patient_id, row.split) for number, row in numbered), problems)
    _check_nameless(rows, pictures, problems)
    return pictures


def sheet_files(images_csv: Path, options: Pictures) -> list[Path]:
    """The files that say which pictures there are: the sheet, or the spreadsheets of a folder."""
    return files_of(images_csv, options.fold) if images_csv.is_dir() else [images_csv]


def _with_our_columns(
    header: Sequence[str], rows: Sequence[Row], columns: Mapping[str, str], problems: Problems
) -> tuple[list[str], list[Row]]:
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            problems.add(None, None, f"pictures.columns: unknown key {ours!r}; use {', '.join(COLUMNS)}")
        elif theirs not in header:
            problems.add(
                1, theirs, f"is missing, pictures.columns wants it as {ours}; found {', '.join(header)}"
            )
    problems.raise_any()
    taken = {*columns.values()} - {*columns}
    names = [name for name in header if name not in taken and name not in columns]
    renamed = [
        Row(row.number, {n: row.get(n) for n in names} | {o: row.get(t) for o, t in columns.items()})
        for row in rows
    ]
    return [*columns, *names], renamed


def _picture(row: Row, folder: Path, problems: Problems) -> PictureRow:
    name = row.get("image")
    if not name:
        problems.add(row.number, "image", "is empty; name the picture's file, or take the row out")
    slide_id, patient_id = row.get("slide_id"), row.get("patient_id")
    own = PurePosixPath(name).stem
    column = "image" if _is_nameless(row) else "slide_id" if slide_id else "patient_id"
    slide_id, patient_id = slide_id or patient_id or own, patient_id or slide_id or own
    if name and (problem := id_problem(slide_id)):
        problems.add(row.number, column, f"as the id of the slide: {problem}")
    return PictureRow(
        image=folder / name,
        name=name,
        slide_id=slide_id,
        patient_id=patient_id,
        label=row.get("label") or None,
        split=parse_split(row, problems),
        mpp=parse_mpp(row, problems),
    )


def _check_files(rows: Sequence[tuple[int, PictureRow]], problems: Problems) -> None:
    files, first = Files(), {}
    for number, row in rows:
        if not row.name:
            continue
        if (same := first.setdefault(files.real(row.image), number)) != number:
            problems.add(number, "image", f"{row.name!r} is also in row {same}; take one of them out")
        elif problem := files.problem(row.image):
            problems.add(number, "image", f"{problem}; correct the path or set pictures.folder")


def _check_slides(rows: Sequence[tuple[int, PictureRow]], problems: Problems) -> None:
    """A slide belongs to one patient, and its id differs from others by more than case."""
    first: dict[str, tuple[int, PictureRow]] = {}
    for number, row in rows:
        seen, other = first.setdefault(row.slide_id.casefold(), (number, row))
        if other.slide_id != row.slide_id:
            problems.add(
                number,
                "slide_id",
                f"{row.slide_id!r} differs by case alone from {other.slide_id!r} in row {seen}; rename one",
            )
        elif other.patient_id != row.patient_id:
            problems.add(
                number,
                "patient_id",
                f"slide {row.slide_id} is of patient {row.patient_id!r} here and of {other.patient_id!r} "
                f"in row {seen}; a slide belongs to one patient",
            )


def _is_nameless(row: Row) -> bool:
    return not row.get("slide_id") and not row.get("patient_id")


def _check_nameless(rows: Sequence[Row], pictures: Sequence[PictureRow], problems: Problems) -> None:
    """A picture named after its file must not end up on a slide with others by chance."""
    n_pictures = Counter(picture.slide_id for picture in pictures)
    nameless = [(row, own) for row, own in zip(rows, pictures, strict=True) if own.name and _is_nameless(row)]
    for row, own in nameless:
        if n_pictures[own.slide_id] > 1:
            problems.add(
                row.number,
                "image",
                f"several pictures would be slide {own.slide_id!r}, and {own.name!r} by its file name alone; "
                "fill slide_id or patient_id",
            )
    problems.raise_any()
    if nameless:
        logger.warning(
            "%d of %d pictures have neither slide_id nor patient_id: each counts as a patient of its own",
            len(nameless),
            len(rows),
        )


def write_pictures(
    images_csv: Path, out_dir: Path, classes: Sequence[str], options: Pictures, tiles: Tiles
) -> None:
    """Store the pictures of a sheet as tile files, `{slide_id}.h5`; see `crops.write_tile_files`."""
    from lowmag.crops import write_tile_files  # h5py and Pillow: not for a Snakefile that reads the sheet

    write_tile_files(read_pictures(images_csv, options, classes), out_dir, classes, options, tiles)
