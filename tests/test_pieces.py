"""Sections: one picture for every piece of tissue, whatever its size."""

import json
import logging

import h5py
import numpy as np
import pytest
import shapely
from lowmag import tiles
from lowmag.errors import UserError
from lowmag.grid import read_outline
from lowmag.outline import geojson
from lowmag.pieces import section_cut
from lowmag.reading import time_slide
from lowmag.record import SlideRecord, load_record
from lowmag.sections import Tiles
from lowmag.store import FLAGS, TileFile
from synthetic_slides import noise, reduced, slide_of, spoil_tile, write_record, write_slide

OPTIONS = Tiles(unit="section", students=[5, 2.5], max_section_px=256)
PIECES = [shapely.Point(90, 60).buffer(40), shapely.box(200, 101, 390, 299), shapely.box(10, 350, 30, 520)]


def cut(folder, picture, pieces=PIECES, options=OPTIONS, **slide):
    path = write_slide(folder / "a.tiff", picture, **slide)
    record = write_record(folder, path, magnification=options.teacher)
    outline = folder / "o.geojson"
    outline.write_text(geojson(pieces, "S1"))
    tiles.write_tiles(record, outline, folder / "t.h5", options)
    return folder / "t.h5"


@pytest.mark.parametrize("lowres", ["derived", "pyramid"])
def test_every_piece_is_one_picture_at_every_magnification(tmp_path, lowres):
    """Each stored picture is the slide's own area mean over the same box."""
    picture = noise(530, 400)
    options = OPTIONS.model_copy(update={"lowres": lowres})
    levels = [reduced(picture, 2)]
    with TileFile(cut(tmp_path, picture, options=options, mpp=0.5, levels=levels)) as file:
        assert (file.unit, file.n) == ("section", 3)
        boxes, sizes = file.boxes().astype(int), file.column("size")
        assert boxes.tolist() == [[48, 16, 136, 104], [200, 96, 392, 304], [8, 344, 32, 520]]
        assert sizes.tolist() == [[44, 44], [96, 104], [12, 88]]
        assert file.column("grid").tolist() == [[0, -1], [1, -1], [2, -1]]
        for index, (x0, y0, x1, y1) in enumerate(boxes):
            field = picture[y0:y1, x0:x1]
            assert file.read(10.0, index).shape == ((y1 - y0) // 2, (x1 - x0) // 2, 3)
            for magnification, factor in ((5.0, 4), (2.5, 8)):
                expected = reduced(field, factor).astype(int)
                assert np.abs(file.read(magnification, index) - expected).max() <= 1
        shares = [PIECES[0].area / 88**2, 190 * 198 / (192 * 208), 20 * 170 / (24 * 176)]
        assert file.column("tissue_fraction") == pytest.approx(
            shares, rel=0.01
        )  # corners are rounded to half pixels
        assert (file.column("flags") & FLAGS["mask_edge"]).all()
        assert not (file.column("flags") & FLAGS["out_of_bounds"]).any()


def test_box_past_the_scan_shows_background_there(tmp_path):
    picture = noise(100, 90)
    whole = [shapely.box(0, 0, 90, 100)]
    with TileFile(cut(tmp_path, picture, whole, mpp=1.0)) as file:
        assert file.boxes().tolist() == [[0, 0, 92, 100]]
        found = file.read(2.5, 0)
        assert file.column("flags")[0] & FLAGS["out_of_bounds"]
        assert not file.column("flags")[0] & FLAGS["transparent"]
    padded = np.full((100, 92, 3), 255, np.uint8)
    padded[:, :90] = picture
    assert np.abs(found.astype(int) - reduced(padded, 4)).max() <= 1


def test_outline_past_the_scan_is_cut_off(tmp_path):
    with TileFile(cut(tmp_path, noise(96, 96), [shapely.box(-50, -50, 40, 200)], mpp=1.0)) as file:
        assert file.boxes().tolist() == [[0, 0, 40, 96]]


def test_scale_that_is_no_whole_number_covers_the_piece(tmp_path):
    record = SlideRecord(
        "S1", "a", width=2000, height=2000, mpp_x=0.31, mpp_y=0.32, bounds=(0, 0, 2000, 2000)
    )
    piece = shapely.box(101, 203, 790, 611)
    with slide_of(write_slide(tmp_path / "a.tiff", noise(64, 64)), record.mpp) as source:
        found = section_cut(source, record, piece, OPTIONS)
    assert found.ratio == pytest.approx((1 / 0.31, 1 / 0.32))
    assert shapely.box(*found.boxes()[0]).covers(piece)
    size = np.array(found.sizes[0])
    assert (size % 4 == 0).all()
    assert (size * found.ratio < np.array([689, 408]) + 4 * np.array(found.ratio) + 1).all()


def test_too_long_sections_are_left_out_with_a_warning_and_counted(tmp_path, caplog):
    options = OPTIONS.model_copy(update={"max_section_px": 100})
    path = write_slide(tmp_path / "a.tiff", noise(530, 400), 0.5)
    record = load_record(write_record(tmp_path, path))
    with slide_of(path, (0.5, 0.5)) as source:
        found = section_cut(
            source, record, shapely.MultiPolygon([*PIECES[:1], PIECES[1], PIECES[2]]), options
        )
    assert len(found.fields) == 2
    assert found.attributes["sections_left_out"] == 1
    assert "1 of 3 sections are longer than 100 pixels (the longest has 104)" in caplog.text
    assert "raise tiles.max_section_px or lower tiles.teacher" in caplog.text


def test_choice_of_too_many_sections_keeps_their_sizes(tmp_path):
    options = OPTIONS.model_copy(update={"max_per_slide": 2})
    with TileFile(cut(tmp_path, noise(530, 400), options=options, mpp=0.5)) as file:
        ranks = file.column("grid")[:, 0].tolist()
        assert len(ranks) == 2
        assert ranks == sorted(ranks)
        expected = [[44, 44], [96, 104], [12, 88]]
        assert file.column("size").tolist() == [expected[rank] for rank in ranks]


def test_slide_without_tissue_is_a_valid_file(tmp_path):
    with TileFile(cut(tmp_path, noise(200, 200), [], mpp=0.5)) as file:
        assert (file.n, file.unit, int(file.attributes["sections_left_out"])) == (0, "section", 0)


def test_other_programs_are_not_told_of_squares(tmp_path):
    with h5py.File(cut(tmp_path, noise(530, 400), mpp=0.5)) as file:
        assert not {"patch_size", "patch_level", "target_magnification"} & set(file["coords"].attrs)
        assert file["coords"].attrs["name"] == "S1"


def test_section_with_too_much_that_cannot_be_read_fails_the_slide(tmp_path, caplog):
    path = write_slide(tmp_path / "a.tiff", noise(530, 400), 0.5)
    record = write_record(tmp_path, path)
    spoil_tile(path, level=0, index=17)
    (tmp_path / "o.geojson").write_text(geojson(PIECES, "S1"))
    with caplog.at_level(logging.ERROR):
        tiles.write_tiles(record, tmp_path / "o.geojson", tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        assert (file.n, file.attributes["verdict"], file.unit) == (0, "unreadable", "section")
        assert "1 of 3 fields cannot be read" in file.attributes["reason"]


def test_reading_of_sections_is_timed(tmp_path):
    path = cut(tmp_path, noise(530, 400), mpp=0.5)
    rows = time_slide(tmp_path / "S1.json", path)
    assert [row[:2] for row in rows] == [("2.5", 3), ("5", 3), ("10", 3)]
    with TileFile(path) as file:
        area = (file.boxes()[:, 2:] - file.boxes()[:, :2]).prod(axis=1).sum() * 0.25 / 1e6
    assert float(rows[0][2]) == pytest.approx(area, rel=1e-4)


def test_coordinates_of_squares_are_refused(tmp_path):
    path = cut(tmp_path, noise(200, 200), mpp=0.5)
    with pytest.raises(UserError, match=r"c\.h5 holds square fields, but tiles\.unit is section"):
        tiles.write_tiles(
            tmp_path / "S1.json", tmp_path / "o.geojson", path, OPTIONS, coords=tmp_path / "c.h5"
        )


def test_pieces_that_touch_are_one(tmp_path):
    """Two features of a file drawn by hand that overlap are one section."""
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(box)), "properties": {}}
        for box in (shapely.box(0, 0, 40, 40), shapely.box(20, 20, 80, 60))
    ]
    (tmp_path / "o.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    record = load_record(write_record(tmp_path, write_slide(tmp_path / "a.tiff", noise(128, 128), 1.0)))
    with slide_of(tmp_path / "a.tiff", (1.0, 1.0)) as source:
        found = section_cut(source, record, read_outline(tmp_path / "o.geojson"), OPTIONS)
    assert found.boxes().tolist() == [[0, 0, 80, 60]]
