"""Linear forms: a value written as ``sum_i map_i(source_i) + shift``.

A map is a ``ConvMap`` or, where a value has only been scaled so far, a ``Scale``, which fits any number of channels.
The shift is one number per channel, kept apart from the maps: whether it is zero decides what is exact at a border, and
in a sum it does not matter which summand brings it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ..convmap import ConvMap, Illegal
from .cost import Cost, Policy, of_add, of_conv

ZERO = torch.zeros((), dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)


@dataclass(frozen=True)
class Scale:
    """``x * factor``, with a factor of shape () or (channels,) in float64; None stands for exactly 1."""

    factor: Tensor | None = None

    @property
    def value(self) -> Tensor:
        return ONE if self.factor is None else self.factor


@dataclass(frozen=True)
class Term:
    """``map(source)``; ``branches`` counts the summands that were merged into it.

    ``times`` the value of the node ``at``, if there is one, is this term and nothing else but a shift.
    """

    source: fx.Node
    map: ConvMap | Scale
    branches: int = 1
    at: fx.Node | None = None
    times: Tensor = ONE

    @property
    def is_source(self) -> bool:
        """Whether the term is its source, unchanged."""
        return isinstance(self.map, Scale) and self.map.factor is None


@dataclass(frozen=True)
class Form:
    """``sum of terms + shift``; ``rank`` is the number of spatial axes, where it is known.

    ``notes`` says why terms of one source stayed apart.
    """

    terms: tuple[Term, ...]
    shift: Tensor = ZERO
    rank: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def operators(self) -> int:
        """How many convolutions, multiplications and adds it takes to compute the form from its sources."""
        return sum(not term.is_source for term in self.terms) + len(self.terms) - 1

    @property
    def source(self) -> fx.Node | None:
        """The node that this form is nothing but another name for."""
        plain = len(self.terms) == 1 and self.terms[0].is_source and (self.shift is ZERO or not self.shift.any())
        return self.terms[0].source if plain else None

    def named(self, node: fx.Node) -> Form:
        """The same form, knowing that ``node`` has its value."""
        if len(self.terms) != 1 or self.terms[0].at is node:
            return self  # a sum has no one term that has its value
        (term,) = self.terms
        return Form((Term(term.source, term.map, term.branches, node, ONE),), self.shift, self.rank, self.notes)

    def scaled(self, factor: Tensor) -> Form:
        """``factor * form`` for a factor of shape () or (channels,)."""
        if factor.dim() and len(self.terms) > 1 and any(isinstance(t.map, Scale) for t in self.terms):
            raise Illegal("its input is a sum of which one part is not a convolution")
        scalar = factor.dim() == 0
        terms = tuple(
            Term(
                t.source,
                _scale(t.map, factor),
                t.branches,
                t.at if scalar else None,
                t.times * factor.to(t.times.device) if scalar else ONE,
            )
            for t in self.terms
        )
        return replace(self, terms=terms, shift=_broadcast(torch.mul, self.shift, factor))

    def separated(self, values: dict[fx.Node, Form]) -> Form:
        """The same form over ``values``, nodes that stand for one of its terms each, instead of those terms."""
        terms, shift = [], self.shift
        for term in self.terms:
            if term.at in values:
                shift = _broadcast(torch.sub, shift, _broadcast(torch.mul, values[term.at].shift, term.times))
                term = Term(term.at, Scale(None if term.times is ONE else term.times), at=term.at, times=term.times)
            terms.append(term)
        return replace(self, terms=tuple(terms), shift=shift)

    def shifted(self, constant: Tensor) -> Form:
        """``form + constant`` for a constant of shape () or (channels,)."""
        for term in self.terms:
            if constant.dim() and isinstance(term.map, ConvMap) and len(constant) != term.map.out_channels:
                raise Illegal(f"a constant for {len(constant)} channels is added to {term.map.out_channels}")
        return replace(self, shift=_broadcast(torch.add, self.shift, constant))


def atom(node: fx.Node, rank: int | None) -> Form:
    """The form of a value that is not looked into: itself."""
    return Form((Term(node, Scale(), at=node),), rank=rank)


def add(a: Form, b: Form, policy: Policy) -> Form:
    """``a + b``: terms of one source whose maps fit become one term, where the policy finds that it pays."""
    if a.rank is not None and b.rank is not None and a.rank != b.rank:
        raise Illegal(f"values with {a.rank} and {b.rank} spatial axes are added")
    terms, waiting, notes = list(a.terms), list(b.terms), [*a.notes, *b.notes]
    while waiting:
        term = waiting.pop(0)
        for i, other in enumerate(terms):
            if other.source is not term.source:
                continue
            try:
                merged = merge(other, term, policy)
            except Illegal as reason:
                notes.append(str(reason))
                continue
            del terms[i]
            waiting.insert(0, merged)
            break
        else:
            terms.append(term)
    return Form(
        tuple(terms),
        _broadcast(torch.add, a.shift, b.shift),
        a.rank if a.rank is not None else b.rank,
        tuple(dict.fromkeys(notes)),
    )


def merge(a: Term, b: Term, policy: Policy) -> Term:
    """One term for two of the same source."""
    branches = a.branches + b.branches
    if isinstance(a.map, Scale) and isinstance(b.map, Scale):
        return Term(a.source, Scale(_broadcast(torch.add, a.map.value, b.map.value)), branches)
    if isinstance(a.map, Scale):
        a, b = b, a
    assert isinstance(a.map, ConvMap)
    other = b.map if isinstance(b.map, ConvMap) else _promote(b.map, a.map)
    total = a.map + other
    total.layout()
    identity = isinstance(b.map, Scale)
    apart = of_conv(a.map) + (Cost() if identity else of_conv(other)) + of_add(total.out_channels)
    if not policy(apart, of_conv(total)):
        cost = f"{apart.macs:,} multiply-accumulates per position in two, {total.macs:,} in one"
        raise Illegal(f"merging would cost more than it saves ({cost}; policy='kernels' merges all the same)")
    return Term(a.source, total, branches)


def place_shift(form: Form) -> int:
    """Which term's convolution takes the shift as its bias; -1 if there is nothing to place."""
    if not form.shift.any() and bool(torch.isfinite(form.shift).all()):
        return -1
    for i, term in enumerate(form.terms):
        if isinstance(term.map, ConvMap) and (form.shift.dim() == 0 or len(form.shift) == term.map.out_channels):
            return i
    raise Illegal("no convolution in the sum has the channels of the constant that is added to it")


def _promote(scale: Scale, conv: ConvMap) -> ConvMap:
    if conv.in_channels != conv.out_channels:
        raise Illegal(
            f"a convolution from {conv.in_channels} to {conv.out_channels} channels is added to its own input: "
            "the add broadcasts"
        )
    return ConvMap.diagonal(scale.value, conv.in_channels, len(conv.taps))


def _scale(map: ConvMap | Scale, factor: Tensor) -> ConvMap | Scale:
    if isinstance(map, ConvMap):
        return map.scaled(factor)
    return Scale(_broadcast(torch.mul, map.value, factor))


def _broadcast(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    if a.dim() and b.dim() and len(a) != len(b):
        raise Illegal(f"constants for {len(a)} and {len(b)} channels meet")
    if a is ZERO and function is not torch.sub:
        return b if function is torch.add else a
    device = b.device if b.dim() else a.device
    return function(a.to(device), b.to(device))
