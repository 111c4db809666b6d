import json
import logging
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import openslide
import pytest
import shapely
from lowmag import tiles, tissue
from lowmag.errors import UserError
from lowmag.field_reader import GREY, FieldReader
from lowmag.grid import Field
from lowmag.outline import geojson
from lowmag.sections import Tiles, Tissue
from lowmag.store import FLAGS, NO_LABEL, Layout, TileFile, decode
from synthetic_slides import (
    REAL_SLIDES,
    noise,
    reduced,
    slide_of,
    spoil_tile,
    write_record,
    write_slide,
    write_whole_outline,
)

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
OPTIONS = Tiles(field_um=64, students=[5, 2.5, 1.25, 0.625])
MAGNIFICATIONS = OPTIONS.magnifications


@pytest.fixture(scope="module")
def picture():
    return noise(530, 400)


@pytest.fixture(scope="module")
def smooth():
    """A picture JPEG keeps well."""
    return np.asarray(noise(34, 25).repeat(16, 0).repeat(16, 1)[:530, :400])


def cut(folder, path, options=OPTIONS, mpp=None, out="t.h5"):
    record = write_record(folder, path, mpp=mpp, magnification=options.teacher)
    tiles.write_tiles(record, write_whole_outline(folder, record), folder / out, options)
    return folder / out


@pytest.mark.parametrize("magnifications", [MAGNIFICATIONS, [10.0, 5.0, 10 / 3, 10 / 6], [4.0, 1.0]])
def test_pictures_are_rounded_means_of_the_highest(tmp_path, magnifications):
    high = noise(96, 96, seed=3)
    layout = Layout(magnifications, {magnifications[0]: 96})
    with slide_of(write_slide(tmp_path / "a.tiff", high), (0.5, 0.5)) as source:
        reader = FieldReader(source, layout, (1.0, 1.0), "derived")
        found = reader.read(Field(0, 0, 0, 0, 1.0), (96, 96)).pictures
    assert list(found) == magnifications
    for magnification in magnifications:
        factor = round(magnifications[0] / magnification)
        blocks = high.reshape(96 // factor, factor, 96 // factor, factor, 3).astype(float)
        expected = np.floor(blocks.mean(axis=(1, 3)) + 0.5)
        np.testing.assert_array_equal(found[magnification], expected)
        assert found[magnification].dtype == np.uint8


def test_every_magnification_shows_the_same_field(tmp_path, picture):
    """Registration: each stored picture is the slide's own area mean, read by an independent way."""
    path = write_slide(tmp_path / "a.tiff", picture, 0.5, [reduced(picture, 2)])
    with TileFile(cut(tmp_path, path)) as file, openslide.OpenSlide(path) as slide:
        coords = file.column("coords")
        assert coords.tolist() == [[128 * c, 128 * r] for r in range(4) for c in range(3)]
        for index, (x, y) in enumerate(coords.tolist()):
            level0 = np.asarray(slide.read_region((x, y), 0, (128, 128)))[..., :3].astype(float)
            for magnification in MAGNIFICATIONS[1:]:
                edge = file.tile_px(magnification)
                expected = level0.reshape(edge, 128 // edge, edge, 128 // edge, 3).mean(axis=(1, 3))
                assert np.abs(file.read(magnification, index) - expected).max() <= 1


def test_encoded_pictures_are_close_to_the_slide(tmp_path, smooth):
    path = write_slide(tmp_path / "a.tiff", smooth, 1.0)
    with TileFile(cut(tmp_path, path)) as file:
        x, y = file.column("coords")[5]
        error = np.abs(file.read(10.0, 5).astype(int) - smooth[y : y + 64, x : x + 64])
        assert error.mean() < 6
        assert file.tile_px(10.0) == 64
        decode(file.jpegs(10.0)[5])


def test_odd_pyramid_keeps_the_field(tmp_path):
    """A level that is not a whole fraction of level 0 (ratio 4.0098) is not read: no shift, no blur."""
    picture = noise(821, 817)
    path = write_slide(tmp_path / "odd.tiff", picture, 0.25, [reduced(picture, 4)])
    with TileFile(cut(tmp_path, path)) as file:
        assert file.n == 9
        for index, (x, y) in enumerate(file.column("coords").tolist()):
            expected = reduced(picture[y : y + 256, x : x + 256], 32)
            assert np.abs(file.read(1.25, index).astype(int) - expected).max() <= 1


def test_file_is_the_same_twice(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture)
    assert cut(tmp_path, path).read_bytes() == cut(tmp_path, path, out="again.h5").read_bytes()


def test_choice_of_too_many_fields_is_fixed_nested_and_in_order(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture)
    chosen = []
    for most in (4, 8, 100):
        with TileFile(cut(tmp_path, path, OPTIONS.model_copy(update={"max_per_slide": most}))) as file:
            chosen.append([tuple(place) for place in file.column("grid").tolist()])
    assert [len(places) for places in chosen] == [4, 8, 12]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2])
    assert all(places == sorted(places) for places in chosen)


