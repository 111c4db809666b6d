"""What a trained model is given of tiles, pictures or features computed elsewhere; and their vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowmag.bank import Bank
from lowmag.device import expect_any_size, inference_batch, pick_device
from lowmag.errors import UserError
from lowmag.index import TileIndex
from lowmag.models import ModelSpec, prepare
from lowmag.networks import FEATURES_MODEL, Network
from lowmag.patch_features import features_of_tiles


@dataclass(frozen=True)
class Source:
    """Where pictures come from: read by so many `threads`; of a head on features the folder of `features`."""

    threads: int
    features: Path | None = None


@dataclass(frozen=True)
class Given:
    """Tiles `ids` of an index as a model is given them: `bank` holds their pictures, or None of `features`.

    Features are (n, D), in the order of `ids`, each of a tile with `n_patches` (n,) inside.
    """

    index: TileIndex
    ids: np.ndarray
    spec: ModelSpec
    bank: Bank | None = None
    features: Tensor | None = None
    n_patches: np.ndarray | None = None

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """All tiles in their order, ready for the network."""
        size = inference_batch(self.spec.network_px)
        if self.features is not None:
            for part in self.features.split(size):
                yield part[..., None, None].to(device)
        elif self.bank is not None:
            for pictures in self.bank.batches(self.ids, size):
                yield prepare(pictures, self.spec)


def give(network: Network, spec: ModelSpec, index: TileIndex, ids: np.ndarray, source: Source) -> Given:
    """Tiles as a model is given them.

    Raises UserError when a head on features is given no folder of them, or of other ones.
    """
    threads = source.threads
    if spec.model != FEATURES_MODEL:
        if index.unit == "section":
            expect_any_size()
        bank = Bank(index, ids, spec.magnification, pick_device(threads), threads=threads)
        return Given(index, ids, spec, bank=bank)
    if source.features is None:
        raise UserError("the model is a head on features computed elsewhere; give their folder as --features")
    found = features_of_tiles(source.features, index, ids, network.head.in_features)
    return Given(index, ids, spec, features=torch.from_numpy(found.values), n_patches=found.n_patches)


@torch.inference_mode()
def tile_vectors(network: Network, given: Given) -> Tensor:
    """The mean of a network's last map of every tile, which is all that its head sees, (n, C) on the CPU."""
    device = network.head.weight.device
    parts = [network.backbone(x).float().mean((2, 3)).cpu() for x in given.batches(device)]
    return torch.cat(parts)
