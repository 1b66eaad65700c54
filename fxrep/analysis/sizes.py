"""How large the values of a program are in one call of the model.

A graph from ``torch.export`` says it itself. Of a traced one, what the modules in it gave was seen on a run with
example inputs, and torch's functions between them are run on the meta device, where tensors have no content.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ..capture.exported import fake_value
from ..capture.observe import Observation, Seen, on_meta
from ..capture.piece import Piece
from ..capture.walk import join
from . import effects


@dataclass(frozen=True)
class Size:
    """The elements of a value, over the ``calls`` in which it is computed, and the bytes of one of them."""

    elements: int
    itemsize: int = 4
    calls: int = 1

    @property
    def bytes(self) -> int:
        return self.elements * self.itemsize

    def __add__(self, other: Size) -> Size:
        return Size(self.elements + other.elements, max(self.itemsize, other.itemsize), self.calls + other.calls)


Sizes = dict[fx.Node, Size]


def sizes_of(piece: Piece, observed: Observation | None) -> Sizes | None:
    """The size of every value of ``piece`` for which it can be told; None where nothing is known of the shapes.

    A piece that the observed call did not run has values of size 0.
    """
    if piece.flat:
        sizes = {node: _size(fake_value(node)) for node in piece.graph.nodes}
        return {node: size for node, size in sizes.items() if size is not None} or None
    if observed is None:
        return None
    found: Sizes = dict.fromkeys(piece.graph.nodes, Size(0, 0, 0))
    outputs = {path: [call.output for call in calls] for path, calls in observed.calls.items()}
    for call in observed.seen(piece.path):
        one = _Run(piece, observed, outputs).sizes(call)
        found = {node: found[node] + size for node, size in one.items() if node in found}
    return found


_UNKNOWN = object()


class _Run(fx.Interpreter):
    """Runs a piece for its shapes, as far as they tell what happens; modules give ``outputs``, by path and call."""

    def __init__(self, piece: Piece, observed: Observation, outputs: dict[str, list[Any]]) -> None:
        super().__init__(piece.root, garbage_collect_values=False, graph=piece.graph)
        self.piece, self.observed, self.outputs = piece, observed, outputs
        self.found: Sizes = {}

    def sizes(self, call: Seen) -> Sizes:
        names = [str(node.target) for node in self.piece.graph.find_nodes(op="placeholder")]
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        self.run(*(given.get(name, _UNKNOWN) for name in names))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        value = self._value(n)
        size = _size(value[0] if isinstance(value, tuple | list) and value else value)
        if size is not None:
            self.found[n] = size
        return value

    def _value(self, node: fx.Node) -> Any:
        if node.op == "call_module":
            path = self.observed.names.get(join(self.piece.path, str(node.target)))
            return self.outputs[path].pop(0) if path is not None and self.outputs.get(path) else _UNKNOWN
        known = node.op in ("placeholder", "get_attr") or effects.is_torch(node)
        if not known or any(self.env.get(n, _UNKNOWN) is _UNKNOWN for n in node.all_input_nodes):
            return _UNKNOWN
        try:
            value = super().run_node(node)
        except Exception:  # its shape depends on values
            return _UNKNOWN
        return on_meta(value) if node.op == "get_attr" and isinstance(value, Tensor) else value


def _size(value: Any) -> Size | None:
    if not isinstance(value, Tensor):
        return None
    shape = shape_of(value)
    return None if shape is None else Size(math.prod(shape), value.element_size())


def shape_of(value: Tensor) -> tuple[int, ...] | None:
    """The shape in numbers; a size that may vary is what it was when the graph was made, or None if nobody knows."""
    shape = tuple(n if isinstance(n, int) else getattr(n.node, "hint", None) for n in value.shape)
    return shape if all(isinstance(n, int) for n in shape) else None
