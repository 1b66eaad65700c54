"""Grows one module class line by line, and knows the shape of every value in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.fuzz.program import Line, Part, Scope, Shape

T = TypeVar("T")

MOST_NUMBERS = 3000  # in one value; larger ones are not grown further
MOST_CHANNELS = 9


@dataclass(frozen=True)
class Value:
    """A tensor that later lines can use. ``writable``: it shares no memory with a parameter, nor with itself."""

    name: str
    shape: Shape
    writable: bool = True

    @property
    def rank(self) -> int:
        """The number of spatial axes, if it is a batch of images."""
        return len(self.shape) - 2

    @property
    def is_image(self) -> bool:
        return 1 <= self.rank <= 3


@dataclass
class Builder:
    """What a generator adds to: values, parts, lines. ``names`` counts over all classes of a program."""

    rng: random.Random
    name: str
    depth: int = 0
    classes: list[Scope] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    focus: list[Value] = field(default_factory=list)
    callable: list[tuple[str, tuple[Shape, ...], tuple[Shape, ...]]] = field(default_factory=list)

    # -------------------------------------------------------------------------------------------------------- choices
    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def pick(self, fits: Callable[[Value], bool] = lambda value: True) -> Value | None:
        """A value that ``fits``: one of those in focus, a recent one, or any."""
        for candidates, probability in ((self.focus, 0.6), (self.values[-5:], 0.75), (self.values, 1.0)):
            fitting = [value for value in candidates if fits(value)] if self.chance(probability) else []
            if fitting:
                return self.choose(fitting)
        return None

    def pick_image(self) -> Value | None:
        return self.pick(lambda value: value.is_image)

    def pick_writable(self) -> Value | None:
        return self.pick(lambda value: value.writable)

    # -------------------------------------------------------------------------------------------------------- growing
    def argument(self, shape: Shape) -> Value:
        value = Value(f"{'x' if self.name == 'Model' else 'a'}{len(self.inputs)}", shape)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def emit(self, code: str, args: Sequence[Value], *shapes: Shape, writable: bool = True) -> list[Value]:
        """Add a line that names values of these shapes."""
        first = len(self.values)
        new = [Value(f"v{first + i}", shape, writable) for i, shape in enumerate(shapes)]
        self.values += new
        outs = tuple(value.name for value in new)
        self.lines.append(Line(code, tuple(a.name for a in args), outs, tuple(shapes)))
        return new

    def value(self, expression: str, args: Sequence[Value], shape: Shape, writable: bool = True) -> Value:
        """Add ``v = expression``."""
        return self.emit("{o0} = " + expression, args, shape, writable=writable)[0]

    def view(self, expression: str, x: Value, shape: Shape) -> Value:
        """Add ``v = expression``, which may share memory with ``x``."""
        return self.value(expression, [x], shape, x.writable)

    def statement(self, code: str, args: Sequence[Value]) -> None:
        self.emit(code, args)

    def part(self, kind: str, code: str) -> str:
        """Add a module, parameter or buffer; returns how forward spells it."""
        prefix = {"module": "m", "parameter": "p", "buffer": "b"}[kind]
        name = f"{prefix}{len(self.parts)}"
        self.parts.append(Part(kind, name, code))
        return f"self.{name}"

    def parameter(self, shape: Shape) -> str:
        return self.part("parameter" if self.chance(0.7) else "buffer", f"torch.randn({shape})")

    def call(self, module: str, args: Sequence[Value], *shapes: Shape) -> list[Value]:
        """Call a new module, in one of the ways to spell it, and remember it for more calls."""
        attribute = self.part("module", module)
        self.callable.append((attribute, tuple(a.shape for a in args), shapes))
        return self.call_again(attribute, args, shapes)

    def call_again(self, attribute: str, args: Sequence[Value], shapes: Sequence[Shape]) -> list[Value]:
        outs = ", ".join(f"{{o{i}}}" for i in range(len(shapes)))
        named = "Child" in self.code_of(attribute) and self.chance(0.2)
        gaps = ", ".join(f"{f'a{i}=' if named else ''}{{{i}}}" for i in range(len(args)))
        return self.emit(f"{outs} = {attribute}({gaps})", args, *shapes, writable=all(a.writable for a in args))

    def code_of(self, attribute: str) -> str:
        return next((part.code for part in self.parts if f"self.{part.name}" == attribute), "")

    def finish(self, result: Line) -> Scope:
        inputs = tuple((value.name, value.shape) for value in self.inputs)
        return Scope(self.name, inputs, tuple(self.parts), tuple(self.lines), result)


def shape_text(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def numbers(shape: Shape) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