def test_lower_magnifications_come_from_the_pyramid_where_asked(tmp_path):
    """The slide's own level is made of other pixels here: it shows in the lower magnifications only."""
    picture = noise(400, 400)
    path = write_slide(tmp_path / "a.tiff", picture, 1.0, [255 - reduced(picture, 4)])
    options = OPTIONS.model_copy(update={"lowres": "pyramid"})
    with TileFile(cut(tmp_path, path, options)) as file:
        assert file.attributes["lowres_source"] == "pyramid"
        x, y = file.column("coords")[7].tolist()
        field = picture[y : y + 64, x : x + 64]
        assert np.abs(file.read(5.0, 7).astype(int) - reduced(field, 2)).max() <= 1
        assert np.abs(file.read(2.5, 7).astype(int) - (255 - reduced(field, 4).astype(int))).max() <= 1


class Halves:
    """Labels by where a field lies: 0 on the left, 1 on the right, none in the middle."""

    classes = ("a", "b")

    def labels(self, boxes):
        middle = boxes[:, [0, 2]].mean(axis=1)
        return np.where(middle < 100, 0, np.where(middle > 300, 1, NO_LABEL)).astype(np.int16)


def test_labels_are_asked_for_every_field(tmp_path, picture):
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", picture))
    outline = write_whole_outline(tmp_path, record)
    tiles.write_tiles(record, outline, tmp_path / "t.h5", OPTIONS, labels=Halves())
    with TileFile(tmp_path / "t.h5") as file:
        assert file.column("label").tolist() == [0, NO_LABEL, 1] * 4


def write_coords(path, xy, edge, slide_magnification):
    """A coordinate file as TRIDENT writes it, for tiles of `edge` px at 10x."""
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=np.array(xy, np.int64))
        coords.attrs.update(
            patch_size=edge, level0_magnification=slide_magnification, target_magnification=10
        )
    return path


def test_fields_of_another_program_are_taken_as_they_are(tmp_path, picture):
    """Two of them reach out of the slide; two have no tissue; their order stays."""
    path = write_slide(tmp_path / "a.tiff", picture)
    record = write_record(tmp_path, path)
    xy = [(200, 100), (0, 0), (-20, 0), (300, 410), (13, 7)]
    coords = write_coords(tmp_path / "c.h5", xy, 64, 20)
    outline = tmp_path / "o.geojson"
    outline.write_text(geojson([shapely.box(0, 0, 190, 530)], "S1"))
    tiles.write_tiles(record, outline, tmp_path / "t.h5", OPTIONS, coords=coords)
    with TileFile(tmp_path / "t.h5") as file:
        assert [tuple(place) for place in file.column("coords").tolist()] == xy
        assert file.attributes["tiling"] == "trident"
        out = file.column("flags") & FLAGS["out_of_bounds"] > 0
        assert out.tolist() == [False, False, True, True, False]
        shares = file.column("tissue_fraction").tolist()
        assert shares == pytest.approx([0, 1, 108 / 128, 0, 1])
        # Rounded at 10x first, hence a grey level.
        assert np.abs(file.read(0.625, 4).astype(int) - reduced(picture[7:135, 13:141], 32)).max() <= 1
        white = reduced(np.pad(picture[:128, :108], ((0, 0), (20, 0), (0, 0)), constant_values=255), 32)
        assert np.abs(file.read(0.625, 2).astype(int) - white).max() <= 1


