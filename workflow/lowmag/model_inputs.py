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
class Given:
    """Tiles `ids` of an index as a model is given them: `bank` holds their pictures, or None of `features`.

    Features are (n, D), in the order of `ids`.
    """

    index: TileIndex
    ids: np.ndarray
    spec: ModelSpec
    bank: Bank | None = None
    features: Tensor | None = None

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """All tiles in their order, ready for the network."""
        size = inference_batch(self.spec.network_px)
        if self.features is not None:
            for part in self.features.split(size):
                yield part[..., None, None].to(device)
        elif self.bank is not None:
            for pictures in self.bank.batches(self.ids, size):
                yield prepare(pictures, self.spec)


def give(spec: ModelSpec, index: TileIndex, ids: np.ndarray, threads: int, features: Path | None) -> Given:
    """Tiles as the model of `spec` is given them; `features` is the folder for a head on features.

    Raises UserError when such a head is given no folder.
    """
    if spec.model != FEATURES_MODEL:
        if index.unit == "section":
            expect_any_size()
        bank = Bank(index, ids, spec.magnification, pick_device(threads), threads=threads)
        return Given(index, ids, spec, bank=bank)
    if features is None:
        raise UserError("the model is a head on features computed elsewhere; give their folder as --features")
    return Given(index, ids, spec, features=torch.from_numpy(features_of_tiles(features, index)[ids]))


@torch.inference_mode()
def tile_vectors(network: Network, given: Given) -> Tensor:
    """The mean of a network's last map of every tile, which is all that its head sees, (n, C) on the CPU."""
    device = network.head.weight.device
    parts = [network.backbone(x).float().mean((2, 3)).cpu() for x in given.batches(device)]
    return torch.cat(parts)
