"""Loss terms of other papers on distillation, picture by picture: pure functions in float32.

What relates the pictures of a batch to each other stands in `relational`.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lowmag.losses import NO_LABEL, root, unit


def attention_transfer(
    student_map: Tensor, teacher_map: Tensor, power: float, distance: Literal["mse", "norm"]
) -> Tensor:
    """Distance of where two maps (N, C, h, w) are strong, mean over the pictures; their C may differ.

    Activation-based attention transfer of Zagoruyko and Komodakis 2017 (arXiv 1612.03928, equation 2): with
    Q = sum_c |A_c|^power over the cells, `norm` is || Q_S / ||Q_S|| - Q_T / ||Q_T|| ||, to be weighed by
    beta / 2; `mse` is its square over the number of cells, what their code computes and weighs by 1000.
    """
    difference = _strength(student_map, power) - _strength(teacher_map, power)
    squares = difference.square()
    return squares.mean() if distance == "mse" else root(squares.sum(1)).mean()


def _strength(maps: Tensor, power: float) -> Tensor:
    return unit(maps.float().abs().pow(power).sum(1).flatten(1), 1)


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of the soft labels' loss, mean over the pictures with a target; logits (N, K).

    `target` (N,) long, -1 leaves a picture out. Zhao et al. 2022 (arXiv 2203.08679, equations 5 to 7): TCKD,
    the divergence of target against the rest, and NCKD, that among the other classes; each times T^2 as in
    their code. For one picture, soft_labels = TCKD + (1 - p_target) NCKD with the teacher's p_target. With
    two classes NCKD is zero.
    """
    student, teacher = (
        _target_and_others(z.float() / temperature, target) for z in (student_logits, teacher_logits)
    )
    counts = (target != NO_LABEL).float()
    parts = [
        (_divergence(own, said) * counts).sum() / counts.sum().clamp(min=1)
        for own, said in zip(student, teacher, strict=True)
    ]
    return temperature**2 * parts[0], temperature**2 * parts[1]


def _target_and_others(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the target and of not it (N, 2), and of the other classes among themselves."""
    n_classes = logits.shape[1]
    target = target.clamp(min=0).view(-1, 1)
    # Looked up by their places: a mask of minus infinity would turn 0 times infinity into NaN.
    places = (target + torch.arange(1, n_classes, device=logits.device)) % n_classes
    others = logits.gather(1, places)
    all_others = others.logsumexp(1, keepdim=True)
    either = torch.cat([logits.gather(1, target), all_others], 1)
    return functional.log_softmax(either, 1), others - all_others


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of the angle between vectors of C channels, (N, C) or (N, C, h, w), mean over all of them.

    The alignment of XMAG (Su et al. 2025, arXiv 2509.23097) between a 5x student and a 20x teacher: once of
    the pictures' mean vectors, once of the cells'. A vector of zeros counts as at right angles.
    """
    return 1 - (unit(student.float(), 1) * unit(teacher.float(), 1)).sum(1).mean()
