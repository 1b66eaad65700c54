"""What the text of one function says where its bytecode does not: which part of a module gets what another gives."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
import tokenize
from collections import defaultdict
from types import CodeType
from typing import Any

from .bytecode import names_in


def tree_of(code: CodeType) -> ast.AST | None:
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    try:
        tree = ast.parse(textwrap.dedent("".join(inspect.getblock(lines)))) if lines else ast.Module([], [])
    except (SyntaxError, tokenize.TokenError):
        return None
    if code.co_name == "<lambda>" or [code.co_name] == [getattr(node, "name", None) for node in tree.body]:
        return tree
    return None  # the file is another one by now


@functools.lru_cache(maxsize=4096)
def flows_in(code: CodeType) -> dict[str, set[str]]:
    """For each part that a method calls, ``self.part(..)``: the parts that get its value, "" if anything else does.

    "return" if its caller does. The same for its arguments, as "(name)". Without its text, anything may.
    """
    tree = tree_of(code)
    if tree is None:
        return {name: {""} for name in names_in(code)}
    return _Flows(tree, code.co_varnames[:1]).found


class _Flows:
    def __init__(self, tree: ast.AST, own: tuple[str, ...]) -> None:
        self.own = own
        self.around: dict[ast.AST, ast.AST] = {}
        self.block: dict[ast.AST, tuple[ast.AST, str]] = {}  # what a statement is in, and in which of its branches
        self.uses: dict[str, list[ast.Name]] = defaultdict(list)
        calls = self._read(tree)
        for uses in self.uses.values():
            uses.sort(key=self._when)
        self.found: dict[str, set[str]] = defaultdict(set)
        for call in calls:
            self.found[str(self._part(call))] |= self._readers(call)
        for node in ast.iter_child_nodes(tree):
            for argument in (each for each in _arguments(node) if each.arg not in own):
                read = self._read_after(node, argument.arg, (argument.lineno, argument.col_offset, True))
                self.found[f"({argument.arg})"] |= {reader for name in read for reader in self._readers(name)}

    def _read(self, tree: ast.AST) -> list[ast.AST]:
        """Note what is in each expression and statement; the calls of parts."""
        waiting, calls = [tree], list[ast.AST]()
        for node in waiting:
            if isinstance(node, ast.Name):
                self.uses[node.id].append(node)
                continue
            if isinstance(node, ast.Call) and self._part(node) is not None:
                calls.append(node)
            for name in node._fields:
                value: Any = getattr(node, name, None)
                children = [v for v in value if isinstance(v, ast.AST)] if type(value) is list else [value]
                for child in children if isinstance(value, list | ast.AST) else ():
                    self.around[child], self.block[child] = node, (node, name)
                    waiting.append(child)
        return calls

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
            name, end = outer.targets[0].id, self._when(outer.targets[0])
            return {reader for use in self._read_after(outer, name, end) for reader in self._readers(use)}
        if isinstance(outer, ast.Return):
            return {"return"}
        part = self._part(outer)
        return {part} if part is not None and isinstance(outer, ast.Call) and value in outer.args else {""}

    def _read_after(self, statement: ast.AST, name: str, end: tuple[int, int, bool]) -> list[ast.Name]:
        """The places where a variable is read until it is another one: after it was set, or the next time in a loop."""
        block = self.block[statement] if isinstance(statement, ast.Assign) else (statement, "body")
        found, loop = self._reads(name, block, end), None
        outer: ast.AST | None = statement
        while outer is not None:
            loop = outer if isinstance(outer, ast.For | ast.While) else loop
            outer = self.around.get(outer)
        return found if loop is None else found + self._reads(name, block, (loop.lineno, loop.col_offset, False))

    def _reads(self, name: str, block: tuple[ast.AST, str], start: tuple[int, int, bool]) -> list[ast.Name]:
        found = []
        for use in self.uses[name]:
            if self._when(use) <= start:
                continue
            if isinstance(use.ctx, ast.Load) or not isinstance(self.around[use], ast.Assign):
                found.append(use)
            elif self.block[self.around[use]] == block:  # whatever way is taken between the two
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


def _arguments(node: ast.AST) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs] if isinstance(node, ast.FunctionDef) else []
