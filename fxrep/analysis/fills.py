"""Writes into the border of a pad: ``y = F.pad(x, ...)``, then ``y[:, :, :p, :] = v`` and its kin, one for each side.

Some blocks pad what a convolution with a bias gives with what it would have given there. Each write is a new version of
the padded value, as an operator of its own; on a graph, the write returns nothing, or a view, and is undone there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..capture.kinds import builtin_type
from . import effects

aten = torch.ops.aten
PADS = {"pad", "constant_pad_nd"}
SETS = {"__setitem__", "setitem"}
ALL = {(None, None), (None, 1), (0, None), (0, 1)}  # start and step of a slice that begins at the first position


@dataclass(frozen=True)
class Fill:
    """``value`` is written to a strip of ``base``: the first ``width`` positions along ``axis``, or the last ones.

    ``views`` are nodes that say where, and compute nothing else.
    """

    base: fx.Node
    value: Any
    axis: int
    last: bool
    width: int
    views: tuple[fx.Node, ...] = ()

    def run(self, node: fx.Node, base: Tensor, value: Any) -> Tensor:
        """``base`` with ``value`` written by the operators of ``node``, as they are and not as they were read."""
        written = base.clone()
        if effects.name_of(node) in SETS:
            index: Any = node.args[1]
            written[index] = value
            return written
        slices = [view for view in self.views[::-1] if view.target is aten.slice.Tensor] if in_place(node) else []
        strip = written
        for args, kwargs in [(n.args[1:], n.kwargs) for n in slices] or [(node.args[2:], {})]:
            strip = aten.slice.Tensor(strip, *args, **kwargs)
        strip.copy_(value)
        return written


def find_fills(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> dict[fx.Node, Fill]:
    """The writes to a pad's border among the nodes of a graph, in order, before any is read as a version."""
    found: dict[fx.Node, Fill] = {}
    for node in nodes:
        fill = fill_of(node) if node.op in ("call_function", "call_method") else None
        known = fill is not None and (fill.base in found or _pads(fill.base, modules))
        if known and fill is not None and not (in_place(node) and node.users):
            found[node] = fill
    return found


def in_place(node: fx.Node) -> bool:
    """Whether a write returns something else than the whole that was written to."""
    return effects.name_of(node) != "slice_scatter"


def fill_of(node: fx.Node) -> Fill | None:
    """What a node writes, if it is one strip of a value."""
    name = effects.name_of(node)
    if name in SETS and effects.is_torch(node) and len(node.args) == 3:
        base, index, value = node.args
        return _strip(base, _along(index), value)
    if node.target is aten.copy_.default:
        view, value = node.args[:2]
        views, value = _unexpanded(value)
        slices: list[tuple[int, slice]] = []
        while isinstance(view, fx.Node) and view.target is aten.slice.Tensor and set(view.users) <= {node, *views}:
            slices.append(_sliced(*view.args[1:], **view.kwargs))
            views.append(view)
            view = view.args[0]
        return _strip(view, slices, value, views)
    if node.target is aten.slice_scatter.default and not node.kwargs:
        base, value, *where = node.args
        views = []
        if isinstance(value, fx.Node) and value.target is aten.copy.default:  # to a view, for the shape of that
            views = [n for n in (value, value.args[0]) if isinstance(n, fx.Node) and len(n.users) == 1]
            value = value.args[1]
        more, value = _unexpanded(value)
        return _strip(base, [_sliced(*where)], value, views + more)
    return None


def _unexpanded(value: Any) -> tuple[list[fx.Node], Any]:
    """Nodes that repeat a value to the size of a strip, which a write does by itself, and the value."""
    views = []
    while isinstance(value, fx.Node) and value.target is aten.expand.default and len(value.users) == 1:
        views.append(value)
        value = value.args[0]
    return views, value


def undo(fills: Iterable[fx.Node]) -> None:
    """Let what reads a version on a graph read the value that was written to, which holds the same."""
    for node in reversed([*fills]):
        fill = fill_of(node) if node.users and in_place(node) else None
        if fill is not None:
            node.replace_all_uses_with(fill.base)


def _strip(base: Any, slices: list[tuple[int, slice]], value: Any, views: Iterable[fx.Node] = ()) -> Fill | None:
    """The write to what the one of the ``slices``, each along an axis, takes that is not all."""
    cut = [(axis, part) for axis, part in slices if (part.start, part.step) not in ALL or not _is_end(part.stop)]
    if len(cut) != 1 or not isinstance(base, fx.Node):
        return None
    ((axis, part),) = cut
    start, stop = part.start, part.stop
    if part.step not in (None, 1) or not all(isinstance(n, int | None) for n in (start, stop)):
        return None
    if start in (None, 0) and stop > 0:
        return Fill(base, value, axis, False, stop, tuple(views))
    if start is not None and start < 0 and _is_end(stop):
        return Fill(base, value, axis, True, -start, tuple(views))
    return None


def _along(index: Any) -> list[tuple[int, slice]]:
    """The slices of an index, each with its axis, counted from the end after an ellipsis; none if there is more."""
    parts = list(index) if isinstance(index, tuple | list) else [index]
    if not all(part is Ellipsis or isinstance(part, slice) for part in parts) or parts.count(Ellipsis) > 1:
        return []
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    return [(i if i < at else i - len(parts), part) for i, part in enumerate(parts) if isinstance(part, slice)]


def _sliced(dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1) -> tuple[int, slice]:
    """The same of the arguments of ``aten.slice``."""
    return dim, slice(start, end, step)


def _is_end(stop: Any) -> bool:
    return stop is None or (isinstance(stop, int) and stop >= sys.maxsize)


def _pads(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        kind = builtin_type(modules[str(node.target)])
        return kind is not None and "Pad" in kind.__name__
    return node.op == "call_function" and effects.is_torch(node) and effects.name_of(node) in PADS
