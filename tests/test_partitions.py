"""The folder of SICAPv2 as it is downloaded: which pictures are in which split, and every refusal."""

import gc
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from lowmag import partitions
from lowmag.errors import UserError
from lowmag.pictures import read_pictures, sheet_files, write_pictures
from lowmag.sections import Pictures, Tiles
from lowmag.store import TileFile
from openpyxl import load_workbook
from synthetic_sicap import GRADES, PATIENTS, SLIDES, TEST, TRAIN, VAL, make_sicap, write_sheet

LADDER = Tiles(teacher=10, students=[5, 2.5])
COLUMNS = ["image_name", *GRADES, "G4C"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sicap(tmp_path_factory.mktemp("SICAPv2"))


@pytest.fixture
def sicap(tmp_path: Path) -> Path:
    return make_sicap(tmp_path, px=16)


def rows_of(path: Path) -> list[list[object]]:
    return [list(row) for row in load_workbook(path).worksheets[0].iter_rows(values_only=True)]


def complaint(folder: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_pictures(folder, Pictures(**options))
    return str(caught.value)


def test_pictures_are_those_of_the_spreadsheets(made: Path) -> None:
    rows = read_pictures(made, Pictures(), GRADES)
    assert len(rows) == 28
    splits = {TRAIN: "train", VAL: "val", TEST: "test"}
    expected = {slide: splits[sheet] for sheet, slides in SLIDES.items() for slide in slides}
    assert {row.slide_id: row.split for row in rows} == expected
    assert {row.slide_id: row.patient_id for row in rows} == {k: str(v) for k, v in PATIENTS.items()}
    assert [row.label for row in rows[:4]] == list(GRADES)
    assert all(row.image.parent == made / "images" for row in rows)


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_folds_are_chosen(sicap: Path, fold: int) -> None:
    """Every other fold loses its first row."""
    for other in {1, 2, 3, 4} - {fold}:
        path = sicap / VAL.replace("Val1", f"Val{other}")
        header, *rows = rows_of(path)
        write_sheet(path, header, rows[1:])  # pyright: ignore
    options = Pictures(fold=fold)
    assert len(read_pictures(sicap, options)) == 28
    names = [path.relative_to(sicap).as_posix() for path in sheet_files(sicap, options)]
    assert names == [sheet.replace("Val1", f"Val{fold}") for sheet in (TRAIN, VAL, TEST)] + [
        "wsi_labels.xlsx"
    ]


def test_pictures_become_tiles(made: Path, tmp_path: Path) -> None:
    write_pictures(made, tmp_path, GRADES, Pictures(mpp=1.0), LADDER)
    assert {path.stem for path in tmp_path.iterdir()} == set(PATIENTS)
    with TileFile(tmp_path / "17B4A.h5") as file:
        assert file.magnifications == [10, 5, 2.5]
        assert file.column("label").tolist() == [0, 1, 2, 3]


def test_without_the_table_of_patients_a_slide_is_one(sicap: Path, caplog: pytest.LogCaptureFixture) -> None:
    (sicap / "wsi_labels.xlsx").unlink()
    assert all(row.patient_id == row.slide_id for row in read_pictures(sicap, Pictures()))
    assert "every slide counts as a patient of its own" in caplog.text


def test_slide_without_a_patient_is_named(sicap: Path) -> None:
    write_sheet(sicap / "wsi_labels.xlsx", ["slide_id", "patient_id"], [["16B1", 1]])
    assert "slide 17B3 is not in wsi_labels.xlsx" in complaint(sicap)


def test_patient_in_two_splits_is_refused(sicap: Path) -> None:
    rows = [[slide, 1 if slide == "18B6" else patient] for slide, patient in PATIENTS.items()]
    write_sheet(sicap / "wsi_labels.xlsx", ["slide_id", "patient_id"], rows)
    assert "patient 1 is in test here and in train" in complaint(sicap)


def test_picture_in_two_splits_is_refused(sicap: Path) -> None:
    header, *rows = rows_of(sicap / TEST)
    write_sheet(sicap / TEST, header, [*rows, rows_of(sicap / TRAIN)[1]])  # pyright: ignore
    text = complaint(sicap)
    assert f"row 10: {TEST}: 16B1_Block_Region_0_0_0_xini_0_yini_7.jpg is in {TRAIN} too" in text


def test_picture_listed_twice_is_refused_with_both_rows(sicap: Path) -> None:
    header, *rows = rows_of(sicap / VAL)
    write_sheet(sicap / VAL, header, [*rows, rows[1]])  # pyright: ignore
    expected = f"row {len(rows) + 2}: {VAL}: {rows[1][0]} is in row 3 too; take one of them out"
    assert expected in complaint(sicap)


def test_copy_under_another_name_in_another_split_is_refused(sicap: Path, tmp_path: Path) -> None:
    train, test = (next((sicap / "images").glob(f"{slide}_*")) for slide in ("16B1", "18B6"))
    test.write_bytes(train.read_bytes())
    with pytest.raises(
        UserError, match=rf"1 pictures stand in several splits.*\n  {train.name} \(train\), {test.name}"
    ):
        write_pictures(sicap, tmp_path / "tiles", GRADES, Pictures(mpp=1.0), LADDER)
    assert not list((tmp_path / "tiles").glob("*"))


def test_copy_within_a_split_is_said(sicap: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = sorted((sicap / "images").glob("18B6_*"))[:2]
    second.write_bytes(first.read_bytes())
    write_pictures(sicap, tmp_path / "tiles", GRADES, Pictures(mpp=1.0), LADDER)
    assert f"1 pictures are there more than once: {first.name} = {second.name}" in caplog.text


@pytest.mark.parametrize(("marks", "found"), [((0, 0, 0, 0), "no grade"), ((1, 0, 1, 0), "NC and G4")])
def test_row_without_one_grade_is_refused(sicap: Path, marks: tuple[int, ...], found: str) -> None:
    header, *rows = rows_of(sicap / VAL)
    write_sheet(sicap / VAL, header, [[rows[0][0], *marks, 0], *rows[1:]])  # pyright: ignore
    assert f"row 2: {VAL}: {rows[0][0]} has {found}; expected a 1 for one" in complaint(sicap)


def test_missing_picture_is_named(sicap: Path) -> None:
    path = next((sicap / "images").glob("17B5_*"))
    path.unlink()
    assert f"there is no {path}" in complaint(sicap)


def test_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert "has no partition/Validation/Val1/Train.xlsx; give an images.csv, or the folder" in complaint(
        tmp_path
    )


def test_spreadsheet_that_is_none_is_refused(sicap: Path) -> None:
    (sicap / TEST).write_bytes(b"<html>log in</html>")
    assert "Test.xlsx cannot be read as a spreadsheet" in complaint(sicap)
    gc.collect()  # an error of its own if the file were left open
    write_sheet(sicap / TEST, ["image", *GRADES], [])
    assert "Test.xlsx has no column image_name (found image, NC, G3, G4, G5)" in complaint(sicap)


SHEET = "xl/worksheets/sheet1.xml"
ENTITY = b'<!DOCTYPE a [<!ENTITY name "image_name">]>'


def rewrite(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    """Change one part of a spreadsheet, which need not be there."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts | {part: change(parts.get(part, b""))}).items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("part", "change", "problem"),
    [
        (SHEET, lambda c: c.replace(b"</sheetData>", b'<row r="30000000"/></sheetData>'), "100,000 rows"),
        (
            SHEET,
            lambda c: c.replace(b"</sheetData>", b"<row/>" * 20_000 + b"</sheetData>"),
            "10,000 elements",
        ),
        (SHEET, lambda c: c.replace(b">image_name<", b">" + b"a" * (40 << 20) + b"<"), "more than 32 MB"),
        (SHEET, lambda c: ENTITY + c.replace(b">image_name<", b">&name;<"), "declares a document type"),
        ("xl/workbook.xml", lambda c: ENTITY + c, "declares a document type"),
        ("xl/other.xml", lambda _: b"<a>" * 200, "nested more than 100 deep"),
        (SHEET, lambda c: c.replace(b't="n"', b't="s"'), "cannot be read as a spreadsheet"),
        (SHEET, lambda _: b"\0", "cannot be read as a spreadsheet"),
    ],
)
def test_spreadsheet_that_unfolds_or_declares_is_refused(
    sicap: Path, monkeypatch: pytest.MonkeyPatch, part: str, change: Callable[[bytes], bytes], problem: str
) -> None:
    monkeypatch.setattr(partitions, "MOST_ELEMENTS", 10_000)
    rewrite(sicap / TEST, part, change)
    tracemalloc.start()
    text = complaint(sicap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem in text
    assert "Test.xlsx" in text
    assert peak < 80 << 20


def test_formats_and_pictures_of_a_spreadsheet_are_left_alone(sicap: Path) -> None:
    rewrite(sicap / TEST, partitions.FORMATS, lambda _: b"<a>" * 200)
    rewrite(sicap / TEST, "xl/printerSettings1.bin", lambda _: b"\0binary")
    assert len(read_pictures(sicap, Pictures())) == 28
