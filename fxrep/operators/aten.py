"""ATen operators, as ``torch.export`` and ``make_fx`` write them: the same rules under other names."""

from __future__ import annotations

import functools
import operator as py
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from ..analysis.forms import Form, atom
from ..capture.exported import fake_value
from ..convmap import Illegal
from . import arithmetic, concat, reshape, window
from .conv import ARGUMENTS, CONVOLUTIONS, functional, linear, transposed, transposed_function
from .norm import normalize
from .passing import CASTS, identity
from .registry import FUNCTIONS, Linear, Operator, operator

aten = torch.ops.aten


def _overloads(*names: str) -> list[Any]:
    """The overloads by these names that this version of torch has: "add.Tensor"."""
    found = []
    for name in names:
        packet, _, overload = name.partition(".")
        target = getattr(getattr(aten, packet, None), overload or "default", None)
        found += [target] if target is not None else []
    return found


def _inplace(*names: str) -> list[Any]:
    """Each of them, and what writes to its first operand: "add.Tensor" and "add_.Tensor"."""
    return _overloads(*names, *(name.replace(".", "_.") for name in names))


# ---------------------------------------------------------------------------------------------------------- arithmetic
operator(*_inplace("add.Tensor", "add.Scalar"))(arithmetic.add)
operator(*_inplace("sub.Tensor", "sub.Scalar"))(arithmetic.sub)
operator(*_overloads("rsub.Tensor", "rsub.Scalar"))(arithmetic.rsub)
operator(*_inplace("mul.Tensor", "mul.Scalar"))(arithmetic.mul)
operator(*_inplace("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode"))(arithmetic.div)
operator(*_inplace("neg.default"))(arithmetic.neg)
operator(*_overloads("stack"))(arithmetic.stack)
operator(*_overloads("sum.dim_IntList", "mean.dim"))(arithmetic.reduce)
arithmetic.STACKS.update(_overloads("stack"))
arithmetic.SUMS.update(_overloads("sum.dim_IntList"))
arithmetic.MEANS.update(_overloads("mean.dim"))

# -------------------------------------------------------------------------------------------------------- convolutions
for _rank in (1, 2, 3):
    _targets = _overloads(f"conv{_rank}d", f"conv{_rank}d.padding")
    operator(*_targets)(functools.partial(functional, rank=_rank))
    CONVOLUTIONS.update(dict.fromkeys(_targets, ARGUMENTS))
    operator(*_overloads(f"conv_transpose{_rank}d", f"conv_transpose{_rank}d.input"))(
        functools.partial(transposed_function, rank=_rank)
    )


@operator(*_overloads("convolution"))
def convolution(op: Operator) -> Linear:
    """``y = W * x + b`` with as many spatial axes as the weight has, or transposed."""
    x, w, b, stride, padding, dilation, is_transposed, more, groups = op.arguments(CONVOLUTIONS[op.node.target])
    if not is_transposed:
        return functional(op, op.weight(w, "weight").dim() - 2)
    weight = op.constant(w, "weight")
    bias = None if b is None else op.constant(b, "bias")
    dtype = op.program.dtype(w) or weight.dtype
    return transposed(op.value(x), weight, bias, dtype, stride, padding, more, dilation, groups)


CONVOLUTIONS[aten.convolution.default] = "input weight bias stride padding dilation transposed output_padding groups"

# --------------------------------------------------------------------------------------- linear layers, pads, pools
for _name, _function in {
    "linear": F.linear,
    "pad": F.pad,
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "avg_pool3d": F.avg_pool3d,
    "flatten.using_ints": torch.flatten,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_avg_pool3d": F.adaptive_avg_pool3d,
}.items():
    operator(*_overloads(_name))(FUNCTIONS[_function])
operator(*_overloads("reshape_as", "view_as"))(reshape.reshape_as)
operator(*_overloads("permute"))(reshape.permute)
operator(*_overloads("transpose.int", "swapaxes"))(reshape.transpose)
operator(*_overloads("cat"))(concat.cat)


@operator(*_overloads("addmm"))
def addmm(op: Operator) -> Linear:
    """``y = x W + b``: a linear layer of two axes in core ATen operators."""
    b, x, w, beta, alpha = op.arguments("self mat1 mat2 beta alpha", beta=1, alpha=1)
    if (beta, alpha) != (1, 1) or op.constant(b, "bias").dim() != 1:
        raise Illegal("it is not the one of a linear layer")
    return _product(op, x, w, op.constant(b, "bias"))


@operator(*_overloads("mm"))
def mm(op: Operator) -> Linear:
    """``y = x W``: a linear layer of two axes and no bias in core ATen operators."""
    x, w = op.arguments("self mat2")
    return _product(op, x, w, None)


def _product(op: Operator, x: Any, w: Any, bias: Tensor | None) -> Linear:
    weight = op.weight(w, "weight")
    if weight.dim() != 2 or op.program.ranks.get(op.value(x)) != 0:
        raise Illegal("it is not the one of a linear layer")
    return linear(op.value(x), weight.t(), bias, op.program.dtype(w) or weight.dtype)


VIEWS = _overloads("view", "reshape", "_unsafe_view", "flatten.using_ints")


