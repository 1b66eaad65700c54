"""Operators that leave each channel whole: a mean over the image, a merge of axes and its undoing, a permutation.

A scale and a shift per channel, or a linear layer, commute with them, so they may stand between the parts of a form.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..analysis import effects
from ..analysis.forms import Form, carried
from ..convmap import Illegal
from .registry import Linear, Operator, operator

FARTHEST = 8
"""How many operators there may be between a merge of axes and its undoing, where shapes alone tell."""


@operator(torch.flatten, "flatten")
def flatten(op: Operator) -> Linear:
    """``y[i j, ...] = x[i, j, ...]``: a merge of axes before the channels', or of those after, each of one position."""
    x, start, end = op.arguments("input start_dim end_dim", start_dim=0, end_dim=-1)
    return merge(op, op.value(x), start, end)


@operator(nn.Flatten)
def flatten_module(op: Operator) -> Linear:
    """``y[i j, ...] = x[i, j, ...]``: a merge of axes before the channels', or of those after, each of one position."""
    (x,) = op.arguments("input")
    return merge(op, op.value(x), op.module.start_dim, op.module.end_dim)


def merge(op: Operator, x: fx.Node, start: Any, end: Any) -> Linear:
    """``x`` with the axes from ``start`` to ``end`` as one."""

    def combine(form: Form) -> Form:
        _only_term(form)
        rank, axes = op.rank(form, x), op.axes(x)
        first, last = start % axes, end % axes
        sized = op.node.op != "call_module" and effects.name_of(op.node) != "flatten"  # a view is given the sizes
        if last < axes - 1 - rank:
            return carried(form, op.node, rank, rank, form.single, merges=True)
        if first > axes - 1 - rank:
            return carried(form, op.node, rank, rank - (last - first), form.single, merges=True, counts=sized)
        if first == axes - 1 - rank and last == axes - 1 and form.single:
            return carried(form, op.node, rank, 0, True, merges=True)
        raise Illegal("it merges the channels' axis with another")

    return Linear((x,), combine)


@operator("reshape_as", "view_as")
def reshape_as(op: Operator) -> Linear:
    """``y = x`` in the shape from before a merge of leading axes: the two undo each other."""
    x, other = op.arguments("input other")
    return undo(op, op.value(x), op.value(other))


def undo(op: Operator, x: fx.Node, other: fx.Node) -> Linear:
    """``x`` in the shape of ``other``, if what merged axes of that is what is undone."""

    def combine(form: Form) -> Form:
        (term,) = _only_term(form)
        last = term.through[-1] if term.through else None
        if last is None or not last.merges or last.node.all_input_nodes[:1] != [other]:
            raise Illegal("it is given another shape")
        return form.uncarried()

    return Linear((x,), combine, like=other)


def merged_axes(before: Sequence[Any], after: Sequence[Any]) -> tuple[int, int] | None:
    """The first and the last of the axes that become one; None if something else is done to the shape."""
    more = len(before) - len(after)
    for start in range(len(after)):
        if more > 0 and (*before[:start], *before[start + more + 1 :]) == (*after[:start], *after[start + 1 :]):
            return start, start + more
    return None


@operator(torch.permute, "permute")
def permute(op: Operator) -> Linear:
    """``y[n, i, j, c] = x[n, c, i, j]``: the axes in another order."""
    x, *order = op.arguments("input dims") if len(op.node.args) < 3 else op.node.args
    listed: Any = order[0] if len(order) == 1 else order
    return reorder(op, op.value(x), lambda axes: listed)


@operator(torch.transpose, torch.swapaxes, "transpose", "swapaxes")
def transpose(op: Operator) -> Linear:
    """``y[n, i, c] = x[n, c, i]``: two axes in each other's place."""
    x, one, other = op.arguments("input dim0 dim1")

    def order(axes: int) -> list[int]:
        found = [*range(axes)]
        found[one], found[other] = found[other], found[one]
        return found

    return reorder(op, op.value(x), order)


def reorder(op: Operator, x: fx.Node, order: Callable[[int], Sequence[int]]) -> Linear:
    """``x`` with its axes in an order that depends on how many there are."""

    def combine(form: Form) -> Form:
        _only_term(form)
        rank, axes = op.rank(form, x), op.axes(x)
        found = [axis % axes for axis in order(axes)]
        return carried(form, op.node, rank, axes - 1 - found.index(axes - 1 - rank), counts=False)

    return Linear((x,), combine)


def mean(op: Operator, x: fx.Node, dim: Any, keepdim: Any) -> Linear:
    """``y[c] = sum_o x[c, o] / positions``, the mean over every axis after the channels'."""
    dims = [dim] if isinstance(dim, int) else dim
    if not isinstance(dims, list | tuple) or not all(isinstance(d, int) for d in dims):
        raise Illegal("it takes the mean over all axes")

    def combine(form: Form) -> Form:
        rank, axes = op.rank(form, x), op.axes(x)
        if not rank or {d % axes for d in dims} != set(range(axes - rank, axes)):
            raise Illegal("it takes the mean over other axes than those of the image")
        return _pooled(op, form, rank, rank if keepdim else 0)

    return Linear((x,), combine)


def _pool_module(op: Operator, rank: int) -> Linear:
    """``y[c] = sum_o x[c, o] / positions``, where the output has one position."""
    (x,) = op.arguments("input")
    return _pool(op, op.value(x), op.module.output_size, rank)


def pool_function(op: Operator, rank: int) -> Linear:
    """``y[c] = sum_o x[c, o] / positions``, where the output has one position."""
    x, size = op.arguments("input output_size")
    return _pool(op, op.value(x), size, rank)


for _rank, _kind, _function in (
    (1, nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d),
    (2, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
    (3, nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d),
):
    operator(_kind)(functools.partial(_pool_module, rank=_rank))
    operator(_function)(functools.partial(pool_function, rank=_rank))


def _pool(op: Operator, x: fx.Node, size: Any, rank: int) -> Linear:
    if {*size} != {1} if isinstance(size, list | tuple) else size != 1:
        raise Illegal("its output has more than one position")

    def combine(form: Form) -> Form:
        if op.rank(form, x) != rank:
            raise Illegal("it takes the mean over other axes than those of the image")
        return _pooled(op, form, rank, rank)

    return Linear((x,), combine)


def _pooled(op: Operator, form: Form, rank: int, left: int) -> Form:
    _only_term(form)
    return carried(form, op.node, rank, left, single=True)


def _only_term(form: Form) -> Any:
    if len(form.terms) != 1:
        raise Illegal("what it reads is a sum of values of different origin")
    if form.source is not None:
        raise Illegal("what it reads is a value of its own")
    return form.terms
