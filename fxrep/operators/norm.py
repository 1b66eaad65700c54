"""Batch norms in eval mode: a scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..analysis.forms import Form
from ..convmap import Illegal
from .registry import Linear, Operator, fixed, operator


@operator(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm_module(op: Operator) -> Linear:
    """``y = (x - mean) / sqrt(var + eps) * weight + bias``, per channel."""
    norm = op.module
    (x,) = op.arguments("input")
    if norm.training:
        raise Illegal(f"{op.program.describe(op.node)} is in training mode: call .eval()")
    return normalize(op, x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


@operator(F.batch_norm, torch.batch_norm)
def batch_norm_function(op: Operator) -> Linear:
    """``y = (x - mean) / sqrt(var + eps) * weight + bias``, per channel, unless it normalises by the batch."""
    if op.node.target is torch.batch_norm:
        names = "input weight bias running_mean running_var training momentum eps cudnn_enabled"
        x, w, b, mean, var, training, _, eps, _ = op.arguments(names)
    else:
        names = "input running_mean running_var weight bias training momentum eps"
        x, mean, var, w, b, training, _, eps = op.arguments(
            names, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
        )
    if training is not False:
        raise Illegal(f"{op.program.describe(op.node)} normalises by the batch: call .eval()")

    def tensor(argument: object, what: str) -> Tensor | None:
        return None if argument is None else op.constant(argument, what)

    return normalize(op, x, tensor(mean, "mean"), tensor(var, "variance"), tensor(w, "weight"), tensor(b, "bias"), eps)


def normalize(
    op: Operator,
    x: object,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Linear:
    """The norm of ``x`` with the given statistics."""
    if mean is None or var is None:
        raise Illegal(f"{op.program.describe(op.node)} has no running statistics and normalises by the batch")
    if not isinstance(eps, float | int):
        raise Illegal(f"the program computes the eps of {op.program.describe(op.node)}")
    value = op.value(x)
    factor = (var.double() + eps).rsqrt_()
    if weight is not None:
        factor = factor.mul_(weight)
    shift = factor * mean
    shift = shift.neg_() if bias is None else bias - shift
    if not bool(torch.isfinite((factor + shift).sum())):
        raise Illegal(f"{op.program.describe(op.node)} has NaN or infinite statistics")

    def combine(form: Form) -> Form:
        rank = op.rank(form, value)
        if rank == 0 and op.program.ranks.get(value) != 0 and set(op.source_ranks(form)) != {0}:
            raise Illegal("its channels may be on another axis than those of its input; pass example_inputs")
        if op.program.ranks.get(value, rank) != rank:
            raise Illegal("its channels are on another axis than those of its input")
        return fixed(form.scaled(factor).shifted(shift), rank)

    def cancels() -> float:
        """Of normally distributed values with these statistics, in the mean over the channels."""
        weights = 1.0 if weight is None else weight.double().square()
        biases = 0.0 if bias is None else bias.double().square()
        means = mean.double().square() / (var.double() + eps)
        size = (weights + biases + torch.zeros_like(means)).sum()
        return float(((weights * (1 + means)).sum() / size).sqrt()) if size else 1.0

    return Linear((value,), combine, kind="norm", cancels=cancels)
