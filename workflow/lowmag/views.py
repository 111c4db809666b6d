"""Tiles of a student and of its teacher: fed side by side, and shown in the same drawn view."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowmag.augment import (
    apply_colour,
    apply_geometry,
    apply_views,
    dihedral,
    draw_colour,
    draw_geometry,
    draw_views,
)
from lowmag.bank import Bank
from lowmag.models import as_unit
from lowmag.recipe import Augment


@dataclass(frozen=True)
class Part:
    """Some tiles, uint8 (n, H, W, 3): at the network's own magnification, and `fine` at the teacher's.

    One of them is None where it is not needed: `fine` without a teacher to be asked, `own` where the picture
    is made from the fine one. `stored` is what was stored of a teacher about them, if anything was.
    """

    own: Tensor | None
    fine: Tensor | None
    stored: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Views:
    """What was drawn for N tiles, on one device: exact views (N,), geometry, colours; None for unchanged.

    `geometry` and `colour` are parameters of `augment.draw_geometry` and `draw_colour`.
    """

    options: Augment
    exact: Tensor | None
    geometry: Tensor | None
    colour: Tensor | None

    def __getitem__(self, places: slice) -> "Views":
        return self._each(lambda drawn: drawn[places])

    def to(self, device: torch.device) -> "Views":
        """The same views on a device."""
        return self._each(lambda drawn: drawn.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Views":
        drawn = (self.exact, self.geometry, self.colour)
        return Views(self.options, *(None if values is None else change(values) for values in drawn))


@dataclass(frozen=True)
class Feed:
    """The banks a run is fed from; both hold the same tiles."""

    own: Bank | None
    fine: Bank | None

    def parts(self, order: np.ndarray, size: int) -> Iterator[Part]:
        """The tiles `order` in parts of `size`, on the device; the last may be short."""
        nothing = [None] * -(-len(order) // size)
        own = self.own.batches(order, size) if self.own else nothing
        fine = self.fine.batches(order, size) if self.fine else nothing
        yield from (Part(*tiles) for tiles in zip(own, fine, strict=True))


def draw(seed: int, epoch: int, tile_ids: np.ndarray, options: Augment) -> Views:
    """The views of tiles in an epoch, on the CPU; keyed by seed, epoch and tile alone."""
    return Views(
        options=options,
        exact=draw_views(seed, epoch, tile_ids, options.n_views) if options.dihedral else None,
        geometry=draw_geometry(seed, epoch, tile_ids, options) if options.resamples else None,
        colour=draw_colour(seed, epoch, tile_ids, options) if options.changes_colour else None,
    )


def show(tiles: Tensor, views: Views) -> Tensor:
    """Tiles uint8 (n, H, W, 3) as pictures (n, 3, H, W) float32 in 0..1, each in its own view.

    First the exact view, then turn, zoom and shift, then the colour, as the papers' code does. The same
    views at two magnifications show the same tissue: exactly, where nothing is resampled.
    """
    tiles = tiles.permute(0, 3, 1, 2)
    if views.exact is not None:
        tiles = _turn(tiles, views.exact)
    pictures = as_unit(tiles)
    if views.geometry is not None:
        pictures = apply_geometry(pictures, views.geometry, views.options.border)
    return pictures if views.colour is None else apply_colour(pictures, views.colour)


def show_both(part: Part, views: Views, factor: int) -> tuple[Tensor, Tensor | None]:
    """The picture of the network, and that of its teacher if there is one, in 0..1 and in the same view.

    Where the network's own tiles are not given, its pictures are means of `factor` x `factor` pixels of the
    changed fine ones: no view that is not exact commutes with that mean.
    """
    fine = None if part.fine is None else show(part.fine, views)
    if part.own is not None:
        return show(part.own, views), fine
    assert fine is not None, "a network is fed neither its own tiles nor fine ones"
    return functional.avg_pool2d(fine, factor), fine


def _turn(tiles: Tensor, views: Tensor) -> Tensor:
    if views.device.type == "cpu":  # one copy in place of six; a GPU would wait for the host in every step
        return torch.stack([dihedral(tile, view) for tile, view in zip(tiles, views.tolist(), strict=True)])
    return apply_views(tiles, views)
