"""The running mean of a network's weights, which is validated and kept in place of the last step's."""

# pyright: reportPrivateImportUsage=false
# torch documents its operations for lists of tensors but does not list them for export.

import copy
from typing import Any

import torch
from torch import Tensor

from lowmag.networks import Network


class WeightAverage:
    """An exponential moving average of a network's weights (Tarvainen and Valpola 2017, arXiv 1703.01780).

    `network` holds it. The first steps count for more, so that the weights of the beginning are soon
    forgotten: the share kept is min(decay, (1 + n) / (10 + n)) after step n.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def renew(self, network: Network, step: int) -> None:
        """Take in the weights after step number `step`, the first is 1; statistics of BatchNorm likewise."""
        kept = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(_floats(self.network), _floats(network), 1 - kept)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.network.load_state_dict(state)


def _floats(network: Network) -> list[Tensor]:
    return [value for value in network.state_dict().values() if value.is_floating_point()]
