"""Concatenation along the channels: one convolution of one source where that pays, else several side by side."""

from __future__ import annotations

from typing import Any

import torch

from ..analysis.cost import of_conv, of_join
from ..analysis.forms import Form, Joined, Term
from ..convmap import ConvMap, Illegal
from .registry import Linear, Operator, operator


@operator(torch.cat, torch.concat, torch.concatenate)
def cat(op: Operator) -> Linear:
    """``y = (a, b, ...)`` along the channels: the kernels stacked, or each with its part of what follows."""
    values, dim, out = op.arguments("tensors dim out", dim=0, out=None)
    if out is not None or not isinstance(values, tuple | list) or not values or not isinstance(dim, int):
        raise Illegal("what it joins is not listed")
    operands = tuple(op.value(v) for v in values)

    def combine(*forms: Form) -> Form:
        return _join(op, forms, dim)

    return Linear(operands, combine, kind="cat")


def _join(op: Operator, forms: tuple[Form, ...], dim: int) -> Form:
    terms: list[Term] = []
    for form in forms:
        if len(form.terms) != 1 or form.terms[0].through:
            raise Illegal("what it joins is more than a convolution")
        terms += form.terms
    maps = [term.map for term in terms if isinstance(term.map, ConvMap)]
    if len(maps) < len(terms):
        raise Illegal("what it joins is not a convolution")
    rank = len(maps[0].taps)
    axes = rank + 2 if rank else op.known_axes(op.node)
    channels = {-1 - rank} if axes is None else {-1 - rank, axes - 1 - rank}
    if any(len(map.taps) != rank for map in maps) or dim not in channels:
        raise Illegal("it joins along another axis than the channels'")
    sizes = tuple(map.out_channels for map in maps)
    parts = [form.shift.expand(size) for form, size in zip(forms, sizes, strict=True)]
    shift = torch.cat([part.to(parts[0].device) for part in parts])
    notes = [note for form in forms for note in form.notes]
    if len({term.source for term in terms}) == 1:
        try:
            return Form((_stacked(op, terms, maps),), shift, rank, tuple(notes))
        except Illegal as reason:
            notes.append(str(reason))
    return Form(tuple(terms), shift, rank, tuple(notes), joined=Joined(sizes, dim))


def _stacked(op: Operator, terms: list[Term], maps: list[ConvMap]) -> Any:
    total = ConvMap.stacked(maps)
    total.layout()
    apart = of_join(total.out_channels)
    for map in maps:
        apart += of_conv(map)
    if op.policy(of_conv(total)) > op.policy(apart):
        raise Illegal("as one convolution they would cost more than they save")
    return Term(terms[0].source, total, sum(term.branches for term in terms))
