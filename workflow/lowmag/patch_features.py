"""Features that another program computed of a slide's patches (TRIDENT, CLAM), brought to our tiles.

A file holds `features` (N, D) or (1, N, D) and `coords` (N, 2), level-0 pixels of the patches' corners. A
tile has the mean of the patches whose centre lies inside it. Where none does, as at the edge of another
program's tissue, it has the nearest patch whose centre is at most one field from its own.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lowmag.errors import UserError
from lowmag.exchange import MOST_TILES, SAME_SIZE
from lowmag.hdf5 import attributes_of, open_hdf5
from lowmag.index import TileIndex
from lowmag.store import TileFile

# Share of a cohort's tiles with a patch inside; below it the tilings do not belong together.
LEAST_INSIDE = 0.9
MOST_OF_FIELD = 1.1  # the widest patch, in tiles: of larger ones the student would see a part
MOST_CHANNELS = 1 << 16
CURE = (
    "give the folder of features/*.h5 that TRIDENT or CLAM wrote; with their coordinates in the column "
    "coords of slides.csv tiles are cut exactly there"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patches:
    """Features (N, D) float32 of patches, their centres (N, 2) and edge in level-0 pixels.

    `slide_px` is the size of the slide they say they are of; None where they do not.
    """

    features: np.ndarray
    centres: np.ndarray
    edge_px: float
    slide_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class TileFeatures:
    """Features of tiles (n, D) float32, and how many patches have their centre inside each, (n,)."""

    values: np.ndarray
    n_patches: np.ndarray


def features_path(folder: Path, slide_id: str) -> Path:
    """The file of a slide's features."""
    return folder / f"{slide_id}.h5"


def without_features(folder: Path, slide_ids: Iterable[str]) -> list[str]:
    """The slides that have no file of features in a folder, in their order."""
    return [slide_id for slide_id in slide_ids if not features_path(folder, slide_id).is_file()]


def features_of_tiles(
    folder: Path, index: TileIndex, ids: np.ndarray | None = None, channels: int | None = None
) -> TileFeatures:
    """Features of tiles `ids`, ascending, of an index, or of all; says how many patches they have inside.

    Raises UserError for files that are missing, not of features, of other tiles or slides, or of another
    number of channels than one another or than `channels`.
    """
    ids = np.arange(index.n) if ids is None else ids
    slides = [(n, index.slides[n].slide_id) for n in np.unique(index.slide[ids]).tolist()]
    if absent := without_features(folder, [slide_id for _, slide_id in slides]):
        raise UserError(
            f"features: {len(absent)} of {len(slides)} slides that have tiles have no file in {folder}: "
            f"{_listed(absent)}; compute their features under these names ({{slide_id}}.h5), or take the "
            "slides out of the sheet"
        )
    found = [
        _of_slide(features_path(folder, name), index, ids[index.slide[ids] == number])
        for number, name in slides
    ]
    if not found:
        raise UserError(f"there are no tiles to match the features in {folder} with; see check.tsv")
    widths = {part.values.shape[1] for part in found}
    if len(widths) > 1:
        raise UserError(
            f"features in {folder} have {_listed(sorted(widths))} channels; keep those of one model; {CURE}"
        )
    if channels not in (None, *widths):
        raise UserError(
            f"features in {folder} have {widths.pop()} channels, the teacher's head was trained on "
            f"{channels}; give the folder it was trained on, or train it again"
        )
    values, n_patches = (np.concatenate([getattr(p, f) for p in found]) for f in ("values", "n_patches"))
    _check_share(folder, n_patches)
    return TileFeatures(values, n_patches)


def _of_slide(path: Path, index: TileIndex, ids: np.ndarray) -> TileFeatures:
    """Features of the tiles `ids` of one slide, from its file."""
    patches = read_patches(path)
    with TileFile(index.path(int(index.slide[ids[0]]))) as file:
        _check_slide(path, patches, file)
        field = _field_px(file)
    if patches.edge_px > MOST_OF_FIELD * field.max():
        raise UserError(
            f"features {path}: patches are {patches.edge_px / field.max():.2g} times as wide as tiles, whose "
            "students would not see what the teacher saw: raise tiles.field_um to the patches' width"
        )
    found = match(patches, index.coords[ids], field)
    if n := int((~np.isfinite(found.values).all(1)).sum()):
        raise UserError(f"features {path}: {n} tiles are further than a field from any patch; {CURE}")
    return found


def _check_share(folder: Path, n_patches: np.ndarray) -> None:
    inside = n_patches > 0
    share = inside.mean()
    logger.info(
        "features: %d of %d tiles (%.1f %%) have patches inside, %.3g on average",
        inside.sum(),
        len(inside),
        100 * share,
        n_patches[inside].mean() if inside.any() else 0,
    )
    if share < LEAST_INSIDE:
        raise UserError(
            f"features in {folder}: only {100 * share:.0f} % of the tiles have a patch's centre inside, at "
            f"least {100 * LEAST_INSIDE:.0f} % must: the patches are of other tissue; {CURE}"
        )


