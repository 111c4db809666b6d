"""Maps before a network's last one, and the attention of a class on them, which needs autograd.

Stages are counted from the last: -1 is the network's map, -2 the one before its last group of blocks. The
closed form of `cam` holds for the last alone: before it, the gradient of a logit differs from cell to cell.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lowmag.backbones import ResNetBackbone
from lowmag.cam import Relu, gradcam_reference
from lowmag.networks import Network

Rest = Callable[[Tensor], tuple[Tensor, Tensor]]


def split(network: Network, stage: int) -> tuple[nn.Module, Rest]:
    """The network up to the map of a stage, and what gives (features, logits) from there.

    resnets: -2 is layer3, -3 layer2. vgg16: -2 and -3 are blocks 4 and 3 with their max-pools, as in the code
    released with del Amor et al. 2024 (arXiv 2401.06010).
    """
    groups = _groups(network.backbone)
    first, last = nn.Sequential(*groups[: stage + 1]), nn.Sequential(*groups[stage + 1 :])

    def rest(earlier: Tensor) -> tuple[Tensor, Tensor]:
        features = last(earlier)
        return features, network.classify(features)

    return first, rest


def _groups(backbone: nn.Module) -> list[nn.Module]:
    if isinstance(backbone, ResNetBackbone):
        stem = nn.Sequential(backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool)
        return [stem, backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    assert isinstance(backbone, nn.Sequential)
    ends = [n + 1 for n, layer in enumerate(backbone) if isinstance(layer, nn.MaxPool2d)]
    return [backbone[a:b] for a, b in zip([0, *ends], [*ends, len(backbone)], strict=True)]


def earlier_attention(earlier: Tensor, logits: Tensor, relu: Relu) -> Tensor:
    """Attention of every class on an earlier map, (N, K, h, w) float32, differentiable again.

    Grad-CAM or AT+ by autograd, times the number of cells, as `cam.attention` is: on the last map both agree.
    """
    return earlier[0, 0].numel() * gradcam_reference(earlier, logits, relu)


def teacher_attention(network: Network, pictures: Tensor, stage: int, relu: Relu) -> Tensor:
    """What `earlier_attention` gives for a network that is not trained, without gradient."""
    first, rest = split(network, stage)
    with torch.no_grad():
        earlier = first(pictures)
    with torch.enable_grad():
        earlier.requires_grad_()
        return earlier_attention(earlier, rest(earlier)[1], relu).detach()
