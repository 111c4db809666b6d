"""Learned maps from the student's channels to the teacher's: trained with it, left out of its model file."""

from torch import nn

from lowmag.terms import Method


def build_projectors(
    method: Method, student_channels: int, teacher_channels: int, n_classes: int
) -> nn.ModuleDict:
    """The projectors that the terms of a method ask for, by term, with fresh weights; often none.

    `softmax_regression`: two 1x1 convolutions without anything in between, to the teacher's channels and to
    classes, as in the code released with del Amor et al. 2024 (arXiv 2401.06010). `cosine`: one 1x1
    convolution, that is a linear layer at every cell.
    """
    projectors = nn.ModuleDict()
    if "softmax_regression" in method.projected:
        projectors["softmax_regression"] = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1), nn.Conv2d(teacher_channels, n_classes, 1)
        )
    if "cosine" in method.projected:
        projectors["cosine"] = nn.Conv2d(student_channels, teacher_channels, 1)
    return projectors
