"""What the text of one function says where its bytecode does not: which part of a module gets what another gives."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from types import FunctionType


def tree_of(function: FunctionType) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def flows_in(function: FunctionType) -> dict[str, set[str]]:
    """For each part that a method calls, ``self.part(..)``: the parts that get its value, "" if anything else does.

    "return" if its caller does. Without its text, anything may.
    """
    tree = tree_of(function)
    if tree is None:
        return {name: {""} for name in function.__code__.co_names}
    return _Flows(tree, function.__code__.co_varnames[:1]).found


class _Flows:
    def __init__(self, tree: ast.AST, own: tuple[str, ...]) -> None:
        self.own = own
        self.around = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.block: dict[ast.AST, tuple[ast.AST, str]] = {}  # what a statement is in, and in which of its branches
        for node in ast.walk(tree):
            for name, values in ast.iter_fields(node):
                self.block.update((value, (node, name)) for value in (values if isinstance(values, list) else ()))
        self.uses: dict[str, list[ast.Name]] = defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                self.uses[node.id].append(node)
        for uses in self.uses.values():
            uses.sort(key=self._when)
        self.found: dict[str, set[str]] = defaultdict(set)
        for node in ast.walk(tree):
            if (part := self._part(node)) is not None:
                self.found[part] |= self._readers(node)

    def _part(self, node: ast.AST) -> str | None:
        """The name of the part that an expression calls."""
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in self.own:
            return called.attr
        return None

    def _readers(self, value: ast.AST) -> set[str]:
        """The parts that an expression is handed to, by way of a variable or none."""
        outer = self.around[value]
        if isinstance(outer, ast.Assign) and len(outer.targets) == 1 and isinstance(outer.targets[0], ast.Name):
            return {reader for name in self._read_after(outer, outer.targets[0]) for reader in self._readers(name)}
        if isinstance(outer, ast.Return):
            return {"return"}
        part = self._part(outer)
        return {part} if part is not None and isinstance(outer, ast.Call) and value in outer.args else {""}

    def _read_after(self, statement: ast.Assign, target: ast.Name) -> list[ast.Name]:
        """The places where a variable is read until it is another one, in the order of the text."""
        found, end = [], self._when(target)
        for use in self.uses[target.id]:
            if self._when(use) <= end:
                continue
            if isinstance(use.ctx, ast.Load) or not isinstance(self.around[use], ast.Assign):
                found.append(use)
            elif self.block[self.around[use]] == self.block[statement]:  # whatever way is taken between the two
                break
        return found

    def _when(self, use: ast.Name) -> tuple[int, int, bool]:
        """Where a variable is read, or where the statement ends that sets it."""
        sets = not isinstance(use.ctx, ast.Load)
        statement: ast.AST = use
        while sets and not isinstance(statement, ast.stmt):
            statement = self.around[statement]
        line, column = (statement.end_lineno, statement.end_col_offset) if sets else (use.lineno, use.col_offset)  # type: ignore[attr-defined]
        return line, column, sets
