"""Pre-cut pictures: the sheet, its columns by other names, and the tile files."""

import json
from pathlib import Path

import numpy as np
import pytest
from lowmag.crops import picture_field_um, read_rgb
from lowmag.errors import UserError
from lowmag.pictures import read_pictures, write_pictures
from lowmag.sections import Pictures, Tiles
from lowmag.store import TileFile
from PIL import Image

DATA = Path(__file__).parents[1] / "../shared/data"
CASES = {"image": "file", "patient_id": "case_id"}
LADDER = Tiles(teacher=10, students=[5, 2.5])


def draw(path: Path, width: int = 24, height: int = 20, seed: int = 0) -> np.ndarray:
    """Write a PNG of smooth colours and return its pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def sheet(tmp_path):
    """images.csv of four pictures of two slides, with other column names."""
    rows = [
        ("x/1.png", "C1", "benign"),
        ("x/2.png", "C1", "cancer"),
        ("y/1.png", "C2", ""),
        ("y/3.png", "C1", "benign"),
    ]
    for seed, (name, _, _) in enumerate(rows):
        draw(tmp_path / name, seed=seed)
    path = tmp_path / "images.csv"
    path.write_text("file,case_id,label\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def complaint(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_columns_go_by_other_names(sheet):
    rows = read_pictures(sheet, Pictures(columns=CASES))
    assert [(row.name, row.slide_id, row.patient_id, row.label) for row in rows] == [
        ("x/1.png", "C1", "C1", "benign"),
        ("x/2.png", "C1", "C1", "cancer"),
        ("y/1.png", "C2", "C2", None),
        ("y/3.png", "C1", "C1", "benign"),
    ]
    assert rows[0].image == sheet.parent / "x/1.png"


def test_one_column_may_serve_twice(sheet):
    rows = read_pictures(sheet, Pictures(columns=CASES | {"slide_id": "case_id"}))
    assert {(row.slide_id, row.patient_id) for row in rows} == {("C1", "C1"), ("C2", "C2")}


def test_folder_of_the_pictures_may_be_another(sheet, tmp_path):
    moved = tmp_path / "sheets" / "images.csv"
    moved.parent.mkdir()
    moved.write_text(sheet.read_text())
    assert "there is no" in complaint(read_pictures, moved, Pictures(columns=CASES))
    assert len(read_pictures(moved, Pictures(columns=CASES, folder=str(tmp_path)))) == 4


def test_ids_left_out_follow_the_rule(tmp_path, caplog):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        draw(tmp_path / name)
    path = tmp_path / "images.csv"
    path.write_text("image,slide_id,patient_id\na.png,S1,P1\nb.png,S2,\nc.png,,P3\nd.png,,\n")
    rows = read_pictures(path, Pictures())
    assert [(row.slide_id, row.patient_id) for row in rows] == [
        ("S1", "P1"),
        ("S2", "S2"),
        ("P3", "P3"),
        ("d", "d"),
    ]
    assert "1 of 4 pictures have neither slide_id nor patient_id" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,slide_id\na.png,S/1\n", "row 2, column slide_id: as the id of the slide: found 'S/1'"),
        ("image,patient_id\na.png,S 1\n", "row 2, column patient_id: as the id of the slide: found 'S 1'"),
        (
            "image\n.a.png\n",
            "row 2, column image: as the id of the slide: found '.a'; it becomes a file name",
        ),
        ("image\na b.png\n", "row 2, column image: there is no"),
        ("image\na.png\na.png\n", "row 3, column image: 'a.png' is also in row 2"),
        ('image\n\n,\n""\n', "has a header but no rows"),
        ("image,label\n,x\n", "row 2, column image: is empty"),
        ("image,slide_id,patient_id\na.png,S,P\nb.png,S,Q\n", "a slide belongs to one patient"),
        ("image,slide_id\na.png,s\nb.png,S\n", "differs by case alone from 's' in row 2"),
        (
            "image,slide_id,patient_id\na.png,s,P1\nb.png,t,p1\n",
            "row 3, column patient_id: 'p1' differs by case alone from 'P1' in row 2",
        ),
        ("image,patient_id\na.png,P\nsub/../a.png,Q\n", "'sub/../a.png' is also in row 2"),
        (
            "image,patient_id,split\na.png,P,val\nb.png,P,test\n",
            "patient P is in test here and in val in row 2",
        ),
        ("image,mpp\na.png,0\n", "column mpp: found '0'"),
        ("images,label\na.png,x\n", "column images: looks like image"),
        ("picture,label\na.png,x\n", "pictures.columns: {image: <column>}"),
        (
            "image,slide_id\na.png,\nsub/a.png,\n",
            "row 3, column image: several pictures would be slide 'a', and 'sub/a.png'",
        ),
    ],
)
def test_problems_name_row_column_and_cure(tmp_path, text, expected):
    for name in ("a.png", "b.png", "sub/a.png"):
        draw(tmp_path / name)
    path = tmp_path / "images.csv"
    path.write_text(text)
    assert expected in complaint(read_pictures, path, Pictures())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"image": "fil"},
            "column fil: is missing, pictures.columns wants it as image; found file, case_id, label",
        ),
        ({"picture": "file"}, "pictures.columns: unknown key 'picture'; use image, slide_id"),
    ],
)
def test_wrong_column_names_in_the_config_are_named(sheet, columns, expected):
    assert expected in complaint(read_pictures, sheet, Pictures(columns=columns))


def test_tile_files_hold_the_centre_of_each_picture(sheet, tmp_path):
    out = tmp_path / "tiles"
    options = Pictures(columns=CASES, border_px=1, mpp=1.1)
    write_pictures(sheet, out, ["benign", "cancer"], options, LADDER)
    assert sorted(path.name for path in out.iterdir()) == ["C1.h5", "C2.h5"]
    with TileFile(out / "C1.h5") as file:
        assert json.loads(file.attributes["images"]) == ["x/1.png", "x/2.png", "y/3.png"]
        assert file.column("label").tolist() == [0, 1, 0]
        assert file.column("coords").tolist() == [[0, 0], [1, 0], [2, 0]]
        assert file.column("tissue_fraction").tolist() == [1, 1, 1]
        assert [file.tile_px(m) for m in file.magnifications] == [16, 8, 4]  # 20 - 2 px, a multiple of 4
        found = {name: file.attributes[name] for name in ("mpp_x", "mpp_source", "reader", "field_um")}
        assert found == {"mpp_x": 1.1, "mpp_source": "config", "reader": "picture", "field_um": 16.0}
        assert json.loads(file.attributes["classes"]) == ["benign", "cancer"]
        centre = read_rgb(tmp_path / "x/2.png")[2:18, 4:20]
        assert np.abs(file.read(10, 1).astype(int) - centre).mean() < 4  # JPEG
        for magnification, factor in ((5, 2), (2.5, 4)):
            blocks = centre.reshape(16 // factor, factor, 16 // factor, factor, 3).mean((1, 3))
            difference = np.abs(file.read(magnification, 1) - blocks)
            assert difference.max() <= 0.5, magnification  # rounded once
    with TileFile(out / "C2.h5") as file:
        assert file.column("label").tolist() == [-1]


@pytest.mark.parametrize("other", [{"lowres": "pyramid"}, {"unit": "section"}])
def test_what_only_slides_have_is_refused(sheet, tmp_path, other):
    tiles = LADDER.model_copy(update=other)
    message = complaint(write_pictures, sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES), tiles)
    assert "set tiles: {lowres: derived, unit: tile}" in message


def test_labels_outside_the_classes_are_refused(sheet, tmp_path):
    message = complaint(write_pictures, sheet, tmp_path, ["benign"], Pictures(columns=CASES), LADDER)
    assert "row 3, column label: found 'cancer', expected one of benign; correct it" in message
    assert not list(tmp_path.glob("*.h5"))


def test_pictures_of_another_size_are_named(sheet, tmp_path):
    draw(tmp_path / "y/3.png", width=32)
    (tmp_path / "y/1.png").write_text("no picture")
    message = complaint(
        write_pictures, sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES), LADDER
    )
    assert "y/3.png has 32 x 20 pixels, most have 24 x 20" in message
    assert "y/1.png is not a picture that can be read" in message


def test_pictures_too_small_for_the_ladder_are_refused(sheet, tmp_path):
    deep = Tiles(teacher=10, students=[5, 0.3125])
    message = complaint(write_pictures, sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES), deep)
    assert "24 x 20 pixels less a border of 0 hold no square of 32 pixels, which 0.3125x needs" in message


@pytest.mark.parametrize(
    ("mpp", "ladder"),
    [
        (2.0, "{teacher: 5, students: [2.5, 1.25, 0.625]}"),
        (2.3, "{teacher: 5, students: [2.5, 1.25, 0.625]}"),
        (0.5, "{teacher: 20, students: [5, 2.5, 1.25, 0.625]}"),
        (16.0, "{teacher: 0.625, students: [0.3125, 0.15625, 0.078125, 0.0390625]}"),
    ],
)
def test_wrong_scale_is_refused_with_the_ladder_that_fits(sheet, tmp_path, mpp, ladder):
    message = complaint(
        write_pictures, sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES, mpp=mpp), Tiles()
    )
    assert f"4 of 4 pictures have {mpp:g} mpp, tiles.teacher 10x is 1 mpp" in message
    assert f"set tiles: {ladder}" in message


def test_scale_within_a_quarter_is_taken(sheet, tmp_path):
    write_pictures(sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES, mpp=1.25), LADDER)
    with TileFile(tmp_path / "C2.h5") as file:
        assert file.attributes["mpp_x"] == 1.25


def test_transparency_is_laid_on_white_and_deep_pixels_are_refused(tmp_path):
    clear = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "clear.png").tolist() == [[[200, 0, 0], [255, 255, 255]]]
    Image.fromarray(np.full((2, 2), 1000, np.uint16)).save(tmp_path / "deep.png")
    assert "convert it to 8 bits per channel" in complaint(read_rgb, tmp_path / "deep.png")


def test_truncated_pictures_are_named(sheet, tmp_path):
    path = tmp_path / "x/2.png"
    path.write_bytes(path.read_bytes()[:-200])
    message = complaint(
        write_pictures, sheet, tmp_path, ["benign", "cancer"], Pictures(columns=CASES), LADDER
    )
    assert "2.png cannot be decoded" in message
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.skipif(not (DATA / "osteosarcoma60").is_dir(), reason="shared/data/osteosarcoma60 is not there")
def test_osteosarcoma_comes_down_from_1024_to_64_px(tmp_path):
    manifest = (DATA / "osteosarcoma60/manifest.csv").read_text().splitlines()
    few = [manifest[0], manifest[1], manifest[13], manifest[21]]  # of two cases, and one without
    (tmp_path / "images.csv").write_text("\n".join(few) + "\n")
    options = Pictures(columns=CASES, mpp=1.0, folder=str(DATA / "osteosarcoma60"))
    write_pictures(
        tmp_path / "images.csv", tmp_path, ["non_tumor", "non_viable_tumor", "viable"], options, Tiles()
    )
    assert len(list(tmp_path.glob("*.h5"))) == 2
    with TileFile(tmp_path / "Case-3.h5") as file:
        assert [file.tile_px(m) for m in file.magnifications] == [1024, 512, 256, 128, 64]
        assert file.column("label").tolist() == [0, 1]
        picture = read_rgb(DATA / "osteosarcoma60" / few[1].split(",")[0])
        blocks = picture.reshape(64, 16, 64, 16, 3).mean((1, 3))
        assert np.abs(file.read(0.625, 0) - blocks).max() <= 0.5
        assert np.abs(file.read(10, 0).astype(int) - picture).mean() < 3


@pytest.mark.skipif(not (DATA / "ebhi").is_dir(), reason="shared/data/ebhi is not there")
def test_ebhi_is_read_by_case():
    options = Pictures(columns=CASES, border_px=1)
    rows = read_pictures(DATA / "ebhi/manifest.csv", options)
    assert len(rows) == 2228
    assert len({row.patient_id for row in rows}) == 354
    ladder = Tiles(teacher=5, students=[2.5, 1.25, 0.625])
    assert picture_field_um(rows[0], options, ladder) == 432  # 216 of 224 px less the frame, at 2 mpp
