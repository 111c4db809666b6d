"""Coordinate files of other programs, written here as those programs write them."""

import json

import h5py
import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.exchange import read_coords
from lowmag.record import Level

XY = np.array([[0, 0], [1024, 0], [512, 2048]])
LEVELS = (Level(8000, 6000, 1.0), Level(2000, 1500, 4.0), Level(499, 374, 16.03))


def write(folder, coords, attributes=None, of_file=None, name="s_patches.h5"):
    path = folder / name
    with h5py.File(path, "w") as file:
        found = file.create_dataset("coords", data=coords)
        found.attrs.update(attributes or {})
        file.attrs.update(of_file or {})
    return path


def trident(size=512, own=20, target=10, **others):
    """As its writer: dictionaries as JSON text, None as the text None."""
    return {
        "patch_size": size,
        "patch_size_level0": size * own // target,
        "level0_magnification": own,
        "target_magnification": target,
        "overlap": 0,
        "name": "s",
        "savetodir": "out/patches",
        "level0_width": 8000,
        "level0_height": 6000,
        "tissue": json.dumps({"a": 1}),
        "threshold": "None",
        **others,
    }


def clam(size=256, level=1, ratio=(4.0, 4.0), **others):
    return {
        "patch_size": size,
        "patch_level": level,
        "downsample": ratio,
        "downsampled_level_dim": (2000, 1500),
        "level_dim": (2000, 1500),
        "name": "s",
        "save_path": "out",
        **others,
    }


def complaint(path, levels=()):
    with pytest.raises(UserError) as caught:
        read_coords(path, levels)
    assert str(caught.value).startswith(f"coordinates {path}: the file ")
    return str(caught.value)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64])
def test_tridents_file_is_read(tmp_path, dtype):
    found = read_coords(write(tmp_path, XY.astype(dtype), trident()))
    assert found.xy.tolist() == XY.tolist()
    assert found.xy.dtype == np.int64
    assert (found.field_px, found.source) == (1024, "trident")


@pytest.mark.parametrize(
    ("size", "own", "target", "field"),
    [
        (256, 40, 20, 512),
        (512, 20, 20, 512),
        (224, 40, 10, 896),
        (256, 19.84375, 10, 508),
        (512, 80, 1.25, 32768),
    ],
)
def test_tridents_field_is_what_its_patcher_reads(tmp_path, size, own, target, field):
    assert read_coords(write(tmp_path, XY, trident(size, own, target))).field_px == field


@pytest.mark.parametrize(
    ("attributes", "levels", "field"),
    [
        (clam(), (), 1024),
        (clam(ratio=(3.9999, 4.0002)), (), 1024),  # int() of it would be a quarter too small
        (clam(level=0, ratio=(1.0, 1.0)), (), 256),
        ({"patch_size": 256, "patch_level": 0}, (), 256),
        ({"patch_size": 256, "patch_level": 1}, LEVELS, 1024),
        (clam(level=2, ratio=(16.03, 16.04)), (), 256 * 16),
        (clam(level=1, ratio=(2.5263, 2.5263)), (), 256 * 2.5263),
        (clam(256, 0, (1.0, 1.0), custom_downsample=2), (), 512),
    ],
)
def test_clams_field_is_in_pixels_of_its_level(tmp_path, attributes, levels, field):
    found = read_coords(write(tmp_path, XY.astype(np.int32), attributes), levels)
    assert found.field_px == pytest.approx(field)
    assert found.source == "clam"


def test_atlaspatchs_file_is_read(tmp_path):
    coords = np.column_stack([XY, np.full((3, 3), [512, 512, 1])]).astype(np.int32)
    found = read_coords(write(tmp_path, coords, of_file=trident()))
    assert (found.xy.tolist(), found.field_px, found.source) == (XY.tolist(), 1024, "atlaspatch")


@pytest.mark.parametrize(("shape", "attributes"), [((0, 2), trident()), ((0, 2), clam())])
def test_a_slide_without_tiles_is_read(tmp_path, shape, attributes):
    found = read_coords(write(tmp_path, np.zeros(shape, np.int64), attributes))
    assert found.xy.shape == (0, 2)
    assert found.field_px == 1024


@pytest.mark.parametrize(
    ("coords", "attributes", "expected"),
    [
        (XY, {}, "does not say how large its fields are: coords has the attributes none"),
        (XY, {"patch_size": 256}, "coords has the attributes patch_size"),
        (XY, trident(level0_magnification="None"), "does not say how large its fields are"),
        (XY, trident(target_magnification=0), "has attributes that are no sizes"),
        (XY, trident(patch_size="large"), "has attributes that are no sizes"),
        (XY, trident(patch_size=0), "has fields of 0 level-0 pixels"),
        (
            XY,
            {"patch_size": 256, "patch_level": 3},
            "counts pixels of level 3, which the slide does not have",
        ),
        (XY[:, :1], trident(), "has coords of shape (3, 1)"),
        (XY[0], trident(), "has coords of shape (2,)"),
        (np.array([[b"a", b"b"]]), trident(), "has coords of shape (1, 2) and type |S1"),
        (XY + 0.25, trident(), "has coords that are no whole level-0 pixels"),
        (np.full((1, 2), np.nan), trident(), "has coords that are no whole level-0 pixels"),
        (np.full((1, 2), 1 << 40), trident(), "has coords that are no whole level-0 pixels"),
        (np.full((1, 2), -1 << 63), trident(), "has coords that are no whole level-0 pixels"),
    ],
)
def test_what_is_no_coordinate_file_is_refused(tmp_path, coords, attributes, expected):
    assert expected in complaint(write(tmp_path, coords, attributes), LEVELS)


def test_other_files_are_refused(tmp_path):
    assert "the file does not exist; expected" in complaint(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("x,y\n1,2\n")
    assert "cannot be opened as HDF5" in complaint(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros((2, 3))
        file.create_group("coordinates")
    assert "has no dataset coords, but coordinates, features" in complaint(tmp_path / "other.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("coords")
    assert "has no dataset coords, but coords" in complaint(tmp_path / "group.h5")


def test_a_table_of_absurd_length_is_not_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("coords", (1 << 40, 2), np.int64, chunks=(1024, 2)).attrs.update(trident())
    assert "claims 17592186044416 bytes" in complaint(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("coords", "attributes", "message"),
    [
        (
            XY,
            trident(level0_width=100_000),
            "is of another slide, of 100000 x 6000 pixels; this one has 8000 x 6000",
        ),
        (
            [[0, 0], [8000, 0]],
            trident(),
            "another slide: 1 of 2 fields lie beyond its pixels; this one has 8000 x 6000",
        ),
        ([[0, -1024]], clam(), "1 of 1 fields lie beyond"),
    ],
)
def test_file_of_another_slide_is_refused(tmp_path, coords, attributes, message):
    assert message in complaint(write(tmp_path, coords, attributes), LEVELS)


def test_fields_may_reach_out_of_the_slide_and_sizes_may_be_trimmed(tmp_path):
    edge = [[-1023, 0], [7999, 5999]]
    found = read_coords(write(tmp_path, edge, trident(level0_width=8040, level0_height="None")), LEVELS)
    assert found.xy.tolist() == edge
    assert len(read_coords(write(tmp_path, edge, trident(level0_width=8040)), LEVELS).xy) == 2
