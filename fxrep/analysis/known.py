"""What can be told of a value before the program runs: that it has a type, or so many channels.

A convolution and a norm ask for both of what they read. A multiplication by a constant does not: it widens one channel
to many, and makes a float of an integer. What reads such a value's source in its place would ask for more than the
program did, unless it is known that the source has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ..capture.tracer import builtin_type, iterate
from . import effects
from .program import Program

# Functions and methods whose value has the type of their operands, or a wider one.
KEEPS_TYPE = (effects.FRESH | effects.POINTWISE | {
    "chunk", "expand", "flatten", "flip", "getitem", "narrow", "pad", "permute", "pixel_shuffle", "reshape", "select",
    "split", "squeeze", "swapaxes", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as", "reshape_as",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
    "iadd", "imul", "isub", "itruediv", "add_", "mul_", "sub_", "div_", "relu_",
}) - {"eq", "ge", "gt", "le", "lt", "ne"}  # fmt: skip
KEEPS_TYPE_MODULES = (
    *effects.POINTWISE_OR_FRESH, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten,
    nn.ZeroPad2d, nn.PixelShuffle,
)  # fmt: skip


def has_type(program: Program, node: fx.Node, dtype: torch.dtype) -> bool:
    """Whether a value is at least of type ``dtype``: what reads it as that raises an error if it is wider."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        seen.add(node)
        value = _seen(program, node)
        if value is not None:
            if value.dtype == dtype:
                return True
            continue
        kind = _kind(program, node)
        if kind is not None:
            weight = getattr(program.module(node), "weight", None)
            if not issubclass(kind, nn.modules.batchnorm._BatchNorm) and isinstance(weight, Tensor):
                if weight.dtype == dtype:
                    return True
                continue
            keeps = issubclass(kind, KEEPS_TYPE_MODULES)
        else:
            keeps = effects.is_torch(node) and effects.name_of(node) in KEEPS_TYPE
        if keeps:
            waiting += [n for n in iterate((node.args, node.kwargs)) if n not in seen]
    return False


def has_channels(program: Program, node: fx.Node, channels: int, rank: int) -> bool:
    """Whether a value has so many channels, on the axis before ``rank`` others."""
    while True:
        value = _seen(program, node)
        if value is not None:
            return value.dim() > rank and value.shape[-1 - rank] == channels
        kind, module = _kind(program, node), program.module(node)
        for name in ("out_channels", "out_features", "num_features"):
            if kind is not None and isinstance(getattr(module, name, None), int):
                return bool(getattr(module, name) == channels)
        pointwise = (
            issubclass(kind, effects.POINTWISE_MODULES)
            if kind is not None
            else effects.is_torch(node) and effects.name_of(node).removesuffix("_") in effects.POINTWISE
        )
        if pointwise and node.args and isinstance(node.args[0], fx.Node):
            node = node.args[0]
            continue
        weight = program.constant(node.args[1]) if effects.name_of(node).startswith("conv") else None
        return weight is not None and "transpose" not in effects.name_of(node) and len(weight) == channels


def _seen(program: Program, node: fx.Node) -> Tensor | None:
    """A parameter, or a tensor like a value on a run with example inputs."""
    return program.tensor(node) if node.op == "get_attr" else program.seen.get(node)


def _kind(program: Program, node: fx.Node) -> type[nn.Module] | None:
    module = program.module(node)
    return builtin_type(module) if module is not None else None
