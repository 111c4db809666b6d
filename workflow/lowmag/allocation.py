"""A limit to what may be made from what a stranger's file says of itself."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowmag.errors import UserError

MOST_BESIDE = 400_000_000  # numbers made beside a file's weights: what a library makes and we drop
MOST_TENSORS = 1000  # made beside them
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}


class NoMoreThan(TorchFunctionMode):
    """Within it a network for `weights` can be made, twice over, and little more: UserError says `problem`.

    Counted are tensors and their numbers, before they are made; not what is computed from them.
    """

    def __init__(self, weights: Mapping[str, Tensor], problem: str) -> None:
        super().__init__()
        self._numbers = 2 * sum(tensor.numel() for tensor in weights.values()) + MOST_BESIDE
        self._tensors = 2 * len(weights) + MOST_TENSORS
        self._problem = problem

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            sizes = kwargs.get("size", args)
            self._numbers -= math.prod(sizes[0] if sizes and not isinstance(sizes[0], int) else sizes)
            self._tensors -= 1
            if self._numbers < 0 or self._tensors < 0:
                raise UserError(self._problem)
        return func(*args, **kwargs)
