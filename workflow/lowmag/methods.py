"""A method: the weighted sum of loss terms that the config names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowmag import comparators, losses, relational, terms
from lowmag.cam import Relu, attention, class_evidence, normaliser
from lowmag.stages import earlier_attention
from lowmag.terms import Method


@dataclass(frozen=True)
class TargetsBatch:
    """What is known of a batch of N tiles: labels, and what the teacher said of the same views.

    `labels` (N,) long, -1 for none. `logits` (N, K). `features` and `attention` hold maps on the student's
    grid, (N, C, h, w) by the form they were resized in and (N, K, h, w) by `terms.Attention.form`; `head` is
    the teacher's, weight (K, C) and bias (K,). A method reads only the entries its terms need.

    When the tiles are a part of a step's batch, `share` is their share of its tiles and `labelled_share` that
    of its labelled ones: terms are scaled by it, so that they add up.
    """

    labels: Tensor
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    head: tuple[Tensor, Tensor] | None = None
    share: float = 1.0
    labelled_share: Tensor | float = 1.0


@dataclass(frozen=True)
class StudentBatch:
    """What a student says of a batch: `features` (N, C, h, w), `logits` (N, K); its `head_weight` (K, C).

    `projectors` by the name of the term that has one (`projectors.build_projectors`). `earlier` is the map,
    logits following from it, of an earlier stage that attention is taken from; None for the last.
    """

    features: Tensor
    logits: Tensor
    head_weight: Tensor
    projectors: Mapping[str, nn.Module] = field(default_factory=dict)
    earlier: Tensor | None = None


def teacher_targets(
    outputs: tuple[Tensor, Tensor],
    head_weight: Tensor,
    cells: int | tuple[int, int],
    *,
    resizes: Sequence[losses.Resize],
    relus: Sequence[Relu],
) -> TargetsBatch:
    """What a teacher's (features, logits) say on a grid of `cells` (or rows, columns), without labels (-1).

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


def combine(method: Method, student: StudentBatch, batch: TargetsBatch, epoch: int = 0) -> dict[str, Tensor]:
    """The weighted terms of a method by name, and `loss`, their sum: float32 scalars on the device.

    Only terms that need labels (`Term.needs_label`) read `batch.labels`. `epoch`, from 0, tells terms that
    warm up how far they are.
    """
    parts = {}
    for name, term in method.terms.items():
        share = batch.labelled_share if term.needs_label else batch.share
        parts[name] = term.weight_in(epoch) * share * _TERMS[name](term, student, batch)
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


def _cross_entropy(_term: terms.CrossEntropy, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    return losses.cross_entropy(student.logits, batch.labels)


def _soft_labels(term: terms.SoftLabels, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    return losses.soft_labels(
        student.logits, _known(batch.logits), term.temperature, softened=term.softened, scaled=term.scaled
    )


def _features(term: terms.Features, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    # maxpool+bicubic is the mean of both, as DiPalma et al. intend; `released` what their code computes.
    compared = [batch.features[form] for form in term.forms]
    distances = [losses.features(student.features, maps, term.distance) for maps in compared]
    return torch.stack(distances).sum() / term.divisor


def _attention(term: terms.Attention, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    if student.earlier is None:
        maps = attention(student.features, student.head_weight, term.relu)
    else:
        maps = earlier_attention(student.earlier, student.logits, term.relu)
    return losses.attention_distance(
        maps,
        batch.attention[term.form],
        distance=term.distance,
        normalise=normaliser(term.normalise, term.temperature),
        chosen=None if term.classes == "all" else _chosen(term.classes, batch),
    )


def _softmax_regression(term: terms.SoftmaxRegression, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    assert batch.head is not None, "the method uses the teacher's head but the batch holds none"
    weight, bias = batch.head
    if term.map == "last":
        said, expected = functional.linear(student.features.mean((2, 3)), weight, bias), _known(batch.logits)
    else:
        # A mean of cells' logits is the logits of their mean, so the stored form serves.
        said = student.projectors["softmax_regression"](student.features)
        expected = class_evidence(batch.features["area"], weight) + bias.view(-1, 1, 1)
    return losses.softmax_regression(said, expected, term.distance)


def _attention_transfer(term: terms.AttentionTransfer, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    teacher_map = batch.features[term.resize]
    return comparators.attention_transfer(student.features, teacher_map, term.power, term.distance)


def _decoupled(term: terms.Decoupled, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    teacher_logits, target = _known(batch.logits), _chosen(term.target, batch)
    of_target, of_others = comparators.decoupled(student.logits, teacher_logits, target, term.temperature)
    return term.alpha * of_target + term.beta * of_others


def _correlation(term: terms.Correlation, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    inter, intra = relational.correlation(student.logits, _known(batch.logits), term.temperature)
    return term.beta * inter + term.gamma * intra


def _relational(term: terms.Relational, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    vectors = student.features.mean((2, 3)), batch.features["area"].mean((2, 3))
    return term.distances * relational.distances(*vectors) + term.angles * relational.angles(*vectors)


def _cosine(term: terms.Cosine, student: StudentBatch, batch: TargetsBatch) -> Tensor:
    teacher_map = batch.features["area"]
    student_map = student.features
    if term.has_projector:
        student_map = student.projectors["cosine"](student_map)
    of_means = comparators.cosine(student_map.mean((2, 3)), teacher_map.mean((2, 3)))
    return of_means + term.local * comparators.cosine(student_map, teacher_map)


# A term's own loss, without its weight, by its name in a method.
_TERMS: dict[str, Callable[[Any, StudentBatch, TargetsBatch], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "soft_labels": _soft_labels,
    "features": _features,
    "attention": _attention,
    "softmax_regression": _softmax_regression,
    "attention_transfer": _attention_transfer,
    "decoupled": _decoupled,
    "correlation": _correlation,
    "relational": _relational,
    "cosine": _cosine,
}


def _chosen(by: Literal["label", "teacher"], batch: TargetsBatch) -> Tensor:
    """The class of every picture by its label (-1: none) or by the teacher's decision, (N,)."""
    return batch.labels if by == "label" else _known(batch.logits).argmax(1)


def _known(logits: Tensor | None) -> Tensor:
    assert logits is not None, "the method compares with the teacher's logits but the batch holds none"
    return logits
