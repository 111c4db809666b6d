import h5py
import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.store import Layout, TileFile, TileRow, decode, writing
from synthetic_slides import noise

LAYOUT = Layout([10.0, 2.5], {10.0: 64, 2.5: 16}, jpeg_quality=95)


def tile(seed, **values):
    flat = noise(4, 4, seed).repeat(16, 0).repeat(16, 1)
    place = {"x": 64 * seed, "y": 128, "row": 2, "column": seed, "tissue_fraction": 0.5 + seed / 100}
    return TileRow(**place | values, pictures={10.0: flat, 2.5: noise(16, 16, seed)})


def write(path, n=3, **values):
    with writing(
        path, LAYOUT, {"slide_id": "S1", "vendor": None}, coords_attributes={"patch_size": 64}
    ) as writer:
        for seed in range(n):
            writer.append(tile(seed, **values))
    return path


def test_tiles_come_back_as_they_were(tmp_path):
    with TileFile(write(tmp_path / "t.h5", flags=1, label=2)) as file:
        assert (file.n, file.slide_id, file.magnifications) == (3, "S1", [10.0, 2.5])
        np.testing.assert_array_equal(file.read_all(2.5), [noise(16, 16, seed) for seed in range(3)])
        np.testing.assert_array_equal(file.read(2.5, 1), noise(16, 16, 1))
        for seed in range(3):
            assert np.abs(file.read(10.0, seed).astype(int) - tile(seed).pictures[10.0]).mean() < 2
        assert file.column("coords").tolist() == [[0, 128], [64, 128], [128, 128]]
        assert file.column("grid").tolist() == [[2, 0], [2, 1], [2, 2]]
        assert file.column("tissue_fraction").tolist() == pytest.approx([0.5, 0.51, 0.52])
        assert file.column("flags").tolist() == [1, 1, 1]
        assert file.column("label").tolist() == [2, 2, 2]
        assert file.attributes["vendor"] == "None"


def test_only_the_highest_magnification_is_jpeg_and_both_ways_to_read_it_agree(tmp_path):
    with TileFile(write(tmp_path / "t.h5")) as file:
        assert file.is_jpeg(10.0)
        assert not file.is_jpeg(2.5)
        stacked = file.read_all(10.0)
        for seed, blob in enumerate(file.jpegs(10.0)):
            np.testing.assert_array_equal(decode(blob), file.read(10.0, seed))
            np.testing.assert_array_equal(stacked[seed], file.read(10.0, seed))


def test_types_are_those_of_the_format(tmp_path):
    with h5py.File(write(tmp_path / "t.h5")) as file:
        found = {name: file[name].dtype for name in ("coords", "grid", "tissue_fraction", "flags", "label")}
        assert found == {
            "coords": np.int64, "grid": np.int32, "tissue_fraction": np.float32,
            "flags": np.uint16, "label": np.int16,
        }  # fmt: skip
        assert file["mag/2.5x/imgs"].chunks == (1, 16, 16, 3)
        assert dict(file["coords"].attrs) == {"patch_size": 64}
        assert dict(file["mag/10x"].attrs) == {"magnification": 10.0, "mpp": 1.0, "tile_px": 64}


def test_file_without_tiles_is_valid(tmp_path):
    with TileFile(write(tmp_path / "t.h5", n=0)) as file:
        assert file.n == 0
        assert file.read_all(10.0).shape == (0, 64, 64, 3)
        assert file.read_all(2.5).shape == (0, 16, 16, 3)
        assert file.column("coords").shape == (0, 2)


def test_error_while_writing_leaves_no_file(tmp_path):
    def fail():
        with writing(tmp_path / "t.h5", LAYOUT, {"slide_id": "S1"}) as writer:
            writer.append(tile(0))
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("complete", False, "is not complete .* delete it and rerun"),
        ("schema", "other", "schema 'other', expected 'lowmag-tiles'"),
        ("schema_version", 99, "schema version 99.* up to 1"),
        ("n_tiles", 7, "says 7 tiles but holds another number"),
    ],
)
def test_file_that_cannot_be_trusted_is_refused(tmp_path, attribute, value, message):
    with h5py.File(write(tmp_path / "t.h5"), "a") as file:
        file.attrs[attribute] = value
    with pytest.raises(UserError, match=message):
        TileFile(tmp_path / "t.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5", None])
def test_file_that_is_no_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "t.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.h5 cannot be opened as HDF5"):
        TileFile(path)


def test_cut_file_is_refused(tmp_path):
    path = write(tmp_path / "t.h5")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError):
        TileFile(path)


def test_absent_magnification_names_those_there_are(tmp_path):
    with (
        TileFile(write(tmp_path / "t.h5")) as file,
        pytest.raises(UserError, match=r"no 5x tiles, only 10x, 2\.5x"),
    ):
        file.read(5.0, 0)


def test_damaged_jpeg_raises_instead_of_showing_garbage(tmp_path):
    with TileFile(write(tmp_path / "t.h5")) as file:
        blob = file.jpegs(10.0)[0]
    with pytest.raises(ValueError):
        decode(blob[: len(blob) // 2])
