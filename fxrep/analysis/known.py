"""What can be told of a value before the program runs: that it has a type, or so many channels.

A convolution and a norm ask for both of what they read. A multiplication by a constant does not: it widens one channel
to many, and makes a float of an integer. What reads such a value's source in its place would ask for more than the
program did, unless it is known that the source has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ..capture.kinds import builtin_type
from ..capture.piece import iterate
from . import effects
from .program import Program

# Functions and methods whose value has the type of their operands, or a wider one.
KEEPS_TYPE = (effects.FRESH | effects.POINTWISE | {
    "chunk", "expand", "flatten", "flip", "getitem", "narrow", "pad", "permute", "pixel_shuffle", "reshape", "select",
    "split", "squeeze", "swapaxes", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as", "reshape_as",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
    "iadd", "imul", "isub", "itruediv", "add_", "mul_", "sub_", "div_", "relu_",
}) - {"eq", "ge", "gt", "le", "lt", "ne"}  # fmt: skip
SAME_CHANNELS = effects.ELEMENTWISE | {"add", "sub", "mul", "truediv", "div", "iadd", "isub", "imul", "itruediv"}
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
            named = effects.is_torch(node) and effects.name_of(node) in KEEPS_TYPE
            keeps = named and "dtype" not in node.kwargs
        if keeps:
            waiting += [n for n in iterate((node.args, node.kwargs)) if n not in seen]
    return False


def has_channels(program: Program, node: fx.Node, channels: int, rank: int) -> bool:
    """Whether a value has so many channels, more than one, on the axis before ``rank`` others."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        seen.add(node)
        known = _channels(program, node, rank)
        if known == channels:
            return True
        if known is None:
            kind = _kind(program, node)
            if kind is not None:
                same = issubclass(kind, effects.POINTWISE_MODULES)
            else:
                same = effects.is_torch(node) and effects.name_of(node).removesuffix("_") in SAME_CHANNELS
            if same:  # what is added to so many channels has as many, or one
                waiting += [n for n in iterate((node.args, node.kwargs)) if n not in seen]
    return False


def _channels(program: Program, node: fx.Node, rank: int) -> int | None:
    """The number of channels that a value was seen with, or that the layer that makes it has."""
    value = _seen(program, node)
    if value is not None:
        return value.shape[-1 - rank] if value.dim() > rank else 1
    if program.ranks.get(node) != rank:
        return None  # the layer's channels may be on another axis
    if _kind(program, node) is not None:
        module = program.module(node)
        names = ("out_channels", "num_features") if rank else ("out_features", "num_features")
        sizes = (getattr(module, name, None) for name in names)
        return next((size for size in sizes if isinstance(size, int)), None)
    name = effects.name_of(node)
    weight = program.constant(node.args[1]) if name in ("conv1d", "conv2d", "conv3d") and len(node.args) > 1 else None
    return None if weight is None else len(weight)


def _seen(program: Program, node: fx.Node) -> Tensor | None:
    """A parameter, or a tensor like a value on a run with example inputs."""
    return program.tensor(node) if node.op == "get_attr" else program.seen.get(node)


def _kind(program: Program, node: fx.Node) -> type[nn.Module] | None:
    module = program.module(node)
    return builtin_type(module) if module is not None else None
