"""Weights that are known by shape and type at once, and computed when somebody needs their content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Deferred:
    """A weight that is computed when somebody needs it; ``like`` is a tensor of its shape and type without content.

    What ``compute`` gives belongs to the caller.
    """

    like: Tensor
    device: torch.device
    compute: Callable[[], Tensor]

    @property
    def shape(self) -> torch.Size:
        return self.like.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    def dim(self) -> int:
        return self.like.dim()

    def numel(self) -> int:
        return self.like.numel()

    def reshape(self, *sizes: int) -> Deferred:
        return Deferred(self.like.reshape(sizes), self.device, lambda: self.compute().reshape(sizes))

    def t(self) -> Deferred:
        return Deferred(self.like.t(), self.device, lambda: self.compute().t())


Weight = Tensor | Deferred

Cast = Callable[[Any], Tensor]
"""What makes a float64 tensor of a ``Weight``."""
