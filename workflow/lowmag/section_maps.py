"""Maps of sections: each has a grid of its own, and their maps lie one after another in one long row.

A section of H x W pixels has the grid of a network for H and for W; a view that transposes swaps them. So a
map of any view has C h w numbers, and the V views of section n begin at number V C (the cells of all sections
before it) of the row.
"""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from lowmag.augment import TRANSPOSED
from lowmag.errors import UserError
from lowmag.index import TileIndex
from lowmag.magnification import name_of
from lowmag.recipe import Architecture, Training, grid_cells
from lowmag.store import dataset
from lowmag.terms import LAST_STAGE, earlier_form

SMALLEST_PX = 8  # below it GroupNorm may be left with one value of a channel
CHANNELS = "channels"


def section_cells(architecture: Architecture, size: np.ndarray, stage: int) -> np.ndarray:
    """Rows and columns of a network's map for sections of `size` (N, 2), width and height: (N, 2)."""
    sizes, inverse = np.unique(size, return_inverse=True)
    cells = np.array([grid_cells(architecture, int(px), stage) for px in sizes], np.int64)
    return cells[inverse].reshape(-1, 2)[:, ::-1]


def cells_name(stage: int) -> str:
    """Dataset of a targets file with the sections' grids at a stage: `cells`, `cells-2`, `cells-3`."""
    return "cells" if stage == LAST_STAGE else f"cells{stage}"


def stage_of(name: str) -> int:
    """The stage that a dataset of maps is of: `attention/inside-2` is of -2."""
    return earlier_form(name)[1] if name[-2] == "-" else LAST_STAGE


def check_sections(
    index: TileIndex, ids: np.ndarray, architecture: Architecture, magnification: float
) -> None:
    """Raise UserError when sections are too small for a network, or differ and come several at a time."""
    size = index.size_at(magnification, ids)
    cells = section_cells(architecture, size, -1)
    small = np.flatnonzero((cells.min(1) < 1) | (size.max(1) < SMALLEST_PX))
    if len(small):
        width, height = size[small[0]]
        raise UserError(
            f"section {index.name(int(ids[small[0]]))} is {width} x {height} px at {name_of(magnification)}, "
            f"too small for {architecture.model} ({len(small)} such sections); raise tissue.min_piece_um, or "
            "leave the magnification out"
        )
    together = architecture.part_size if isinstance(architecture, Training) else 1
    if together > 1 and (size != size[0]).any():
        raise UserError(
            f"sections differ in size, so they go through the network one by one, not {together} at a time; "
            "set accumulate to the value of batch_size"
        )


def store_maps(
    file: h5py.File, name: str, start: int, views: Sequence[np.ndarray], cells: np.ndarray
) -> None:
    """Write the maps of one section, (1, C, h, w) by view; `cells` (N, 2) are the grids of all sections."""
    channels = views[0].shape[1]
    area = cells.prod(1)
    per_cell = len(views) * channels
    if name not in file:
        stored = file.create_dataset(name, (int(area.sum()) * per_cell,), views[0].dtype)
        stored.attrs[CHANNELS] = channels
    values = np.concatenate([view.reshape(-1) for view in views])
    begin = int(area[:start].sum()) * per_cell
    dataset(file, name)[begin : begin + len(values)] = values


class SectionMaps:
    """One form of map of every section in every view: `row` as `store_maps` wrote it, `cells` (N, 2)."""

    def __init__(self, row: np.ndarray, cells: np.ndarray, channels: int, n_views: int) -> None:
        self._row, self.cells, self.channels, self._n_views = row, cells, channels, n_views
        area = cells.prod(1)
        self._begin = (np.cumsum(area) - area) * channels * n_views

    def pick(self, ids: Tensor, views: Tensor) -> Tensor:
        """Maps (n, C, h, w) of sections that are alike in their views, on the CPU."""
        pairs = zip(ids.tolist(), views.tolist(), strict=True)
        return torch.stack([self._map(section, view) for section, view in pairs])

    def _map(self, section: int, view: int) -> Tensor:
        rows, columns = self.cells[section][::-1] if view & TRANSPOSED else self.cells[section]
        length = self.channels * int(rows) * int(columns)
        begin = int(self._begin[section]) + view * length
        values: Any = self._row[begin : begin + length]
        return torch.from_numpy(np.array(values)).view(self.channels, int(rows), int(columns))
