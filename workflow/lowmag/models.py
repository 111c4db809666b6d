"""What a model file says of itself, how its network is fed, and the file: weights and spec in safetensors."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from lowmag.allocation import NoMoreThan
from lowmag.errors import UserError
from lowmag.initial_weights import check_fit
from lowmag.library import LibraryBackbone
from lowmag.magnification import mpp_of
from lowmag.names import problem_of_name
from lowmag.networks import FEATURES_MODEL, Network, build, build_on_features
from lowmag.parsing import line_of, validated
from lowmag.publish import publishing
from lowmag.recipe import Architecture

BODY = "backbone.body."  # of a library's network, before its own names
METADATA_KEY = "lowmag"
SCHEMA_VERSION = 1
CURE = "give a model.safetensors that `lowmag teacher` or `lowmag student` wrote"
NOTHING = torch.zeros(1)  # in place of weights that are missing, which are told of later
LARGEST_EDGE_PX = 8192  # of what a network is given

Edge = Annotated[NonNegativeInt, Field(le=LARGEST_EDGE_PX)]
Size = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ModelSpec:
    """What a model file says of itself: enough to rebuild the network and to feed it.

    `tile_px` and `field_um` are the edge of a tile at `magnification`, 0 of sections, which have any size;
    `input` upsampled means that tiles are brought to `teacher_px` first; `mean` and `std` are per channel of
    pixels in 0..1; `weights` names the file the backbone began from. Values of other kinds raise pydantic's
    ValidationError.
    """

    role: Literal["teacher", "student"]
    model: str
    stride: PositiveInt
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    magnification: Positive
    tile_px: Edge
    field_um: Size
    input: Literal["native", "upsampled", "released"]
    teacher_px: Edge
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Positive, Positive, Positive]
    weights: str | None = None

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the tiles."""
        return mpp_of(self.magnification)

    @property
    def network_px(self) -> int:
        """Edge of what the network sees, in pixels; 0: sections, of any size."""
        return self.tile_px if self.input == "native" else self.teacher_px


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
    teacher's; `released` aligns corners, as the code of del Amor et al. 2024 (arXiv 2401.06010).
    """
    if spec.tile_px and x.shape[2:] != (spec.tile_px, spec.tile_px):
        raise UserError(
            f"tiles are {x.shape[2]} x {x.shape[3]} px, the {spec.role} at {spec.magnification:g}x was "
            f"trained on {spec.tile_px} px; cut tiles with field_um {spec.field_um:g}"
        )
    if spec.input != "native":
        size = (spec.teacher_px, spec.teacher_px)
        aligned = spec.input == "released"
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=aligned)
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
    weights = load_file(path)
    with NoMoreThan(weights, f"{path} names a network, {spec.model}, far larger than what it holds; {CURE}"):
        network = _network(spec, weights, path)
    check_fit(weights, network.state_dict(), path, "train it again")
    network.load_state_dict(weights)
    return network.eval(), spec


def _network(spec: ModelSpec, weights: dict[str, Tensor], path: Path) -> Network:
    """A network of the kind that a file says it is of, without its weights."""
    if spec.model == FEATURES_MODEL:
        return build_on_features(weights.get("backbone.mean", NOTHING).numel(), len(spec.classes))
    architecture = validated(Architecture, {"model": spec.model, "stride": spec.stride}, str(path))
    channels = weights.get("head.weight", NOTHING).shape[-1:].numel()  # a pass may take any time
    return build(architecture, len(spec.classes), spec.network_px, max(channels, 1))


def begin_from(network: Network, path: Path) -> None:
    """Put the weights of a model file, head included, into a network of the same kind; stride may differ.

    Raises UserError when they do not fit.
    """
    read_spec(path)
    take_over(network, load_file(path), str(path))


def take_over(network: Network, weights: dict[str, Tensor], source: str) -> None:
    """Put the weights of another network of the same kind in; its pictures may be of another size.

    Places of a torchvision ViT are resampled. Raises UserError when they do not fit.
    """
    cure = "teacher and student must be the same network"
    if isinstance(network.backbone, LibraryBackbone):
        of_body = {k.removeprefix(BODY): v for k, v in weights.items() if k.startswith(BODY)}
        fitted = {BODY + k: v for k, v in network.backbone.fitted(of_body).items()}
        weights = {k: v for k, v in weights.items() if not k.startswith(BODY)} | fitted
        cure += (
            ", and this one may have weights that depend on the size of its pictures: set initial: noise, "
            "students.input: upsampled, or another model"
        )
    check_fit(weights, network.state_dict(), source, cure)
    network.load_state_dict(weights)


def read_spec(path: Path) -> ModelSpec:
    """The spec of a model file, without reading its weights; UserError when it is not one of ours."""
    content = read_metadata(path, CURE)
    version = content.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has model schema {version!r}, this lowmag reads {SCHEMA_VERSION}; train it again"
        )
    return _spec_of(content, path)


def read_metadata(path: Path, cure: str) -> dict[str, Any]:
    """What a safetensors file of ours says of itself; UserError when it does not."""
    if not path.is_file():
        raise UserError(f"{path} is not there; {cure}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); {cure}") from error
    if text is None:
        raise UserError(f"{path} holds weights but no {METADATA_KEY!r} metadata; {cure}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has {METADATA_KEY!r} metadata that are no JSON ({error}); {cure}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has {METADATA_KEY!r} metadata that are no object of JSON; {cure}")
    return content


def _spec_of(content: dict[str, Any], path: Path) -> ModelSpec:
    try:
        spec = TypeAdapter(ModelSpec).validate_python(content)
    except ValidationError as error:
        lines = "\n".join(line_of(problem) for problem in error.errors())
        raise UserError(f"{path} does not say what a model file says; {CURE}:\n{lines}") from error
    for name in spec.classes:
        if problem := problem_of_name(name):
            raise UserError(f"{path}: the class {name!r} {problem}")
    return spec


def weights_sha256(path: Path) -> str:
    """SHA-256 of a model file, weights and spec, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
