"""Outputs of a teacher and a student on one batch, without networks."""

import torch
from lowmag.methods import StudentBatch, TargetsBatch, combine, teacher_targets
from lowmag.projectors import build_projectors
from lowmag.terms import Method

N, K, C, CELLS = 5, 3, 8, 4


LABELS = torch.tensor([0, 2, -1, 1, -1])


EVERYTHING = {
    "cross_entropy": 0.5,
    "soft_labels": {"weight": 2, "temperature": 3},
    "features": {"weight": 0.7, "distance": "rmse", "resize": "area"},
    "attention": {"weight": 10, "classes": "teacher"},
}


class Outputs:
    """Features with both signs, head and logits of one network on one batch."""

    def __init__(self, seed: int, cells: int = CELLS) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features = torch.randn(N, C, cells, cells, generator=generator, requires_grad=True)
        self.weight = torch.randn(K, C, generator=generator, requires_grad=True)
        self.bias = torch.randn(K, generator=generator)
        self.logits = self.features.mean((2, 3)) @ self.weight.T + self.bias


def targets_of(teacher: Outputs, labels: torch.Tensor = LABELS) -> TargetsBatch:
    with torch.no_grad():
        said = teacher_targets(
            (teacher.features, teacher.logits),
            teacher.weight,
            CELLS,
            resizes=["maxpool", "bicubic", "area"],
            relus=["inside", "outside"],
        )
    head = (teacher.weight.detach(), teacher.bias.detach())
    return TargetsBatch(labels, said.logits, said.features, said.attention, head)


def parts_of(method: dict, student: Outputs, batch: TargetsBatch) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    projectors = dict(build_projectors(Method(**method), C, C, K).items())
    return combine(
        Method(**method), StudentBatch(student.features, student.logits, student.weight, projectors), batch
    )


LABEL_FREE = [
    {"soft_labels": {"weight": 1, "temperature": 4}},
    *(
        {"features": {"resize": resize}}
        for resize in ("maxpool", "bicubic", "maxpool+bicubic", "released", "area")
    ),
    *({"features": {"distance": distance}} for distance in ("l1", "rmse")),
    *(
        {"attention": {"classes": classes, "relu": relu, "distance": distance, "normalise": normalise}}
        for classes in ("all", "teacher")
        for relu in ("inside", "outside")
        for distance in ("rmse", "mse")
        for normalise in ("minmax", "minmax_class", "softmax", "none")
    ),
    *({"softmax_regression": {"distance": distance}} for distance in ("rmse", "mse")),
    *({"attention_transfer": {"distance": distance, "power": 3}} for distance in ("mse", "norm")),
    {"decoupled": {"target": "teacher"}},
    {"correlation": {"temperature": 2}},
    {"correlation": {"gamma": 0}},
    {"relational": {"distances": 1, "angles": 2}},
    {"cosine": {"projector": "none"}},
]

MEANS = [
    {"cross_entropy": 1},
    {"attention": {"classes": "label"}},
    {"decoupled": {"target": "label"}},
    *(method for method in LABEL_FREE if Method(**method).accumulation_problem(2) is None),
]
