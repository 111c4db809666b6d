"""Index and bank: ids, labels, the same pictures wherever they are kept, and what is said of wrong files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lowmag import bank as bank_module
from lowmag.bank import Bank
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.splits import read_splits
from lowmag.store import Layout, TileFile, TileRow, writing
from synthetic_tiles import CLASSES, HIGH, LOW, Cohort, make_cohort

CPU = torch.device("cpu")


def index_of(folder: Path, cohort: Cohort | None = None, split: str = "train") -> TileIndex:
    tiles, splits = make_cohort(folder, cohort)
    return index_tiles(tiles, [row for row in read_splits(splits) if row.split == split], CLASSES)


def gathered(bank: Bank, order: np.ndarray, batch_size: int = 5) -> np.ndarray:
    return torch.cat(list(bank.batches(order, batch_size))).numpy()


def test_ids_follow_splits_and_file(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    assert index.n == 24
    assert index.counts.tolist() == [4] * 6
    assert [index.name(i) for i in (0, 5, 23)] == ["train0[0]", "train1[1]", "train5[3]"]
    assert index.labels.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [-1] * 8
    assert index.patients(np.array([0, 1, 4])) == {"patient-train0", "patient-train1"}


def test_tile_label_goes_before_slide_label(tmp_path: Path) -> None:
    cohort = Cohort(train=("calm", ""), tile_labels={"train0": (1, -1, 0), "train1": (1, 0, -1)})
    assert index_of(tmp_path, cohort).labels.tolist() == [1, 0, 0, 1, 0, -1]


def test_empty_slides_are_no_obstacle(tmp_path: Path) -> None:
    cohort = Cohort(train=("calm", "busy"), tile_labels={"train0": ()})
    index = index_of(tmp_path, cohort)
    assert index.counts.tolist() == [0, 4]
    assert gathered(Bank(index, np.arange(4), LOW, CPU), np.arange(4)).shape == (4, 16, 16, 3)


def test_identity_changes_with_labels(tmp_path: Path) -> None:
    identities = [
        index_of(tmp_path / str(n), Cohort(train=("",), tile_labels={"train0": labels})).identity
        for n, labels in enumerate([(0, 1), (0, 1), (1, 0)])
    ]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize("magnification", [HIGH, LOW])
@pytest.mark.parametrize("place", ["memory", "encoded", "files"])
def test_every_place_gives_what_the_files_hold(tmp_path: Path, magnification: float, place) -> None:
    if place == "encoded" and magnification == LOW:
        place = "files"
    index = index_of(tmp_path)
    ids = np.array([1, 2, 5, 6, 7, 20, 23])
    bank = Bank(index, ids, magnification, CPU, threads=2, place=place)
    order = np.array([23, 1, 1, 6, 20, 7, 2, 5])
    expected = []
    for tile_id in order:
        with TileFile(index.path(int(index.slide[tile_id]))) as file:
            expected.append(file.read(magnification, int(index.row[tile_id])))
    assert np.array_equal(gathered(bank, order), np.stack(expected))


@pytest.mark.parametrize(("magnification", "px"), [(HIGH, 64), (LOW, 16)])
def test_a_slide_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magnification: float, px: int
) -> None:
    """On the CPU what is read through is not given back: twice a slide of 25 000 tiles of 64 px is 0.6 GB."""
    index = index_of(tmp_path)
    ids = np.array([4, 5, 7, 20, 22, 23])
    whole = gathered(Bank(index, ids, magnification, CPU, place="memory"), ids)
    monkeypatch.setattr(bank_module, "READ_PIXELS", 2 * px**2)
    bank = Bank(index, ids, magnification, CPU, place="memory")
    assert np.array_equal(gathered(bank, ids), whole)
    parts = [part for slide, of_slide in bank._by_slide() for part in bank._read_tiles(slide, of_slide)]
    assert [len(part) for part in parts] == [2, 1, 2, 1]


def test_batches_are_whole_but_the_last(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    for place in ("memory", "files"):
        bank = Bank(index, np.arange(8), LOW, CPU, place=place)
        assert [len(batch) for batch in bank.batches(np.arange(8), 3)] == [3, 3, 2]
        assert list(bank.batches(np.arange(0), 3)) == []


def test_what_does_not_fit_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(tmp_path)
    assert Bank(index, np.arange(8), HIGH, CPU).place == "memory"
    decoded = 8 * 64 * 64 * 3
    monkeypatch.setattr(bank_module, "free_bytes", lambda device: decoded)
    assert Bank(index, np.arange(8), HIGH, CPU).place == "encoded"
    assert Bank(index, np.arange(8), LOW, CPU).place == "memory"
    monkeypatch.setattr(bank_module, "free_bytes", lambda device: 1)
    assert Bank(index, np.arange(8), HIGH, CPU).place == "files"


def test_mean_and_std_are_those_of_the_pixels(tmp_path: Path) -> None:
    bank = Bank(index_of(tmp_path), np.arange(24), LOW, CPU)
    pixels = gathered(bank, np.arange(24)).reshape(-1, 3) / 255
    mean, std = bank.mean_and_std(np.arange(24))
    # Both are rounded to four digits.
    assert np.allclose(mean, pixels.mean(0), atol=1e-4)
    assert np.allclose(std, pixels.std(0), atol=1e-4)


def test_missing_magnification_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no 5x tiles \(found 10x, 2.5x\).*tiles.students"):
        Bank(index_of(tmp_path), np.arange(4), 5.0, CPU)


def test_missing_file_is_named(tmp_path: Path) -> None:
    tiles, splits = make_cohort(tmp_path)
    (tiles / "train3.h5").unlink()
    with pytest.raises(UserError, match=r"train3\.h5"):
        index_tiles(tiles, read_splits(splits), CLASSES)


def test_unknown_label_is_refused(tmp_path: Path) -> None:
    tiles, splits = make_cohort(tmp_path)
    with pytest.raises(UserError, match="train0 has label 'calm', the classes are busy, other"):
        index_tiles(tiles, read_splits(splits), ("busy", "other"))


def test_tiles_of_another_size_are_refused(tmp_path: Path) -> None:
    tiles, splits = make_cohort(tmp_path)
    with writing(tiles / "train2.h5", Layout([HIGH, LOW], {HIGH: 32, LOW: 8}), {"slide_id": "train2"}):
        pass
    with pytest.raises(UserError, match=r"tiles of train2 are 32 px at 10x.*those of train0 64 px"):
        index_tiles(tiles, read_splits(splits), CLASSES)


@pytest.mark.parametrize("place", ["memory", "encoded", "files"])
def test_damaged_tile_is_named(tmp_path: Path, place) -> None:
    index = index_of(tmp_path)
    path = tmp_path / "tiles" / "train1.h5"
    with writing(path, Layout([HIGH, LOW], {HIGH: 64, LOW: 16}), {"slide_id": "train1"}) as writer:
        for n in range(4):
            tile = {HIGH: np.full((64, 64, 3), 40 * n, np.uint8), LOW: np.zeros((16, 16, 3), np.uint8)}
            writer.append(TileRow(n, 0, 0, n, 1.0, tile))
    with h5py.File(path, "r+") as file:
        offsets, data = file["mag/10x/offsets"], file["mag/10x/jpeg"]
        data[offsets[2] : offsets[2] + 20] = 0  # pyright: ignore
    with pytest.raises(UserError, match=r"tile train1\[2\] cannot be decoded"):
        gathered(Bank(index, np.arange(8), HIGH, CPU, place=place), np.arange(8))


SIZES = [(64, 96), (100, 48), (64, 96)]


@pytest.mark.parametrize("magnification", [HIGH, LOW])
@pytest.mark.parametrize("place", ["memory", "encoded", "files"])
def test_sections_come_in_their_own_sizes(tmp_path: Path, magnification: float, place) -> None:
    if place == "encoded" and magnification == LOW:
        place = None
    index = index_of(tmp_path, Cohort(train=("calm", "busy"), sections=SIZES))
    ids = np.array([0, 1, 2, 4])
    bank = Bank(index, ids, magnification, CPU, threads=2, place=place)
    order = np.array([4, 0, 1, 2, 1])
    for tile_id, batch in zip(order, bank.batches(order, 1), strict=True):
        with TileFile(index.path(int(index.slide[tile_id]))) as file:
            assert np.array_equal(batch[0].numpy(), file.read(magnification, int(index.row[tile_id])))
    together = next(bank.batches(np.array([0, 2]), 2))
    assert together.shape == (2, *np.flip(index.size_at(magnification)[0]), 3)


def test_sections_are_kept_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(tmp_path, Cohort(train=("calm", "busy"), sections=SIZES))
    decoded = 3 * 2 * (2 * 64 * 96 + 100 * 48)
    for free, expected in ((2 * decoded, "memory"), (2 * decoded - 2, "encoded"), (decoded // 4, "files")):
        monkeypatch.setattr(bank_module, "free_bytes", lambda device, free=free: free)
        assert Bank(index, np.arange(6), HIGH, CPU).place == expected


def test_mean_and_std_of_sections_count_every_pixel_once(tmp_path: Path) -> None:
    bank = Bank(index_of(tmp_path, Cohort(train=("calm", "busy"), sections=SIZES)), np.arange(6), LOW, CPU)
    mean, std = bank.mean_and_std(np.arange(6))
    pixels = np.concatenate([b.numpy().reshape(-1, 3) for b in bank.batches(np.arange(6), 1)]) / 255
    assert np.allclose(mean, pixels.mean(0), atol=1e-4)
    assert np.allclose(std, pixels.std(0), atol=1e-4)
