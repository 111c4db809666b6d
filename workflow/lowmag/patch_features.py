"""Features that another program computed of a slide's patches (TRIDENT, CLAM), brought to our tiles.

A file holds `features` (N, D) or (1, N, D) and `coords` (N, 2), level-0 pixels of the patches' corners. A
tile has the mean of the patches whose centre lies inside it. Where none does, as at the edge of another
program's tissue, it has the nearest patch whose centre is at most one field from its own.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lowmag.errors import UserError
from lowmag.exchange import MOST_TILES
from lowmag.hdf5 import open_hdf5
from lowmag.index import TileIndex
from lowmag.store import TileFile

LEAST_INSIDE = (
    0.9  # share of a cohort's tiles with a patch inside; below it the tilings do not belong together
)
MOST_CHANNELS = 1 << 16
CURE = (
    "give the folder of features/*.h5 that TRIDENT or CLAM wrote; with their coordinates in the column "
    "coords of slides.csv tiles are cut exactly there"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patches:
    """Features (N, D) float32 of patches, and level-0 x, y of their centres (N, 2)."""

    features: np.ndarray
    centres: np.ndarray


def features_path(folder: Path, slide_id: str) -> Path:
    """The file of a slide's features."""
    return folder / f"{slide_id}.h5"


def features_of_tiles(folder: Path, index: TileIndex) -> np.ndarray:
    """Features of every tile of an index, (N, D) float32, in its order; says how many have patches inside.

    Raises UserError for a file that is missing, not one of features, or of other tiles.
    """
    parts, n_inside = [], 0
    for number, slide in enumerate(index.slides):
        of_slide = index.slide == number
        if not of_slide.any():
            continue
        path = features_path(folder, slide.slide_id)
        patches = read_patches(path)
        with TileFile(index.path(number)) as file:
            field = _field_px(file)
        features, inside = match(patches, index.coords[of_slide], field)
        if not np.isfinite(features).all():
            n = int((~np.isfinite(features).all(1)).sum())
            raise UserError(f"features {path}: {n} tiles are further than a field from any patch; {CURE}")
        n_inside += int(inside.sum())
        parts.append(features)
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise UserError(
            f"features in {folder} have {_listed(widths)} channels; keep those of one model; {CURE}"
        )
    share = n_inside / max(1, index.n)
    logger.info("features: %d of %d tiles (%.1f %%) have patches inside", n_inside, index.n, 100 * share)
    if share < LEAST_INSIDE:
        raise UserError(
            f"features in {folder}: only {100 * share:.0f} % of the tiles have a patch's centre inside, at "
            f"least {100 * LEAST_INSIDE:.0f} % must: patches are larger than tiles.field_um, or of other "
            f"tissue; {CURE}"
        )
    return np.concatenate(parts)


def match(patches: Patches, corners: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of tiles (n, D) and whether patches have their centre inside, (n,).

    `corners` (n, 2) and `field` (2,) in level-0 pixels; a tile holds its left and upper edge. NaN where no
    patch is within a field.
    """
    found = np.full((len(corners), patches.features.shape[1]), np.nan, np.float32)
    inside = np.zeros(len(corners), bool)
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
        if within.any():
            found[n], inside[n] = patches.features[near[within]].mean(0, dtype=np.float64), True
            continue
        distance = np.abs(offset - field / 2) / field
        closest = int(np.argmin((distance**2).sum(1)))
        if distance[closest].max() <= 1:
            found[n] = patches.features[near[closest]]
    return found, inside


def read_patches(path: Path) -> Patches:
    """The patches of a file of features; UserError when it is none."""
    if not path.is_file():
        raise UserError(f"features {path} do not exist; {CURE}")
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
        corners, attributes = np.asarray(coords[()], np.float64)[:, :2], dict(coords.attrs)
    if not (np.isfinite(values).all() and np.isfinite(corners).all()):
        raise _refuse(path, "numbers that are not finite")
    return Patches(values, corners + _patch_px(attributes, corners, path) / 2)


def _patch_px(attributes: dict[str, Any], corners: np.ndarray, path: Path) -> float:
    """Edge of a patch in level-0 pixels: as TRIDENT states it, else the least step between patches."""
    stated = attributes.get("patch_size_level0")
    if stated is not None and np.size(stated) == 1 and float(np.ravel(stated)[0]) > 0:
        return float(np.ravel(stated)[0])
    steps = np.concatenate([np.diff(np.unique(corners[:, axis])) for axis in (0, 1)])
    if not len(steps):
        raise _refuse(path, "a single place and no attribute patch_size_level0")
    return float(steps.min())


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


def _listed(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))