@operator(*_overloads("view", "reshape", "_unsafe_view"))
def view(op: Operator) -> Linear:
    """A merge of axes in which no channel takes part, or the undoing of one, as the shapes tell."""
    x = op.value(op.node.args[0])
    before, after = _shape(x), _shape(op.node)
    merged = reshape.merged_axes(before, after)
    if merged is not None:
        return reshape.merge(op, x, *merged)
    earlier = x
    for _ in range(reshape.FARTHEST):
        inputs = earlier.all_input_nodes
        if not inputs:
            break
        if earlier.target in VIEWS and _shape(inputs[0]) == after:
            return reshape.undo(op, x, inputs[0])
        earlier = inputs[0]
    raise Illegal(f"{op.program.describe(op.node)} is not linear")


def viewed(node: fx.Node, x: Tensor, like: Tensor | None) -> Tensor:
    """What a view makes of another value than that with the sizes which it names."""
    if like is not None:
        return x.reshape(like.shape)
    merged = reshape.merged_axes(_shape(node.all_input_nodes[0]), _shape(node))
    assert merged is not None
    return x.flatten(*merged)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a node's value; those that are not numbers by name, so that comparing them decides nothing."""
    value = fake_value(node)
    if value is None:
        raise Illegal("its shape is not known")
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape)


@operator(*_overloads("constant_pad_nd"))
def constant_pad(op: Operator) -> Linear:
    """``y[o] = x[o - before]``, with zeros beyond the border."""
    x, amounts, value = op.arguments("input pad value", value=0)
    if not all(isinstance(n, int) for n in amounts):
        raise Illegal("how much it pads is computed from the input")
    return window.pad(op, op.value(x), amounts, "zeros", value)


# --------------------------------------------------------------------------------------------------------------- norms
_TRAINING = "input weight bias running_mean running_var training momentum eps"
_INFERENCE = "input weight bias running_mean running_var momentum eps"
NORMS: dict[Any, str] = {
    **dict.fromkeys(_overloads("batch_norm"), f"{_TRAINING} cudnn_enabled"),
    **dict.fromkeys(_overloads("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), _TRAINING),
    **dict.fromkeys(_overloads("miopen_batch_norm", "_native_batch_norm_legit_functional"), _TRAINING),
    **dict.fromkeys(_overloads("_native_batch_norm_legit_no_training", "_batch_norm_no_update"), _INFERENCE),
}
TUPLES = NORMS.keys() - {aten.batch_norm.default}  # these return what they saved for the backward pass, too


@operator(*NORMS)
def batch_norm(op: Operator) -> Linear:
    """``y = (x - mean) / sqrt(var + eps) * weight + bias``, per channel, unless it normalises by the batch."""
    target: Any = op.node.target
    if target in TUPLES and any(u.target is not py.getitem or u.args[1] != 0 for u in op.node.users):
        raise Illegal(f"what {op.program.describe(op.node)} returns besides its value is used")
    names = NORMS[target].split()
    given = dict(zip(names, op.arguments(NORMS[target], training=False, cudnn_enabled=False), strict=True))
    if given.get("training", False) is not False:
        raise Illegal(f"{op.program.describe(op.node)} normalises by the batch: call .eval() before the export")
    mean, var, weight, bias = (
        None if given[name] is None else op.constant(given[name], name)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    linear = normalize(op, given["input"], mean, var, weight, bias, given["eps"])
    return linear if target not in TUPLES else Linear(linear.operands, linear.combine)  # its first item is the norm


@operator(py.getitem)
def item(op: Operator) -> Linear:
    """The first item of what a batch norm returns, its value; or a part of an image."""
    source, index = op.arguments("input index")
    if not isinstance(source, fx.Node) or source.target not in TUPLES:
        return window.crop(op, op.value(source), index)
    if index != 0:
        raise Illegal(f"{op.program.describe(op.node)} is not linear")
    batch_norm(Operator(source, op.program, op.policy))  # which is refused, or else its value is no tensor

    def combine(form: Form) -> Form:
        return atom(op.node) if form.source is source else form  # of a norm that stays, this is the value

    return Linear((source,), combine, kind="norm")


@operator(*_overloads("slice.Tensor"))
def crop(op: Operator) -> Linear:
    """``y[o] = x[first + step o]`` along one axis."""
    x, axis, start, stop, step = op.arguments("self dim start end step", dim=0, start=None, end=None, step=1)
    value = fake_value(op.value(x))
    if value is None:
        raise Illegal("the number of axes of its input is not known")
    axis, size = axis % value.dim(), value.shape[axis]
    if isinstance(size, int) and isinstance(start, int) and isinstance(stop, int):
        start, stop, _ = slice(start, stop).indices(size)  # sizes that the export took for fixed
        stop = None if stop == size else stop - size
    return window.crop(op, x, (*[slice(None)] * axis, slice(start, stop, step)))


# --------------------------------------------------------------------------------------------------------- nothing done
operator(*_overloads("clone", "contiguous", "alias", "positive", "lift_fresh"))(identity)


@operator(
    *_inplace("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
)
def dropout(op: Operator) -> Linear:
    """``y = x`` unless it trains."""
    _, _, training = op.arguments("input p train")
    if training is not False:
        raise Illegal(f"{op.program.describe(op.node)} drops at random: call .eval() before the export")
    return identity(op)


CASTS.update(_overloads("_to_copy", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as"))


@operator(*CASTS)
def cast(op: Operator) -> Linear:
    """``y = x`` where neither the type nor the place changes."""
    operand = op.node.args[0]
    before, after = (fake_value(n) if isinstance(n, fx.Node) else None for n in (operand, op.node))
    if not _alike(before, after):
        raise Illegal(f"{op.program.describe(op.node)} may change the type or the device")
    return identity(op)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and (a.dtype, a.device, a.layout) == (b.dtype, b.device, b.layout)
