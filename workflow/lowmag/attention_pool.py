"""A slide's score by attention over its tiles: gated attention pooling, and its file.

Ilse, Tomczak and Welling 2018, Attention-based deep multiple instance learning (arXiv 1802.04712), eq. 7
and 9.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lowmag.allocation import NoMoreThan
from lowmag.errors import UserError
from lowmag.initial_weights import check_fit
from lowmag.models import METADATA_KEY, read_metadata
from lowmag.networks import SMALLEST_STD
from lowmag.publish import publishing

SCHEMA = "lowmag-slide-head"
SCHEMA_VERSION = 1
HIDDEN = 128  # as in the paper
CURE = "delete it and rerun `lowmag slide-head`"


class AttentionPool(nn.Module):
    """Gated attention over the tiles of one slide and a linear classifier of their weighted mean.

    Tiles are vectors of C channels, standardised by `mean` and `std` (C,) first. It begins as mean pooling:
    with weights of 0 in the last layer of attention all tiles count alike. The classifier begins with noise,
    or where means say nothing neither would ever get a gradient.
    """

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp(min=SMALLEST_STD))
        channels = len(mean)
        self.value = nn.Linear(channels, HIDDEN)
        self.gate = nn.Linear(channels, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)  # a bias would cancel in the softmax
        self.classifier = nn.Linear(channels, n_classes)
        nn.init.zeros_(self.score.weight)

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (K,) of a slide of tiles (n, C), and the attention of each, (n,), 1 in sum."""
        tiles = (tiles - self.get_buffer("mean")) / self.get_buffer("std")
        hidden = self.value(tiles).tanh() * self.gate(tiles).sigmoid()
        attention = self.score(hidden).squeeze(1).softmax(0)
        return self.classifier(attention @ tiles), attention

    @torch.no_grad()
    def begin_with(self, head: nn.Linear) -> None:
        """Take over a linear head on tiles as they are, so that a slide is what it says of their mean."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        self.classifier.weight.copy_(head.weight * std)
        self.classifier.bias.copy_(head.bias + head.weight @ mean)


@dataclass(frozen=True)
class SlideHeadSpec:
    """What a slide head's file says of itself; epoch 0 is the beginning, mean pooling."""

    classes: tuple[str, ...]
    model_sha256: str
    seed: int
    selected_epoch: int
    epochs: int
    val_balanced_accuracy: float
    n_train: int
    n_val: int


def save_slide_head(path: Path, pool: AttentionPool, spec: SlideHeadSpec) -> None:
    """Write weights and spec as one safetensors file, atomically; the spec is JSON in its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in pool.state_dict().items()}
    content = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **asdict(spec)}
    with publishing(path) as temporary:
        temporary.write_bytes(save(weights, metadata={METADATA_KEY: json.dumps(content, sort_keys=True)}))


def load_slide_head(path: Path, model_sha256: str) -> AttentionPool:
    """The head in a file, in eval mode on the CPU; `model_sha256` is of the model whose tiles it is given.

    Raises UserError when the file is none, or belongs to another model.
    """
    content = read_metadata(path, CURE)
    found = content.get("schema"), content.get("schema_version")
    if found != (SCHEMA, SCHEMA_VERSION):
        raise UserError(f"{path} is {found[0]!r} {found[1]!r}, expected {SCHEMA} {SCHEMA_VERSION}; {CURE}")
    if content.get("model_sha256") != model_sha256:
        raise UserError(f"{path} was trained on another model than the one given; {CURE}")
    weights = load_file(path)
    mean, std, classes = weights.get("mean"), weights.get("std"), content.get("classes")
    if (
        mean is None
        or std is None
        or mean.ndim != 1
        or mean.shape != std.shape
        or not isinstance(classes, list)
    ):
        raise UserError(f"{path} holds no slide head with its mean, std and classes; {CURE}")
    with NoMoreThan(weights, f"{path} has far more channels or classes than weights for them; {CURE}"):
        pool = AttentionPool(mean, std, len(classes))
    check_fit(weights, pool.state_dict(), path, CURE)
    pool.load_state_dict(weights)
    return pool.eval()
