"""A traced piece as the analysis reads it: constants, ranks, aliases, writes.

The one edit made to the graph is a renaming: after ``y = x.add_(b)`` every later read of ``x`` reads ``y``, which is
the same object. From there on a name stands for one content, unless somebody writes through a view or from code that
cannot be seen; ``written_between`` answers for those.
"""

from __future__ import annotations

import bisect
import functools
from collections import defaultdict
from typing import Any

from torch import Tensor, fx, nn

from ..capture.kinds import builtin_type, is_builtin, updated_tensors
from ..capture.observe import Observation
from ..capture.piece import Piece, iterate, mapped
from ..capture.results import call_as_is
from ..capture.walk import find_tensor, named_tensors, place_of, tensors, walk_paths
from . import effects
from .constants import Constants
from .fills import fill_of, find_fills, in_place


class Program(Constants):
    """One piece: ``nodes`` in order, ``position`` of each, ``modules`` by path.

    ``assertions`` compute nothing for the output; ``targets`` are the operands that an operator may write to,
    ``seen`` tensors like the values of a run, without content; ``fills``, writes to the border of a pad; ``written``,
    the storages of the parameters and buffers that the program writes to, ``written_elsewhere``, that other code does.
    """

    def __init__(self, piece: Piece, observed: Observation | None = None) -> None:
        super().__init__()
        self.piece = piece
        self.modules = dict(walk_paths(piece.root))
        self.nodes = list(piece.graph.nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.assertions = effects.assertions(self.nodes)
        self.fills = find_fills(self.nodes, self.modules)
        views = {view for fill in self.fills.values() for view in fill.views}
        self.assertions |= views
        self.operators = [node for node in self.nodes if effects.makes_a_value(node) and node not in views]
        self._tensors: dict[str, Tensor | None] = dict(named_tensors(piece.root))
        self._rename_after_inplace()
        self._through_views: dict[fx.Node, list[fx.Node]] = {
            fill.base: [node] for node, fill in self.fills.items() if node not in fill.base.users
        }
        self.written_elsewhere: set[int] = set()
        self._alias = _Classes()
        self._writes: dict[fx.Node, list[int]] = {}
        self.targets: dict[fx.Node, list[fx.Node]] = {}
        self._find_aliases_and_writes()
        self.seen = observed.values(piece) if observed else {}
        self.ranks = _infer_ranks(self, observed.ranks(piece) if observed else {})

    # ------------------------------------------------------------------------------------------------------- look-up
    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a ``call_module`` node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def tensor(self, node: fx.Node) -> Tensor | None:
        """The tensor that a ``get_attr`` node reads."""
        path = str(node.target)
        if path not in self._tensors:
            self._tensors[path] = find_tensor(self.piece.root, path)
        return self._tensors[path]

    def describe(self, node: fx.Node) -> str:
        """The node in words that a user of the model knows: "BatchNorm2d 'layer1.bn'", "add in 'layer1'"."""
        if node.op == "call_module":
            path = self.path(str(node.target))
            return f"{type(self.module(node)).__name__} '{path}'"
        if node.op == "placeholder":
            return f"input '{node.target}'"
        if node.op == "get_attr":
            return f"'{self.path(str(node.target))}'"
        method = str(node.args[0].target) if node.target is call_as_is and isinstance(node.args[0], fx.Node) else ""
        name = method.rpartition(".")[2] or effects.name_of(node) or str(node.target)
        where = self.path(self.piece.where(node))
        return f"{name} in '{where}'" if where else f"{name} in forward"

    def place(self, node: fx.Node) -> str:
        """The path of the module that a node calls, or whose code it comes from."""
        return self.path(str(node.target) if node.op == "call_module" else self.piece.where(node))

    def path(self, inner: str) -> str:
        outer = self.piece.path
        return f"{outer}.{inner}" if outer and inner else outer or inner

    def keeps_state(self) -> bool:
        """Whether the program writes to a tensor that tracing made: run again, it would go on where it left off."""
        made = (n for n in self.nodes if n.op == "get_attr" and str(n.target).startswith("_tensor_constant"))
        return any(self.is_written(node) for node in made)

    # ------------------------------------------------------------------------------------------- aliases and mutation
    def aliases(self, node: fx.Node) -> list[fx.Node]:
        """Every node whose value may share memory with ``node``'s."""
        return self._alias.members(node)

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """The users of a node that do more than to assert something; a write through a view is one, too."""
        return [user for user in node.users if user not in self.assertions] + self._through_views.get(node, [])

    def is_written(self, node: fx.Node) -> bool:
        tensor = self.tensor(node) if node.op == "get_attr" and self.written_elsewhere else None
        elsewhere = tensor is not None and place_of(tensor) in self.written_elsewhere
        return elsewhere or bool(self._writes.get(self._alias.find(node)))

    def is_copy_to_write(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether ``node`` has the value of ``source``, but memory of its own, and somebody writes to one of them."""
        return self._alias.find(node) is not self._alias.find(source) and (
            self.is_written(node) or self.is_written(source)
        )

    def is_function(self, module: nn.Module) -> bool:
        """Whether a call of a module gives the same for the same input, with weights that stay what they are."""
        known = (builtin_type(module) or nn.Module) in effects.FUNCTIONS and module not in self.piece.opaque
        return known and not module.training and not self.writes_weights_of(module)

    def writes_weights_of(self, module: nn.Module) -> bool:
        """Whether the program, or other code, writes to a parameter or buffer that ``module`` computes with."""
        written = self.written | self.written_elsewhere
        return bool(written) and any(place_of(t) in written for t in tensors(module))

    def layout_decides(self, node: fx.Node) -> bool:
        """Whether it depends on how a value lies in memory who sees a write.

        Of what is a view of it, or else a copy, one side is written to, and after that the other one is read.
        """
        members = {*self.aliases(node)} if self.targets else set[fx.Node]()
        for copy in (n for n in members if effects.may_copy(n, self.module(n))):
            inner, waiting = {copy}, [copy]
            while waiting:
                new = [user for user in waiting.pop().users if user in members and user not in inner]
                inner.update(new)
                waiting += new
            outer = members - inner
            for writer, targets in self.targets.items():
                after = self.position[writer]
                for mine, other in ((inner, outer), (outer, inner)) if after > self.position[copy] else ():
                    read = any(self.position[user] > after for n in other for user in self.readers(n))
                    if read and not mine.isdisjoint(targets):
                        return True
        return False

    def written_between(self, node: fx.Node, start: fx.Node, end: fx.Node) -> fx.Node | None:
        """The first node after ``start`` and up to ``end`` that may write to ``node``'s memory."""
        writes = self._writes.get(self._alias.find(node), [])
        i = bisect.bisect_right(writes, self.position[start])
        return self.nodes[writes[i]] if i < len(writes) and writes[i] <= self.position[end] else None

    def _find_aliases_and_writes(self) -> None:
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        for node in inputs[1:]:  # a caller may pass one tensor twice
            self._alias.union(inputs[0], node)
        by_storage: dict[int, fx.Node] = {}
        written: list[tuple[int, fx.Node]] = []
        updated: set[int] = set()  # by norms in training mode, which are modules
        for node in self.nodes:
            tensor = self.tensor(node) if node.op == "get_attr" else None
            if tensor is not None:
                self._alias.union(by_storage.setdefault(place_of(tensor), node), node)
            elif node.op == "get_attr":  # a method: what one call of it gave, the next may give, or write to
                self._alias.union(by_storage.setdefault(-1, node), node)
        for node in self.operators:
            module = self.module(node)
            targets = effects.may_write(node, module)
            places = {place_of(t) for t in updated_tensors(module)} if module is not None else ()
            updated.update(places)
            written += [(self.position[node], by_storage[place]) for place in places if place in by_storage]
            if targets:
                self.targets[node] = targets
                written += [(self.position[node], target) for target in targets]
            for other in effects.may_alias(node, module, targets):
                self._alias.union(other, node)
        for i, target in written:
            self._writes.setdefault(self._alias.find(target), []).append(i)
        self.written = {place for place, n in by_storage.items() if self.is_written(n)} if written else set()
        self.written |= updated

    def _rename_after_inplace(self) -> None:
        """Let every read after an in-place operator read the operator's result."""
        latest: dict[fx.Node, list[tuple[int, fx.Node]]] = defaultdict(list)
        for node in self.operators:
            i, target = self.position[node], effects.updates_whole(node, self.module(node))
            if node in self.fills and in_place(node) and (fill := fill_of(node)) is not None:
                target = fill.base
            if target is not None:
                target.replace_all_uses_with(node, functools.partial(self._is_after, i))
                latest[target].append((i, node))
        if not latest:
            return

        def renamed(value: Any, at: int) -> Any:
            def name(node: fx.Node) -> fx.Node:
                while found := [n for i, n in latest.get(node, ()) if i < at]:
                    node = found[-1]
                return node

            return mapped(value, lambda leaf: fx.map_arg(leaf, name))

        for call in self.piece.calls:
            start, end = self.piece.span(call, self.position)
            call.args, call.kwargs = renamed((call.args, call.kwargs), start)
            call.output = renamed(call.output, end)
        self.fills = {node: fill for node in self.fills if (fill := fill_of(node)) is not None}

    def _is_after(self, position: int, node: fx.Node) -> bool:
        return self.position[node] > position


class _Classes:
    """Union-find over nodes."""

    def __init__(self) -> None:
        self.parent: dict[fx.Node, fx.Node] = {}
        self.lists: dict[fx.Node, list[fx.Node]] = {}

    def find(self, node: fx.Node) -> fx.Node:
        while (up := self.parent.get(node, node)) is not node:
            self.parent[node] = self.parent.get(up, up)
            node = up
        return node

    def union(self, a: fx.Node, b: fx.Node) -> None:
        a, b = self.find(a), self.find(b)
        if a is b:
            return
        mine, its = self.lists.pop(a, [a]), self.lists.pop(b, [b])
        if len(mine) < len(its):
            a, b, mine, its = b, a, its, mine
        mine.extend(its)
        self.parent[b] = a
        self.lists[a] = mine

    def members(self, node: fx.Node) -> list[fx.Node]:
        root = self.find(node)
        return self.lists.get(root, [root])


def _infer_ranks(program: Program, ranks: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """The number of spatial axes of each value, where it was observed or an operator on it tells."""
    same: list[tuple[fx.Node, fx.Node]] = []
    for node in program.nodes:
        tensor = program.tensor(node) if node.op == "get_attr" else None
        if tensor is not None:
            ranks.setdefault(node, tensor.dim() - 2)
    for node in program.operators:
        module = program.module(node)
        rank = effects.spatial_rank(node, builtin_type(module) if module is not None else None)
        operands = list(iterate(node.args[:1]))
        if rank is not None:
            batched = all(ranks.get(value) != rank - 1 for value in (node, *operands))
            for value in (node, *operands):
                ranks.setdefault(value, rank if batched else rank - 1)
            continue
        if node not in ranks and (reshaped := effects.reshaped_rank(node, module, ranks)) is not None:
            ranks[node] = reshaped
        if operands and effects.keeps_rank(node, module if module is not None and is_builtin(module) else None):
            same.append((operands[0], node))
            if operands[0] in ranks:
                ranks.setdefault(node, ranks[operands[0]])
    for before, after in reversed(same):
        if after in ranks:
            ranks.setdefault(before, ranks[after])
    return ranks