def test_fields_of_another_size_are_refused(tmp_path, picture):
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", picture))
    outline = write_whole_outline(tmp_path, record)
    coords = write_coords(tmp_path / "c.h5", [(0, 0)], 96, 20)
    with pytest.raises(UserError, match=r"192 level-0 pixels, 96 micrometres .*set tiles\.field_um: 96"):
        tiles.write_tiles(record, outline, tmp_path / "t.h5", OPTIONS, coords=coords)


def test_rejected_slide_and_slide_without_tissue_are_valid_empty_files(tmp_path):
    rejected = write_record(tmp_path, tmp_path / "absent.tiff", "absent")
    outline = tmp_path / "empty.geojson"
    outline.write_text(tissue.geojson([], "absent"))
    blank = write_record(
        tmp_path, write_slide(tmp_path / "b.tiff", np.full((400, 400, 3), 250, np.uint8)), "blank"
    )
    for record in (rejected, blank):
        tiles.write_tiles(record, outline, tmp_path / "t.h5", OPTIONS)
        with TileFile(tmp_path / "t.h5") as file:
            assert file.n == 0
            assert file.magnifications == MAGNIFICATIONS
            assert file.column("coords").shape == (0, 2)
            assert all(
                file.read_all(m).shape == (0, file.tile_px(m), file.tile_px(m), 3) for m in MAGNIFICATIONS
            )


def test_slide_smaller_than_a_field_is_said_to_be(tmp_path, caplog):
    with TileFile(cut(tmp_path, write_slide(tmp_path / "a.tiff", noise(100, 400)))) as file:
        assert file.n == 0
    assert "smaller than one field of 64" in caplog.text


def test_outline_of_another_slide_is_refused(tmp_path):
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", noise(100, 400)))
    outline = tmp_path / "o.geojson"
    outline.write_text(geojson([shapely.box(400, 0, 500, 90)], "S2"))
    with pytest.raises(
        UserError, match="tissue at x 400 to 500, y 0 to 90, but slide S1 is 400 x 100 pixels"
    ):
        tiles.write_tiles(record, outline, tmp_path / "t.h5", OPTIONS)
    assert not (tmp_path / "t.h5").exists()


