"""From the edited flat graph back to one module's own forward.

A module's *scope* is what its forward does: its own operators, and calls of its children. ``build`` folds the part of
the flat graph that belongs to one call of the module into such a graph, with the edits in place.
"""

from __future__ import annotations

import inspect
import keyword
import operator
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..convmap import Illegal
from .code import asks, forward_parameters
from .piece import Call, Piece, iterate
from .walk import first_paths, join, module_at, named_tensors


@dataclass
class Edits:
    """What becomes of nodes of the flat graph.

    ``sites``: computed anew, as the sum of (name of a new child module or None, source, factor);
    those ``joined``, side by side along an axis instead. ``passing``: replaced
    by an operand. ``gone``: not computed, because of a site in the given call (None: nothing reads it any more).
    ``droppable``: not needed where its operands are gone. ``aliases``: the nodes that pass a node's value on.
    ``versions``: writes that stand for the value that they write to.
    """

    sites: dict[fx.Node, list[tuple[str | None, fx.Node, float]]] = field(default_factory=dict)
    joined: dict[fx.Node, int] = field(default_factory=dict)
    passing: dict[fx.Node, fx.Node] = field(default_factory=dict)
    gone: dict[fx.Node, Call | None] = field(default_factory=dict)
    droppable: set[fx.Node] = field(default_factory=set)
    aliases: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    versions: dict[fx.Node, fx.Node] = field(default_factory=dict)


@dataclass
class Scope:
    """A module's own graph, the values that arguments were traced with, and tensors that the graph brings along.

    ``modules`` are those inside it, with their paths; ``tensors``, the arguments of which the code asked whether they
    are tensors, and ``present``, whether they are None; ``replaced``, the calls whose code the graph stands for: that
    of the module, and of children it does not call.
    """

    graph: fx.Graph
    guards: dict[str, Any]
    constants: dict[str, Tensor]
    modules: dict[nn.Module, str]
    tensors: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    replaced: list[Call] = field(default_factory=list)

    def reads(self) -> dict[tuple[str, str], Any]:
        """The plain values that the replaced code read, by the path of a module inside this one and a name."""
        paths = self.modules
        reads = (read for call in self.replaced for read in call.reads.items())
        return {(paths[module], name): value for (module, name), value in reads if module in paths}

    def passes_on(self, module: nn.Module) -> bool:
        """Whether the graph, run as the forward of ``module``, hands its only argument on and does nothing else."""
        *_, output = self.graph.nodes
        node = output.args[0]
        while isinstance(node, fx.Node) and node.op == "call_module":
            if not isinstance(module_at(module, str(node.target)), nn.Identity):
                return False
            node = node.args[0]
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        return inputs == [node]


def build(piece: Piece, call: Call, edits: Edits, nodes: list[fx.Node], position: dict[fx.Node, int]) -> Scope:
    """Fold ``call`` into a graph of its module; ``nodes`` are the piece's, ``position`` the place of each.

    Raises:
        Illegal: a value is needed that does not enter the module by its arguments, or leaves it unseen.
    """
    return _Builder(piece, call, edits, nodes, position).build()


