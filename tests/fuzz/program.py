"""A program as data: lines of Python with gaps for their operands, in the forwards of nested module classes.

A program is immutable and prints as the Python source that it is run from, so that what the shrinker makes of a failing
one can be read, and pasted into a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]
ATTRIBUTE = re.compile(r"self\.([a-z]+\d+)")


@dataclass(frozen=True)
class Line:
    """A statement: ``{0}``, ``{1}`` stand for the operands, ``{o0}``, ``{o1}`` for the values that it names.

    ``shapes`` are those of the named values, as far as the generator knew them.
    """

    code: str
    args: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()

    def __str__(self) -> str:
        return self.code.format(*self.args, **{f"o{i}": name for i, name in enumerate(self.outs)})


@dataclass(frozen=True)
class Part:
    """What a module holds under ``name``: a "module", "parameter" or "buffer", made by ``code``."""

    kind: str
    name: str
    code: str

    def __str__(self) -> str:
        if self.kind == "buffer":
            return f'self.register_buffer("{self.name}", {self.code})'
        return f"self.{self.name} = {f'nn.Parameter({self.code})' if self.kind == 'parameter' else self.code}"


@dataclass(frozen=True)
class Scope:
    """One module class: its arguments, what it holds, what its forward does, and what it returns."""

    name: str
    inputs: tuple[tuple[str, Shape], ...]
    parts: tuple[Part, ...]
    lines: tuple[Line, ...]
    result: Line

    def used_parts(self) -> list[Part]:
        """Those that the forward mentions, or one of those; Python would run the same without the others."""
        mentioned = {name for line in (*self.lines, self.result) for name in ATTRIBUTE.findall(line.code)}
        for part in reversed(self.parts):  # a part can only mention earlier ones
            if part.name in mentioned:
                mentioned.update(ATTRIBUTE.findall(part.code))
        return [part for part in self.parts if part.name in mentioned]

    def __str__(self) -> str:
        arguments = ", ".join(name for name, _ in self.inputs)
        made = [f"        {part}" for part in self.used_parts()]
        done = [f"        {text}" for line in (*self.lines, self.result) for text in str(line).split("\n")]
        return "\n".join(
            [
                f"class {self.name}(nn.Module):",
                *(["    def __init__(self):", "        super().__init__()", *made] if made else []),
                f"    def forward(self, {arguments}):",
                *done,
            ]
        )


@dataclass(frozen=True)
class Program:
    """Module classes, children first, of which the last is the model.

    ``same`` says that the first two inputs are one tensor, given twice.
    """

    seed: int
    scopes: tuple[Scope, ...]
    same: bool = False

    @property
    def main(self) -> Scope:
        return self.scopes[-1]

    def used_scopes(self) -> tuple[Scope, ...]:
        """The classes that the model is made of, children first."""
        used = {self.main.name}
        for scope in reversed(self.scopes):
            if scope.name in used:
                used |= {word for part in scope.used_parts() for word in re.findall(r"\bChild\d+", part.code)}
        return tuple(scope for scope in self.scopes if scope.name in used)

    def lines(self) -> Iterator[Line]:
        for scope in self.used_scopes():
            yield from scope.lines

    def size(self) -> int:
        """How many lines the forwards have, together."""
        return sum(1 for _ in self.lines())

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.used_scopes()))
