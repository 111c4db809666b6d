"""Loss terms about relations between the pictures of a batch: pure functions in float32.

They depend on which pictures meet in a batch, so a batch in parts does not add up to the whole.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lowmag.losses import root, unit

SMALLEST_VARIATION = 1e-12


def correlation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 (1 - correlation of both softmaxes), over the classes and over the batch; logits (N, K).

    DIST of Huang et al. 2022 (arXiv 2205.10536): Pearson's correlation of the rows (classes of one picture,
    "inter", mean over pictures) and of the columns (one class across pictures, "intra", mean over classes).
    It asks for the same order and spacing of the probabilities, not for the same values. With two classes
    the first is only whether both prefer the same one, without gradient; with one picture the second is T^2.
    """
    student, teacher = ((z.float() / temperature).softmax(1) for z in (student_logits, teacher_logits))
    scale = temperature**2
    return scale * _uncorrelated(student, teacher), scale * _uncorrelated(student.T, teacher.T)


def _uncorrelated(x: Tensor, y: Tensor) -> Tensor:
    """1 - Pearson's correlation of rows, mean over rows; a constant row is correlated with nothing."""
    x, y = (rows - rows.mean(1, keepdim=True) for rows in (x, y))
    variation = root(x.square().sum(1)) * root(y.square().sum(1))
    return 1 - ((x * y).sum(1) / variation.clamp(min=SMALLEST_VARIATION)).mean()


def distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances between vectors (N, C) of a batch, over their mean, mean over the pairs.

    RKD-D of Park et al. 2019 (arXiv 1904.05068, equations 5 to 7). The C of student and teacher may differ.
    Turning, moving or scaling all vectors together changes nothing.
    """
    n = len(student)
    found, expected = (_relative_distances(vectors.float()) for vectors in (student, teacher))
    return functional.smooth_l1_loss(found, expected, reduction="sum") / max(n * (n - 1), 1)


def _relative_distances(vectors: Tensor) -> Tensor:
    n = len(vectors)
    lengths = root(_differences(vectors).square().sum(2))  # (N, N), the diagonal is zero
    return lengths / (lengths.sum() / max(n * (n - 1), 1)).clamp(min=SMALLEST_VARIATION)


def angles(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines at j of all triangles i, j, k of vectors (N, C), mean over the triples.

    RKD-A of Park et al. 2019 (arXiv 1904.05068, equations 8 to 9). The C of student and teacher may differ.
    Turning, moving or scaling all vectors together changes nothing. Memory grows with N^2 (N + C).
    """
    n = len(student)
    found, expected = (_cosines(vectors.float()) for vectors in (student, teacher))
    # Where two of i, j, k are the same picture, both cosines are 0 or 1: such triples add nothing.
    return functional.smooth_l1_loss(found, expected, reduction="sum") / max(n * (n - 1) * (n - 2), 1)


def _cosines(vectors: Tensor) -> Tensor:
    directions = unit(_differences(vectors), 2)  # (N, N, C): from j to i
    return torch.einsum("jic,jkc->jik", directions, directions)


def _differences(vectors: Tensor) -> Tensor:
    return vectors[None] - vectors[:, None]
