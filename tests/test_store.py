import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
from lowmag import stacks
from lowmag.errors import UserError
from lowmag.store import FLAGS, QC_COLUMNS, Layout, TileFile, TileRow, decode, writing
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
        found = {name: file[name].dtype for name in file if name != "mag"}
        assert found == {
            "coords": np.int64, "grid": np.int32, "tissue_fraction": np.float32,
            "flags": np.uint16, "label": np.int16, "size": np.int32, "qc": np.float32,
        }  # fmt: skip
        assert file["qc"].attrs["columns"].tolist() == list(QC_COLUMNS)
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
        ("schema_version", 99, "schema version 99.* up to 2"),
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
    message = (
        r"there is no tile file .*t\.h5" if content is None else r"t\.h5: the file cannot be opened as HDF5"
    )
    with pytest.raises(UserError, match=message):
        TileFile(path)


def test_damaged_tile_is_named(tmp_path):
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "a") as file:
        first, last = file["mag/10x/offsets"][1:3]
        file["mag/10x/jpeg"][first:last] = 0
    with TileFile(path) as file:
        file.read(10.0, 0)
        with pytest.raises(UserError, match=r"tile S1\[1\] cannot be decoded at 10x .* delete .*t\.h5 and"):
            file.read(10.0, 1)


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


def test_flags_are_bits_of_their_own():
    assert sorted(FLAGS.values()) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("n", [1, stacks.GROWTH, stacks.GROWTH + 1])
def test_arrays_end_with_their_last_tile(tmp_path, n):
    """Arrays grow by many tiles at once."""
    with TileFile(write(tmp_path / "t.h5", n)) as file:
        assert file.read_all(2.5).shape == (n, 16, 16, 3)
        np.testing.assert_array_equal(file.read(2.5, n - 1), noise(16, 16, n - 1))


def test_jpegs_written_in_parts_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "BUFFER_BYTES", 5000)
    with TileFile(write(tmp_path / "t.h5", 9)) as file:
        blobs = file.jpegs(10.0)
    assert len(blobs) == 9
    for seed, blob in enumerate(blobs):
        assert np.abs(decode(blob).astype(int) - tile(seed).pictures[10.0]).mean() < 2


def test_what_was_measured_comes_back_and_what_was_not_is_not_a_number(tmp_path):
    with writing(tmp_path / "t.h5", LAYOUT, {"slide_id": "S1"}) as writer:
        writer.append(tile(0, quality=(0.5, 0, 0.25, 200, 150, 180)))
        writer.append(tile(1))
    with TileFile(tmp_path / "t.h5") as file:
        quality = file.column("qc")
    assert quality[0].tolist() == [0.5, 0, 0.25, 200, 150, 180]
    assert np.isnan(quality[1]).all()


def test_boxes_are_in_level_0_pixels(tmp_path):
    with writing(tmp_path / "t.h5", LAYOUT, {"slide_id": "S1", "ratio": (2.0, 2.5)}) as writer:
        writer.append(tile(1))
    with TileFile(tmp_path / "t.h5") as file:
        assert file.boxes().tolist() == [[64, 128, 64 + 128, 128 + 160]]
        assert file.column("size").tolist() == [[64, 64]]


SECTIONS = Layout([10.0, 5.0, 2.5], {}, jpeg_quality=95, unit="section")


def section(seed, width, height):
    flat = noise(height // 4, width // 4, seed).repeat(4, 0).repeat(4, 1)
    return TileRow(8 * seed, 0, seed, -1, 0.5, {10.0: flat, 5.0: flat[::2, ::2], 2.5: flat[::4, ::4]})


def test_sections_of_any_size_come_back_as_they_were(tmp_path):
    sizes = [(64, 32), (16, 128), (4, 4)]
    with writing(tmp_path / "t.h5", SECTIONS, {"slide_id": "S1"}) as writer:
        for seed, (width, height) in enumerate(sizes):
            writer.append(section(seed, width, height))
    with TileFile(tmp_path / "t.h5") as file:
        assert (file.unit, file.n) == ("section", 3)
        assert file.column("size").tolist() == [list(size) for size in sizes]
        assert {file.tile_px(m) for m in file.magnifications} == {0}
        for seed, size in enumerate(sizes):
            expected = section(seed, *size).pictures
            for magnification in (5.0, 2.5):
                np.testing.assert_array_equal(file.read(magnification, seed), expected[magnification])
            assert file.read(10.0, seed).shape == expected[10.0].shape
    with h5py.File(tmp_path / "t.h5") as file:
        assert sorted(file["mag/10x"]) == ["jpeg", "offsets"]
        assert sorted(file["mag/5x"]) == ["offsets", "pixels", "size"]
        assert file["mag/5x/size"][()].tolist() == [[32, 16], [8, 64], [2, 2]]
        assert file["mag/5x/offsets"][()].tolist() == [0, 32 * 16 * 3, 32 * 16 * 3 + 8 * 64 * 3, 3084]


def test_slide_without_sections_is_a_valid_file(tmp_path):
    with writing(tmp_path / "t.h5", SECTIONS, {"slide_id": "S1"}):
        pass
    with TileFile(tmp_path / "t.h5") as file:
        assert (file.unit, file.n, file.boxes().shape) == ("section", 0, (0, 4))


@pytest.fixture
def first_version(tmp_path):
    """A file of version 1: six fields of 32 micrometres of blocks of noise, at 0.5 micrometres per pixel."""
    archive = Path(__file__).parent / "data" / "tiles_v1.h5.gz"
    (tmp_path / "v1.h5").write_bytes(gzip.decompress(archive.read_bytes()))
    return tmp_path / "v1.h5"


def test_file_of_version_1_is_read(first_version):
    picture = noise(12, 9, 7).repeat(16, 0).repeat(16, 1)
    with TileFile(first_version) as file:
        assert (file.n, file.unit, file.icc, file.slide_id) == (6, "tile", "absent", "S1")
        assert file.magnifications == [10.0, 5.0, 1.25]
        assert file.column("size").tolist() == [[32, 32]] * 6
        assert np.isnan(file.column("qc")).all()
        assert not file.column("flags").any()
        for index, (x0, y0, x1, y1) in enumerate(file.boxes().astype(int)):
            assert (x1 - x0, y1 - y0) == (64, 64)
            field = picture[y0:y1, x0:x1].astype(float)
            expected = np.floor(field.reshape(16, 4, 16, 4, 3).mean((1, 3)) + 0.5)
            np.testing.assert_array_equal(file.read(5.0, index), expected)
            assert np.abs(file.read(10.0, index) - field[::2, ::2]).mean() < 6  # JPEG of hard edges