def test_unreadable_field_is_kept_and_flagged(tmp_path, caplog):
    """One of 121 fields lies on a spoilt tile: its row stays, grey; the others are untouched."""
    picture = noise(704, 704)
    path = write_slide(tmp_path / "a.tiff", picture, 1.0)
    record = write_record(tmp_path, path)
    spoil_tile(path, level=0, index=13)
    tiles.write_tiles(record, write_whole_outline(tmp_path, record), tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        flags = file.column("flags")
        assert np.flatnonzero(flags & FLAGS["read_error"]).tolist() == [13]
        assert flags[13] == FLAGS["read_error"]
        assert np.isnan(file.column("qc")).any(axis=1).nonzero()[0].tolist() == [13]
        assert np.unique(file.read(0.625, 13)).tolist() == [GREY]
        x, y = file.column("coords")[14]
        expected = reduced(picture[y : y + 64, x : x + 64], 16)
        np.testing.assert_array_equal(file.read(0.625, 14), expected)
    assert "field at 128, 64 cannot be read" in caplog.text


def test_too_many_unreadable_fields_make_a_file_of_no_tiles_that_says_why(tmp_path, caplog):
    """One bad slide never stops a cohort."""
    path = write_slide(tmp_path / "a.tiff", noise(704, 704), 1.0)
    record = write_record(tmp_path, path)
    for index in (13, 15):
        spoil_tile(path, level=0, index=index)
    tiles.write_tiles(record, write_whole_outline(tmp_path, record), tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        found = file.attributes
        assert (file.n, found["verdict"]) == (0, "unreadable")
        assert file.magnifications == MAGNIFICATIONS
    assert found["reason"] == "2 of 121 fields cannot be read, 1.7% of their area; at most 1% is tolerated"
    assert "copy the file again" in found["cure"]
    (error,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert "slide S1: 2 of 121 fields cannot be read" in error.getMessage()
    assert [file.name for file in tmp_path.glob("*.h5")] == ["t.h5"]


def test_slide_slightly_too_coarse_along_one_axis_is_cut_and_not_enlarged(tmp_path):
    """1.01 micrometres across count as 1, 0.95 down are resampled."""
    picture = noise(300, 260)
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", picture, 1.0))
    content = json.loads(record.read_text()) | {"mpp_x": 1.01, "mpp_y": 0.95}
    record.write_text(json.dumps(content))
    tiles.write_tiles(record, write_whole_outline(tmp_path, record), tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        assert file.n == 4 * 4
        assert file.attributes["field_um_x"] == pytest.approx(64 * 1.01)
        assert file.attributes["field_um_y"] == pytest.approx(64)


WRITER = """
import sys, time
from pathlib import Path
from lowmag import tiles
from lowmag.sections import Tiles
append = tiles.TileWriter.append
def slow(self, tile):
    append(self, tile)
    if self.n == 5:
        self.file.flush()
        print("half way", flush=True)
        time.sleep(60)
tiles.TileWriter.append = slow
tiles.write_tiles(*map(Path, sys.argv[1:4]), Tiles.model_validate_json(sys.argv[4]))
"""


def test_killed_writer_leaves_no_file_and_a_rerun_completes(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture)
    record = write_record(tmp_path, path)
    outline, out = write_whole_outline(tmp_path, record), tmp_path / "tiles" / "t.h5"
    command = [sys.executable, "-c", WRITER, str(record), str(outline), str(out), OPTIONS.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "half way\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert not out.exists()
    (left,) = out.parent.iterdir()
    with pytest.raises(UserError, match=r"not complete|cannot be opened"):
        TileFile(left)
    tiles.write_tiles(record, outline, out, OPTIONS)
    with TileFile(out) as file:
        assert file.n == 12


@real
def test_jpeg2000_slide_is_cut_once_its_scale_is_given(tmp_path, caplog):
    path = REAL_SLIDES / "TCGA-CR-7395-01A-01-TS1.svs"
    record = write_record(tmp_path, path, mpp=0.5)
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    with caplog.at_level(logging.INFO):
        tiles.write_tiles(record, tmp_path / "o.geojson", tmp_path / "t.h5", Tiles())
    with TileFile(tmp_path / "t.h5") as file, openslide.OpenSlide(path) as slide:
        assert file.n == 7
        assert file.column("tissue_fraction").min() >= 0.5
        x, y = file.column("coords")[3].tolist()
        level0 = np.asarray(slide.read_region((x, y), 0, (1024, 1024)))[..., :3].astype(float)
        expected = level0.reshape(64, 16, 64, 16, 3).mean(axis=(1, 3))
        assert np.abs(file.read(1.25, 3) - expected).max() <= 1
    assert "7 tiles at 5 magnifications" in caplog.text


def test_slide_jobs_import_nothing_heavy():
    """A job per slide must start well under a second: torch, scipy and the like cost seconds."""
    heavy = {"torch", "pandas", "scipy", "skimage", "sklearn", "matplotlib", "tifffile", "pyvips"}
    code = "import sys; from lowmag import cli, config, check, tissue, tiles, reading; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "lowmag.tiles" in loaded.split()
    assert not heavy & set(loaded.split())
