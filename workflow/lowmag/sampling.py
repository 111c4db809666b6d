"""Which tiles a run trains on, and in which order: functions of the seed, so that a run can be resumed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lowmag.errors import UserError
from lowmag.index import TileIndex

Oversampling = Literal["oversampled", "released"]
OVERSAMPLING_STREAM = 1 << 40  # no epoch has this number


@dataclass(frozen=True)
class Pool:
    """Training tiles by id: one array per class, the chosen unlabelled ones, and the tiles of an epoch."""

    by_class: tuple[np.ndarray, ...]
    unlabelled: np.ndarray
    epoch_tiles: int

    @property
    def labelled(self) -> np.ndarray:
        """Ids of all labelled tiles, ascending."""
        return np.sort(np.concatenate(self.by_class))

    @property
    def ids(self) -> np.ndarray:
        """Ids of all tiles of the pool, ascending."""
        return np.sort(np.concatenate([*self.by_class, self.unlabelled]))


def choose_pool(index: TileIndex, classes: Sequence[str], *, share: int, seed: int, student: bool) -> Pool:
    """The tiles to train on: the labelled ones and those of `share` per cent of the unlabelled slides.

    Slides are taken in an order drawn by `seed`, so a larger share contains a smaller one. An epoch of a
    student is as long as labelled and all unlabelled tiles together, whatever its share, so that all runs of
    a study take the same number of steps. Bad tiles are left out. Raises UserError when there is nothing to
    train on, or nothing of one class, and when a share above 0 is not one slide.
    """
    by_class = tuple(np.flatnonzero(index.usable & (index.labels == k)) for k in range(len(classes)))
    _check_classes(by_class, classes)
    without_label = np.flatnonzero(index.usable & (index.labels < 0))
    slides = _drawn_order([index.slides[i].slide_id for i in np.unique(index.slide[without_label])], seed)
    n_chosen = round(len(slides) * share / 100)
    if share and slides and not n_chosen:
        least = next(s for s in range(share, 101) if round(len(slides) * s / 100))
        raise UserError(
            f"students.unlabelled: {share} % of the {len(slides)} unlabelled training slides is not one, so "
            f"this run would be that of 0 % under another name; take {least} or more, or leave it out"
        )
    chosen = set(slides[:n_chosen])
    taken = [index.slides[i].slide_id in chosen for i in index.slide[without_label]]
    unlabelled = without_label[np.array(taken, bool)]
    n_labelled = sum(len(ids) for ids in by_class)
    return Pool(by_class, unlabelled, n_labelled + (len(without_label) if student else 0))


def epoch_order(
    pool: Pool, *, seed: int, epoch: int, batch_size: int, balance: bool | Oversampling
) -> np.ndarray:
    """Tile ids of one epoch in order, a whole number of batches, a function of (seed, epoch).

    Labelled and unlabelled tiles stand in it in proportion to their numbers. With `balance` every class has
    the same share of the labelled places (within one place). Within a group tiles come round in shuffled
    passes, each once before any comes twice. With oversampling the labelled places are drawn without
    replacement from a list that has the smaller classes several times: shares are its own in the mean.
    """
    random = np.random.default_rng([seed, epoch])
    n_places = steps_per_epoch(pool, batch_size) * batch_size
    n_labelled = sum(len(ids) for ids in pool.by_class)
    places = _shares(n_places, [n_labelled, len(pool.unlabelled)])
    if isinstance(balance, str):
        groups = [(oversampled(pool, seed, balance), places[0]), (pool.unlabelled, places[1])]
    elif balance:
        # Which class gets the place left over by the division changes from epoch to epoch.
        turn = random.permutation(len(pool.by_class))
        numbers = np.array(_shares(places[0], [1] * len(turn)))[turn]
        groups = [*zip(pool.by_class, numbers, strict=True), (pool.unlabelled, places[1])]
    else:
        groups = [(pool.labelled, places[0]), (pool.unlabelled, places[1])]
    return random.permutation(np.concatenate([_passes(ids, int(n), random) for ids, n in groups]))


def oversampled(pool: Pool, seed: int, how: Oversampling) -> np.ndarray:
    """Ids of the labelled tiles, those of a class round(largest class / class) times.

    `released`, as the code of del Amor et al. 2024 (arXiv 2401.06010): so many ids of a smaller class are
    drawn with replacement, once for the whole run: a share of about exp(-times) of its tiles never occurs.
    """
    random = np.random.default_rng([seed, OVERSAMPLING_STREAM])
    largest = max(len(ids) for ids in pool.by_class)
    lists = []
    for ids in pool.by_class:
        times = round(largest / len(ids))
        lists.append(
            random.choice(ids, times * len(ids)) if how == "released" and times > 1 else np.tile(ids, times)
        )
    return np.concatenate(lists)


def steps_per_epoch(pool: Pool, batch_size: int) -> int:
    """Steps of an epoch: its tiles in batches, the last one filled up."""
    return -(-pool.epoch_tiles // batch_size)


def _passes(ids: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    if n == 0:
        return ids[:0]
    rounds = [random.permutation(ids) for _ in range(-(-n // len(ids)))]
    return np.concatenate(rounds)[:n]


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` divided in proportion to `weights`, whole numbers that add up to it."""
    ends = np.cumsum([0, *weights]) * total // sum(weights)
    return np.diff(ends).tolist()


def _drawn_order(slide_ids: Sequence[str], seed: int) -> list[str]:
    return sorted(slide_ids, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _check_classes(by_class: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    counts = {name: len(ids) for name, ids in zip(classes, by_class, strict=True)}
    if not any(counts.values()):
        raise UserError(
            "there are no labelled training tiles; give labels in slides.csv (or images.csv) to slides of "
            "the train split that have tissue"
        )
    missing = [name for name, n in counts.items() if n == 0]
    if missing:
        found = ", ".join(f"{name}: {n}" for name, n in counts.items())
        raise UserError(
            f"no training tile of class {', '.join(missing)} (found {found}); label slides of it in the "
            "train split, change splits.seed, or take the class out of `classes`"
        )
