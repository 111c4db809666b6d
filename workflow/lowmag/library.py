"""Backbones of torchvision and timm, brought to one interface: pictures to a last map (N, C, h, w).

Both are imported when a network of theirs is asked for and at no other time: that costs seconds. What stands
behind the last map (pooling, norms, classifier) is left out, so that mean pooling and our linear head follow
and the closed forms of `cam` hold. Of vision transformers the map is the patch tokens after the last norm, in
their places; class and register tokens are left out.
"""

import importlib.util
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowmag.errors import UserError

PROBE_PX = 224  # a picture that every network takes which does not say otherwise
BEHIND_THE_MAP = ("avgpool", "classifier", "fc", "head", "heads")  # torchvision's names
BEHIND_TIMMS = ("global_pool", "head", "head_drop", "fc_norm", "attn_pool", "classifier", "fc", "last_linear")
FETCHING = ("pretrained", "weights", "checkpoint", "cache")  # begin arguments that read files or the net


class LibraryBackbone(nn.Module):
    """A network of a library up to its last map: `body` as the library names its weights, then `to_map`."""

    def __init__(self, model: str, body: nn.Module, to_map: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.body, self._to_map = model, body, to_map

    def forward(self, x: Tensor) -> Tensor:
        return self._to_map(self.body, x)

    def cells(self, px: int) -> int:
        """Cells per edge of the map of a picture of `px` pixels; UserError if it takes none."""
        shape = self._dry_pass(px)
        if shape[2] != shape[3] or not shape[2]:
            raise UserError(f"{self.model} makes a map of {shape[2]} x {shape[3]} cells of a square tile")
        return shape[2]

    def channels(self, px: int | None) -> int:
        """Channels of the map of a picture of `px` pixels; UserError if it takes none."""
        return self._dry_pass(px or PROBE_PX)[1]

    def count_gmac(self, px: int) -> float:
        """Billions of multiply-accumulates for one picture of `px` x `px`, by torch's counter."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self._dry_pass(px)
        return counter.get_total_flops() / 2e9

    def fitted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the library's names with the places of a torchvision ViT resampled to its own grid."""
        places = "encoder.pos_embedding"
        own = self.body.state_dict().get(places)
        if own is None or places not in weights or weights[places].shape == own.shape:
            return weights
        from torchvision.models.vision_transformer import interpolate_embeddings

        size, patch = int(self.body.image_size), int(self.body.patch_size)  # pyright: ignore
        return dict(interpolate_embeddings(size, patch, OrderedDict(weights)))

    def _dry_pass(self, px: int) -> torch.Size:
        parameter = next(self.body.parameters())
        was_training = self.training
        try:
            with torch.no_grad():
                return self.eval()(torch.zeros(1, 3, px, px, device=parameter.device)).shape
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _refused(self.model, px, error) from error
        finally:
            self.train(was_training)


def library_backbone(model: str, px: int | None) -> LibraryBackbone:
    """The backbone of `torchvision/NAME` or `timm/NAME` with the library's fresh weights.

    Arguments of the library may follow, as in `timm/resnet50?output_stride=8`: numbers and truth values,
    since a stranger's model file states them too. `px` is the edge of its pictures. Raises UserError when the
    library is not installed or has no such network.
    """
    library, name = model.split("/", 1)
    check_installed(model)
    name, _, query = name.partition("?")
    try:
        arguments = {key: _value(key, text) for key, text in parse_qsl(query, keep_blank_values=True)}
        body, to_map = _MAKERS[library](name, arguments, px)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{model} cannot be made by {library} ({reason}); see {_LISTS[library]} for the names there are"
        ) from error
    return LibraryBackbone(model, body, to_map)


def check_installed(model: str) -> None:
    """Raise UserError when the library of a network is not there; does not import it."""
    library = model.split("/", 1)[0]
    if importlib.util.find_spec(library) is None:
        raise UserError(
            f"model {model} needs {library}, which is not installed; run `uv sync --extra {library}`, or "
            f"`pip install -e '.[{library}]'`"
        )


