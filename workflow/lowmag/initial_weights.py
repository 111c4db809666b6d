"""Initial weights of a backbone: a local file with the names of torchvision or timm, or their download."""

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lowmag.errors import UserError
from lowmag.library import LibraryBackbone, downloaded_weights
from lowmag.recipe import is_file


def load_initial(backbone: nn.Module, model: str, weights: str) -> None:
    """Put initial weights, a file or what a library downloads, into a backbone; what is the head's is left.

    Raises UserError when they cannot be read, or do not fit.
    """
    found = _read_weights(Path(weights)) if is_file(weights) else downloaded_weights(model, weights)
    body = backbone
    if isinstance(backbone, LibraryBackbone):
        body = backbone.body
        parts = {name.split(".")[0] for name in body.state_dict()}
        found = {k: v for k, v in found.items() if k.split(".")[0] in parts}
        found = backbone.fitted(found)
    elif model == "vgg16":
        found = {k.removeprefix("features."): v for k, v in found.items() if not k.startswith("classifier.")}
    else:
        found = {k: v for k, v in found.items() if not k.startswith("fc.")}
    library = model.split("/")[0] if isinstance(backbone, LibraryBackbone) else "torchvision"
    check_fit(found, body.state_dict(), Path(weights), f"give weights with {library}'s names for {model}")
    body.load_state_dict(found, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights {path} are not there; give a local .safetensors or state dict, or null")
    if _unfolds(path):
        raise UserError(
            f"weights {path} are packed to less than they hold, which torch never does; give a .safetensors, "
            "or save them anew with torch.save"
        )
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


def _unfolds(path: Path) -> bool:
    """Whether a file is a ZIP, as torch's are, that comes to more bytes than it has."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(part.file_size for part in archive.infolist()) > path.stat().st_size


def check_fit(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path | str, cure: str) -> None:
    """Raise UserError unless the weights found are those expected, by name and shape."""
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