def match(patches: Patches, corners: np.ndarray, field: np.ndarray) -> TileFeatures:
    """Features of tiles, and how many patches have their centre inside each.

    `corners` (n, 2) and `field` (2,) in level-0 pixels; a tile holds its left and upper edge. NaN where no
    patch is within a field.
    """
    found = np.full((len(corners), patches.features.shape[1]), np.nan, np.float32)
    inside = np.zeros(len(corners), np.int64)
    order = np.argsort(patches.centres[:, 0], kind="stable")
    xs = patches.centres[order, 0]
    for n, corner in enumerate(corners):
        # Of those that may count only: a slide has tens of thousands of patches.
        first, last = np.searchsorted(xs, [corner[0] - field[0], corner[0] + 2 * field[0]])
        near = order[first:last]
        if not len(near):
            continue
        offset = patches.centres[near] - corner
        within = ((offset >= 0) & (offset < field)).all(1)
        inside[n] = within.sum()
        if inside[n]:
            found[n] = patches.features[near[within]].mean(0, dtype=np.float64)
            continue
        distance = np.abs(offset - field / 2) / field
        closest = int(np.argmin((distance**2).sum(1)))
        if distance[closest].max() <= 1:
            found[n] = patches.features[near[closest]]
    return TileFeatures(found, inside)


def read_patches(path: Path) -> Patches:
    """The patches of a file of features; UserError when it is none."""
    with open_hdf5(path, "features", CURE) as file:
        features, coords = _dataset(file, "features", path), _dataset(file, "coords", path)
        shape = features.shape[1:] if features.ndim == 3 and features.shape[0] == 1 else features.shape
        if len(shape) != 2 or features.dtype.kind != "f" or shape[1] > MOST_CHANNELS or shape[0] > MOST_TILES:
            raise _refuse(path, f"features of shape {features.shape} and type {features.dtype}")
        if coords.ndim != 2 or coords.shape[1] not in (2, 5) or coords.dtype.kind not in "iuf":
            raise _refuse(path, f"coords of shape {coords.shape} and type {coords.dtype}")
        if len(coords) != shape[0]:
            raise _refuse(path, f"{shape[0]} features and {len(coords)} coords")
        values = np.asarray(features[()], np.float32).reshape(shape)
        corners, attributes = np.asarray(coords[()], np.float64)[:, :2], attributes_of(coords)
    if bad := int((~(np.isfinite(values).all(1) & np.isfinite(corners).all(1))).sum()):
        raise UserError(
            f"features {path}: {bad} of {len(values)} patches have numbers that are not finite; compute the "
            "features of this slide again"
        )
    edge = _patch_px(attributes, corners, path)
    return Patches(values, corners + edge / 2, edge, _slide_px(attributes))


def _patch_px(attributes: dict[str, Any], corners: np.ndarray, path: Path) -> float:
    """Edge of a patch in level-0 pixels: as TRIDENT states it, else the least step between patches."""
    stated = np.ravel(attributes.get("patch_size_level0", np.nan))
    if len(stated) == 1 and stated.dtype.kind in "iuf" and 0 < stated[0] < np.inf:
        return float(stated[0])
    steps = np.concatenate([np.diff(np.unique(corners[:, axis])) for axis in (0, 1)])
    if not len(steps):
        raise _refuse(path, "a single place and no attribute patch_size_level0")
    return float(steps.min())


def _slide_px(attributes: dict[str, Any]) -> tuple[float, float] | None:
    """Width and height of the slide at level 0, which TRIDENT states."""
    stated = [np.ravel(attributes.get(f"level0_{edge}", np.nan)) for edge in ("width", "height")]
    if not all(len(one) == 1 and one.dtype.kind in "iuf" and np.isfinite(one[0]) for one in stated):
        return None
    return float(stated[0][0]), float(stated[1][0])


def _check_slide(path: Path, patches: Patches, file: TileFile) -> None:
    """Refuse the features of another slide under this one's name, by the size that both files state."""
    own = _slide_px(file.coords_attributes)
    if own and patches.slide_px and not np.allclose(own, patches.slide_px, rtol=SAME_SIZE):
        theirs = " x ".join(f"{edge:.0f}" for edge in patches.slide_px)
        raise UserError(
            f"features {path} are of another slide, of {theirs} pixels; this one has {own[0]:.0f} x "
            f"{own[1]:.0f}: put the file of this slide in its place"
        )


def _field_px(file: TileFile) -> np.ndarray:
    """Width and height of the file's tiles in level-0 pixels."""
    found = file.attributes
    finest = max(file.magnifications)
    field_um = float(found.get("field_um", file.tile_px(finest) * 10 / finest))
    return field_um / np.array([float(found["mpp_x"]), float(found["mpp_y"])])


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise _refuse(path, f"no dataset {name}, but {', '.join(file) or 'nothing'}")
    return found


def _refuse(path: Path, problem: str) -> UserError:
    return UserError(f"features {path}: the file has {problem}; {CURE}")


def _listed(names: Sequence[str | int]) -> str:
    """The first five, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
