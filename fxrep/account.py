"""What operators take, before a merge and after: multiply-accumulates, bytes and kernels, for the report.

The figures are those of ``analysis.cost``, over all positions instead of one: a convolution takes its weight once for
each position of its output, and each operator reads its operands and writes its value. Where no shapes are known, the
output of a merge is taken to be one position, and what it is computed from as large as that needs, without borders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from torch import Tensor, fx, nn

from .analysis.forms import Form, Map, Scale, atom
from .analysis.program import Program
from .analysis.sizes import Size, Sizes
from .capture.walk import parameters_of
from .convmap import ConvMap, Illegal, Window
from .cover.regions import Region
from .operators import Linear
from .report import Figures

CONVOLUTIONS = ("conv", "linear")
PER_ELEMENT = ("scale", "norm")  # one multiply-accumulate for each element


def before(region: Region, sizes: Sizes) -> Figures | None:
    """A region by its own operators; None if the size of a value is not known."""
    return add_up(operator(region.program, node, region.linear[node], sizes) for node in region.nodes)


def after(region: Region, sizes: Sizes) -> Figures | None:
    """A region as what its form says: a convolution for each map, a multiplication for each factor, and their sum."""
    out = sizes.get(region.root)
    sources = [sizes.get(term.source) for term in region.form.terms]
    if out is None or None in sources:
        return None
    total, joined = Figures(kernels=0), region.form.joined
    for i, (term, source) in enumerate(zip(region.form.terms, sources, strict=True)):
        assert source is not None
        if isinstance(term.map, ConvMap):
            share = Fraction(joined.sizes[i], sum(joined.sizes)) if joined else 1
            macs = int(share * out.elements) // term.map.out_channels * term.map.macs
            total = plus(total, Figures(macs, 0, source.bytes + int(share * out.bytes), out.calls))
        elif isinstance(term.map, Scale) and float(term.map.value) not in (1, -1):
            total = plus(total, Figures(out.elements, 0, 2 * out.bytes, out.calls))
        if i and not joined:
            total = plus(total, Figures(0, 0, 3 * out.bytes, out.calls))
    return plus(total, Figures(0, 0, 2 * out.bytes, out.calls)) if joined else total


def kernels_after(region: Region) -> int:
    """How many operators ``after`` counts."""
    form = region.form
    plain = (isinstance(t.map, Scale) and float(t.map.value) in (1, -1) for t in form.terms)
    return sum(not is_plain for is_plain in plain) + (1 if form.joined else len(form.terms) - 1)


def operator(program: Program, node: fx.Node, linear: Linear | None, sizes: Sizes) -> Figures | None:
    """One operator on its own, as the rule says that read it, or by its weight if none did; None if it is not known."""
    if linear is not None and not linear.kind:
        return Figures()
    operands = linear.operands if linear is not None else tuple(node.all_input_nodes[:1])
    out, read = sizes.get(node), [sizes.get(operand) for operand in operands]
    if out is None or None in read:
        return None
    return Figures(
        _macs(program, node, linear, out, [size for size in read if size is not None]),
        0,
        sum(size.bytes for size in read if size is not None) + out.bytes,
        out.calls,
    )


def _macs(program: Program, node: fx.Node, linear: Linear | None, out: Size, read: list[Size]) -> int:
    kind = linear.kind if linear is not None else ""
    if kind in PER_ELEMENT:
        return out.elements
    if linear is not None and kind in (*CONVOLUTIONS, "pool"):
        map = map_of(linear)
        if isinstance(map, ConvMap):
            return out.elements // map.out_channels * map.macs
        if isinstance(map, Window):
            return out.elements * map.kernel.numel()
    weight = weight_of(program, node)
    if weight is None or (linear is not None and kind not in CONVOLUTIONS):
        return 0
    module = program.module(node)
    transposed = "transpose" in type(module).__name__.lower() or "transpose" in str(node.target)
    rows = read[0].elements if transposed else out.elements
    return rows // len(weight) * weight.numel() if weight.dim() > 1 else rows


def map_of(linear: Linear) -> Map | None:
    """The map of an operator of one operand on its own, if it can be told without what comes before."""
    if len(linear.operands) != 1:
        return None
    try:
        form = linear.of(atom(linear.operands[0]))
    except Illegal:
        return None
    return form.terms[0].map if isinstance(form, Form) and len(form.terms) == 1 else None


def weight_of(program: Program, node: fx.Node) -> Tensor | None:
    """The weight that a module or function convolves or normalises with."""
    module = program.module(node)
    found: Any = getattr(module, "weight", None)
    if module is None:
        found = program.constant(node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None))
    return found if isinstance(found, Tensor) and found.dim() else None


def parameters(regions: Iterable[Region]) -> list[nn.Parameter]:
    """The parameters that the operators of some regions read, each once."""
    found: dict[int, nn.Parameter] = {}
    for region in regions:
        program, seen = region.program, set[fx.Node]()
        inside = {*region.nodes}
        waiting = [*region.nodes]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            module = program.module(node) if node in inside else None
            read = parameters_of(module) if module is not None else [program.tensor(node)] if _reads(node) else []
            found.update((id(t), t) for t in read if isinstance(t, nn.Parameter))
            waiting += [n for n in node.all_input_nodes if _reads(n) or program.constant(n) is not None]
    return list(found.values())


def sizes_for_one(region: Region) -> Sizes:
    """The sizes of a region's values for one position of its output, backwards from there."""
    itemsize = region.dtype.itemsize
    elements = {region.root: channels_of(region)}
    for node in reversed(region.nodes):
        linear, out = region.linear[node], elements.get(node, 0)
        map = map_of(linear) if linear.composes else None
        for operand in linear.operands:
            needed = out // _stacked(region, node) * _stacked(region, operand)
            if isinstance(map, ConvMap):
                needed = out // map.out_channels * map.in_channels * math.prod(map.stride)
            elif isinstance(map, Window):
                needed = out * math.prod(map.stride)
            elements[operand] = max(needed, elements.get(operand, 0))
    for term in region.form.terms:
        if isinstance(term.map, ConvMap):
            elements[term.source] = term.map.in_channels * math.prod(term.map.stride)
        else:
            elements.setdefault(term.source, elements[region.root])
    return {node: Size(n, itemsize) for node, n in elements.items()}


def channels_of(region: Region) -> int:
    """The channels of what a region computes."""
    joined = region.form.joined
    return sum(joined.sizes) if joined else region.convolutions[0].out_channels


def _stacked(region: Region, node: fx.Node) -> int:
    """How many values lie in a node's: more than one if it stacks them for a sum."""
    linear = region.linear.get(node)
    return len(linear.operands) if linear is not None and not linear.kind else 1


def plus(a: Figures, b: Figures) -> Figures:
    """The figures of two things; what is not known of one is not known of both."""
    macs = None if a.macs is None or b.macs is None else a.macs + b.macs
    moved = None if a.bytes is None or b.bytes is None else a.bytes + b.bytes
    return Figures(macs, a.parameters + b.parameters, moved, a.kernels + b.kernels)


def add_up(figures: Iterable[Figures | None]) -> Figures | None:
    """The sum; None if one of them is not known."""
    total: Figures | None = Figures()
    for one in figures:
        total = None if one is None or total is None else plus(total, one)
    return total


def _reads(node: fx.Node) -> bool:
    return node.op == "get_attr"