class _Builder:
    def __init__(
        self, piece: Piece, call: Call, edits: Edits, nodes: list[fx.Node], position: dict[fx.Node, int]
    ) -> None:
        self.piece, self.call, self.edits = piece, call, edits
        self.all_nodes, self.position = nodes, position
        self.nodes = self.all_nodes[slice(*piece.span(call, position))]
        self.graph = fx.Graph()
        self.values: dict[fx.Node, fx.Node] = {}
        self.called: set[Call] = set()
        self.modules = first_paths(call.module)
        self.scope = Scope(self.graph, {}, {}, self.modules)
        self.tensors = {id(tensor): name for name, tensor in named_tensors(call.module)}

    def build(self) -> Scope:
        if self.call.changes:
            raise Illegal(f"forward of '{self.call.path}' changes a list or dictionary that it is given")
        self._bind_arguments()
        seen: set[Call] = set()
        for node in self.nodes:
            child = self._child(self.piece.call_of[node])
            if child is None:
                self._own(node)
            elif child not in seen:
                seen.add(child)
                self._call_child(child)
        if not _is_plain(self.call.output):
            raise Illegal(f"'{self.call.path or 'the model'}' returns an object that its graph cannot make")
        self.graph.output(self._made(self.call.output))
        for node in reversed(self.graph.nodes):
            if not node.users and (node.op == "get_attr" or node in self._extracted):
                self.graph.erase_node(node)
        self.scope.replaced = self._replaced(self.call)
        self.scope.tensors = self._arguments_of(call.tensors for call in self.scope.replaced)
        self.scope.present = self._arguments_of(map(_not_none, self.scope.replaced))
        return self.scope

    def _arguments_of(self, nodes: Iterable[set[fx.Node]]) -> list[str]:
        asked = set[fx.Node]().union(*nodes)
        return [name for name, value in self.scope.guards.items() if isinstance(value, fx.Node) and value in asked]

    def _replaced(self, call: Call) -> list[Call]:
        """``call``, and those inside of it that the new graph does not make."""
        inner = (child for child in self.piece.children.get(call, ()) if child not in self.called)
        return [call, *(c for child in inner for c in self._replaced(child))]

    def _bind_arguments(self) -> None:
        self._extracted: set[fx.Node] = set()
        parameters = forward_parameters(self.call.module)
        signature = inspect.Signature(list(parameters.values()))
        try:
            bound = signature.bind(*self.call.args, **self.call.kwargs).arguments
        except TypeError as error:
            raise Illegal(f"the arguments of '{self.call.path}' do not fit its forward: {error}") from None
        handed = list(iterate((self.call.args, self.call.kwargs)))
        if len(set(handed)) < len(handed):
            raise Illegal(f"'{self.call.path}' is handed one value twice, and its forward would be that of this call")
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise Illegal(f"forward of '{self.call.path}' takes {parameter}")
            value = bound.get(name, parameter.default)
            default = parameter.default
            if default is parameter.empty:
                outer = self.graph.placeholder(name)
            elif default is None or type(default) in (bool, int, float, str) or isinstance(default, Enum):
                outer = self.graph.placeholder(name, default_value=default)
            else:
                raise Illegal(f"forward of '{self.call.path}' has an argument {parameter}")
            self.scope.guards[name] = value
            self._extract(value, outer)

    def _extract(self, value: Any, outer: fx.Node) -> None:
        """Let the nodes inside ``value`` be read from ``outer``, which has its structure."""
        if isinstance(value, fx.Node):
            self.values.setdefault(value, outer)
        elif isinstance(value, tuple | list | dict):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if list(iterate(item)):
                    inner = self.graph.call_function(operator.getitem, (outer, key))
                    self._extracted.add(inner)
                    self._extract(item, inner)

    def _child(self, owner: Call) -> Call | None:
        """The direct child of this call that ``owner`` is, or is inside of; None if it is this call itself."""
        while owner is not self.call:
            if owner.parent is self.call:
                return owner
            if owner.parent is None:
                raise Illegal(f"forward of '{self.call.path}' is entered from outside")
            owner = owner.parent
        return None

    def _own(self, node: fx.Node) -> None:
        edits = self.edits
        if node.op in ("placeholder", "output") or node in edits.gone:
            return
        if node in edits.sites:
            self.values[node] = self._sum(edits.sites[node], edits.joined.get(node))
        elif node in edits.passing:
            self.values[node] = self._value(edits.passing[node])
        elif node in edits.droppable and any(n not in self.values for n in node.all_input_nodes):
            return
        else:
            args, kwargs = self._map(node.args), self._map(dict(node.kwargs))
            # a name of its own: blocks that are alike get the same code, whatever the whole calls their values
            self.values[node] = self.graph.create_node(node.op, self._target(node), args, kwargs, type_expr=node.type)
            self.values[node].meta = {k: v for k, v in node.meta.items() if k in ("stack_trace", "tensor_meta", "val")}
            if node in edits.versions:
                self.values[node] = self._value(edits.versions[node])

    def _call_child(self, child: Call) -> None:
        edits = self.edits
        inside = self.all_nodes[slice(*self.piece.span(child, self.position))]
        vanishing = [n for n in inside if n in edits.gone]
        if vanishing and all(n in edits.gone or n in edits.droppable for n in inside):
            return
        if any(edits.gone[n] is self.call for n in vanishing):
            raise Illegal(f"part of '{child.path}' would be merged, and part of it stays")
        args, kwargs = tuple(map(self._made, child.args)), {k: self._made(v) for k, v in child.kwargs.items()}
        result = self.graph.call_module(self._path(child.module), args, kwargs)
        self.called.add(child)
        self._extract(child.output, result)

    def _sum(self, summands: list[tuple[str | None, fx.Node, float]], dim: int | None) -> fx.Node:
        """The sum of ``factor * module(source)``, the first with factor 1; or all of them along axis ``dim``."""
        if dim is not None:
            values = [self.graph.call_module(module, (self._value(x),)) for module, x, _ in summands if module]
            return self.graph.call_function(torch.cat, (values, dim))
        total: fx.Node | None = None
        for module, source, factor in summands:
            value = self._value(source)
            if module is not None:
                value = self.graph.call_module(module, (value,))
            elif factor not in (1, -1):
                value = self.graph.call_function(operator.mul, (value, factor))
            if total is None:
                total = value
            else:
                total = self.graph.call_function(operator.sub if factor == -1 else operator.add, (total, value))
        assert total is not None
        return total

    def _target(self, node: fx.Node) -> Any:
        if node.op == "call_module":
            return self._path(module_at(self.piece.root, str(node.target)))
        if node.op != "get_attr":
            return node.target
        value: Any = self.piece.root
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, nn.Module):
            return self.modules[value]
        if isinstance(value, MethodType) and value.__self__ in self.modules:
            return join(self.modules[value.__self__], str(node.target).rpartition(".")[2])
        if id(value) in self.tensors:
            return _writable(self.tensors[id(value)])
        if not isinstance(value, Tensor):
            raise Illegal(f"'{self.call.path}' holds a {type(value).__name__} that its graph refers to")
        name = f"constant_{len(self.scope.constants)}"
        self.scope.constants[name] = value
        return name

    def _path(self, module: nn.Module) -> str:
        """The path of a module inside this one."""
        if module not in self.modules:
            raise Illegal(f"'{self.call.path}' calls a module that is not inside it")
        return _writable(self.modules[module])

    def _map(self, value: Any) -> Any:
        return fx.map_arg(value, self._value)

    def _made(self, value: Any) -> Any:
        """What is handed on or returned; a graph knows an ordered dictionary only as what a call makes."""
        if type(value) is OrderedDict:
            return self.graph.call_function(OrderedDict, ([(key, self._made(item)) for key, item in value.items()],))
        if type(value) is dict:
            return {key: self._made(item) for key, item in value.items()}
        return type(value)(map(self._made, value)) if type(value) in (list, tuple) else self._map(value)

    def _value(self, node: fx.Node) -> fx.Node:
        for name in (node, *self.edits.aliases.get(node, ())):
            if name in self.values:
                return self.values[name]
        raise Illegal(f"a value that '{self.call.path or 'the model'}' needs is not handed to it")


def _not_none(call: Call) -> set[fx.Node]:
    """The arguments of a call that were not None, of which its code may ask that."""
    found = asks(call.module)
    given = dict(zip(forward_parameters(call.module), call.args, strict=False)) | call.kwargs
    values = (value for name, value in given.items() if found.results or name in found.nones)
    return {value for value in values if isinstance(value, fx.Node)}


def _writable(path: str) -> str:
    """A path, of which fx must be able to write each name into code."""
    for name in path.split("."):
        if keyword.iskeyword(name) or any(letter in name for letter in '"\\\n'):
            raise Illegal(f"no forward can mention '{path}': its name has a meaning in Python")
    return path


def _is_plain(value: Any) -> bool:
    """Whether a value is made of nodes, numbers, strings, and tuples, lists and dictionaries of those."""
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    if type(value) in (dict, OrderedDict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, fx.Node) or type(value) in (bool, int, float, str)
