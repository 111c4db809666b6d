"""The networks: a convolutional backbone, mean pooling and one linear layer, and the file they are kept in.

Every network returns `(features, logits)` and its head sees the map only through its spatial mean, which is
what makes the closed forms of `cam` exact.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from lowmag.errors import UserError
from lowmag.magnification import mpp_of
from lowmag.publish import publishing
from lowmag.recipe import Architecture

METADATA_KEY = "lowmag"
SCHEMA_VERSION = 1
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


class Network(nn.Module):
    """Backbone, mean over the map, linear head: `forward` gives (features (N, C, h, w), logits (N, K))."""

    def __init__(self, backbone: nn.Module, channels: int, n_classes: int) -> None:
        super().__init__()
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.backbone = backbone
        self.head = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return features, self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of a last map (N, C, h, w)."""
        # A mean, not AdaptiveAvgPool2d: that one has no deterministic backward on a GPU.
        return self.head(features.mean((2, 3)))


def build(architecture: Architecture, n_classes: int) -> Network:
    """A network with fresh weights, or with the backbone of `architecture.weights`.

    resnet18: torchvision's, BatchNorm. resnet10gn: DiPalma et al. 2021 (arXiv 2101.04170), one block per
    stage, 32 to 256 channels, GroupNorm of 32 groups everywhere. vgg16: del Amor et al. 2024 (arXiv
    2401.06010), torchvision's up to conv5_3 before its ReLU and pool5, so its map has both signs.
    Raises UserError when the weights file does not fit.
    """
    network = _NETWORKS[architecture.model](architecture.stride, n_classes)
    if architecture.weights:
        _load_backbone(network, architecture.model, Path(architecture.weights))
    return network


def _resnet18(stride: int, n_classes: int) -> Network:
    return Network(ResNetBackbone(2, (64, 128, 256, 512), nn.BatchNorm2d, stride), 512, n_classes)


def _resnet10gn(stride: int, n_classes: int) -> Network:
    norm = partial(nn.GroupNorm, 32)
    return Network(ResNetBackbone(1, (32, 64, 128, 256), norm, stride), 256, n_classes)


def _vgg16(_stride: int, n_classes: int) -> Network:
    layers: list[nn.Module] = []
    inplanes = 3
    for block in VGG16_BLOCKS:
        for planes in block:
            layers += [nn.Conv2d(inplanes, planes, 3, padding=1), nn.ReLU(inplace=True)]
            inplanes = planes
        layers.append(nn.MaxPool2d(2, stride=2))
    return Network(nn.Sequential(*layers[:-2]), inplanes, n_classes)


_NETWORKS = {"resnet18": _resnet18, "resnet10gn": _resnet10gn, "vgg16": _vgg16}


