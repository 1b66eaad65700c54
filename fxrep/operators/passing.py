"""Operators that pass a value on as it is, in eval mode."""

from __future__ import annotations

import operator as py
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..convmap import Illegal
from .registry import Linear, Operator, operator

CASTS: set[Any] = set()  # operators that may change a type, and whose rules see to it that they do not


@operator(nn.Identity)
@operator(py.pos, torch.clone, torch.positive, "contiguous", "clone")
def identity(op: Operator) -> Linear:
    """``y = x``."""
    value = op.value(op.node.args[0] if op.node.args else op.node.kwargs.get("input"))
    return Linear((value,), lambda form: form)


@operator(nn.LeakyReLU)
def leaky_module(op: Operator) -> Linear:
    """``y = x`` where the slope is 1."""
    return _leaky(op, op.module.negative_slope)


@operator(F.leaky_relu)
def leaky_function(op: Operator) -> Linear:
    """``y = x`` where the slope is 1."""
    return _leaky(op, op.arguments("input negative_slope inplace", negative_slope=0.01, inplace=False)[1])


def _leaky(op: Operator, slope: Any) -> Linear:
    if not isinstance(slope, int | float) or slope != 1:
        raise Illegal(f"{op.program.describe(op.node)} is not linear")
    return identity(op)


@operator(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def dropout_module(op: Operator) -> Linear:
    """``y = x`` in eval mode."""
    if op.module.training:
        raise Illegal(f"{op.program.describe(op.node)} is in training mode: call .eval()")
    return identity(op)


@operator(
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout
)  # fmt: skip
def dropout_function(op: Operator) -> Linear:
    """``y = x`` where ``training`` is False."""
    default = op.node.target in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
    names = "input p training inplace" if op.node.target is not torch.dropout else "input p train"
    arguments = op.arguments(names, p=0.5, training=default, inplace=False)
    if arguments[2] is not False:
        raise Illegal(f"{op.program.describe(op.node)} drops at random: pass training=self.training")
    return identity(op)
