"""Modules that people call on their own, a stage, a block, an encoder: what goes from one to another is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain, takewhile

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

    def divide(self, nodes: Collection[fx.Node], composed: Iterable[Pair]) -> bool:
        """Whether the operators of a region are in blocks that people may call one without the other.

        No convolution leaves or enters a block to be ``composed``: pairs of one and another that it reads. A norm or a
        scale does, but not from a block with other convolutions into another such.
        """
        if len({self.call_of.get(n) for n in nodes}) == 1:
            return False
        lines = {n: _lineage(self.call_of.get(n)) for n in nodes}
        operators, convolutions = self._count(nodes), self._count(filter(self._convolves, nodes))
        for pair in composed:
            if any(self.operators[b] > operators[b] or convolutions[b] > 1 for b in _apart(pair, lines)):
                return True
        for pair in ((n, operand) for n in nodes for operand in self.linear[n].operands if operand in lines):
            several = [b for b in _apart(pair, lines) if self.convolutions[b] > convolutions[b]]
            if len(several) == 2:
                return True
        return False

    def _convolves(self, node: fx.Node) -> bool:
        return node in self.linear and self.linear[node].convolves

    def _count(self, nodes: Iterable[fx.Node]) -> Counter[Call]:
        return Counter(chain.from_iterable(_lineage(self.call_of.get(n)) for n in nodes))


def _apart(pair: Pair, lines: dict[fx.Node, list[Call]]) -> list[Call]:
    """The outermost calls that one of the two nodes is inside of, and not the other."""
    one, other = lines[pair[0]], lines[pair[1]]
    common = sum(1 for _ in takewhile(lambda calls: calls[0] is calls[1], zip(one, other, strict=False)))
    return [line[common] for line in (one, other) if len(line) > common]


def _lineage(call: Call | None) -> list[Call]:
    """The calls that a call is inside of, outermost first, and itself."""
    return [] if call is None else [*_lineage(call.parent), call]
