"""Pads, crops and average pools: the same small kernel for each channel."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..analysis.forms import ZERO, Form, compose
from ..convmap import Illegal, Window
from .fill import bordered, goes_into_fill
from .registry import Bordered, Linear, Operator, operator

MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@operator(F.pad)
def pad_function(op: Operator) -> Linear:
    """``y[o] = x[o - before]``, in an image that goes on beyond its border as the mode says."""
    x, amounts, mode, value = op.arguments("input pad mode value", mode="constant", value=None)
    if not all(isinstance(n, int) for n in amounts) or mode not in MODES:
        raise Illegal("how much it pads is computed from the input")
    return pad(op, op.value(x), amounts, MODES[mode], value)


_PADS = {"Zero": "zeros", "Constant": "zeros", "Reflection": "reflect", "Replication": "replicate",
         "Circular": "circular"}  # fmt: skip


def _pad_module(op: Operator, mode: str) -> Linear:
    """``y[o] = x[o - before]``, in an image that goes on beyond its border as the module says."""
    (x,) = op.arguments("input")
    return pad(op, op.value(x), op.module.padding, mode, getattr(op.module, "value", None))


for _name, _mode in _PADS.items():
    _modules = [getattr(nn, f"{_name}Pad{rank}d", None) for rank in (1, 2, 3)]
    operator(*filter(inspect.isclass, _modules))(functools.partial(_pad_module, mode=_mode))


def pad(op: Operator, x: fx.Node, amounts: Sequence[int], mode: str, value: Any) -> Linear:
    """``x`` with so much before and after each axis, the last axis first, as ``F.pad`` has it."""
    if mode == "zeros" and value not in (None, 0):
        raise Illegal("it pads with a number that is not zero")
    if mode != "zeros" and min(amounts) < 0:
        raise Illegal("it crops and pads at once")
    pairs = [*zip(amounts[::2], amounts[1::2], strict=True)][::-1]
    filled = mode == "zeros" and min(amounts) >= 0 and goes_into_fill(op)

    def combine(form: Form) -> Form | Bordered:
        rank = op.rank(form, x)
        if len(pairs) > rank:
            raise Illegal("it pads the channels or the batch")
        padding = [(0, 0)] * (rank - len(pairs)) + pairs
        window = Window.of(torch.ones((1,) * rank, dtype=torch.float64), [1] * rank, padding, mode)
        if filled:
            return bordered(form, compose(replace(form, shift=ZERO), window), padding)
        return compose(form, window)

    return Linear((x,), combine, composes=True, kind="pad", crops=min(amounts) < 0)


def crop(op: Operator, x: fx.Node, index: Any) -> Linear:
    """``y[o] = x[first + step o]``, as ``x[:, :, first:-last:step]`` has it."""
    given = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(part, slice) or part is Ellipsis for part in given) or given.count(Ellipsis) > 1:
        raise Illegal("it picks out single positions")
    numbers = [n for part in given if isinstance(part, slice) for n in (part.start, part.stop, part.step)]
    if not all(isinstance(n, int | None) for n in numbers):
        raise Illegal("where it cuts is computed from the input")

    def combine(form: Form) -> Form:
        rank = op.rank(form, x)
        several = any(term.through for term in form.terms) or len(given) > rank + 2  # axes before the channels'
        axes = op.axes(x) if Ellipsis in given or several else rank + 2
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        parts = [*given[:at], *[slice(None)] * (axes + (Ellipsis in given) - len(given)), *given[at + 1 :]]
        cuts = [_cut(part) for part in parts]
        if any(cut != (0, 0, 1) for cut in cuts[: axes - rank]):
            raise Illegal("it cuts the channels or the batch")
        padding = [(-before, -after) for before, after, _ in cuts[axes - rank :]]
        steps = [step for _, _, step in cuts[axes - rank :]]
        return compose(form, Window.of(torch.ones((1,) * rank, dtype=torch.float64), steps, padding, "zeros"))

    cuts_off = any(part.start or part.stop not in (None, sys.maxsize) for part in given if isinstance(part, slice))
    return Linear((x,), combine, composes=True, kind="crop", crops=cuts_off)


def _cut(part: slice) -> tuple[int, int, int]:
    """How much a slice leaves out at the start and at the end, whatever the size, and its step."""
    start, stop, step = part.start or 0, part.stop, part.step or 1
    stop = 0 if stop is None or stop >= sys.maxsize else stop
    if start < 0 or stop > 0 or (part.stop == 0):
        raise Illegal("how much it cuts off depends on the size of its input")
    return start, -stop, step


@operator(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def pool_module(op: Operator) -> Linear:
    """``y[o] = sum_t x[s o + t] / size``, the mean over a window, zeros beyond the border counted in."""
    pool = op.module
    (x,) = op.arguments("input")
    size = pool.kernel_size, pool.stride, pool.padding
    divisor = getattr(pool, "divisor_override", None)
    return _pool(op, x, _rank_of(pool), *size, pool.ceil_mode, pool.count_include_pad, divisor)


def _pool_function(op: Operator, rank: int) -> Linear:
    """``y[o] = sum_t x[s o + t] / size``, the mean over a window, zeros beyond the border counted in."""
    names = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
    x, kernel, stride, padding, ceil, include, divisor = op.arguments(
        names, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    return _pool(op, x, rank, kernel, stride, padding, ceil, include, divisor)


for _rank, _function in {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.items():
    operator(_function)(functools.partial(_pool_function, rank=_rank))


def _rank_of(module: nn.Module) -> int:
    return next(rank for rank, kind in {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}.items()
                if isinstance(module, kind))  # fmt: skip


def _pool(
    op: Operator,
    x: Any,
    rank: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    include_pad: bool,
    divisor: int | None,
) -> Linear:
    size, step, pad = (
        (v,) * rank if isinstance(v, int) else tuple(v)
        for v in (kernel, kernel if stride is None or stride == [] else stride, padding)
    )
    if not all(isinstance(n, int) for n in (*size, *step, *pad)):
        raise Illegal("its window is computed from the input")
    if ceil and set(step) != {1}:
        raise Illegal("it rounds its size up, which leaves out part of a window")
    if any(pad) and not include_pad:
        raise Illegal("at the border it divides by the part of the window that is inside")
    ones = torch.ones(size, dtype=torch.float64)
    window = Window.of(ones / (divisor or ones.numel()), step, [(p, p) for p in pad], "zeros")
    return Linear((op.value(x),), lambda form: compose(form, window), composes=True, kind="pool")
