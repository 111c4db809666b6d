"""Class attention in closed form, for networks whose head is a mean over the map and one linear layer.

With z_c = sum_k w_ck mean_ij A_k(i,j) + b_c, the gradient of z_c at every cell of A_k is w_ck / (HW).
Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) weighs A_k by the mean of that gradient, so it is the CAM
of Zhou et al. 2016 (arXiv 1512.04150) divided by HW, and no backward pass is needed, neither for the map nor
for its gradient. The maps here leave out the 1 / HW, so that maps of different grids have the same scale.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

Relu = Literal["inside", "outside"]
Normalise = Literal["minmax", "minmax_class", "softmax", "none"]
SMALLEST_RANGE = 1e-6


def class_evidence(features: Tensor, weight: Tensor) -> Tensor:
    """CAM of every class, sum_k w_ck A_k: (N, K, h, w) float32 from (N, C, h, w) and head weights (K, C).

    Its mean over the map plus the bias of the head is the logit.
    """
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("nchw,kc->nkhw", features.float(), weight.float())


def attention(features: Tensor, weight: Tensor, relu: Relu) -> Tensor:
    """Attention of every class, (N, K, h, w) float32, at least 0, from (N, C, h, w) and head weights (K, C).

    `outside` is Grad-CAM times HW: ReLU(sum_k w_ck A_k). `inside` is the AT+ of del Amor et al. 2024
    (arXiv 2401.06010) times HW: sum_k ReLU(w_ck A_k), where a negative weight on a negative activation
    counts too.
    """
    if relu == "outside":
        return class_evidence(features, weight).relu()
    # ReLU(w a) = ReLU(w) ReLU(a) + ReLU(-w) ReLU(-a): two products in place of an (N, K, C, h, w) tensor.
    agreeing = class_evidence(features.relu(), weight.relu())
    return agreeing + class_evidence((-features).relu(), (-weight).relu())


def normaliser(kind: Normalise, temperature: float) -> Callable[[Tensor], Tensor]:
    """What brings maps (N, K, h, w) to a scale of their own; `temperature` is that of softmax.

    minmax: each picture to 0..1, jointly over its classes and cells. minmax_class: every map by itself.
    softmax: each picture to a sum of 1 over its classes and cells, `softmax(maps / temperature)`. The code
    released with del Amor et al. 2024 (arXiv 2401.06010) has minmax, and a softmax of temperature 0.01 on
    maps divided by HW, which is 0.01 HW here.
    """
    if kind == "softmax":
        return partial(normalise_softmax, temperature=temperature)
    if kind == "none":
        return lambda maps: maps
    return partial(normalise_minmax, jointly=(1, 2, 3) if kind == "minmax" else (2, 3))


def normalise_minmax(maps: Tensor, jointly: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """Maps (N, K, h, w) brought to 0..1 over some of their axes, by default over all but the picture's.

    Where all is one value it gives zeros; the divisor is at least 1e-6, which keeps value and gradient
    finite there.
    """
    lowest, highest = maps.amin(jointly, keepdim=True), maps.amax(jointly, keepdim=True)
    return (maps - lowest) / (highest - lowest).clamp(min=SMALLEST_RANGE)


def normalise_softmax(maps: Tensor, temperature: float) -> Tensor:
    """Maps (N, K, h, w) as one distribution per picture over its classes and cells."""
    return (maps / temperature).flatten(1).softmax(1).view_as(maps)


def gradcam_reference(features: Tensor, logits: Tensor, relu: Relu) -> Tensor:
    """Grad-CAM (`outside`) or AT+ (`inside`) of every class by autograd, (N, K, h, w), differentiable again.

    `logits` (N, K) must have been computed from `features`, by any head. For a mean and a linear layer it
    equals `attention` divided by HW; it is the reference of that and holds for earlier maps too.
    """
    maps = []
    for class_logits in logits.unbind(1):
        (gradient,) = torch.autograd.grad(class_logits.sum(), features, create_graph=True)
        weighted = gradient.float().mean((2, 3), keepdim=True) * features.float()
        maps.append(weighted.relu().sum(1) if relu == "inside" else weighted.sum(1).relu())
    return torch.stack(maps, 1)
