"""The small graphs of a merge as plain data: the operators of its region before, the convolutions after."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from torch import fx, nn

from .account import CONVOLUTIONS, map_of
from .analysis import effects
from .analysis.program import Program
from .convmap import ConvMap, Window
from .cover.regions import Region
from .report import Box, Drawing


def draw_before(region: Region) -> Drawing:
    """The operators of a region, from its sources to its root.

    Adds in a row are one sum, and what does nothing is left out.
    """
    program = region.program
    boxes: list[Box] = []
    arrows: list[tuple[int, int]] = []
    stands_for: dict[fx.Node, list[int]] = {}
    for term in region.form.terms:
        if term.source not in stands_for:
            stands_for[term.source] = [len(boxes)]
            boxes.append(value_box(program, term.source))
    for node in region.nodes:
        linear = region.linear[node]
        reads = [i for operand in linear.operands for i in stands_for[_named(region, operand, stands_for)]]
        if not linear.kind or (_is_sum(region, node) and _goes_into_a_sum(region, node)):
            stands_for[node] = reads
            continue
        stands_for[node] = [len(boxes)]
        arrows += [(i, len(boxes)) for i in reads]
        boxes.append(_operator_box(region, node, len(reads)))
    return Drawing(tuple(boxes), tuple(arrows))


def draw_after(region: Region, modules: Sequence[nn.Module | None], names: Mapping[fx.Node, str]) -> Drawing:
    """The convolutions that a region becomes, and their sum; ``names`` are those of what each merge gives, by root."""
    sources, joined = list(dict.fromkeys(term.source for term in region.form.terms)), region.form.joined
    boxes = [
        Box("value", "convolution", path=names[source]) if source in names else value_box(region.program, source)
        for source in sources
    ]
    arrows: list[tuple[int, int]] = []
    summands: list[int] = []
    for term, module in zip(region.form.terms, modules, strict=True):
        at = sources.index(term.source)
        if module is not None:
            assert isinstance(term.map, ConvMap)
            arrows.append((at, len(boxes)))
            boxes.append(Box("merged", *_words(term.map), names[region.root]))
        elif float(term.factor) != 1:
            arrows.append((at, len(boxes)))
            boxes.append(Box("scale", f"times {float(term.factor):.3g}"))
        summands.append(at if module is None and float(term.factor) == 1 else len(boxes) - 1)
    if len(summands) > 1:
        arrows += [(i, len(boxes)) for i in summands]
        boxes.append(Box("join", f"{len(summands)} side by side") if joined else Box("add", f"sum of {len(summands)}"))
    return Drawing(tuple(boxes), tuple(arrows))


def value_box(program: Program, node: fx.Node) -> Box:
    """A value that a merge reads."""
    if node.op == "placeholder":
        return Box("value", program.describe(node))
    return Box("value", _named_like(program, node), path=program.place(node))


def _named(region: Region, node: fx.Node, known: Container[fx.Node]) -> fx.Node:
    """The value that ``node`` is another name for, if it is not drawn itself."""
    while node not in known:
        (node,) = region.linear[node].operands
    return node


def _is_sum(region: Region, node: fx.Node) -> bool:
    return region.linear[node].kind == "add" and "sub" not in effects.name_of(node)


def _goes_into_a_sum(region: Region, node: fx.Node) -> bool:
    """Whether nobody but another sum of the region reads it."""
    while node is not region.root:
        readers = [user for user in node.users if user in region.linear]
        if len(readers) != 1 or readers[0] not in region.nodes:
            return False
        (node,) = readers
        if region.linear[node].kind:
            return _is_sum(region, node)
    return False


def _operator_box(region: Region, node: fx.Node, summands: int) -> Box:
    program, linear = region.program, region.linear[node]
    path = program.place(node)
    map = map_of(linear) if linear.kind in (*CONVOLUTIONS, "pool") else None
    if isinstance(map, ConvMap):
        return Box(linear.kind, *_words(map), path)
    if isinstance(map, Window):
        return Box(linear.kind, f"{_times(t.count for t in map.taps)} average", path=path)
    label = {"add": f"sum of {summands}", "scale": "times a constant", "add constant": "plus a constant"}
    if linear.kind == "add" and not _is_sum(region, node):
        return Box("add", "difference", path=path)
    return Box(linear.kind, label.get(linear.kind) or _named_like(program, node), path=path)


def _named_like(program: Program, node: fx.Node) -> str:
    """The class or the function that a node calls."""
    module = program.module(node)
    return type(module).__name__ if module is not None else effects.name_of(node) or str(node.target)


def _words(map: ConvMap) -> tuple[str, str]:
    """A convolution in a word or two, and the rest of it."""
    channels = f"{map.in_channels} to {map.out_channels}"
    if not map.taps:
        return "linear", channels
    depthwise = map.is_channelwise and map.groups > 1
    details = [channels]
    if max(map.stride) > 1:
        details.append(f"stride {_times(map.stride)}")
    if any(t.step > 1 for t in map.taps):
        details.append(f"dilation {_times(t.step for t in map.taps)}")
    if map.groups > 1 and not depthwise:
        details.append(f"{map.groups} groups")
    counts = [t.count for t in map.layout()[0]]
    return f"{_times(counts)} {'depthwise' if depthwise else 'conv'}", ", ".join(details)


def _times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
