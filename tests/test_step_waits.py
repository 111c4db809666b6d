"""A step that asks nothing of the device, so that it never waits for it."""

import pytest
import torch
from lowmag.augment import apply_colour, apply_geometry, apply_views
from lowmag.config import DEFAULT_METHODS
from lowmag.models import ModelSpec, as_unit, normalise
from synthetic_outputs import EVERYTHING, LABEL_FREE, MEANS, N, Outputs, parts_of, targets_of
from torch.utils._python_dispatch import TorchDispatchMode


class ForbidWaiting(TorchDispatchMode):
    """Fails on what makes the host wait for a device: reading or sending numbers, selecting by a mask."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh"), name
        if name in ("aten::index.Tensor", "aten::index_put_", "aten::index_put"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), name
        return function(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device():
    student, batch = Outputs(0), targets_of(Outputs(1))
    tiles, views = torch.zeros(N, 3, 8, 8, dtype=torch.uint8), torch.arange(N)
    spec = ModelSpec(
        "student",
        "resnet18",
        32,
        ("A", "B"),
        1.25,
        8,
        64.0,
        "upsampled",
        64,
        (0.5, 0.5, 0.5),
        (0.2, 0.2, 0.2),
    )
    with ForbidWaiting():
        moved = apply_geometry(as_unit(apply_views(tiles, views)), torch.ones(N, 4), "reflect")
        normalise(apply_colour(moved, torch.ones(N, 7)), spec)
        for method in (EVERYTHING, *LABEL_FREE, *MEANS, *DEFAULT_METHODS.values(), {"cosine": 1}):
            loss = parts_of(method, student, batch)["loss"]
            torch.autograd.grad(
                loss, (student.features, student.weight), retain_graph=True, allow_unused=True
            )


@pytest.mark.parametrize(
    "waiting", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.new_tensor([1.0])]
)
def test_the_test_above_would_notice(waiting):
    with pytest.raises(AssertionError, match="aten::"), ForbidWaiting():
        waiting(torch.ones(3))
