"""Convolutions, and linear layers, which are convolutions without spatial axes."""

from __future__ import annotations

import functools
import operator as py
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..analysis.forms import ZERO, Form, compose, doubled
from ..convmap import ConvMap, Illegal
from ..deferred import Weight
from .registry import Linear, Operator, operator


@operator(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def conv_module(op: Operator) -> Linear:
    """``y = W * x + b``, the convolution as the module is configured."""
    conv = op.module
    (x,) = op.arguments("input")
    rank = conv.weight.dim() - 2
    _require_batch(op, rank)
    pads, mode = _pads(conv.padding, conv.weight.shape[2:], conv.dilation), conv.padding_mode
    if mode != "zeros":  # its forward pads by what it made of ``padding`` when it was built
        made = conv._reversed_padding_repeated_twice
        pads = [*zip(made[::2], made[1::2], strict=True)][::-1]
    stride, dilation = _spread(conv.stride, rank), _spread(conv.dilation, rank)
    return _conv(op.value(x), conv.weight, conv.bias, stride, pads, dilation, conv.groups, mode)


@operator(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed_module(op: Operator) -> Linear:
    """``y[s i + d k - p] += W[k] x[i]``, and a bias: the convolution as the module is configured."""
    conv = op.module
    (x,) = op.arguments("input")
    _require_batch(op, conv.weight.dim() - 2)
    settings = conv.stride, conv.padding, conv.output_padding, conv.dilation
    stride, padding, more, dilation = (_spread(value, conv.weight.dim() - 2) for value in settings)
    return transposed(op.value(x), conv.weight, conv.bias, conv.weight.dtype, stride, padding, more, dilation,
                      conv.groups)  # fmt: skip


def transposed_function(op: Operator, rank: int) -> Linear:
    """``y[s i + d k - p] += W[k] x[i]``, and a bias, with weights that are constants of the program."""
    values = op.arguments("input weight bias stride padding output_padding groups dilation",
                          bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)  # fmt: skip
    x, w, b, stride, padding, more, groups, dilation = values
    weight = op.constant(w, "weight")
    _require_batch(op, rank)
    bias = None if b is None else op.constant(b, "bias")
    dtype = op.program.dtype(w) or weight.dtype
    stride, padding, more, dilation = (_spread(value, rank) for value in (stride, padding, more, dilation))
    return transposed(op.value(x), weight, bias, dtype, stride, padding, more, dilation, groups)


operator(F.conv_transpose1d, torch.conv_transpose1d)(functools.partial(transposed_function, rank=1))
operator(F.conv_transpose2d, torch.conv_transpose2d)(functools.partial(transposed_function, rank=2))
operator(F.conv_transpose3d, torch.conv_transpose3d)(functools.partial(transposed_function, rank=3))


def transposed(
    x: fx.Node,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Linear:
    """A transposed convolution of ``x``."""
    numbers = (*stride, *padding, *output_padding, *dilation, groups)
    if not all(isinstance(n, int) for n in numbers):
        raise Illegal("its stride, padding or dilation is computed from the input")
    conv = ConvMap.transposed(weight, stride=stride, padding=padding, output_padding=output_padding,
                              dilation=dilation, groups=groups)  # fmt: skip
    shift = ZERO if bias is None else doubled(bias)
    return Linear((x,), lambda form: compose(form, conv, shift), composes=True, dtypes=(dtype,), kind="conv")


ARGUMENTS = "input weight bias stride padding dilation groups"
CONVOLUTIONS: dict[Any, str] = {}  # functions, with the names of their arguments


def functional(op: Operator, rank: int) -> Linear:
    """``y = W * x + b`` with weights that are constants of the program."""
    names = CONVOLUTIONS[op.node.target]
    values = op.arguments(names, bias=None, stride=1, padding=0, dilation=1, groups=1)
    given = dict(zip(names.split(), values, strict=True))
    x, w, b, stride, padding, dilation, groups = (given[name] for name in ARGUMENTS.split())
    weight = op.weight(w, "weight")
    if weight.dim() != rank + 2:
        raise Illegal(f"its weight has {weight.dim()} axes")
    _require_batch(op, rank)
    bias = None if b is None else op.constant(b, "bias")
    numbers = (*_spread(stride, rank), *_spread(dilation, rank), groups)
    if not all(isinstance(n, int) for n in numbers) or not isinstance(padding, int | str | tuple | list):
        raise Illegal("its stride, padding or dilation is computed from the input")
    dtype = op.program.dtype(w) or weight.dtype
    stride, dilation = _spread(stride, rank), _spread(dilation, rank)
    pads = _pads(padding, weight.shape[2:], dilation)
    return _conv(op.value(x), weight, bias, stride, pads, dilation, groups, "zeros", dtype)


for _rank, _targets in {1: (F.conv1d, torch.conv1d), 2: (F.conv2d, torch.conv2d), 3: (F.conv3d, torch.conv3d)}.items():
    operator(*_targets)(functools.partial(functional, rank=_rank))
    CONVOLUTIONS.update(dict.fromkeys(_targets, ARGUMENTS))


def _conv(
    x: fx.Node,
    weight: Weight,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    mode: str,
    dtype: torch.dtype | None = None,
) -> Linear:
    conv = ConvMap.conv(weight, stride=stride, padding=pads, dilation=dilation, groups=groups, mode=mode)
    shift = ZERO if bias is None else doubled(bias)

    def combine(form: Form) -> Form:
        return compose(form, conv, shift)

    return Linear((x,), combine, composes=True, dtypes=(dtype or weight.dtype,), kind="conv")


def _require_batch(op: Operator, rank: int) -> None:
    """Raise ``Illegal`` if a convolution along ``rank`` axes is known to read an image without a batch.

    Its channels are on another axis than the one that follows from the rank.
    """
    if op.program.ranks.get(op.node, rank) != rank:
        raise Illegal("its input has no batch axis")


def _pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) for each axis; "same" puts the odd one after."""
    if padding == "valid":
        padding = 0
    dilation = _spread(dilation, len(kernel))
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    pads = _spread(padding, len(kernel))
    if not all(isinstance(p, int) for p in pads):
        raise Illegal("its padding is computed from the input")
    return [(p, p) for p in pads]


def _spread(value: Any, rank: int) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,)
    return values * rank if len(values) == 1 else values


@operator(nn.Linear)
def linear_module(op: Operator) -> Linear:
    """``y = W x + b`` along the last axis: a convolution without spatial axes."""
    (x,) = op.arguments("input")
    return linear(op.value(x), op.module.weight, op.module.bias, op.module.weight.dtype)


@operator(F.linear)
def linear_function(op: Operator) -> Linear:
    """``y = W x + b`` along the last axis, with weights that are constants of the program."""
    x, w, b = op.arguments("input weight bias", bias=None)
    weight = op.weight(w, "weight")
    if weight.dim() != 2:
        raise Illegal(f"its weight has {weight.dim()} axes")
    dtype = op.program.dtype(w) or weight.dtype
    return linear(op.value(x), weight, None if b is None else op.constant(b, "bias"), dtype)


@operator(torch.matmul, py.matmul, "matmul", "__matmul__")
def matmul(op: Operator) -> Linear:
    """``y = x W``, the product of a value and a matrix that is a constant of the program, along the last axis."""
    x, w = op.arguments("input other")
    weight = op.weight(w, "second factor")
    if weight.dim() != 2:
        raise Illegal(f"its second factor has {weight.dim()} axes")
    return linear(op.value(x), weight.t(), None, op.program.dtype(w) or weight.dtype)


def linear(x: fx.Node, weight: Weight, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    """A linear layer of ``x``."""
    if bias is not None and bias.dim() > 1:
        raise Illegal(f"its bias has {bias.dim()} axes")
    map = ConvMap.conv(weight, stride=(), padding=(), dilation=(), groups=1)
    shift = ZERO if bias is None else doubled(bias)
    return Linear((x,), lambda form: compose(form, map, shift), composes=True, dtypes=(dtype,), kind="linear")
