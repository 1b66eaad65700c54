"""Pads whose border is filled with what was padded would have been there, by writes into each side."""

from __future__ import annotations

import operator as py
from dataclasses import replace

import torch
from torch import Tensor

from ..analysis.fills import Fill
from ..analysis.forms import Form
from ..convmap import Illegal
from .registry import Bordered, Linear, Operator, align, operator

TOLERANCE = 1e-9


def goes_into_fill(op: Operator) -> bool:
    """Whether all that reads a value is a write to its border."""
    readers = op.program.readers(op.node)
    return len(readers) == 1 and readers[0] in op.program.fills


@operator(py.setitem, "__setitem__", torch.ops.aten.copy_.default, torch.ops.aten.slice_scatter.default)
def fill(op: Operator) -> Linear:
    """``pad_c(W x + c) = pad_0(W x) + c``, once each side of the border holds ``c``."""
    if op.node not in op.program.fills:
        raise Illegal("it writes to something else than the border of a pad")
    written: Fill = op.program.fills[op.node]
    value = op.constant(written.value, "value")

    def combine(bordered: object) -> Form | Bordered:
        if not isinstance(bordered, Bordered):
            raise Illegal("it writes to a pad that holds something else than zeros")
        rank = op.rank(bordered.form, written.base)
        side = written.axis - 2 if written.axis >= 0 else rank + written.axis, written.last, written.width
        if side not in bordered.missing:
            raise Illegal("it writes to more, or less, than one side of the border")
        _require_same(align(value, rank, op.known_axes(written.base)), bordered.shift)
        missing = bordered.missing - {side}
        if not missing:
            return bordered.form.shifted(bordered.shift)
        if not goes_into_fill(op):
            raise Illegal("it fills one side of the border, and another is left")
        return replace(bordered, missing=missing)

    return Linear((written.base,), combine, kind="fill")


def _require_same(value: Tensor, shift: Tensor) -> None:
    if value.dim() and shift.dim() and len(value) != len(shift):
        raise Illegal(f"{len(value)} values are written to {len(shift)} channels")
    largest = float(torch.maximum(value.abs().max(), shift.abs().max().to(value.device)))
    difference = (value - shift.to(value.device)).abs().max()
    if not difference <= TOLERANCE * largest:
        raise Illegal("it fills the border with something else than what the inside would be for zeros")


def bordered(form: Form, padded: Form, pairs: list[tuple[int, int]]) -> Bordered:
    """``padded`` is what a pad by ``pairs``, one of each axis after the channels', makes of ``form`` less its shift."""
    sides = {(i, last, pair[last]) for i, pair in enumerate(pairs) for last in (False, True) if pair[last]}
    return Bordered(padded, form.shift, frozenset(sides))
