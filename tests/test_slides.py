"""The sheet of slides: what is read, and what a person is told about a bad one."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from lowmag import slides
from lowmag.errors import UserError
from lowmag.slides import SlideRow, read_slides

REPOSITORY = Path(__file__).parents[1]


def write_sheet(folder: Path, text: str, files: tuple[str, ...] = ("a.svs", "b.svs", "c.svs")) -> Path:
    for name in files:
        (folder / name).touch()
    sheet = folder / "slides.csv"
    sheet.write_text(text, encoding="utf-8")
    return sheet


def complaint(sheet: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_slides(sheet, **options)
    return str(caught.value)


def test_columns_and_defaults(tmp_path):
    sheet = write_sheet(
        tmp_path,
        "slide_id,path,label,patient_id,split,mpp,annotations,stain\n"
        f"A-1,a.svs,tumour,P1,train,0.25,b.svs,HE\nA_2, {tmp_path}/c.svs ,,P2,,,,HE\n",
    )
    assert read_slides(sheet) == [
        SlideRow("A-1", tmp_path / "a.svs", "tumour", "P1", "train", 0.25, tmp_path / "b.svs"),
        SlideRow("A_2", tmp_path / "c.svs", None, "P2", None, None, None),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheet_exports_are_read(tmp_path, separator):
    text = "\ufeffslide_id,path,label\r\nA,a.svs,x\r\n\r\n,,\r\nB,b.svs,y\r\n".replace(",", separator)
    sheet = write_sheet(tmp_path, "")
    sheet.write_bytes(text.encode("utf-8"))
    assert [(row.slide_id, row.label) for row in read_slides(sheet)] == [("A", "x"), ("B", "y")]


def test_quoted_cells_keep_separators_and_line_breaks(tmp_path):
    sheet = write_sheet(
        tmp_path,
        'slide_id,path,label,note\nA,"a,1.svs","x, 1","of\ntwo lines"\nB,b.svs,y,\n',
        ("a,1.svs", "b.svs"),
    )
    first, second = read_slides(sheet)
    assert first.path.name == "a,1.svs"
    assert first.label == "x, 1"
    assert second.slide_id == "B"


def test_all_problems_come_in_one_message_with_row_and_column(tmp_path):
    sheet = write_sheet(
        tmp_path,
        "slide_id,path,label,patient_id,split,mpp\n"
        "A,a.svs,tumour,P1,train,0.25\n"
        "A,b.svs,tumour,P2,,\n"
        "a,c.svs,tumor,P1,test,\n"
        "\n"
        '../E,gone.svs,tumour,P5,training,"0,5"\n'
        ",a.svs,,,,-1\n"
        "G,,,,,inf\n",
    )
    message = complaint(sheet, classes=["normal", "tumour"])
    assert message.startswith(f"{sheet} has 14 problems:\n")
    for part in [
        "row 3, column slide_id: 'A' is also in row 2; give every slide its own id",
        "row 4, column slide_id: 'a' differs from 'A' by case alone, which is in row 2",
        "row 4, column label: found 'tumor', expected one of normal, tumour",
        "row 4, column split: patient P1 is in test here and in train in row 2",
        "row 6, column slide_id: found '../E'; it becomes a file name",
        f"row 6, column path: there is no {tmp_path}/gone.svs",
        "row 6, column split: found 'training'; write train, val or test",
        "row 6, column mpp: found '0,5', expected a positive number; write 0.5",
        "row 7, column slide_id: is empty",
        "row 7, column patient_id: is empty, as in row 8, and filled in others",
        "row 7, column path: 'a.svs' is the same file as in row 2; take one of them out",
        "row 7, column mpp: found '-1', expected a positive number",
        "row 8, column path: is empty",
        "row 8, column mpp: found 'inf'",
    ]:
        assert part in message, part
    numbers = [int(line.split()[1].rstrip(",")) for line in message.splitlines()[1:]]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("slideid,path", "column slideid: looks like slide_id; rename it"),
        ("slide_id,file", "column path: is missing; found slide_id, file"),
        ("Slide_ID,path", "column Slide_ID: looks like slide_id"),
        ("slide_id,path,labels", "column labels: looks like label"),
        ("slide_id,path,patient", "column patient: looks like patient_id"),
        ("slide_id,path,path", "column path: is there more than once"),
    ],
)
def test_columns_missing_or_misspelt_are_named(tmp_path, header, expected):
    sheet = write_sheet(tmp_path, f"{header}\nA,a.svs\n")
    assert expected in complaint(sheet)


def test_other_columns_are_left_alone(tmp_path):
    sheet = write_sheet(tmp_path, "slide_id,path,label,label_full,site,stain,paths\nA,a.svs,x,xx,Ulm,HE,z\n")
    assert read_slides(sheet)[0].label == "x"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; its first row must name the columns"),
        (b"slide_id,path\n", "has a header but no rows"),
        ("slide_id,path\nA,\u00e4.svs\n".encode("latin-1"), "save it as CSV in UTF-8"),
        (b"slide_id,path\nA,a.svs,x,y\n", "row 2: has 4 cells, the header 2"),
    ],
)
def test_files_that_are_no_sheet_are_refused(tmp_path, content, expected):
    sheet = write_sheet(tmp_path, "")
    sheet.write_bytes(content)
    assert expected in complaint(sheet)


def test_missing_sheet_is_named(tmp_path):
    assert "slides.csv does not exist" in complaint(tmp_path / "slides.csv")


def test_files_need_not_exist_when_the_sheet_is_ahead_of_them(tmp_path):
    sheet = write_sheet(tmp_path, "slide_id,path\nA,later.svs\n", ())
    assert "there is no" in complaint(sheet)
    assert read_slides(sheet, require_files=False)[0].path == tmp_path / "later.svs"


def test_long_lists_of_problems_are_cut(tmp_path):
    rows = "".join(f"S{i},gone{i}.svs\n" for i in range(100))
    message = complaint(write_sheet(tmp_path, "slide_id,path\n" + rows))
    assert "has 100 problems" in message
    assert message.endswith("and 70 more")
    assert len(message.splitlines()) == 32


def test_ten_thousand_rows_are_read_at_once(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"{i}.svs").touch()
    rows = "".join(f"S{i:05d},slides/{i}.svs,{'xy'[i % 2]},P{i // 3}\n" for i in range(10_000))
    sheet = write_sheet(tmp_path, "slide_id,path,label,patient_id\n" + rows)
    start = time.process_time()
    assert len(read_slides(sheet, ["x", "y"])) == 10_000
    assert time.process_time() - start < 2  # 0.15 s on the machine of the project


def test_reading_a_sheet_imports_nothing_heavy():
    heavy = "('numpy', 'pydantic', 'torch', 'h5py')"
    loaded = f"import sys, lowmag.slides; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("linked", [False, True])
def test_file_in_two_rows_is_refused(tmp_path, linked):
    """Also by another way to it: it would be in two splits unseen."""
    sheet = write_sheet(tmp_path, "slide_id,path\nA,a.svs\nB,b.svs\nC,linked/other.svs\n", ("a.svs", "b.svs"))
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/other.svs").symlink_to(tmp_path / "a.svs" if linked else tmp_path / "absent.svs")
    if not linked:
        assert len(read_slides(sheet, require_files=False)) == 3
        return
    message = complaint(sheet, require_files=False)
    assert "row 4, column path: 'linked/other.svs' is the same file as in row 2; take one" in message


def test_patients_are_given_for_all_slides_or_for_none(tmp_path):
    rows = "".join(f"S{i},{i}.svs,{'' if i % 2 else f'P{i}'}\n" for i in range(30))
    message = complaint(write_sheet(tmp_path, "slide_id,path,patient_id\n" + rows), require_files=False)
    assert "has 1 problem:" in message
    assert (
        "row 3, column patient_id: is empty, as in rows 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 4 more, "
        "and filled in others; fill in all or leave all empty"
    ) in message
    sheet = write_sheet(tmp_path, "slide_id,path,patient_id\nA,a.svs,\nB,b.svs,\n")
    assert [row.patient_id for row in read_slides(sheet)] == ["A", "B"]


def test_patients_that_differ_by_case_alone_are_refused(tmp_path):
    sheet = write_sheet(tmp_path, "slide_id,path,patient_id\nA,a.svs,Case1\nB,b.svs,case1\nC,c.svs,Case1\n")
    message = complaint(sheet)
    assert "row 3, column patient_id: 'case1' differs by case alone from 'Case1' in row 2" in message
    assert "has 1 problem:" in message


@pytest.mark.parametrize(
    "other",
    ["M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller 1", "Mu\N{COMBINING DIAERESIS}ller\N{NO-BREAK SPACE}1"],
)
def test_patients_that_a_person_reads_as_one_are_refused(tmp_path, other):
    """They would be two, one of them maybe in the test split."""
    sheet = write_sheet(
        tmp_path, f"slide_id,path,patient_id\nA,a.svs,Mu\N{COMBINING DIAERESIS}ller 1\nB,b.svs,{other}\n"
    )
    message = complaint(sheet)
    assert "row 3, column patient_id: " in message
    assert "differs by case, spaces or Unicode's ways of writing alone" in message


def test_labels_that_differ_by_case_alone_are_no_two_classes(tmp_path):
    sheet = write_sheet(tmp_path, "slide_id,path,label\nA,a.svs,tumour\nB,b.svs,Tumour\nC,c.svs,\n")
    assert "row 3, column label: 'Tumour' differs by case alone from 'tumour' in row 2" in complaint(sheet)
    read_slides(sheet, ["tumour", "Tumour"])  # who names both means both


@pytest.mark.parametrize("folder", ["{x}", "plain"])
def test_brace_in_a_path_is_refused(tmp_path, folder):
    """Also one in the folder of the sheet, which the cell does not show."""
    (tmp_path / folder).mkdir()
    name = "a.svs" if folder == "{x}" else "a}.svs"
    message = complaint(write_sheet(tmp_path / folder, f"slide_id,path\nA,{name}\n", (name,)))
    assert f"row 2, column path: '{tmp_path}/{folder}/{name}' has a brace" in message
    assert "rename the file or its folder" in message


@pytest.mark.parametrize("column", ["path", "annotations", "mask", "coords"])
@pytest.mark.parametrize(("sign", "named"), [("{a}", "a brace"), ("<results>", "<results>")])
def test_no_file_of_a_row_may_have_a_name_that_snakemake_fills_in(tmp_path, column, sign, named):
    cells = {"slide_id": "A", "path": "a.svs"} | {column: f"a{sign}.svs"}
    sheet = write_sheet(tmp_path, ",".join(cells) + "\n" + ",".join(cells.values()) + "\n", cells.values())
    assert f"row 2, column {column}: '{tmp_path}/a{sign}.svs' has {named}, which" in complaint(sheet)


def test_schema_file_is_up_to_date():
    assert json.loads((REPOSITORY / "workflow/schemas/slides.schema.json").read_text()) == slides.schema()


@pytest.mark.parametrize(
    ("column", "cell", "fine"),
    [
        *[("slide_id", cell, True) for cell in ["A", "a.b-c_d", "9", "ab-12345.7" * 10]],
        *[
            ("slide_id", cell, False)
            for cell in ["", "a/b", "a b", ".a", "-a", "a..b", "\u00e4", "A" * 40, "A" * 101]
        ],
        *[("path", cell, True) for cell in ["a.svs", "a<b.svs", "<A>.svs"]],
        *[("path", cell, False) for cell in ["", "{a}.svs", "a}.svs", "<a>.svs"]],
        *[("mask", cell, False) for cell in ["{a}.png", "<a>.png"]],
        *[("split", cell, True) for cell in ["", "train", "val", "test"]],
        *[("split", cell, False) for cell in ["Train", "validation", "0"]],
        *[("mpp", cell, True) for cell in ["", "0.25", "1", "2.5e-1", ".5"]],
        *[("mpp", cell, False) for cell in ["0,25", "-1", "nan", "inf", "0.25 um"]],
    ],
)
def test_schema_and_reader_agree_on_a_cell(tmp_path, column, cell, fine):
    row = {"slide_id": "A", "path": "a.svs", "label": "x", "patient_id": "", "split": "", "mpp": ""} | {
        column: cell
    }
    sheet = write_sheet(
        tmp_path, ",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n"
    )
    valid = jsonschema.Draft202012Validator(slides.schema()).is_valid(row)
    assert valid == fine
    if fine:
        assert len(read_slides(sheet, require_files=False)) == 1
    else:
        assert f"column {column}" in complaint(sheet, require_files=False)


@pytest.mark.parametrize("text", ["", "0", "007", "99", "199", "255", "256", "300", "10.5", "-1", "1e2", "x"])
def test_a_grey_level_is_a_whole_number_to_255(tmp_path, text):
    """And the schema says the same."""
    is_good = text in {"", "0", "007", "99", "199", "255"}
    (tmp_path / "s.csv").write_text(f"slide_id,path,saturation_floor\nA,a.svs,{text}\n")
    assert bool(re.search(slides.COLUMNS["saturation_floor"]["pattern"], text)) == is_good
    if is_good:
        assert len(slides.read_slides(tmp_path / "s.csv", require_files=False)) == 1
        return
    with pytest.raises(UserError, match=r"row 2, column saturation_floor: .* expected a whole number from 0"):
        slides.read_slides(tmp_path / "s.csv", require_files=False)
