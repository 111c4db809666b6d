"""`targets/seed{s}/{mag}x/*.h5`: what a teacher says of the training tiles, on one student's grid.

A file for each dataset that a method reads: `logits.h5`, `features-area.h5`, `attention-inside-2.h5`. So one
more is written without touching the others, and each can be deleted by itself. Layout (schema
`lowmag-targets`, version 3); N tiles in the order of the train slides' index, V views in the numbering of
`augment`, K classes, C channels, h x h cells:

- root attributes: `schema, schema_version, magnification, grid, classes, views, teacher_sha256`,
  `tiles_identity` (as `index` has it), `asked` (JSON of what decides on the grid) and `complete`, which is
  written last;
- `slide_id`, `count`: the slides in order and the tiles of each;
- `head/weight (K, C) float32`, `head/bias (K,) float32`: the teacher's last layer;
- `values`: of `logits` (N, V, K) float32; of `features-{maxpool|bicubic|area}` (N, V, C, h, h) float16; of
  `attention-{inside|outside}` (N, V, K, h, h) float16, and of earlier stages, on the student's grid there,
  `attention-{inside|outside}{-2|-3}`.

Of a teacher on features computed elsewhere: `logits` (N, 1, K), `features-area` (N, 1, D, 1, 1) and the root
attribute `every_view`: the one view stored is what is said of all 8.

Arrays are contiguous, so that a tile's view is one read at a known place of the file.

Of sections `grid` is 0, `cells (N, 2) int64` holds rows and columns of each (`cells-2`, `cells-3` at earlier
stages), and a form of map is one row of numbers, as `section_maps` says, with the attribute `channels`.
Versions 1 and 2 were one file of all forms.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from lowmag.device import free_bytes
from lowmag.errors import UserError
from lowmag.hdf5 import open_hdf5
from lowmag.index import TileIndex
from lowmag.methods import TargetsBatch
from lowmag.models import ModelSpec
from lowmag.prefetch import one_ahead
from lowmag.section_maps import CHANNELS, SectionMaps, cells_name, stage_of
from lowmag.study import TargetOptions
from lowmag.terms import ATTENTION, FEATURES, HEAD, LAST_STAGE, LOGITS, Method

CELLS = cells_name(LAST_STAGE)
SCHEMA = "lowmag-targets"
SCHEMA_VERSION = 3
RESIDENT_SHARE = 0.4  # of the free memory of a GPU; tiles and network have the rest
EVERY_VIEW = "every_view"
N_VIEWS = 8
CURE = "delete it and rerun `lowmag targets`"
VALUES = "values"
TILES_IDENTITY = "tiles_identity"
RECORD = "targets.json"  # beside the folders of a seed: of which teacher and tiles they are
Stored = dict[str, Tensor]  # by the name of the dataset, for some tiles (n, ...)


def file_of(folder: Path, dataset: str) -> Path:
    """The file of a dataset: features-area.h5 of features/area."""
    return folder / f"{dataset.replace('/', '-')}.h5"


def asked_of(options: TargetOptions, name: str, dataset: str) -> str:
    """JSON of what decides on the values of a dataset beside teacher, tiles and views: the student's grid."""
    network = options.sections.get(name)
    form = dataset.split("/")[-1]
    content = {
        "grid": options.grids[name],
        "earlier": options.earlier.get(form, {}).get(name),
        "network": network.model_dump(include={"model", "stride"}) if network else None,
    }
    return json.dumps(content, sort_keys=True)


def holds_targets(path: Path) -> bool:
    """Whether a file is one of targets, of whatever version; not when it is damaged."""
    try:
        with open_hdf5(path, "targets", CURE, is_own=True) as file:
            return file.attrs.get("schema") == SCHEMA
    except UserError:
        return False


