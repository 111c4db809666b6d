"""Our Adam does what torch's does, and goes on from a saved state."""

import pytest
import torch
from lowmag.optimizer import Adam
from torch import nn


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((4, 3, 3, 3), (4,), (2, 5))]


def give_gradients(to: list[nn.Parameter], step: int) -> None:
    torch.manual_seed(100 + step)
    for parameter in to:
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("decoupled", "reference"), [(True, torch.optim.AdamW), (False, torch.optim.Adam)])
def test_steps_are_those_of_torch(weight_decay: float, decoupled: bool, reference) -> None:
    ours, theirs = parameters(), parameters()
    adam = Adam(ours, weight_decay, decoupled=decoupled)
    expected = reference(theirs, lr=0.0, weight_decay=weight_decay)
    for step in range(20):
        lr = 0.01 * (step + 1)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        adam.step(lr)
        expected.param_groups[0]["lr"] = lr
        expected.step()
    for own, other in zip(ours, theirs, strict=True):
        # Both compute in float32, in another order: some units in the last place per step.
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_goes_on_from_a_state_bit_for_bit() -> None:
    whole, parted = parameters(), parameters()
    adam = Adam(whole, 0.1, decoupled=True)
    before = Adam(parted, 0.1, decoupled=True)
    after = Adam(parted, 0.1, decoupled=True)
    for step in range(6):
        give_gradients(whole, step)
        give_gradients(parted, step)
        adam.step(0.01)
        if step == 3:
            after.load_state_dict(before.state_dict())
        (before if step < 3 else after).step(0.01)
    for own, other in zip(whole, parted, strict=True):
        assert torch.equal(own, other)


def test_gradients_are_forgotten() -> None:
    some = parameters()
    give_gradients(some, 0)
    Adam(some, 0.0, decoupled=True).zero_grad()
    assert all(parameter.grad is None for parameter in some)
