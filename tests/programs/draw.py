"""Hypothesis strategies for programs and hazards."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from hypothesis import strategies as st

from tests.programs.description import (
    BINARY,
    CONSTANTS,
    DTYPES,
    INPLACE,
    INPLACE_STEPS,
    LISTS,
    MODES,
    NORMS,
    PASSING,
    SOURCES,
    Branch,
    Conv,
    Leaf,
    Program,
    Sum,
    Tree,
    leaves,
)
from tests.programs.hazards import (
    HAZARDS,
    Hazard,
)


@functools.lru_cache(None)
def _axis_choices(extent: int, longest: int) -> tuple[tuple[int, int, int], ...]:
    """Every (kernel, dilation, padding) with the same padding on both sides and this extent."""
    found = [
        (k, d, (extent + d * (k - 1)) // 2)
        for k in range(1, longest + 1)
        for d in (1, 2, 3)
        if (extent + d * (k - 1)) % 2 == 0 and extent + d * (k - 1) >= 0 and d * (k - 1) <= 2 * longest
    ]
    return tuple(sorted(found, key=lambda c: c[1:] == (1, 0)))


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def convs(draw: st.DrawFn, cin: int, cout: int, extents: tuple[int, ...], stride: tuple[int, ...], mode: str) -> Conv:
    """A convolution on a given grid."""
    rank = len(extents)
    longest = {1: 7, 2: 5, 3: 3}[rank]
    groups = draw(st.sampled_from(_divisors(math.gcd(cin, cout))))
    bias = draw(st.booleans())
    padding: tuple[int, ...] | str
    if not any(extents) and set(stride) == {1} and draw(st.integers(0, 2)) == 0:
        kernel = tuple(draw(st.integers(1, longest)) for _ in range(rank))
        dilation = tuple(draw(st.sampled_from((1, 1, 2))) for _ in range(rank))
        padding = "same"
    else:
        axes = [draw(st.sampled_from(_axis_choices(e, longest))) for e in extents]
        kernel, dilation, padding = (tuple(c[i] for c in axes) for i in range(3))
        if not any(padding) and draw(st.booleans()):
            padding = "valid"
    conv = Conv(cin, cout, kernel, stride, padding, dilation, groups, mode, bias)
    if mode == "zeros" and not any(map(any, conv.pads)) and draw(st.integers(0, 4)) == 0:
        conv = replace(conv, mode=draw(st.sampled_from(MODES)))  # one that never reads outside does not care
    return conv


@st.composite
def steps(draw: st.DrawFn, fresh: bool, most: int = 2) -> tuple[str, ...]:
    """What follows a convolution, an identity or a sum; in place only where the value is its own."""
    chosen: list[str] = []
    for _ in range(draw(st.integers(0, most))):
        family = draw(st.sampled_from((NORMS, NORMS, CONSTANTS, PASSING, INPLACE_STEPS if fresh else NORMS)))
        chosen.append(draw(st.sampled_from(family)))
        fresh = fresh or chosen[-1] not in PASSING
    return tuple(chosen)


@st.composite
def trees(draw: st.DrawFn, branches: tuple[Branch, ...]) -> Tree:
    """The branches in some order, added up pair by pair or in lists."""
    waiting: list[Tree] = [Leaf(i) for i in draw(st.permutations(range(len(branches))))]
    if draw(st.integers(0, 3)) == 0:
        waiting.insert(draw(st.integers(0, len(waiting))), Leaf(-1))
    while len(waiting) > 1:
        at = draw(st.integers(0, len(waiting) - 2))
        first, second = waiting[at : at + 2]
        spellings = BINARY if first != Leaf(-1) else ("+", "-")
        if isinstance(first, Sum) or (first.branch >= 0 and branches[first.branch].fresh):
            spellings += INPLACE
        if second == Leaf(-1):
            spellings = tuple(s for s in spellings if s in ("+", "-", "+=", "-=", "torch.add alpha"))
        spelling = draw(st.sampled_from((*spellings, *LISTS)))
        count = draw(st.integers(2, len(waiting) - at)) if spelling in LISTS else 2
        operands = tuple(waiting[at : at + count])
        if "stack" in spelling and Leaf(-1) in operands:
            spelling = "sum"
        alpha = draw(st.sampled_from((2, 1, -0.5, 0.25))) if "alpha" in spelling else 1
        total = Sum(spelling, operands, alpha)
        last = count == len(waiting)
        if (last or _convolved(total, branches)) and draw(st.integers(0, 2 if last else 7)) == 0:
            total = replace(total, steps=draw(steps(fresh=True)))
        waiting[at : at + count] = [total]
    return waiting[0]


def _convolved(tree: Tree, branches: tuple[Branch, ...]) -> bool:
    """Whether each source of a sum has a convolution in it, so that a norm behind the sum goes into those."""
    used = [branches[i] for i in leaves(tree)]
    return {b.source for b in used} == {b.source for b in used if b.conv}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A sum of branches on one grid."""
    rank = draw(st.sampled_from((2, 2, 1, 3)))
    most = 6 if rank < 3 else 4
    out = draw(st.integers(1, most))
    channels = (
        draw(st.one_of(st.just(out), st.integers(1, most))),
        draw(st.one_of(st.just(out), st.integers(1, most))),
    )
    plain = draw(st.booleans())  # stride 1 and as large as the input, so that identities fit
    stride = tuple(1 if plain else draw(st.sampled_from((2, 1, 3))) for _ in range(rank))
    extents = tuple(0 if plain else draw(st.integers(-2, 2)) for _ in range(rank))
    several = draw(st.integers(0, 2)) == 0
    sources = draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3, unique=True)) if several else ["x"]
    modes = {source: draw(st.sampled_from(("zeros", *MODES))) for source in sources}
    count = draw(st.integers(1, 4 if rank < 3 else 3))
    branches: list[Branch] = []
    for i in range(count):
        source = draw(st.sampled_from(sources))
        cin = channels["y" in source]
        fits = plain and cin == out and i > 0
        if fits and draw(st.integers(0, 2)) == 0:
            branches.append(Branch(source, None, draw(steps(fresh=False))))
        else:
            conv = draw(convs(cin, out, extents, stride, modes[source]))
            branches.append(Branch(source, conv, draw(steps(fresh=True))))
    used = _one_identity_each(branches)
    smallest = [max(n) for n in zip(*(b.conv.smallest for b in used if b.conv), strict=True)]
    size = tuple(n + draw(st.integers(0, 3)) for n in smallest)
    tail, dtype = draw(st.sampled_from(("", "relu ", "relu_ "))), draw(st.sampled_from(("float64", *DTYPES)))
    return Program(
        rank, channels, out, size, used, draw(trees(used)), tail, draw(st.booleans()), dtype, draw(st.integers(0, 3))
    )