class Targets:
    """The targets of one student: those parts that its method compares with, on the device when they fit.

    On the CPU, and on a GPU that they do not fit, the file is mapped: the system keeps in memory what it can.
    """

    def __init__(self, path: Path, method: Method, device: torch.device) -> None:
        self.path, self._device = path, device
        if path.is_file():
            raise UserError(f"targets {path} are one file, expected a folder of one per dataset; {CURE}")
        arrays: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self._cells: np.ndarray | None = None
        for name in [name for name in method.reads if name != HEAD]:
            if not (file := file_of(path, name)).is_file():
                raise UserError(f"targets {path} hold no {name}, which is asked of them; {CURE}")
            with open_hdf5(file, "targets", CURE, is_own=True) as opened:
                self._take_attributes(opened, file)
                arrays[name] = self._opened(opened, name)
                self._cells = np.asarray(opened[CELLS]) if CELLS in opened else None
                self._head = _read_head(opened, file, device) if HEAD in method.reads else None
        room = RESIDENT_SHARE * free_bytes(device)
        # A section's maps are found by the host, and are copied in a fraction of the section's step.
        fits = self._cells is None and sum(a.nbytes for a in arrays.values()) <= room
        self._resident = device.type == "cuda" and fits
        self._arrays: dict[str, Any] = arrays
        if self._resident:
            self._arrays = {name: torch.from_numpy(np.array(a)).to(device) for name, a in arrays.items()}

    def _take_attributes(self, file: h5py.File, path: Path) -> None:
        """Take those of a dataset; raises UserError unless they are those of the datasets before it."""
        found = checked_attributes(file, path)
        names, counts = (_stored(file, name, path)[()] for name in ("slide_id", "count"))
        found["slides and tiles"] = [(name.decode(), int(n)) for name, n in zip(names, counts, strict=True)]
        for name in ("teacher_sha256", "slides and tiles", TILES_IDENTITY, "grid"):
            if found.get(name) != self.attributes.get(name, found.get(name)):
                raise UserError(f"targets {path} have another {name} than those beside them; {CURE}")
        found["views"] = min(int(found["views"]), self.attributes.get("views", N_VIEWS))
        self.attributes = found

    @property
    def n_views(self) -> int:
        """Views of every tile, the first so many in the numbering of `augment`."""
        return N_VIEWS if self.holds_every_view else int(self.attributes["views"])

    @property
    def holds_every_view(self) -> bool:
        """Whether the one view stored, a map of one cell, is what is said of every view."""
        return bool(self.attributes.get(EVERY_VIEW, False))

    @property
    def teacher_sha256(self) -> str:
        """The model file of the teacher that said it."""
        return str(self.attributes["teacher_sha256"])

    @property
    def channels(self) -> int | None:
        """Channels of the teacher's map; None when no features are read."""
        maps = next((a for name, a in self._arrays.items() if name.startswith(FEATURES)), None)
        if maps is None:
            return None
        return maps.channels if isinstance(maps, SectionMaps) else maps.shape[2]

    def check(
        self, index: TileIndex, spec: ModelSpec, cells: int | np.ndarray | None, channels: int | None
    ) -> None:
        """Raise UserError when the targets are not those of these tiles, classes, magnification or maps.

        `cells` are those of a tile's edge, or of every section (N, 2). `cells` and `channels` None: any
        number of them will do.
        """
        grid = int(self.attributes["grid"]) if self._cells is None else self._cells
        cells = None if self.holds_every_view else cells
        slides = [(s.slide_id, int(n)) for s, n in zip(index.slides, index.counts, strict=True)]
        expected = {
            "classes": list(spec.classes),
            "magnification": spec.magnification,
            "slides and tiles": slides,
            "grid": _plain(grid if cells is None else cells),
            "channels": channels or self.channels,
        }
        found = {
            "classes": [str(name) for name in self.attributes["classes"]],
            "magnification": float(self.attributes["magnification"]),
            "slides and tiles": self.attributes["slides and tiles"],
            "grid": _plain(grid),
            "channels": self.channels or channels,
        }
        for name, value in expected.items():
            if found[name] != value:
                raise UserError(f"targets {self.path} {_difference(name, found[name], value)}; {CURE}")
        if self.attributes.get(TILES_IDENTITY, index.identity) != index.identity:
            raise UserError(f"targets {self.path} are of tiles that were cut anew since; {CURE}")

    def check_grid(self, name: str, cells: int | np.ndarray) -> None:
        """Raise UserError when the maps of a dataset are not on a grid of `cells`."""
        maps = self._arrays[name]
        found = _plain(maps.cells if isinstance(maps, SectionMaps) else maps.shape[-1])
        cells = _plain(cells)
        if found != cells:
            raise UserError(
                f"targets {self.path} {_difference(f'a grid of {name} of', found, cells)}; {CURE}"
            )

    def batch(self, ids: Tensor, views: Tensor, labels: Tensor) -> TargetsBatch:
        """What the teacher says of the tiles `ids` (N,) in `views` (N,), with their labels, on the device.

        Indices are on the device when the targets are (`resident`), else on the CPU.
        """
        return self.told(self._on_device(self._fetch(ids, views)), labels)

    def ahead(self, ids: Tensor, views: Tensor, size: int) -> Iterator[Stored]:
        """What is stored of tiles in views, in parts of `size`, on the device; indices as for `batch`.

        What must be read or copied is fetched one part ahead in the background.
        """
        jobs = [partial(self._fetch, *part) for part in zip(ids.split(size), views.split(size), strict=True)]
        fetched = (job() for job in jobs) if self._resident else one_ahead(jobs)
        yield from map(self._on_device, fetched)

    def told(self, stored: Mapping[str, Tensor], labels: Tensor) -> TargetsBatch:
        """What is stored of some tiles together with their labels."""
        forms = {
            kind: {name.split("/")[1]: part for name, part in stored.items() if name.startswith(f"{kind}/")}
            for kind in (FEATURES, ATTENTION)
        }
        return TargetsBatch(labels, stored.get(LOGITS), forms[FEATURES], forms[ATTENTION], self._head)

    @property
    def index_device(self) -> torch.device:
        """Where `ids` and `views` of a batch have to be."""
        return self._device if self._resident else torch.device("cpu")

    def _opened(self, file: h5py.File, name: str) -> Any:
        path = file_of(self.path, name)
        dataset = _stored(file, VALUES, path)
        array = _mapped(path, dataset)
        if CELLS not in file or name == LOGITS:
            return array
        cells = np.asarray(_stored(file, cells_name(stage_of(name)), path))
        channels: Any = dataset.attrs[CHANNELS]
        views: Any = file.attrs["views"]  # its own: files beside it may hold fewer
        return SectionMaps(array, cells, int(channels), int(views))

    def _fetch(self, ids: Tensor, views: Tensor) -> Stored:
        if self.holds_every_view:
            views = torch.zeros_like(views)
        if self._resident:
            return {name: array[ids, views] for name, array in self._arrays.items()}
        picked = {name: _picked(array, ids, views) for name, array in self._arrays.items()}
        if self._device.type == "cuda":  # from pinned memory the copy does not hold up the host
            picked = {name: part.pin_memory() for name, part in picked.items()}
        return picked

    def _on_device(self, picked: Stored) -> Stored:
        return {name: part.to(self._device, non_blocking=True).float() for name, part in picked.items()}


