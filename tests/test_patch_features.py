"""Features of other programs: which patches a tile has, and what is said of files that cannot be used."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.patch_features import Patches, features_of_tiles, match, read_patches
from lowmag.splits import read_splits
from synthetic_tiles import CLASSES, Cohort, make_cohort

FIELD = np.array([64.0, 64.0])


def write_features(path: Path, features, coords, **attributes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    return path


@pytest.fixture
def index(tmp_path: Path) -> TileIndex:
    """Slides train0 and train1 with tiles of 64 level-0 pixels side by side."""
    tiles, splits = make_cohort(tmp_path, Cohort(train=("calm", "busy")))
    return index_tiles(tiles, [row for row in read_splits(splits) if row.split == "train"], CLASSES)


def test_a_tile_has_the_mean_of_the_patches_whose_centre_lies_inside():
    features = np.array([[1.0], [2], [4], [8]], np.float32)
    centres = np.array([[10.0, 10], [50, 50], [64, 10], [200, 200]])
    found = match(Patches(features, centres, 20), np.array([[0, 0], [64, 0]]), FIELD)
    assert found.values[:, 0].tolist() == [1.5, 4.0], "a centre on the border belongs to the tile right of it"
    assert found.n_patches.tolist() == [2, 1]


def test_a_tile_without_takes_the_nearest_within_a_field_and_says_so():
    patches = Patches(np.array([[1.0], [2]], np.float32), np.array([[32.0, 32], [32, 400]]), 64)
    found = match(patches, np.array([[0, 0], [60, 0], [0, 140]]), FIELD)
    assert found.values[:2, 0].tolist() == [1.0, 1.0]
    assert np.isnan(found.values[2, 0])
    assert found.n_patches.tolist() == [1, 0, 0]


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("attributes", [{"patch_size_level0": 32}, {}])
def test_small_patches_are_averaged_over_a_tile(index, tmp_path, bag, attributes):
    """32-px patches in 64-px tiles, as TRIDENT and CLAM lay them out: four in each, whatever their order."""
    random = np.random.default_rng(0)
    coords = np.stack(np.meshgrid(np.arange(8) * 32, np.arange(2) * 32), -1).reshape(-1, 2)
    random.shuffle(coords)
    values = np.stack([coords[:, 0] // 64, coords[:, 1]], 1).astype(np.float32)
    for slide in ("train0", "train1"):
        stored = values[None] if bag else values
        write_features(tmp_path / "features" / f"{slide}.h5", stored, coords, **attributes)
    found = features_of_tiles(tmp_path / "features", index)
    assert found.values[:, 0].tolist() == [0, 1, 2, 3] * 2
    assert (found.values[:, 1] == 16).all()
    assert (found.n_patches == 4).all()


def test_patches_at_the_tiles_own_places_are_taken_as_they_are(index, tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    for slide in ("train0", "train1"):
        write_features(
            tmp_path / "f" / f"{slide}.h5", values, [[64 * n, 0] for n in range(4)], patch_size_level0=64
        )
    found = features_of_tiles(tmp_path / "f", index, channels=5).values
    assert np.array_equal(found, np.concatenate([values, values]))
    with pytest.raises(
        UserError, match="have 5 channels, the teacher's head was trained on 6; give the folder"
    ):
        features_of_tiles(tmp_path / "f", index, channels=6)


def test_slides_that_nothing_is_asked_of_need_no_features(index, tmp_path):
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    write_features(tmp_path / "f" / "train1.h5", values, [[64 * n, 0] for n in range(4)])
    found = features_of_tiles(tmp_path / "f", index, np.array([5, 6]))
    assert np.array_equal(found.values, values[1:3])


def test_half_precision_is_read_as_it_is(tmp_path):
    values = np.linspace(-3, 3, 8).astype(np.float16).reshape(2, 4)
    found = read_patches(write_features(tmp_path / "a.h5", values, [[0, 0], [64, 0]]))
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, values.astype(np.float32))
    assert found.edge_px == 64


def test_features_of_another_slide_or_of_wider_patches_are_refused(index, tmp_path):
    """By what TRIDENT writes beside the coordinates, and our tile files too."""
    with h5py.File(index.path(0), "a") as tiles:
        tiles["coords"].attrs.update({"level0_width": 256, "level0_height": 64})
    own = {"level0_width": 256, "level0_height": 64, "patch_size_level0": 64}
    coords = [[64 * n, 0] for n in range(4)]
    for slide in ("train0", "train1"):
        write_features(tmp_path / "f" / f"{slide}.h5", np.zeros((4, 3), np.float32), coords, **own)
    assert len(features_of_tiles(tmp_path / "f", index).values) == 8
    other = own | {"level0_width": 512}
    first = tmp_path / "f" / "train0.h5"
    write_features(first, np.zeros((4, 3), np.float32), coords, **other)
    with pytest.raises(
        UserError, match=r"train0.h5 are of another slide, of 512 x 64 pixels; this one has 256 x 64"
    ):
        features_of_tiles(tmp_path / "f", index)
    # Twice as wide and half overlapping, so that every tile has a centre inside.
    wide = own | {"patch_size_level0": 128}
    write_features(first, np.zeros((4, 3), np.float32), [[64 * n - 32, -32] for n in range(4)], **wide)
    with pytest.raises(UserError, match=r"2 times as wide as tiles.*raise tiles.field_um"):
        features_of_tiles(tmp_path / "f", index)


@pytest.mark.parametrize(
    ("features", "coords", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), np.zeros((3, 2)), "features of shape (3, 4, 5)"),
        (np.zeros((3, 4), np.int32), np.zeros((3, 2)), "type int32"),
        (np.zeros((3, 4), np.float32), np.zeros((2, 2)), "3 features and 2 coords"),
        (np.array([[0], [np.nan]], np.float32), [[0, 0], [9, 9]], "1 of 2 patches have numbers that are not"),
        (np.zeros((1, 4), np.float32), np.zeros((1, 2)), "a single place"),
    ],
)
def test_other_files_are_refused(tmp_path, features, coords, message):
    path = write_features(tmp_path / "a.h5", features, coords)
    with pytest.raises(UserError, match=re.escape(message)):
        read_patches(path)


@pytest.mark.parametrize("name", ["features", "coords"])
def test_datasets_without_values_are_refused(tmp_path, name):
    path = write_features(tmp_path / "a.h5", np.zeros((3, 4), np.float32), np.zeros((3, 2)))
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.Empty("f4")
    with pytest.raises(UserError, match=f"has a dataset '{name}' that holds no values"):
        read_patches(path)


def test_attributes_without_values_are_not_read(tmp_path):
    coords = [[256 * n, 0] for n in range(3)]
    path = write_features(tmp_path / "a.h5", np.zeros((3, 4), np.float32), coords)
    with h5py.File(path, "a") as file:
        file["coords"].attrs["patch_size_level0"] = h5py.Empty("f4")
    assert read_patches(path).edge_px == 256


def test_absent_far_and_mixed_features_are_named(index, tmp_path):
    folder = tmp_path / "f"
    with pytest.raises(
        UserError, match=r"2 of 2 slides that have tiles have no file in .*: train0, train1; "
    ):
        features_of_tiles(folder, index)
    places = [[64 * n, 0] for n in range(4)]
    write_features(folder / "train0.h5", np.zeros((4, 3), np.float32), places)
    write_features(folder / "train1.h5", np.zeros((4, 2), np.float32), places)
    with pytest.raises(UserError, match="2, 3 channels"):
        features_of_tiles(folder, index)
    write_features(folder / "train1.h5", np.zeros((1, 3), np.float32), [[0, 0]], patch_size_level0=64)
    with pytest.raises(UserError, match="2 tiles are further than a field from any patch"):
        features_of_tiles(folder, index)
    write_features(
        folder / "train1.h5", np.zeros((2, 3), np.float32), [[0, 0], [128, 0]], patch_size_level0=64
    )
    with pytest.raises(UserError, match=r"only 75 % of the tiles .* at least 90 % must"):
        features_of_tiles(folder, index)
