"""The order of training: balanced, each tile once per pass, nested unlabelled shares, equal steps."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.sampling import Pool, choose_pool, epoch_order, oversampled, steps_per_epoch
from lowmag.splits import read_splits
from synthetic_tiles import CLASSES, Cohort, make_cohort

POOL = Pool((np.arange(30), np.arange(30, 36), np.arange(36, 40)), np.arange(40, 60), 60)


def index_of(folder: Path, cohort: Cohort) -> TileIndex:
    tiles, splits = make_cohort(folder, cohort)
    return index_tiles(tiles, [row for row in read_splits(splits) if row.split == "train"], CLASSES)


def order_of(pool: Pool, *, seed: int = 0, epoch: int = 0, balance: Any = True) -> np.ndarray:
    return epoch_order(pool, seed=seed, epoch=epoch, batch_size=8, balance=balance)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert np.array_equal(order_of(POOL), order_of(POOL))
    assert not np.array_equal(order_of(POOL), order_of(POOL, epoch=1))
    assert not np.array_equal(order_of(POOL), order_of(POOL, seed=1))


def test_order_is_whole_batches() -> None:
    assert steps_per_epoch(POOL, 8) == 8
    assert len(order_of(POOL)) == 64


def test_unbalanced_epoch_shows_every_tile_before_any_twice() -> None:
    counts = np.bincount(order_of(POOL, balance=False), minlength=60)
    assert counts.min() == 1
    assert counts.max() == 2
    assert counts.sum() == 64


def test_balanced_epoch_gives_every_class_the_same() -> None:
    counts = np.bincount(order_of(POOL), minlength=60)
    of_class = [counts[ids].sum() for ids in POOL.by_class]
    # 40 of 60 tiles are labelled: 42 of 64 places, 14 of each class; unlabelled ones keep their share.
    assert of_class == [14, 14, 14]
    assert counts[POOL.unlabelled].sum() == 22
    for ids in POOL.by_class:
        assert counts[ids].max() - counts[ids].min() <= 1


def test_place_left_over_goes_to_every_class_in_turn() -> None:
    pool = Pool((np.arange(5), np.arange(5, 8)), np.zeros(0, np.int64), 7)
    firsts = [(epoch_order(pool, seed=0, epoch=e, batch_size=7, balance=True) < 5).sum() for e in range(20)]
    assert set(firsts) == {3, 4}


def test_oversampling_repeats_classes_a_whole_number_of_times() -> None:
    """30, 6 and 4 tiles: 1, 5 and round(7.5) = 8 times; every tile of a class as often."""
    counts = np.bincount(oversampled(POOL, 0, "oversampled"), minlength=40)
    assert counts.tolist() == [1] * 30 + [5] * 6 + [8] * 4
    order = order_of(POOL, balance="oversampled")
    assert len(order) == 64
    assert (order < 40).sum() == 42
    assert (np.bincount(order, minlength=60)[:40] <= counts).all(), "drawn from the list without replacement"
    assert not np.array_equal(order, order_of(POOL, balance="oversampled", epoch=1))


def test_the_released_oversampling_draws_its_list_once_for_a_run() -> None:
    lists = [oversampled(POOL, seed, "released") for seed in (0, 0, 1)]
    assert np.array_equal(lists[0], lists[1])
    assert not np.array_equal(lists[0], lists[2])
    assert np.array_equal(lists[0][:30], np.arange(30)), "the largest class as it is"
    assert [((ids >= low) & (ids < high)).sum() for ids in lists for low, high in ((30, 36), (36, 40))] == [
        30,
        32,
    ] * 3
    # Two of 1000 tiles each drawn 2000 times with replacement: exp(-2) of them never.
    large = Pool((np.arange(2000), np.arange(2000, 3000)), np.zeros(0, np.int64), 3000)
    never = 1000 - len(np.unique(oversampled(large, 0, "released")[2000:]))
    assert abs(never / 1000 - np.exp(-2)) < 0.04
    seen = np.concatenate([order_of(large, epoch=e, balance="released") for e in range(6)])
    assert len(np.unique(seen[seen >= 2000])) == 1000 - never


def test_share_of_less_than_a_slide_is_refused_with_the_least_that_counts(tmp_path: Path) -> None:
    cohort = Cohort(train=("calm", "busy", *[""] * 4))
    index = index_of(tmp_path, cohort)
    with pytest.raises(UserError, match=r"10 % of the 4 unlabelled training slides is not one.*take 13 or"):
        choose_pool(index, CLASSES, share=10, seed=0, student=True)
    assert len(choose_pool(index, CLASSES, share=13, seed=0, student=True).unlabelled) > 0


def test_share_of_no_unlabelled_slides_is_none(tmp_path: Path) -> None:
    index = index_of(tmp_path, Cohort(train=("calm", "busy")))
    assert len(choose_pool(index, CLASSES, share=50, seed=0, student=True).unlabelled) == 0


def test_larger_share_contains_the_smaller(tmp_path: Path) -> None:
    index = index_of(tmp_path, Cohort(train=("calm", "busy", *[""] * 8)))
    pools = [choose_pool(index, CLASSES, share=s, seed=3, student=True) for s in (0, 25, 50, 100)]
    assert [len(pool.unlabelled) for pool in pools] == [0, 8, 16, 32]
    for smaller, larger in pairwise(pools):
        assert set(smaller.unlabelled) <= set(larger.unlabelled)
    assert {steps_per_epoch(pool, 4) for pool in pools} == {10}
    other = choose_pool(index, CLASSES, share=50, seed=4, student=True)
    assert set(other.unlabelled) != set(pools[2].unlabelled)


def test_teacher_epoch_is_the_labelled_tiles(tmp_path: Path) -> None:
    index = index_of(tmp_path, Cohort())
    assert choose_pool(index, CLASSES, share=0, seed=0, student=False).epoch_tiles == 16


def test_bad_tiles_are_left_out(tmp_path: Path) -> None:
    cohort = Cohort(flags={"train0": (1, 0, 2, 3), "train4": (1, 1, 1, 0)})
    pool = choose_pool(index_of(tmp_path, cohort), CLASSES, share=100, seed=0, student=True)
    assert pool.by_class[0].tolist() == [1, 2, 8, 9, 10, 11]
    assert pool.unlabelled.tolist() == [19, 20, 21, 22, 23]


def test_missing_class_is_named_with_the_counts(tmp_path: Path) -> None:
    index = index_of(tmp_path, Cohort(train=("calm", "calm")))
    with pytest.raises(UserError, match=r"no training tile of class busy \(found calm: 8, busy: 0\)"):
        choose_pool(index, CLASSES, share=0, seed=0, student=True)


def test_no_labelled_tile_is_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path, Cohort(train=("", "")))
    with pytest.raises(UserError, match="no labelled training tiles; give labels"):
        choose_pool(index, CLASSES, share=100, seed=0, student=True)