def downloaded_weights(model: str, weights: str) -> dict[str, Tensor]:
    """The state dict that a library keeps for a network (`pretrained`), or of a hub (`hf-hub:OWNER/NAME`).

    Taken from the library's own cache, into which the library downloads it when it is not there. Raises
    UserError when there is none, or no way to it.
    """
    library, name = model.split("/", 1)
    name = name.partition("?")[0]
    try:
        return _DOWNLOADS[library](name, weights)
    except Exception as error:  # of the libraries, of HTTP, of the disk: all mean that there are no weights
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"weights {weights} of {model} cannot be had ({reason}); download them once with access to the "
            "network, or give a local .safetensors or state dict"
        ) from error


def _torchvision(name: str, arguments: dict[str, Any], px: int | None):
    from torchvision import models

    if name not in models.list_models(module=models):  # not of segmentation, which fetch their backbones
        raise ValueError(f"Unknown model {name}")
    is_vit = name.startswith("vit_")
    if is_vit and px:
        arguments = {"image_size": px, **arguments}
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    network = models.get_model(name, weights=None, **arguments)
    if is_vit:
        network.heads = nn.Identity()
        return network, _torchvision_tokens
    parts = OrderedDict()
    for part, module in network.named_children():
        if part in BEHIND_THE_MAP:
            break
        parts[part] = nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module
    if name.startswith("densenet"):  # its last ReLU stands in the code of `forward` alone
        return nn.Sequential(parts), lambda body, x: functional.relu(body(x))
    return nn.Sequential(parts), lambda body, x: body(x)


def _torchvision_tokens(body: Any, x: Tensor) -> Tensor:
    tokens = body._process_input(x)
    tokens = torch.cat([body.class_token.expand(len(x), -1, -1), tokens], 1)
    return _as_map(body.encoder(tokens)[:, 1:])


def _timm(name: str, arguments: dict[str, Any], px: int | None):
    import timm

    if not timm.is_model(name):
        raise ValueError(f"Unknown model ({name})")
    # Transformers take other sizes than their own by one of two arguments, others know neither.
    sizes = ({"dynamic_img_size": True}, {"img_size": px}) if px else ()
    network = None
    for size in sizes:
        with suppress(TypeError):
            network = timm.create_model(name, num_classes=0, global_pool="", **{**size, **arguments})
            break
    if network is None:
        network = timm.create_model(name, num_classes=0, global_pool="", **arguments)
    for part in BEHIND_TIMMS:
        if hasattr(network, part):
            setattr(network, part, nn.Identity())
    return network, _timm_map


def _timm_map(body: Any, x: Tensor) -> Tensor:
    found = body.forward_features(x)
    if not isinstance(found, Tensor):
        raise UserError(
            f"{type(body).__name__} of timm gives {len(found)} maps; choose a network that gives one"
        )
    if found.ndim == 3:
        return _as_map(found[:, getattr(body, "num_prefix_tokens", 0) :])
    if getattr(body, "output_fmt", "NCHW") == "NHWC":
        return found.permute(0, 3, 1, 2)
    return found


def _as_map(tokens: Tensor) -> Tensor:
    """Patch tokens (N, h * h, C) in their places, (N, C, h, h)."""
    edge = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (edge, edge))


def _torchvision_download(name: str, weights: str) -> dict[str, Tensor]:
    from torchvision import models

    if weights != "pretrained":
        raise ValueError("torchvision has no weights of this name, but `pretrained`")
    best = models.get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    return dict(best.get_state_dict(progress=False, check_hash=True))


def _timm_download(name: str, weights: str) -> dict[str, Tensor]:
    import timm
    from timm.models import load_state_dict_from_hf

    if weights != "pretrained":
        return load_state_dict_from_hf(weights.removeprefix("hf-hub:"), weights_only=True)
    return timm.create_model(name, pretrained=True).state_dict()


def _value(name: str, text: str) -> int | float | bool:
    """An argument of a library; ValueError for what would fetch something, and for text."""
    if name.startswith(FETCHING):
        raise ValueError(f"{name} is not to be given with a network: weights are set by the key weights")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            if math.isfinite(kind(text)):
                return kind(text)
    raise ValueError(f"{name} is {text!r}, expected a number, true or false")


def _refused(model: str, px: int, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{model} takes no tiles of {px} x {px} px ({reason}); choose tiles.field_um so that they fit "
        "(vision transformers: a whole number of patches), students.input: upsampled, or another model"
    )


_MAKERS = {"torchvision": _torchvision, "timm": _timm}
_DOWNLOADS = {"torchvision": _torchvision_download, "timm": _timm_download}
_LISTS = {"torchvision": "torchvision.models.list_models()", "timm": "timm.list_models()"}
