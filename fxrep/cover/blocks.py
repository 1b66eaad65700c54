"""Modules that people call on their own, a stage, a block, an encoder: what goes from one to another is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from torch import fx

from ..analysis.program import Program
from ..capture.piece import Call
from ..operators import Linear

Pair = tuple[fx.Node, fx.Node]


class Blocks:
    """The calls of modules in a program, and how many operators and convolutions there are in each.

    One that does more than what is merged is a block.
    """

    def __init__(self, program: Program, linear: dict[fx.Node, Linear]) -> None:
        self.linear = linear
        self.call_of = program.piece.call_of
        operators = [n for n in program.operators if program.constant(n) is None]
        self.operators = self._count(operators)
        self.convolutions = self._count(filter(self._convolves, operators))

    def divide(self, nodes: Sequence[fx.Node], composed: Iterable[Pair]) -> bool:
        """Whether the operators of a region, in program order, are in blocks that may be called one without the other.

        No convolution leaves or enters a block to be ``composed``: pairs of one and another that it reads. Neither does
        a norm or a scale leave a block for a later convolution; for an earlier one it does, but not from a block with
        other convolutions into another such.
        """
        if len({self.call_of.get(n) for n in nodes}) == 1:
            return False
        lines = {n: _lineage(self.call_of.get(n)) for n in nodes}
        operators, convolutions = self._count(nodes), self._count(filter(self._convolves, nodes))

        def does_more(block: Call | None) -> bool:
            return block is not None and (self.operators[block] > operators[block] or convolutions[block] > 1)

        def has_others(block: Call | None) -> bool:
            return block is not None and self.convolutions[block] > convolutions[block]

        for one, other in composed:
            if does_more(_around(one, other, lines)) or does_more(_around(other, one, lines)):
                return True
        before_one: set[fx.Node] = set()  # what a convolution of the region is behind
        for reader in reversed(nodes):
            for node in lines.keys() & self.linear[reader].operands:
                block = _around(node, reader, lines)
                if self._convolves(reader) or reader in before_one:
                    before_one.add(node)
                    if does_more(block):
                        return True
                if has_others(block) and has_others(_around(reader, node, lines)):
                    return True
        return False

    def _convolves(self, node: fx.Node) -> bool:
        return node in self.linear and self.linear[node].convolves

    def _count(self, nodes: Iterable[fx.Node]) -> Counter[Call]:
        return Counter(chain.from_iterable(_lineage(self.call_of.get(n)) for n in nodes))


def _around(node: fx.Node, other: fx.Node, lines: dict[fx.Node, list[Call]]) -> Call | None:
    """The outermost call that ``node`` is inside of, and ``other`` is not."""
    return next((call for call in lines[node] if call not in lines[other]), None)


def _lineage(call: Call | None) -> list[Call]:
    """The calls that a call is inside of, outermost first, and itself."""
    return [] if call is None else [*_lineage(call.parent), call]
