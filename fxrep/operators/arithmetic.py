"""Sums, differences, and multiples by constants, in every spelling."""

from __future__ import annotations

import operator as py
from typing import Any

import torch
from torch import Tensor, fx

from ..analysis.forms import Form, doubled, is_zero
from ..capture.piece import iterate
from ..convmap import Illegal
from .registry import Linear, Operator, Stacked, align, fixed, fold, operator
from .reshape import mean as mean_of_image

STACKS: set[Any] = {torch.stack}
SUMS: set[Any] = {torch.sum, "sum"}
MEANS: set[Any] = {torch.mean, "mean"}


@operator(py.add, py.iadd, torch.add, "add", "add_", "__add__", "__radd__", "__iadd__")
def add(op: Operator) -> Linear:
    """``y = a + alpha b``."""
    a, b, alpha, out = op.arguments("input other alpha out", alpha=1, out=None)
    return _sum(op, a, b, _number(op, alpha), out)


@operator(py.sub, py.isub, torch.sub, torch.subtract, "sub", "sub_", "__sub__", "__isub__")
def sub(op: Operator) -> Linear:
    """``y = a - alpha b``."""
    a, b, alpha, out = op.arguments("input other alpha out", alpha=1, out=None)
    return _sum(op, a, b, -_number(op, alpha), out)


@operator("__rsub__", torch.rsub)
def rsub(op: Operator) -> Linear:
    """``y = b - alpha a``."""
    a, b, alpha = op.arguments("input other alpha", alpha=1)
    if _number(op, alpha) != 1:
        raise Illegal("it subtracts a multiple")
    return _sum(op, b, a, torch.tensor(-1.0, dtype=torch.float64), None)


@operator(py.mul, py.imul, torch.mul, torch.multiply, "mul", "mul_", "__mul__", "__rmul__", "__imul__")
def mul(op: Operator) -> Linear:
    """``y = c a`` or ``a c`` for a constant ``c``."""
    a, b, out = op.arguments("input other out", out=None)
    if op.program.constant(a) is not None:
        a, b = b, a
    return _multiple(op, a, op.constant(b, "factor"), b, out)


@operator(py.truediv, py.itruediv, torch.div, torch.true_divide, "div", "div_", "__truediv__", "__itruediv__")
def div(op: Operator) -> Linear:
    """``y = a / c`` for a constant ``c``."""
    a, b, rounding, out = op.arguments("input other rounding_mode out", rounding_mode=None, out=None)
    if rounding is not None:
        raise Illegal("it rounds")
    return _multiple(op, a, 1.0 / op.constant(b, "divisor").double(), b, out)


@operator(py.neg, torch.neg, torch.negative, "neg", "__neg__")
def neg(op: Operator) -> Linear:
    """``y = -a``."""
    (a,) = op.arguments("input")
    return _multiple(op, a, torch.tensor(-1.0, dtype=torch.float64), None, None)


@operator(torch.stack)
def stack(op: Operator) -> Linear:
    """The values themselves, for a sum over the new axis."""
    values, dim, out = op.arguments("tensors dim out", dim=0, out=None)
    users = list(op.node.users)
    if out is not None or not all(map(_reduces, users)):
        raise Illegal("it is not summed over the axis that it makes")
    if not isinstance(values, tuple | list):
        raise Illegal("what it stacks is not listed")
    operands = tuple(op.value(v) for v in values)
    return Linear(operands, lambda *forms: Stacked(forms, dim))


@operator(torch.sum, "sum", torch.mean, "mean")
def reduce(op: Operator) -> Linear:
    """``stack([a, b, ...]).sum(0) = a + b + ...``, and the mean likewise."""
    x, dim, keepdim, dtype = op.arguments("input dim keepdim dtype", dim=None, keepdim=False, dtype=None)
    value, mean = op.value(x), op.node.target in MEANS
    if mean and value.target not in STACKS and dtype is None:
        return mean_of_image(op, value, dim, keepdim)
    dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
    if value.target not in STACKS or keepdim or dtype is not None or not isinstance(dim, int):
        raise Illegal(f"{op.program.describe(op.node)} is not linear in one position")

    def combine(stacked: Form | Stacked) -> Form:
        if not isinstance(stacked, Stacked) or stacked.dim != dim:
            raise Illegal("it sums over another axis than the one that was stacked")
        total = fold(op, stacked.forms)
        return total.scaled(torch.tensor(1 / len(stacked.forms), dtype=torch.float64)) if mean else total

    return Linear((value,), combine, kind="add")


def _reduces(user: fx.Node) -> bool:
    return user.target in SUMS | MEANS


def _sum(op: Operator, a: Any, b: Any, alpha: Tensor, out: Any) -> Linear:
    """``a + alpha b``, of which one may be a constant."""
    if out is not None:
        raise Illegal("it writes to out=")
    minus = alpha != 1
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        constant_a, constant_b = _channelwise(op, a), _channelwise(op, b)
        if constant_a is None and constant_b is None:

            def combine(x: Form, y: Form) -> Form:
                return fold(op, (x, y.scaled(alpha) if minus else y))

            return Linear((a, b), combine, kind="add")
    if op.program.constant(b) is not None:
        value, constant, sign = op.value(a), op.constant(b, "summand"), torch.ones((), dtype=torch.float64)
        added, source = doubled(constant) * alpha, b
    else:
        value, constant, sign = op.value(b), op.constant(a, "summand"), alpha
        added, source = doubled(constant), a

    def combine_constant(form: Form) -> Form:
        scaled = form.scaled(sign) if minus and sign is alpha else form
        rank = op.known_rank(form, value)
        if is_zero(added) and added.dim() == 0:  # x + 0 is x, whatever the rank
            return scaled
        shift = align(added, rank, op.known_axes(value))
        return fixed(scaled.shifted(shift), rank) if shift.dim() else scaled.shifted(shift)

    return Linear((value,), combine_constant, dtypes=_dtypes(op, source, constant), kind="add constant")


def _multiple(op: Operator, a: Any, constant: Tensor, source: Any, out: Any) -> Linear:
    if out is not None:
        raise Illegal("it writes to out=")
    value = op.value(a)

    def combine(form: Form) -> Form:
        rank = op.known_rank(form, value)
        factor = align(constant, rank, op.known_axes(value))
        return fixed(form.scaled(factor), rank) if factor.dim() else form.scaled(factor)

    return Linear((value,), combine, dtypes=_dtypes(op, source, constant), kind="scale")


def _channelwise(op: Operator, node: fx.Node) -> Tensor | None:
    """The constant at ``node`` if it can be a shift: one number, or as many as one axis has."""
    constant = op.program.constant(node)
    return constant if constant is not None and constant.numel() == max((1, *constant.shape)) else None


def _dtypes(op: Operator, source: Any, constant: Tensor) -> tuple[torch.dtype, ...]:
    """A tensor of one axis or more takes part in type promotion; a number does not."""
    dtype = op.program.dtype(source) if constant.dim() else None
    return (dtype,) if dtype is not None else ()


def _number(op: Operator, value: Any) -> Tensor:
    constant = op.constant(value, "alpha") if not list(iterate(value)) else None
    if constant is None or constant.dim():
        raise Illegal("its alpha is computed")
    return constant
