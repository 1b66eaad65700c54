"""Linear forms: a value written as ``sum_i map_i(source_i) + shift``.

A map is a ``ConvMap`` or, where the number of channels does not matter yet, a ``Scale`` or a ``Window``. It may stand
on either side of operators that it commutes with (a mean over the image, a merge of leading axes), which stay.
The shift is one number per channel, kept apart from the maps: whether it is zero decides what is exact at a border, and
in a sum it does not matter which summand brings it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ..convmap import ConvMap, Illegal, Window
from .cost import Cost, Policy, of_add, of_conv, of_scale

ZERO = torch.zeros((), dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)


@dataclass(frozen=True)
class Scale:
    """``x * factor``, with a factor of shape () or (channels,) in float64; None stands for exactly 1."""

    factor: Tensor | None = None

    @property
    def value(self) -> Tensor:
        return ONE if self.factor is None else self.factor


Map = ConvMap | Scale | Window


@dataclass(frozen=True)
class Through:
    """An operator that stays where it is; before it, there were ``rank`` axes after the channels'.

    ``behind``: a convolution, a pad or a pool is before it, not after. ``merges``: it keeps the order of the elements,
    so that giving back the old shape undoes it. ``counts``: it is made for as many channels as there are.
    """

    node: fx.Node
    rank: int
    behind: bool
    merges: bool
    counts: bool


@dataclass(frozen=True)
class Term:
    """``map(source)``; ``branches`` counts the summands that were merged into it.

    ``times`` the value of the node ``at``, if there is one, is this term and nothing else but a shift. ``through`` are
    the operators, first to last, that the source goes through as well: somewhere between the parts of the map, all of
    which they commute with.
    """

    source: fx.Node
    map: Map
    branches: int = 1
    at: fx.Node | None = None
    times: Tensor = ONE
    through: tuple[Through, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """The same for terms that are maps of one value."""
        return self.source, *self.through

    @property
    def factor(self) -> Tensor:
        """What the term multiplies its source by, if it does nothing else."""
        assert isinstance(self.map, Scale)
        return self.map.value

    @property
    def is_source(self) -> bool:
        """Whether the term is its source, unchanged."""
        return isinstance(self.map, Scale) and self.map.factor is None and not self.through


@dataclass(frozen=True)
class Joined:
    """The terms of a form stand side by side along axis ``dim``, the channels', with ``sizes`` channels each."""

    sizes: tuple[int, ...]
    dim: int


