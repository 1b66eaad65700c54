"""What a trace gives: a graph, and which call of which module made each of its nodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx, nn

from .state import State


@dataclass(eq=False)
class Call:
    """One call of a module that was traced through: who called it, with what, and what came out.

    ``absent`` are the parameters and the like that its code looked at and found to be None; ``reads``, the plain values
    that it read off modules, and ``held``, the lists, tensors and the like; ``walked``, other modules whose children it
    counted or went through; ``looked``, children of others that it looked at, and did not call, ``typed``, modules
    whose class it asked for, ``tensors``, values of which it asked that; ``modes``, those
    of torch's that it entered; ``guessed`` says that it asked a symbol for
    its value, which raises an error, and may have caught the error; ``changes``, that it changed a list or dictionary
    that it was given; ``state`` is what was there before, while it is traced.
    """

    module: nn.Module
    path: str
    parent: Call | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    absent: set[str] = field(default_factory=set)
    reads: dict[tuple[nn.Module, str], Any] = field(default_factory=dict)
    held: dict[tuple[nn.Module, str], Any] = field(default_factory=dict)
    walked: set[nn.Module] = field(default_factory=set)
    looked: set[nn.Module] = field(default_factory=set)
    typed: set[nn.Module] = field(default_factory=set)
    tensors: set[fx.Node] = field(default_factory=set)
    modes: set[str] = field(default_factory=set)
    guessed: bool = False
    changes: bool = False
    state: State | None = None
    after: fx.Node | None = None
    last: fx.Node | None = None

    def inside(self, other: Call) -> bool:
        """Whether this call is ``other`` or was made, directly or not, by it."""
        call: Call | None = self
        while call is not None and call is not other:
            call = call.parent
        return call is other


@dataclass(eq=False)
class Piece:
    """A module that was traced as one graph: ``root`` is it, ``path`` its place in the model.

    ``taken`` are names that nothing new may have; ``kept``, nodes whose values somebody outside the graph refers to;
    ``asked``, parameters that a condition depends on.
    """

    path: str
    root: nn.Module
    graph: fx.Graph
    calls: list[Call]
    call_of: dict[fx.Node, Call]
    opaque: dict[nn.Module, str]
    taken: set[str] = field(default_factory=set)
    kept: set[fx.Node] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    children: dict[Call, list[Call]] = field(default_factory=dict)  # of a call: not a part of it, for the collector
    flat: ClassVar[bool] = False  # whether the graph is all there is: no module has a forward of its own

    def __post_init__(self) -> None:
        for call in self.calls:
            if call.parent is not None:
                self.children.setdefault(call.parent, []).append(call)

    def where(self, node: fx.Node) -> str:
        """The path of the module whose code a node comes from."""
        return self.call_of[node].path

    def span(self, call: Call, position: dict[fx.Node, int]) -> tuple[int, int]:
        """Positions of the first node of ``call`` and of the first node after it."""
        start = position[call.after] + 1 if call.after in position else 0
        end = position[call.last] + 1 if call.last in position else start
        return start, max(start, end)


def iterate(value: Any) -> Iterator[fx.Node]:
    """Every node inside a nest of tuples, lists, dicts and slices."""
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)  # type: ignore[arg-type, unused-ignore]
    yield from found


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A nest of tuples, lists and dicts with ``leaf`` of what it holds; a dictionary that is ordered stays one."""
    if type(value) in (tuple, list):  # subclasses, such as named tuples, are not what they hold
        return type(value)(mapped(item, leaf) for item in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, mapped(item, leaf)) for key, item in value.items())
    return leaf(value)
