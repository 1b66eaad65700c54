"""Counts the convolutions, batch norms and tensor additions that really run in a forward pass.

Modules and graph nodes can lie (a fused module may still call three kernels, a dead one none), so this listens to the
dispatcher instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CONVS = {
    "convolution",
    "_convolution",
    "convolution_overrideable",
    "_slow_conv2d_forward",
    "slow_conv3d_forward",
    "mkldnn_convolution",
    "cudnn_convolution",
    "cudnn_convolution_relu",
    "cudnn_convolution_add_relu",
    "miopen_convolution",
    "miopen_depthwise_convolution",
    "_conv_depthwise2d",
    "conv_depthwise3d",
    "conv1d",
    "conv2d",
    "conv3d",
}
NORMS = {
    "batch_norm",
    "_batch_norm_impl_index",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "batch_norm_elemt",
    "cudnn_batch_norm",
    "miopen_batch_norm",
}
ADDS = {"add", "add_", "sub", "sub_"}


class _Counting(TorchDispatchMode):
    """Counts one for each operator that reaches the dispatcher from outside (never for what an operator calls)."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in CONVS:
            self.counts["conv"] += 1
        elif name in NORMS:
            self.counts["norm"] += 1
        elif name in ADDS and all(isinstance(operand, torch.Tensor) for operand in args[:2]):
            self.counts["add"] += 1
        return func(*args, **(kwargs or {}))


def count_ops(model: Callable[..., Any], *inputs: Any) -> Counter[str]:
    """How often a forward pass runs a "conv", a "norm" and an "add" (or subtraction) of two tensors."""
    with torch.no_grad(), _Counting() as mode:
        model(*inputs)
    return mode.counts