def _one_identity_each(branches: list[Branch]) -> tuple[Branch, ...]:
    """Of a source without a convolution only one identity: how two of them are best computed has several answers."""
    convolved = {b.source for b in branches if b.conv}
    found: list[Branch] = []
    for branch in branches:
        if branch.source in convolved or branch.source not in {b.source for b in found}:
            found.append(branch)
    return tuple(found)


@st.composite
def hazards(draw: st.DrawFn, program: Program) -> Hazard:
    """One hazard somewhere in ``program``."""
    name = draw(st.sampled_from(sorted(HAZARDS)))
    kind = HAZARDS[name]
    convolved = [i for i, b in enumerate(program.branches) if b.conv]
    branch = draw(st.sampled_from(convolved if kind.needs_conv else range(len(program.branches))))
    how = draw(st.sampled_from(kind.hows))
    return Hazard(name, how, branch, draw(_other_conv(program, branch)) if name == "other conv" else None)


@st.composite
def _other_conv(draw: st.DrawFn, program: Program, branch: int) -> Conv:
    """A convolution with other parameters than the branch's, and the same size of output (or 1) for this input."""
    conv = program.branches[branch].conv
    assert conv is not None
    stride, extents = list(conv.stride), list(conv.extents)
    keep = draw(st.booleans())  # the stride, where another extent gives the same size
    for axis, (h, o) in enumerate(zip(program.size, program.out_size, strict=True)):
        choices = [
            (s, e)
            for s in ((conv.stride[axis],) if keep else (1, 2, 3))
            for e in range(-3, 4)
            if h - 1 + e >= 0 and (h - 1 + e) // s + 1 in (o, 1) and _axis_choices(e, 3)
        ]
        choices.sort(key=lambda c: (c == (conv.stride[axis], conv.extents[axis]), (h - 1 + c[1]) // c[0] + 1 != o))
        stride[axis], extents[axis] = draw(st.sampled_from(choices))
    mode = draw(st.sampled_from((conv.mode, conv.mode, conv.mode, *MODES)))
    return draw(convs(conv.cin, draw(st.sampled_from((conv.cout, conv.cout, 1))), tuple(extents), tuple(stride), mode))


@st.composite
def dangerous(draw: st.DrawFn) -> tuple[Program, tuple[Hazard, ...]]:
    """A program with a hazard, sometimes with two."""
    program = replace(draw(programs()), dtype="float64")
    found = [draw(hazards(program)) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))]
    return program, tuple({h.kind: h for h in found}.values())
