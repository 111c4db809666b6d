"""Adam and AdamW on torch's operations for lists of tensors.

`torch.optim` imports its compiler at the first step: about 4 s (`benchmarks/optimizer_import.py`), which the
dozens of short runs of a study would each pay. A test compares with it.
"""

# pyright: reportPrivateImportUsage=false
# torch documents these operations (Foreach operations) but does not list them for export.

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with weight decay.

    `decoupled` decay shrinks the weights (AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101), else it is
    added to the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, *, decoupled: bool) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.n_steps = 0
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Change every parameter by its gradient, at a learning rate."""
        parameters: list[Tensor] = list(self.parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        self.n_steps += 1
        if self.weight_decay and self.decoupled:
            torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        elif self.weight_decay:
            gradients = torch._foreach_add(gradients, parameters, alpha=self.weight_decay)
        torch._foreach_lerp_(self.means, gradients, 1 - BETA_1)
        torch._foreach_mul_(self.squares, BETA_2)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - BETA_2)
        divisors = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(divisors, (1 - BETA_2**self.n_steps) ** 0.5)
        torch._foreach_add_(divisors, EPSILON)
        torch._foreach_addcdiv_(parameters, self.means, divisors, -lr / (1 - BETA_1**self.n_steps))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"n_steps": self.n_steps, "means": self.means, "squares": self.squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`, which may be on another device."""
        self.n_steps = state["n_steps"]
        for own, saved in ((self.means, state["means"]), (self.squares, state["squares"])):
            for tensor, value in zip(own, saved, strict=True):
                tensor.copy_(value)
