"""Tissue found by a network of the user's: a TorchScript or ONNX file with one plain interface.

In: (1, 3, H, W) float32, RGB from 0 to 1, at `tissue.mpp`. Out: (1, 1, h, w), a logit or a probability of
tissue, or (1, K, h, w), a score per class of which class 0 is background. h and w are H and W or a whole
fraction of them.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from lowmag.errors import UserError
from lowmag.outline import on_slide, outline_of
from lowmag.reader import Thumbnail
from lowmag.record import SlideRecord
from lowmag.sections import Tissue
from lowmag.trust import require_trust

BLOCK_PX, STEP_PX = 1024, 32  # edge of a block, and what it is a multiple of
SCALE_TOLERANCE = 0.02  # a network is shown the scale it was made for within this
MARGIN = 1 / 16  # of a block on each side, seen and not used

log = logging.getLogger(__name__)

Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Segmenter:
    """A loaded network, and the edge of the blocks it takes where its file says so."""

    path: Path
    network: Network
    block_px: int | None = None


@dataclass(frozen=True)
class NetworkFinder:
    """The network in a file as a way to find tissue."""

    path: Path
    sha256: str | None = None
    name: str = "model"

    def find(self, thumbnail: Thumbnail, slide: SlideRecord, options: Tissue) -> list[shapely.Polygon]:
        """What the network takes for tissue at `options.mpp`, without debris and small holes."""
        require_trust(self.path, self.sha256)
        factor = thumbnail.scale * sum(slide.mpp) / 2 / options.mpp
        if abs(factor - 1) > SCALE_TOLERANCE:
            image = Image.fromarray(thumbnail.picture)
            size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
            pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
            thumbnail = Thumbnail(pixels, thumbnail.origin, thumbnail.scale / factor)
        found = find_tissue(thumbnail.picture, self.path)
        pixel_um = thumbnail.scale * sum(slide.mpp) / 2
        return on_slide(outline_of(found, pixel_um, options), thumbnail, slide)


def find_tissue(picture: np.ndarray, path: Path) -> np.ndarray:
    """Tissue (h, w) booleans that the network at `path` sees in a picture (h, w, 3) uint8.

    Where any value of a one-channel output lies outside 0 to 1 on this slide, all are logits, and tissue is
    above 0; else they are probabilities, and tissue is above 0.5. Raises UserError when the file cannot be
    loaded or does not keep to the interface.
    """
    segmenter = load(path)
    scores = None
    height, width = picture.shape[:2]
    for window, inner, block in _blocks(picture, segmenter.block_px):
        found = _scores(segmenter, block)
        if scores is None:
            scores = np.empty((height, width, found.shape[2]), np.float32)
        target = scores[window]
        target[:] = found[inner][: len(target), : target.shape[1]]
    assert scores is not None
    if scores.shape[2] > 1:
        return scores.argmax(axis=2) > 0
    are_logits = bool(scores.min() < 0 or scores.max() > 1)
    log.info("%s gives %s", path.name, "logits" if are_logits else "probabilities")
    return scores[:, :, 0] > (0 if are_logits else 0.5)


def load(path: Path) -> Segmenter:
    """The network in a file; raises UserError when it is neither TorchScript nor ONNX."""
    loaders = {".pt": _load_torchscript, ".ts": _load_torchscript, ".onnx": _load_onnx}
    if path.suffix.lower() not in loaders:
        raise UserError(
            f"tissue.model: {path} ends in {path.suffix!r}, expected .pt or .ts (TorchScript) or .onnx; "
            "export the network to one of them"
        )
    if not path.is_file():
        raise UserError(f"tissue.model: there is no file {path}; correct the path or set it to null")
    return loaders[path.suffix.lower()](path)


def _load_torchscript(path: Path) -> Segmenter:
    import torch

    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have torch.export
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise _unreadable(path, error, "save it with torch.jit.script(network).save(path)") from error

    def network(block: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(block)).float().numpy()

    return Segmenter(path, network)


def _load_onnx(path: Path) -> Segmenter:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"tissue.model: {path.name} needs onnxruntime, which is not installed; "
            "pip install -e '.[segment]', or export the network to TorchScript"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions derive from nothing narrower
        raise _unreadable(path, error, "export it again") from error
    (name, shape), *others = [(entry.name, entry.shape) for entry in session.get_inputs()]
    if others or len(shape) != 4:
        raise UserError(
            f"tissue.model: {path.name} takes {1 + len(others)} inputs, the first of shape {shape}; "
            "expected one of (1, 3, H, W)"
        )
    edges = {edge for edge in shape[2:] if isinstance(edge, int)}
    return Segmenter(
        path, lambda block: np.asarray(session.run(None, {name: block})[0]), max(edges, default=None)
    )


def _unreadable(path: Path, error: Exception, cure: str) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"tissue.model: {path} cannot be loaded ({reason}); {cure}")


def _blocks(
    picture: np.ndarray, block_px: int | None
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray]]:
    """Windows of the picture, where each lies in its block, and the block (1, 3, B, B) from 0 to 1.

    Blocks overlap by a margin; beyond the picture its edge goes on.
    """
    h, w = picture.shape[:2]
    edge = block_px or min(BLOCK_PX, -(-max(h, w) // STEP_PX) * STEP_PX)
    margin = 0 if edge >= max(h, w) else round(edge * MARGIN)
    inner = edge - 2 * margin
    rows, columns = (np.arange(-margin, n + edge).clip(0, n - 1) for n in (h, w))
    for top in range(0, h, inner):
        for left in range(0, w, inner):
            block = picture[rows[top : top + edge][:, None], columns[left : left + edge]]
            block = np.ascontiguousarray(block.transpose(2, 0, 1)[None], dtype=np.float32) / 255
            kept = slice(margin, margin + inner)
            yield (slice(top, top + inner), slice(left, left + inner)), (kept, kept), block


def _scores(segmenter: Segmenter, block: np.ndarray) -> np.ndarray:
    """What the network says of a block (1, 3, B, B), as (B, B, K)."""
    edge, name = block.shape[2], segmenter.path.name
    try:
        found = np.asarray(segmenter.network(block), dtype=np.float32)
    except Exception as error:  # anything may go wrong in a network that is not ours
        raise UserError(
            f"tissue.model: {name} fails on a block of shape {block.shape} ({str(error).strip()[-300:]}); "
            "it has to take (1, 3, H, W) float32 from 0 to 1"
        ) from error
    if found.ndim != 4 or found.shape[0] != 1 or any(edge % n for n in found.shape[2:]):
        raise UserError(
            f"tissue.model: {name} gives {found.shape} for {block.shape}; expected (1, K, h, w) with h and w "
            "the same or a whole fraction"
        )
    if not np.isfinite(found).all():
        raise UserError(f"tissue.model: {name} gives values that are no numbers; check its export")
    factors = [edge // n for n in found.shape[2:]]
    return found[0].repeat(factors[0], axis=1).repeat(factors[1], axis=2).transpose(1, 2, 0)
