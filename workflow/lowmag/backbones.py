"""The backbones written out here: resnet18, resnet10gn (DiPalma 2021) and vgg16 (del Amor 2024)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inplanes: int, planes: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            projection = nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNetBackbone(nn.Module):
    """A ResNet of basic blocks up to its last map, with torchvision's parameter names.

    `stride` 32 is the usual network; 16 leaves out the max-pool of the stem and 8 also its stride, so that
    small tiles keep a map with more than one cell. The weights have the same shapes at every stride.
    (torchvision holds the same blocks, but importing it costs seconds that every short job would pay.)
    """

    def __init__(self, depth: int, planes: tuple[int, ...], norm: Norm, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=1 if stride == 8 else 2, padding=3, bias=False)
        self.bn1 = norm(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stride == 32 else nn.Identity()
        self.layer1 = _stage(planes[0], planes[0], depth, 1, norm)
        self.layer2 = _stage(planes[0], planes[1], depth, 2, norm)
        self.layer3 = _stage(planes[1], planes[2], depth, 2, norm)
        self.layer4 = _stage(planes[2], planes[3], depth, 2, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(inplanes: int, planes: int, depth: int, stride: int, norm: Norm) -> nn.Sequential:
    rest = [BasicBlock(planes, planes, 1, norm) for _ in range(1, depth)]
    return nn.Sequential(BasicBlock(inplanes, planes, stride, norm), *rest)


def own_backbone(model: str, stride: int) -> tuple[nn.Module, int]:
    """A backbone with fresh weights, and the channels of its last map.

    resnet18: torchvision's, BatchNorm. resnet10gn: DiPalma et al. 2021 (arXiv 2101.04170), one block per
    stage, 32 to 256 channels, GroupNorm of 32 groups everywhere. vgg16: del Amor et al. 2024 (arXiv
    2401.06010), torchvision's up to conv5_3 before its ReLU and pool5, so its map has both signs.
    """
    backbone, channels = _BACKBONES[model](stride)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone, channels


def _resnet18(stride: int) -> tuple[nn.Module, int]:
    return ResNetBackbone(2, (64, 128, 256, 512), nn.BatchNorm2d, stride), 512


def _resnet10gn(stride: int) -> tuple[nn.Module, int]:
    return ResNetBackbone(1, (32, 64, 128, 256), partial(nn.GroupNorm, 32), stride), 256


def _vgg16(_stride: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    inplanes = 3
    for block in VGG16_BLOCKS:
        for planes in block:
            layers += [nn.Conv2d(inplanes, planes, 3, padding=1), nn.ReLU(inplace=True)]
            inplanes = planes
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers[:-2]), inplanes


_BACKBONES = {"resnet18": _resnet18, "resnet10gn": _resnet10gn, "vgg16": _vgg16}
