"""What a teacher says of pictures, in the forms that students compare with; and one asked in every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lowmag.device import Precision, autocast, memory_format
from lowmag.errors import UserError
from lowmag.index import TileIndex
from lowmag.losses import resize_map
from lowmag.magnification import name_of
from lowmag.methods import StudentBatch, TargetsBatch, teacher_targets
from lowmag.models import ModelSpec, load_model, normalise, weights_sha256
from lowmag.networks import Network
from lowmag.stages import teacher_attention
from lowmag.terms import ATTENTION, FEATURES, HEAD, Method, earlier_form, earlier_forms, forms_of

Cells = int | tuple[int, int]
CURE = "delete it and rerun `lowmag teacher`"


class Wish(Protocol):
    """What is asked of a teacher, as `study.TargetOptions`: grids, and what is read, by student."""

    @property
    def grids(self) -> Mapping[str, Cells]: ...
    @property
    def reads(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def earlier(self) -> Mapping[str, Mapping[str, Cells]]: ...


def say(network: Network, pictures: Tensor, wish: Wish) -> dict[str, TargetsBatch]:
    """What a teacher says of pictures as its network is given them, by student; without labels (-1)."""
    outputs = network(pictures)
    said = {}
    for name, cells in wish.grids.items():
        resizes, relus = (forms_of(wish.reads.get(name, ()), kind) for kind in (FEATURES, ATTENTION))
        said[name] = teacher_targets(outputs, network.head.weight, cells, resizes=resizes, relus=relus)
    for form, grids in wish.earlier.items():
        relu, stage = earlier_form(form)
        maps = teacher_attention(network, pictures, stage, relu)
        for name, cells in grids.items():
            attention = {**said[name].attention, form: resize_map(maps, cells, "area")}
            said[name] = replace(said[name], attention=attention)
    return said


def load_teacher(path: Path) -> tuple[Network, ModelSpec]:
    """The network of a teacher's model file, in eval mode, and its spec; UserError when it is a student's."""
    network, spec = load_model(path)
    if spec.role != "teacher":
        raise UserError(f"{path} is a {spec.role}; give the model.safetensors of a teacher")
    return network, spec


@dataclass(frozen=True)
class Asked:
    """What is asked of a teacher about one batch."""

    grids: Mapping[str, Cells]
    reads: Mapping[str, Sequence[str]]
    earlier: Mapping[str, Mapping[str, Cells]]


class OnlineTeacher:
    """A teacher that is asked about the very pictures its student is shown (`students.targets: online`).

    Its network stays in eval mode and gets no gradient; it runs in the precision of the student.
    """

    def __init__(self, path: Path, method: Method, device: torch.device, precision: Precision) -> None:
        self.path = path
        self.network, self.spec = load_teacher(path)
        self.network.requires_grad_(False).to(device).to(memory_format=memory_format(device))
        self.teacher_sha256 = weights_sha256(path)
        self._device = device
        self._precision: Precision = precision
        self._reads = method.reads
        self._earlier = earlier_forms(method.reads)

    @property
    def channels(self) -> int:
        """Channels of its map."""
        return self.network.head.in_features

    def check(self, index: TileIndex, classes: Sequence[str], channels: int | None) -> None:
        """Raise UserError when it was trained on other classes, tiles or channels (None: any)."""
        magnification = max(index.tile_px)
        expected = {
            "classes": list(classes),
            "magnification": name_of(magnification),
            "tiles, in pixels,": index.tile_px[magnification],
            "channels": channels or self.channels,
        }
        found = {
            "classes": list(self.spec.classes),
            "magnification": name_of(self.spec.magnification),
            "tiles, in pixels,": self.spec.tile_px,
            "channels": self.channels,
        }
        for name, value in expected.items():
            if found[name] != value:
                raise UserError(f"teacher {self.path} has {name} {found[name]}, expected {value}; {CURE}")

    def batch(self, pictures: Tensor, labels: Tensor, student: StudentBatch) -> TargetsBatch:
        """What it says of pictures (n, 3, H, W) in 0..1 at its magnification, on the student's grid."""
        earlier = {} if student.earlier is None else {"": _cells(student.earlier)}
        wish = Asked(
            grids={"": _cells(student.features)},
            reads={"": self._reads},
            earlier=dict.fromkeys(self._earlier, earlier),
        )
        # Not in inference mode: autograd keeps what a loss compares with.
        with torch.no_grad(), autocast(self._device, self._precision):
            given = normalise(pictures, self.spec).contiguous(memory_format=memory_format(self._device))
            said = say(self.network, given, wish)[""]
        head = (self.network.head.weight, self.network.head.bias) if HEAD in self._reads else None
        return replace(said, labels=labels, head=head)


def _cells(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]
