"""A method: the weighted sum of loss terms that the config names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowmag import losses
from lowmag.cam import Relu, attention
from lowmag.recipe import Attention, Method


@dataclass(frozen=True)
class TargetsBatch:
    """What is known of a batch of N tiles: labels, and what the teacher said of the same views.

    `labels` (N,) long, -1 for none. `logits` (N, K). `features` and `attention` hold maps on the student's
    grid, (N, C, h, w) by the form they were resized in and (N, K, h, w) by where the ReLU stands. A method
    reads only the entries its terms need.
    """

    labels: Tensor
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)


def teacher_targets(
    outputs: tuple[Tensor, Tensor],
    head_weight: Tensor,
    cells: int,
    *,
    resizes: Sequence[losses.Resize],
    relus: Sequence[Relu],
) -> TargetsBatch:
    """What a teacher's (features, logits) say on a grid of `cells`, without labels (-1).

    Attention is computed on the teacher's own grid and then averaged: ReLU and averaging do not commute, and
    this order keeps evidence that is local.
    """
    maps, logits = outputs
    return TargetsBatch(
        labels=logits.new_full((len(logits),), losses.NO_LABEL, dtype=torch.long),
        logits=logits.float(),
        features={form: losses.resize_map(maps, cells, form) for form in resizes},
        attention={
            relu: losses.resize_map(attention(maps, head_weight, relu), cells, "area") for relu in relus
        },
    )


def combine(
    method: Method, student_features: Tensor, student_logits: Tensor, head_weight: Tensor, batch: TargetsBatch
) -> dict[str, Tensor]:
    """The weighted terms of a method by name, and `loss`, their sum: float32 scalars on the device.

    `student_features` (N, C, h, w), `student_logits` (N, K), `head_weight` (K, C). Terms other than
    `cross_entropy` never read `batch.labels`, except `attention` with `classes: label`.
    """
    parts: dict[str, Tensor] = {}
    if term := method.cross_entropy:
        parts["cross_entropy"] = term.weight * losses.cross_entropy(student_logits, batch.labels)
    if term := method.soft_labels:
        teacher_logits = _known(batch.logits)
        soft = losses.soft_labels(student_logits, teacher_logits, term.temperature)
        parts["soft_labels"] = term.weight * soft
    if term := method.features:
        # maxpool+bicubic: the mean of both losses, as DiPalma et al. intend; their code runs the first alone.
        compared = [batch.features[form] for form in term.resize.split("+")]
        distances = [losses.features(student_features, maps, term.distance) for maps in compared]
        parts["features"] = term.weight * torch.stack(distances).mean()
    if term := method.attention:
        student_maps = attention(student_features, head_weight, term.relu)
        parts["attention"] = term.weight * losses.attention_distance(
            student_maps,
            batch.attention[term.relu],
            distance=term.distance,
            normalise=term.normalise,
            chosen=_chosen(term, batch),
        )
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


def _chosen(term: Attention, batch: TargetsBatch) -> Tensor | None:
    if term.classes == "all":
        return None
    return batch.labels if term.classes == "label" else _known(batch.logits).argmax(1)


def _known(logits: Tensor | None) -> Tensor:
    assert logits is not None, "the method compares with the teacher's logits but the batch holds none"
    return logits