def _picked(array: Any, ids: Tensor, views: Tensor) -> Tensor:
    if isinstance(array, SectionMaps):
        return array.pick(ids, views)
    return torch.from_numpy(array[ids.numpy(), views.numpy()])


def checked_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """The root attributes of a targets file; raises UserError when it is none, or is not complete."""
    found: dict[str, Any] = dict(file.attrs)
    if found.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {found.get('schema')!r}, expected {SCHEMA!r}: not a targets file")
    if int(found["schema_version"]) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {found['schema_version']}, lowmag reads up to {SCHEMA_VERSION}"
        )
    if not found.get("complete"):
        raise UserError(f"targets {path} are not complete (their writer was stopped); {CURE}")
    return found


def _stored(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"targets {path} hold no {name}, which is asked of them; {CURE}")
    return found


def _read_head(file: h5py.File, path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    weight, bias = (_stored(file, f"{HEAD}/{name}", path)[()] for name in ("weight", "bias"))
    return torch.from_numpy(weight).to(device), torch.from_numpy(bias).to(device)


def _mapped(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    offset = dataset.id.get_offset()
    if offset is None:  # nothing was written: there are no tiles
        return np.zeros(dataset.shape, dataset.dtype)
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def _plain(cells: int | np.ndarray) -> Any:
    return cells.tolist() if isinstance(cells, np.ndarray) else cells


def _difference(name: str, found: Any, expected: Any) -> str:
    if isinstance(found, list) != isinstance(expected, list):
        return "are of tiles where sections are trained on, or the reverse"
    if "grid" in name and isinstance(found, list):
        return f"have {name} of another network for {len(expected)} sections"
    if name != "slides and tiles":
        return f"have {name} {found}, expected {expected}"
    changed = sorted({slide for slide, _ in set(found) ^ set(expected)})
    if not changed:
        return "hold the train slides in another order"
    return f"are of other slides or tiles than the tile files ({', '.join(changed[:5])} differ)"