@dataclass(frozen=True)
class Form:
    """``sum of terms + shift``; ``rank`` is the number of axes after the channels', where it matters.

    Where it is ``joined``, the terms are not added but stand side by side, and the shift runs along all of them.
    ``notes`` says why terms of one source stayed apart; ``single``, that the axes after have one position.
    """

    terms: tuple[Term, ...]
    shift: Tensor = ZERO
    rank: int | None = None
    notes: tuple[str, ...] = ()
    single: bool = False
    joined: Joined | None = None

    @property
    def adds(self) -> int:
        """How many values are added to another."""
        return 0 if self.joined else len(self.terms) - 1

    @property
    def operators(self) -> int:
        """How many convolutions, multiplications and adds it takes to compute the form from its sources."""
        return sum(not term.is_source for term in self.terms) + (1 if self.joined else len(self.terms) - 1)

    @property
    def source(self) -> fx.Node | None:
        """The node that this form is nothing but another name for."""
        plain = len(self.terms) == 1 and self.terms[0].is_source and is_zero(self.shift)
        return self.terms[0].source if plain else None

    def named(self, node: fx.Node) -> Form:
        """The same form, knowing that ``node`` has its value."""
        if len(self.terms) != 1 or self.terms[0].at is node:
            return self  # a sum has no one term that has its value
        (term,) = self.terms
        named = Term(term.source, term.map, term.branches, node, ONE, term.through)
        return Form((named,), self.shift, self.rank, self.notes, self.single, self.joined)

    def scaled(self, factor: Tensor) -> Form:
        """``factor * form`` for a factor of shape () or (channels,)."""
        if factor.dim() and len(self.terms) > 1 and any(isinstance(t.map, Scale) for t in self.terms):
            raise Illegal("its input is a sum of which one part is not a convolution")
        scalar = factor.dim() == 0
        if self.joined and not scalar:
            if len(factor) != sum(self.joined.sizes):
                raise Illegal(f"a scale for {len(factor)} channels does not fit {sum(self.joined.sizes)} channels")
            factors = torch.split(factor, [*self.joined.sizes])
            pieces = tuple(
                replace(t, map=_scale(t.map, f), at=None, times=ONE) for t, f in zip(self.terms, factors, strict=True)
            )
            return replace(self, terms=pieces, shift=_broadcast(torch.mul, self.shift, factor))
        terms = tuple(
            Term(
                t.source,
                _scale(t.map, factor),
                t.branches,
                t.at if scalar else None,
                t.times * factor.to(t.times.device) if scalar else ONE,
                t.through,
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

    def uncarried(self) -> Form:
        """The same form, where the last operator that it was carried through is undone."""
        (term,) = self.terms
        return replace(self, terms=(replace(term, through=term.through[:-1]),), rank=term.through[-1].rank)

    def shifted(self, constant: Tensor) -> Form:
        """``form + constant`` for a constant of shape () or (channels,)."""
        for term in self.terms if constant.dim() and not self.joined else ():
            if isinstance(term.map, ConvMap) and len(constant) != term.map.out_channels:
                raise Illegal(f"a constant for {len(constant)} channels is added to {term.map.out_channels}")
        return replace(self, shift=_broadcast(torch.add, self.shift, constant))


def carried(
    form: Form,
    node: fx.Node,
    before: int,
    after: int,
    single: bool = False,
    merges: bool = False,
    counts: bool = True,
) -> Form:
    """The form of ``node``, an operator that the map commutes with: ``map(node(source)) = node(map(source))``.

    There are ``before`` and ``after`` axes after the channels'.
    """
    (term,) = form.terms
    through = Through(node, before, not isinstance(term.map, Scale), merges, counts)
    term = replace(term, at=None, times=ONE, through=(*term.through, through))
    return replace(form, terms=(term,), rank=after, single=single)


def atom(node: fx.Node) -> Form:
    """The form of a value that is not looked into: itself, whatever axis its channels are on."""
    return Form((Term(node, Scale(), at=node),))


def add(a: Form, b: Form, policy: Policy) -> Form:
    """``a + b``: terms of one source whose maps fit become one term, where the policy finds that it pays."""
    if a.rank is not None and b.rank is not None and a.rank != b.rank:
        raise Illegal(f"values with {a.rank} and {b.rank} spatial axes are added")
    if a.joined or b.joined:
        raise Illegal("a concatenation is added to something")
    terms, waiting, notes = list(a.terms), list(b.terms), [*a.notes, *b.notes]
    while waiting:
        term = waiting.pop(0)
        for i, other in enumerate(terms):
            if other.source is not term.source or other.through != term.through:
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
        a.single and b.single,
    )


def merge(a: Term, b: Term, policy: Policy) -> Term:
    """One term for two of the same source."""
    branches = a.branches + b.branches
    if isinstance(a.map, Scale) and isinstance(b.map, Scale):
        scale = Scale(_broadcast(torch.add, a.map.value, b.map.value))
        return Term(a.source, scale, branches, through=a.through)
    if not isinstance(a.map, ConvMap):
        a, b = b, a
    if not isinstance(a.map, ConvMap):
        raise Illegal("there is no convolution of the same value to merge it with")
    other = b.map if isinstance(b.map, ConvMap) else _promote(b.map, a.map)
    total = a.map + other
    total.layout()
    identity = isinstance(b.map, Scale)
    apart = of_conv(a.map) + (Cost() if identity else of_conv(other)) + of_add(total.out_channels)
    if policy(of_conv(total)) > policy(apart):
        cost = f"{apart.macs:,} multiply-accumulates per position in two, {total.macs:,} in one"
        raise Illegal(f"merging would cost more than it saves ({cost}; policy='kernels' merges all the same)")
    return Term(a.source, total, branches, through=a.through)


def compose(form: Form, outer: ConvMap | Window, bias: Tensor = ZERO) -> Form:
    """``outer(form) + bias``: a map after the only term, and the shift where no border shows it."""
    if len(form.terms) != 1:  # in a sum, each term would need a convolution of its own
        raise Illegal("what it reads is a sum of values of different origin")
    if form.rank is not None and form.rank != len(outer.taps):
        raise Illegal(f"a value with {form.rank} spatial axes is convolved along {len(outer.taps)}")
    (term,) = form.terms
    if term.through and not isinstance(term.map, Scale):
        return _mixed(form, outer, bias)
    composed = Term(term.source, _then(term.map, outer), term.branches, through=term.through)
    shift = _broadcast(torch.add, _shift_through(form.shift, outer), bias)
    single = form.single and isinstance(outer, ConvMap) and outer.is_pointwise
    return Form((composed,), shift, len(outer.taps), form.notes, single)


def _mixed(form: Form, outer: ConvMap | Window, bias: Tensor) -> Form:
    """A matrix of the channels after operators that do the same to every channel.

    ``outer(through(map(source))) = through(outer(map(source)))``
    """
    (term,) = form.terms
    last = term.through[-1].node.name
    if not isinstance(outer, ConvMap) or not isinstance(term.map, ConvMap) or not outer.is_pointwise:
        raise Illegal(f"between it and what it reads is '{last}'")
    fits = not any(step.counts for step in term.through) and _is_path(term.source, term.through[-1].node)
    if outer.in_channels != outer.out_channels and not fits:
        raise Illegal(f"before '{last}' there would be {outer.out_channels} channels and not {outer.in_channels}")
    map = term.map.then(outer.along(len(term.map.taps)))
    shift = _broadcast(torch.add, _shift_through(form.shift, outer), bias)
    composed = Term(term.source, map, term.branches, through=term.through)
    return Form((composed,), shift, form.rank, form.notes, form.single)


def _is_path(source: fx.Node, node: fx.Node) -> bool:
    """Whether nobody else reads, or asks for the sizes of, what is computed on the way from ``source`` to ``node``."""
    while node is not source:
        if len(node.users) > 1 or not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return True


def price(form: Form, of_source: Callable[[fx.Node], Cost]) -> Cost:
    """What it takes to compute ``form``, with what it takes to have its sources, for each position of the result."""
    channels = max((t.map.out_channels for t in form.terms if isinstance(t.map, ConvMap)), default=1)
    total, sources = Cost(), dict[fx.Node, int]()
    for i, term in enumerate(form.terms):
        total += of_add(channels) if i else Cost()
        if isinstance(term.map, ConvMap):
            total += of_conv(term.map)
        elif isinstance(term.map, Window):
            total += of_conv(term.map.on(channels))
        elif term.map.factor is not None:
            total += of_scale(channels)
        stride = 1 if isinstance(term.map, Scale) else math.prod(term.map.stride)
        sources[term.source] = max(stride, sources.get(term.source, 0))
    for source, positions in sources.items():
        total += of_source(source).at(positions)
    return total


def place_shift(form: Form) -> int:
    """Which term's convolution takes the shift as its bias; -1 if there is nothing to place."""
    if is_zero(form.shift):
        return -1
    for i, term in enumerate(form.terms):
        if isinstance(term.map, ConvMap) and (form.shift.dim() == 0 or len(form.shift) == term.map.out_channels):
            return i
    raise Illegal("no convolution in the sum has the channels of the constant that is added to it")


def biases(form: Form) -> list[Tensor | None]:
    """What each term's convolution adds, so that together they add the shift."""
    if form.joined is None:
        at = place_shift(form)
        return [form.shift if i == at else None for i in range(len(form.terms))]
    parts = torch.split(form.shift.expand(sum(form.joined.sizes)), [*form.joined.sizes])
    return [None if is_zero(part) else part for part in parts]


def _promote(map: Scale | Window, conv: ConvMap) -> ConvMap:
    if conv.in_channels != conv.out_channels:
        raise Illegal(
            f"a convolution from {conv.in_channels} to {conv.out_channels} channels is added to its own input: "
            "the add broadcasts"
        )
    if isinstance(map, Window):
        return map.on(conv.in_channels, conv.tensors[0].device)
    return ConvMap.diagonal(map.value, conv.in_channels, len(conv.taps))


def _then(inner: Map, outer: ConvMap | Window) -> ConvMap | Window:
    if isinstance(inner, Scale) and inner.factor is None:
        return outer
    if isinstance(outer, ConvMap):
        if isinstance(inner, Window):
            inner = inner.on(outer.in_channels, outer.tensors[0].device)
        elif isinstance(inner, Scale):
            inner = ConvMap.diagonal(inner.value, outer.in_channels, len(outer.taps))
        return inner.then(outer)
    if isinstance(inner, Window):
        return inner.then(outer)
    if isinstance(inner, Scale) and not inner.value.dim():
        return replace(outer, kernel=outer.kernel * inner.value.to(outer.kernel.device))
    if isinstance(inner, Scale):
        inner = ConvMap.diagonal(inner.value, len(inner.value), len(outer.taps))
    return inner.then(outer.on(inner.out_channels, inner.tensors[0].device))


def _shift_through(shift: Tensor, outer: ConvMap | Window) -> Tensor:
    """What a map makes of a constant per channel."""
    if is_zero(shift):
        return ZERO
    if isinstance(outer, ConvMap) and outer.up:
        raise Illegal("what it reads has a bias, which a transposed convolution turns into a pattern")
    if outer.mode == "zeros":
        raise Illegal("what it reads has a bias, and it pads with zeros: the border would differ")
    if isinstance(outer, Window):
        return shift * outer.kernel.sum().to(shift.device)
    if shift.dim() and len(shift) != outer.in_channels:
        raise Illegal(f"a constant for {len(shift)} channels is read as {outer.in_channels}")
    weight = outer.weight().flatten(2).sum(2) if outer.taps else outer.weight()
    weight = weight.reshape(outer.groups, -1, weight.shape[1])
    constant = shift.to(weight.device).expand(outer.in_channels).reshape(outer.groups, -1, 1)
    return (weight @ constant).flatten()


def _scale(map: Map, factor: Tensor) -> Map:
    if isinstance(map, Window) and factor.dim():
        map = map.on(len(factor), factor.device)
    if isinstance(map, Window):
        return replace(map, kernel=map.kernel * factor.to(map.kernel.device))
    if isinstance(map, ConvMap):
        return map.scaled(factor)
    return Scale(_broadcast(torch.mul, map.value, factor))


def is_zero(shift: Tensor) -> bool:
    """Whether a constant is zero, and no function of parameters that are to be trained."""
    return shift is ZERO or not (shift.requires_grad or shift.any())  # an infinity or NaN is something


def doubled(value: Tensor) -> Tensor:
    """A parameter in float64: a function of it where gradients are asked for, and a number elsewhere."""
    return value.double() if torch.is_grad_enabled() else value.detach().double()


def _broadcast(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    if a.dim() and b.dim() and len(a) != len(b):
        raise Illegal(f"constants for {len(a)} and {len(b)} channels meet")
    if a is ZERO and function is not torch.sub:
        return b if function is torch.add else a
    device = b.device if b.dim() else a.device
    return function(a.to(device), b.to(device))
