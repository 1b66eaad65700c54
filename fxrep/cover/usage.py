"""Who else uses a module: how often it is called, whether its weights are read, whether unseen code may call it."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from ..analysis.program import Program
from ..capture.code import (
    asks_for_types,
    classes_run_by,
    entry_chains,
    entry_points,
    entry_values,
    loaded_names,
    reachable_names,
    touched_names,
)
from ..capture.piece import Call, Piece
from ..capture.walk import join, module_at, modules_in, tensors, walk_paths

LISTS = {"children", "named_children", "_modules"}
# by which code reaches, or changes, any module inside another
WALKS = {
    "modules", "named_modules", "get_submodule", "get_parameter", "get_buffer", "train", "load_state_dict",
    "functional_call",
}  # fmt: skip


class Usage:
    """Who else uses a module: how often it is called, whether its weights are read, whether unseen code may call it."""

    def __init__(self, programs: list[Program], opaque: dict[str, nn.Module], model: nn.Module) -> None:
        self.model = model
        self.times: Counter[nn.Module] = Counter()
        self.ordinal: dict[fx.Node, int] = {}
        self.read: set[int] = set()
        self.walked: set[nn.Module] = set()
        self.looked: set[nn.Module] = set()
        self.asking: dict[type[nn.Module], bool] = {}
        self.own: dict[Call, list[fx.Node]] = defaultdict(list)
        paths: dict[nn.Module, list[str]] = defaultdict(list)
        for path, module in walk_paths(model) if opaque else ():
            paths[module].append(path)
        self.names = {path: several for several in paths.values() if len(several) > 1 for path in several}
        self.unseen = {path: Unseen.of(module) for path, module in opaque.items()}
        for program in programs:
            piece = program.piece
            self.times.update(call.module for call in piece.calls)
            self.walked.update(*(call.walked for call in piece.calls))
            self.looked.update(*(call.looked | call.typed for call in piece.calls))
            for node in program.nodes:
                own = self.own[piece.call_of[node]]
                self.ordinal[node] = len(own)
                own.append(node)
                if node.op == "call_module":
                    self.times[program.modules[str(node.target)]] += 1
                elif node.op == "get_attr" and node.users:
                    self.read.add(id(program.tensor(node)))

    def key(self, piece: Piece, node: fx.Node) -> object:
        """The same for the same operator in two calls of one module that do the same."""
        call = piece.call_of[node]
        if self.times[call.module] == 1:
            return call, self.ordinal[node]
        does = tuple((n.op, str(n.target)) for n in self.own[call])
        order: dict[fx.Node, int] = {}  # which of the values that it is given are the same
        given = str(fx.map_arg((call.args, call.kwargs), lambda n: order.setdefault(n, len(order))))
        return call.module, self.ordinal[node], does, given

    def replaceable(self, piece: Piece, node: fx.Node, twins: int) -> bool:
        """Whether the module that ``node`` calls can become another one, when ``twins`` of its calls are edited."""
        module = module_at(piece.root, str(node.target))
        alone = self.times[module] == twins and self.read.isdisjoint(map(id, tensors(module)))
        return alone and not self.pinned(join(piece.path, str(node.target)))

    def pinned(self, path: str) -> bool:
        """Whether code that could not be traced may reach into the model and call the module at ``path``."""
        return any(code.reaches(steps) for code, steps in self._around(path))

    def ways_to(self, path: str) -> list[tuple[str, frozenset[tuple[str, str]]]]:
        """The methods, beside forward, of modules farther out that go to ``path`` step by step: ``self.a[0].b``."""
        steps, outer, found = path.split("."), "", []
        last = next((step for step in reversed(steps) if not step.isdigit()), "")
        for i in range(len(steps) - 1) if last in self._ends else ():  # which is rare, and quick to see
            outer = join(outer, steps[i - 1]) if i else ""
            names = [step for step in steps[i:] if not step.isdigit()]
            ways = entry_chains(type(module_at(self.model, outer))) if len(names) > 1 else ()
            found += [(outer, chains) for chains in ways if set(pairwise(names)) <= chains]
        return found

    def items_on(self, path: str) -> list[str]:
        """The modules on a path that a method, beside forward, of a module farther out comes by one by one."""
        steps, found = path.split("."), []
        for i, (step, _) in enumerate(pairwise(steps)):
            if step in self._values and step in entry_values(type(module_at(self.model, ".".join(steps[:i])))):
                found.append(".".join(steps[: i + 2]))
        return found

    @functools.cached_property
    def _values(self) -> set[str]:
        kinds = {type(module) for module in modules_in(self.model)}
        return set[str]().union(*map(entry_values, kinds))

    @functools.cached_property
    def _ends(self) -> set[str]:
        kinds = {type(module) for module in modules_in(self.model)}
        return {end for kind in kinds for chains in entry_chains(kind) for _, end in chains}

    def asks_for_types(self, module: nn.Module) -> bool:
        """Whether the code of a module that was traced asks for the class of something."""
        kind = type(module)
        if kind not in self.asking:
            self.asking[kind] = asks_for_types(module)
        return self.asking[kind]

    def called(self, path: str) -> bool:
        """Whether such code may call the module at ``path``, by the names in its text."""
        return any(code.reaches(steps, by_name=False) for code, steps in self._around(path))

    def touches(self, path: str) -> bool:
        """Whether such code may do more with the module at ``path``, which it mentions, than to call it."""
        name = path.rpartition(".")[2]
        return any(code.touches(name) and code.reaches(steps) for code, steps in self._around(path))

    def told_apart(self, path: str) -> bool:
        """Whether such code may ask for the class of the module at ``path``."""
        return any(code.asks_for_types and code.reaches(steps) for code, steps in self._around(path))

    def run_by_class(self, module: nn.Module) -> bool:
        """Whether such code may run the forward of its class on ``module``: ``Block.forward(self.block, x)``."""
        return any(isinstance(module, tuple(code.classes)) for code in self.unseen.values())

    def listed(self, path: str, module: nn.Module) -> bool:
        """Whether such code may come by a child that is new in ``module``, at ``path``."""
        new = "0" if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) else "merged"
        return any(code.reaches(steps, new=True) for code, steps in self._around(join(path, new)))

    def _around(self, path: str) -> Iterator[tuple[Unseen, list[str]]]:
        """The code that could not be traced and is around ``path``, under whatever name, with the steps from there."""
        for name in self.names.get(path, (path,)):
            for outer, code in self.unseen.items():
                if not outer or name.startswith(f"{outer}."):
                    yield code, name.removeprefix(outer).strip(".").split(".")


@dataclass(frozen=True)
class Unseen:
    """What code that could not be traced may do with the modules in it, as far as the names in it tell.

    ``touched`` are names of what it reads something off, or sets; ``loaded``, of what it does more with than to call
    it: it may come by its items; ``classes``, those whose forward it mentions.
    """

    names: set[str]
    touched: set[str]
    loaded: set[str]
    asks_for_types: bool
    classes: frozenset[type[nn.Module]]

    @classmethod
    def of(cls, module: nn.Module) -> Unseen:
        others = set[str]().union(*entry_points(type(module))) - LISTS - WALKS  # such as those that set weights
        touched = touched_names(module)
        names, loaded = reachable_names(module) | others | touched, loaded_names(module)
        return cls(names, touched, loaded, asks_for_types(module), classes_run_by(module))

    def touches(self, name: str) -> bool:
        """Whether it may do more with a module of this name than to call it."""
        return name in self.touched or not self.names.isdisjoint(WALKS)

    def reaches(self, steps: list[str], new: bool = False, by_name: bool = True) -> bool:
        """Whether it may come by the module at ``steps`` from it: each is a name that it mentions, or a number.

        One more step may have a name made at run time, if there is code for that and it counts (``by_name``); a
        ``new`` module cannot be named. Code that does no more with what has a name than to call it, gets at no item.
        """
        if not self.names.isdisjoint(WALKS):
            return True
        others = sum(not step.isdigit() and step not in self.names for step in steps)
        made = by_name and not self.names.isdisjoint(LISTS if new else LISTS | {"getattr"})
        items = [of for of, step in pairwise(steps) if step.isdigit() and not of.isdigit()]
        loads = not self.names.isdisjoint(LISTS | {"getattr"}) or self.loaded.issuperset(items)
        return others <= made and loads
