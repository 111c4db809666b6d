"""The loss terms: pure functions in float32, each of one student batch and what the teacher said of it.

Teacher maps come already resized to the student's grid (`resize_map`), never the reverse: that needs no
backward pass through an interpolation, which is not deterministic on a GPU.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

NO_LABEL = -1
Resize = Literal["maxpool", "bicubic", "area"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K) over the pictures with a label; `labels` (N,) long, -1 for none.

    A batch without labels gives zero, with zero gradient.
    """
    total = functional.cross_entropy(logits.float(), labels, ignore_index=NO_LABEL, reduction="sum")
    return total / (labels != NO_LABEL).sum().clamp(min=1)


def soft_labels(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    *,
    softened: Literal["both", "teacher"] = "both",
    scaled: bool = True,
) -> Tensor:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)), mean over the batch; logits (N, K).

    Hinton et al. 2015 (arXiv 1503.02531); L_soft of DiPalma et al. 2021 (arXiv 2101.04170) with T = 1.
    `softened` teacher leaves the student at T = 1, `scaled` false leaves T^2 out: together L_KD of del Amor
    et al. 2024 (arXiv 2401.06010) less the teacher's entropy, which has no gradient.
    """
    student_temperature = temperature if softened == "both" else 1.0
    student = functional.log_softmax(student_logits.float() / student_temperature, 1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, 1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence if scaled else divergence


def softmax_regression(
    student_logits: Tensor, teacher_logits: Tensor, distance: Literal["rmse", "mse"]
) -> Tensor:
    """Distance of the teacher's logits from those of the student's map, mean over all elements.

    L_SR of the code released with del Amor et al. 2024 (arXiv 2401.06010), with rmse; cf. Yang et al. 2021
    (Softmax regression representation learning, ICLR).
    `last`: logits (N, K), the student's being what the teacher's head says of the student's mean map.
    `spatial`: logits of every cell (N, K, h, w), the student's through a projector of its own.
    """
    return features(student_logits, teacher_logits, distance)


def features(student_map: Tensor, teacher_map: Tensor, distance: Literal["mse", "l1", "rmse"]) -> Tensor:
    """Distance of two feature maps (N, C, h, w), mean over all elements.

    mse and l1: the pixel loss of DiPalma et al. 2021 (arXiv 2101.04170). rmse: L_FM of del Amor et al. 2024
    (arXiv 2401.06010), one root over the whole batch.
    """
    difference = student_map.float() - teacher_map.float()
    if distance == "l1":
        return difference.abs().mean()
    mean_square = difference.square().mean()
    return root(mean_square) if distance == "rmse" else mean_square


def attention_distance(
    student_maps: Tensor,
    teacher_maps: Tensor,
    *,
    distance: Literal["rmse", "mse"],
    normalise: Callable[[Tensor], Tensor],
    chosen: Tensor | None = None,
) -> Tensor:
    """Distance of two sets of attention maps (N, K, h, w), per picture, mean over the pictures that count.

    `chosen` (N,) long names the one class whose map is compared, -1 leaves the picture out; None compares all
    classes. Choosing comes before `normalise` (one of `cam.normaliser`). L_AT of del Amor et al. 2024
    (arXiv 2401.06010): all classes, minmax, rmse, `mean_i sqrt(mean_chw (A_T - A_S)^2)`.
    """
    student_maps, teacher_maps = student_maps.float(), teacher_maps.float()
    counts = student_maps.new_ones(len(student_maps))
    if chosen is not None:
        counts = (chosen != NO_LABEL).float()
        student_maps, teacher_maps = _of_class(student_maps, chosen), _of_class(teacher_maps, chosen)
    per_picture = (normalise(student_maps) - normalise(teacher_maps)).square().mean((1, 2, 3))
    if distance == "rmse":
        per_picture = root(per_picture)
    return (per_picture * counts).sum() / counts.sum().clamp(min=1)


def resize_map(maps: Tensor, cells: int | tuple[int, int], form: Resize) -> Tensor:
    """Teacher maps (N, C, H, W) on a grid of `cells`, float32; unchanged when they are on it already.

    g(.) of DiPalma et al. 2021 (arXiv 2101.04170) is `maxpool` and `bicubic`; `area` averages.
    """
    maps = maps.float()
    size = (cells, cells) if isinstance(cells, int) else cells
    if maps.shape[2:] == size:
        return maps
    if form == "maxpool":
        return functional.adaptive_max_pool2d(maps, size)
    if form == "area":
        return functional.adaptive_avg_pool2d(maps, size)
    return functional.interpolate(maps, size=size, mode="bicubic", align_corners=False)


def root(square: Tensor) -> Tensor:
    """Square root of numbers of at least 0, with gradient 0 at 0 in place of infinity.

    A root of a mean of squares is a norm; at 0 it has no gradient, and 0 is one of its subgradients. The
    inner selection keeps the infinite slope out of the backward pass, where 0 times infinity would be NaN.
    """
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def unit(vectors: Tensor, axis: int) -> Tensor:
    """Vectors along an axis over their length; a vector of zeros stays so, with gradient 0."""
    length = root(vectors.square().sum(axis, keepdim=True))
    return torch.where(length > 0, vectors / torch.where(length > 0, length, 1.0), 0.0)


def _of_class(maps: Tensor, chosen: Tensor) -> Tensor:
    index = chosen.clamp(min=0).view(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, index)