@dataclass(frozen=True)
class ModelSpec:
    """What a model file says of itself: enough to rebuild the network and to feed it.

    `tile_px` and `field_um` are the edge of a tile at `magnification`, 0 of sections, which have any size;
    `input` upsampled means that tiles are brought to `teacher_px` first; `mean` and `std` are per channel of
    pixels in 0..1; `weights` names the file the backbone began from.
    """

    role: Literal["teacher", "student"]
    model: str
    stride: int
    classes: tuple[str, ...]
    magnification: float
    tile_px: int
    field_um: float
    input: Literal["native", "upsampled"]
    teacher_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str | None = None

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the tiles."""
        return mpp_of(self.magnification)

    @property
    def network_px(self) -> int:
        """Edge of what the network sees, in pixels; 0: sections, of any size."""
        return self.teacher_px if self.input == "upsampled" else self.tile_px


def as_unit(tiles: Tensor) -> Tensor:
    """Tiles uint8 (N, H, W, 3) or (N, 3, H, W) as float32 (N, 3, H, W) in 0..1, on their device."""
    if tiles.ndim != 4 or 3 not in (tiles.shape[-1], tiles.shape[1]) or tiles.dtype != torch.uint8:
        raise ValueError(
            f"tiles are {tiles.dtype} {tuple(tiles.shape)}, expected uint8 (N, H, W, 3) or (N, 3, H, W)"
        )
    channels_first = tiles.permute(0, 3, 1, 2) if tiles.shape[-1] == 3 else tiles
    return channels_first.float() / 255


def normalise(x: Tensor, spec: ModelSpec) -> Tensor:
    """What the network of `spec` is given for pictures (N, 3, H, W) in 0..1: upsampled, standardised.

    Upsampling is bilinear with `align_corners=False`, so that the student's picture lies exactly on the
    teacher's; the code released with del Amor et al. 2024 aligns corners instead.
    """
    if spec.tile_px and x.shape[2:] != (spec.tile_px, spec.tile_px):
        raise UserError(
            f"tiles are {x.shape[2]} x {x.shape[3]} px, the {spec.role} at {spec.magnification:g}x was "
            f"trained on {spec.tile_px} px; cut tiles with field_um {spec.field_um:g}"
        )
    if spec.input == "upsampled":
        size = (spec.teacher_px, spec.teacher_px)
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return (x - _per_channel(spec.mean, x)) / _per_channel(spec.std, x)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    # Filled on the device: a tensor made from Python numbers would be copied there, and the host wait for it.
    return torch.stack([like.new_full((1, 1), value) for value in values])


def prepare(tiles: Tensor, spec: ModelSpec) -> Tensor:
    """What the network of `spec` is given for tiles uint8 (N, H, W, 3) or (N, 3, H, W), on their device."""
    return normalise(as_unit(tiles), spec)


def save_model(path: Path, network: Network, spec: ModelSpec) -> None:
    """Write weights and spec as one safetensors file, atomically; the spec is JSON in its metadata."""
    # safetensors refuses channels_last weights, hence contiguous().
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(spec)}
    with publishing(path) as temporary:
        # Not save_file: on a full disk it raises an error of its own.
        temporary.write_bytes(save(weights, metadata={METADATA_KEY: json.dumps(content, sort_keys=True)}))


def load_model(path: Path) -> tuple[Network, ModelSpec]:
    """The network of a model file, in eval mode on the CPU, and its spec.

    Raises UserError when the file is not one that `save_model` wrote.
    """
    spec = read_spec(path)
    network = _NETWORKS[spec.model](spec.stride, len(spec.classes))
    weights = load_file(path)
    _check_fit(weights, network.state_dict(), path, "train it again")
    network.load_state_dict(weights)
    return network.eval(), spec


def begin_from(network: Network, path: Path) -> None:
    """Put the weights of a model file, head included, into a network of the same kind; stride may differ.

    Raises UserError when they do not fit.
    """
    read_spec(path)
    weights = load_file(path)
    _check_fit(weights, network.state_dict(), path, "teacher and student must be the same network")
    network.load_state_dict(weights)


def read_spec(path: Path) -> ModelSpec:
    """The spec of a model file, without reading its weights; UserError when it is not one of ours."""
    cure = "give a model.safetensors that `lowmag teacher` or `lowmag student` wrote"
    if not path.is_file():
        raise UserError(f"{path} is not there; {cure}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); {cure}") from error
    if text is None:
        raise UserError(f"{path} holds weights but no {METADATA_KEY!r} metadata; {cure}")
    content: dict[str, Any] = json.loads(text)
    version = content.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has model schema {version}, this lowmag reads {SCHEMA_VERSION}; train it again"
        )
    content.update({k: tuple(v) for k, v in content.items() if isinstance(v, list)})
    return ModelSpec(**content)


def weights_sha256(path: Path) -> str:
    """SHA-256 of a model file, weights and spec, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_gmac(network: nn.Module, px: int | tuple[int, int]) -> float:
    """Billions of multiply-accumulates of convolutions and linear layers for one picture.

    Its size is `px` x `px`, or height and width.

    Counted on one real pass: torch's own counter and its meta device take seconds to import.
    """
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


def _load_backbone(network: Network, model: str, path: Path) -> None:
    weights = _read_weights(path)
    if model == "vgg16":
        weights = {
            k.removeprefix("features."): v for k, v in weights.items() if not k.startswith("classifier.")
        }
    else:
        weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    cure = f"give weights with torchvision's names for {model}"
    _check_fit(weights, network.backbone.state_dict(), path, cure)
    network.backbone.load_state_dict(weights, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights {path} are not there; give a local .safetensors or state dict, or null")
    try:
        weights = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # torch.load raises a dozen kinds; all mean that the file cannot be used
        reason = str(error).splitlines()[0]
        raise UserError(
            f"weights {path} cannot be read ({reason}); give a .safetensors or a plain state dict"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(
            f"weights {path} hold no plain state dict of names and tensors; save `model.state_dict()`"
        )
    return weights


def _check_fit(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path, cure: str) -> None:
    # Old files lack num_batches_tracked, which nothing here uses.
    missing = [k for k in expected if k not in found and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in found if k not in expected]
    misshapen = [k for k, v in found.items() if k in expected and v.shape != expected[k].shape]
    problems = [
        f"{word} {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise UserError(f"weights {path} do not fit the network: {'; '.join(problems)}; {cure}")
