"""What a tile file says of itself, held against how TRIDENT and CLAM read it."""

import h5py
import numpy as np
import pytest
from lowmag import tiles
from lowmag.reader import open_slide
from lowmag.record import SlideRecord, load_record
from lowmag.sections import Tiles
from lowmag.store import TileFile
from lowmag.tile_attributes import coords_attributes, root_attributes
from synthetic_slides import noise, reduced, write_record, write_slide, write_whole_outline

OPTIONS = Tiles(field_um=64, students=[5, 2.5, 1.25, 0.625])


@pytest.fixture(scope="module")
def picture():
    return noise(530, 400)


def cut(folder, path, options=OPTIONS):
    record = write_record(folder, path, magnification=options.teacher)
    tiles.write_tiles(record, write_whole_outline(folder, record), folder / "t.h5", options)
    return folder / "t.h5"


@pytest.mark.parametrize(
    ("mpp", "error"), [(0.97, 1e-3), (0.253, 0.02), (0.499, 0.02), (1.013, 0.02), (0.31, 1e-3)]
)
def test_field_of_view_is_physical(tmp_path, mpp, error):
    """Near a whole ratio the field may be 2 % off; else it is exact to a tenth per cent."""
    record = load_record(write_record(tmp_path, write_slide(tmp_path / "a.tiff", noise(300, 300), mpp)))
    with open_slide(record) as slide:
        extent = slide.extent(512, 1.0, 0.02)
    attributes = coords_attributes(record, extent, Tiles())
    field_um = attributes["patch_size_level0"] * record.mpp[0]
    assert abs(field_um / 512 - 1) <= error
    assert extent[0] == pytest.approx(attributes["patch_size_level0"], abs=0.5)


def tridents_boxes(path):
    """Level-0 x, y, edge of every patch, by the attributes of `coords` that TRIDENT goes by."""
    with h5py.File(path) as file:
        attributes = file["coords"].attrs
        ratio = attributes["level0_magnification"] / attributes["target_magnification"]
        others = {"patch_size_level0", "overlap", "name", "savetodir", "level0_width", "level0_height"}
        assert others <= set(attributes)
        return [(x, y, round(attributes["patch_size"] * ratio)) for x, y in file["coords"][()].tolist()]


@pytest.mark.parametrize("mpp", [0.5, 0.253, 0.97, 0.31])
def test_trident_reads_our_fields(tmp_path, mpp):
    path = write_slide(tmp_path / "a.tiff", noise(600, 500), mpp)
    out = cut(tmp_path, path)
    with TileFile(out) as file:
        coords, field_um = file.column("coords").tolist(), file.attributes["field_um_x"]
        own = file.attributes["mpp_x"]
        assert file.n > 0
    boxes = tridents_boxes(out)
    assert [list(box[:2]) for box in boxes] == coords
    assert boxes[0][2] == round(field_um / own)


def test_trident_is_told_of_overlap(tmp_path):
    """Its step is patch_size - overlap pixels at the target magnification."""
    path = write_slide(tmp_path / "a.tiff", noise(600, 500), 0.5)
    out = cut(tmp_path, path, OPTIONS.model_copy(update={"overlap": 0.25}))
    with h5py.File(out) as file:
        attributes, coords = dict(file["coords"].attrs), file["coords"][()]
    ratio = attributes["level0_magnification"] / attributes["target_magnification"]
    step = (attributes["patch_size"] - attributes["overlap"]) * ratio
    assert step == 96
    assert np.unique(coords[:, 0]).tolist() == [0, 96, 192, 288]
    assert np.unique(coords[:, 1]).tolist() == [0, 96, 192, 288, 384]


def clams_boxes(path, levels):
    """Level-0 x, y, edge of every patch as CLAM reads it: patch_size pixels of patch_level."""
    with h5py.File(path) as file:
        attributes = file["coords"].attrs
        edge = attributes["patch_size"] * levels[attributes["patch_level"]]
        return [(x, y, edge) for x, y in file["coords"][()].tolist()]


@pytest.mark.parametrize(("mpp", "factors"), [(0.25, (2, 4)), (1.0, (2,))])
def test_clam_reads_our_fields_where_a_level_fits(tmp_path, mpp, factors):
    picture = noise(512, 512)
    path = write_slide(tmp_path / "a.tiff", picture, mpp, [reduced(picture, f) for f in factors])
    out = cut(tmp_path, path)
    with TileFile(out) as file:
        expected = [(x0, y0, x1 - x0) for x0, y0, x1, _ in file.boxes().tolist()]
    assert clams_boxes(out, [1, *factors]) == expected


@pytest.mark.parametrize(("mpp", "factors", "level"), [(0.25, (2, 4), 2), (0.5, (4,), None), (1.0, (2,), 0)])
def test_clam_is_told_only_of_a_level_that_fits(tmp_path, mpp, factors, level):
    picture = noise(512, 512)
    path = write_slide(tmp_path / "a.tiff", picture, mpp, [reduced(picture, f) for f in factors])
    with h5py.File(cut(tmp_path, path)) as file:
        attributes = dict(file["coords"].attrs)
    assert attributes.get("patch_level") == level
    if level is not None:
        field_px = attributes["patch_size"] * attributes["downsample"][0]
        assert field_px == attributes["patch_size_level0"]


def test_file_says_where_it_comes_from(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture)
    with TileFile(cut(tmp_path, path)) as file:
        found = file.attributes
    assert found["reader"] == "segments"
    assert found["lowres_source"] == "derived"
    assert found["mpp_source"] == "openslide.mpp"
    assert found["source_size"] == path.stat().st_size
    assert Tiles.model_validate_json(found["options"]) == OPTIONS
    assert len(found["config_sha256"]) == 64
    assert (found["slide_id"], found["verdict"], found["objective_power"]) == ("S1", "ok", "None")


@pytest.mark.parametrize(
    ("icc", "option", "expected"),
    [
        ("absent", "keep", ("absent", "None")),
        ("absent", "srgb", ("absent", "None")),
        ("0123456789abcdef", "keep", ("kept", "0123456789abcdef")),
        ("0123456789abcdef", "srgb", ("srgb", "0123456789abcdef")),
    ],
)
def test_file_says_what_was_done_with_colours(icc, option, expected):
    found = root_attributes(SlideRecord("S1", "a.svs", icc=icc), Tiles(icc=option))
    assert (found["icc"], str(found["icc_profile"])) == expected
