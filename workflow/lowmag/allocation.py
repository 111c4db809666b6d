"""A limit to what may be made from what a stranger's file says of itself."""

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lowmag.errors import UserError

MAKERS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}


class AtMost(TorchFunctionMode):
    """Within it tensors of `most` numbers in all can be made; before one more, UserError says `problem`."""

    def __init__(self, most: int, problem: str) -> None:
        super().__init__()
        self._left, self._problem = most, problem

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            sizes = kwargs.get("size", args)
            self._left -= math.prod(sizes[0] if sizes and not isinstance(sizes[0], int) else sizes)
            if self._left < 0:
                raise UserError(self._problem)
        return func(*args, **kwargs)
