"""The networks: a backbone, mean pooling over its last map and one linear layer.

Every network returns `(features, logits)` and its head sees the map only through its spatial mean, which is
what makes the closed forms of `cam` exact.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lowmag.backbones import own_backbone
from lowmag.errors import UserError
from lowmag.initial_weights import load_initial
from lowmag.library import LibraryBackbone, library_backbone
from lowmag.recipe import Architecture, grid_cells, is_library

SMALLEST_STD = 1e-6  # of a channel that hardly varies
FEATURES_MODEL = "features"  # of a teacher on features that are computed already


class Network(nn.Module):
    """Backbone, mean over the map, linear head: `forward` gives (features (N, C, h, w), logits (N, K))."""

    def __init__(self, backbone: nn.Module, channels: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return features, self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of a last map (N, C, h, w)."""
        # A mean, not AdaptiveAvgPool2d: that one has no deterministic backward on a GPU.
        return self.head(features.mean((2, 3)))


class FeatureBackbone(nn.Module):
    """Features of another program, (N, D, 1, 1), standardised per channel: a map of one cell."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp(min=SMALLEST_STD))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (self.get_buffer(name)[:, None, None] for name in ("mean", "std"))
        return (x - mean) / std


def build_on_features(channels: int, n_classes: int) -> Network:
    """A linear head on features of so many channels, before its weights are put in."""
    return Network(FeatureBackbone(torch.zeros(channels), torch.ones(channels)), channels, n_classes)


def build(
    architecture: Architecture, n_classes: int, px: int | None = None, channels: int | None = None
) -> Network:
    """A network with fresh weights, or with the backbone of `architecture.weights`.

    `px` is the edge of the pictures it will be given, which a network of a library may depend on; `channels`
    of the last map of such a network are found by a pass if they are not known. Raises UserError when there
    is no such network, or the weights do not fit it.
    """
    if not is_library(architecture.model):
        backbone, channels = own_backbone(architecture.model, architecture.stride)
    else:
        backbone = library_backbone(architecture.model, px)
        channels = channels or backbone.channels(px)
    network = Network(backbone, channels, n_classes)
    if architecture.weights:
        load_initial(network.backbone, architecture.model, architecture.weights)
    return network


def map_cells(network: Network, architecture: Architecture, px: int, stage: int = -1) -> int:
    """Cells per edge of a network's map for pictures of `px` pixels, measured for one of a library.

    Raises UserError when it takes no such pictures, or when `architecture.stride` says something else.
    """
    if not isinstance(network.backbone, LibraryBackbone):
        return grid_cells(architecture, px, stage)
    cells = network.backbone.cells(px)
    if not px // architecture.stride <= cells <= -(-px // architecture.stride):
        raise UserError(
            f"{architecture.model} makes a map of {cells} x {cells} cells of a tile of {px} px, which is no "
            f"stride of {architecture.stride}; set stride: {round(px / cells)}"
        )
    return cells


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_gmac(network: Network, px: int | tuple[int, int]) -> float:
    """Billions of multiply-accumulates of convolutions and linear layers for one picture.

    Its size is `px` x `px`, or height and width.

    Counted on one real pass: torch's own counter and its meta device take seconds to import. Those of a
    library, which may multiply in other ways (attention), are given to torch's counter all the same.
    """
    if isinstance(network.backbone, LibraryBackbone):
        assert isinstance(px, int), "sections are for networks written out here"
        return network.backbone.count_gmac(px)
    counts: list[int] = []

    def count(module: nn.Conv2d | nn.Linear, _inputs: Any, output: Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    size = (px, px) if isinstance(px, int) else px
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, device=layers[0].weight.device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return sum(counts) / 1e9
