"""What nothing computes with any more once a plan is carried out: modules, parameters and buffers, by path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from ..analysis.program import Program
from ..capture.code import entry_points, reachable_names
from ..capture.piece import Call, Piece
from ..capture.scopes import Edits
from ..capture.walk import join, module_at, modules_in, named_tensors, tensors


@dataclass
class Liveness:
    """Collects, program by program, what still runs and what ran and does not any more."""

    live: set[nn.Module] = field(default_factory=set)
    dead: dict[nn.Module, str] = field(default_factory=dict)
    live_tensors: set[int] = field(default_factory=set)
    read_tensors: set[int] = field(default_factory=set)
    dead_tensors: dict[int, str] = field(default_factory=dict)

    def add(self, program: Program, edits: Edits, rewritten: Collection[Call]) -> None:
        """Take a program with its edits into account; ``rewritten`` calls get a forward without what vanishes."""
        piece, anew = program.piece, {call.module for call in rewritten}
        vanished = _dead_calls(program, edits, anew)
        for call in piece.calls:
            self._module(call.module, join(piece.path, call.path), call in vanished)
            if call.module not in anew:  # its code stays, and looks for them again
                self.live.update(call.looked | call.typed)
        for node in program.nodes:
            call = piece.call_of[node]
            gone = node in edits.gone and (call in vanished or call.module in anew)  # a forward that stays runs it
            module = program.module(node)
            if module is not None:
                dropped = gone or node in edits.sites or (node in edits.passing and call in rewritten)
                self._module(module, join(piece.path, str(node.target)), dropped)
                if not dropped:
                    self.live_tensors.update(map(id, tensors(module)))
            tensor = program.tensor(node) if node.op == "get_attr" else None
            if tensor is not None and gone:
                self.dead_tensors[id(tensor)] = join(piece.path, str(node.target))
            elif tensor is not None and node.users:
                self.live_tensors.add(id(tensor))
                self.read_tensors.add(id(tensor))

    def _module(self, module: nn.Module, path: str, dead: bool) -> None:
        if dead:
            self.dead[module] = path
        else:
            self.live.add(module)

    def _is_used(self, module: nn.Module) -> bool:
        """Whether something in a module still runs, or a weight in it is read."""
        return any(m in self.live for m in modules_in(module)) or any(
            id(t) in self.read_tensors for t in tensors(module)
        )

    def removals(self, rewritten: dict[str, nn.Module], pinned: Callable[[str], bool]) -> list[str]:
        """Paths of modules and tensors to take out, outermost first.

        What is dead is taken out of a module whose forward is ``rewritten`` and does not use it any more, unless other
        code that stays may: a method that the old forward went through, or code around it that ``pinned`` it.
        """
        removed: dict[str, None] = {}
        names: dict[str, set[str]] = {}

        def named(owner: str, path: str) -> bool:
            if owner not in names:
                names[owner] = reachable_names(rewritten[owner], but_forward=True)
                names[owner] = names[owner].union(*entry_points(type(rewritten[owner])))
            return path.removeprefix(owner).strip(".").split(".")[0] in names[owner]

        def stays(owner: str, path: str) -> bool:
            return any(pinned(p) for p in (path, *_prefixes(path)) if len(p) > len(owner))

        def owner_of(path: str) -> str | None:
            return next((p for p in _prefixes(path) if p in rewritten), None)

        for module, path in sorted(self.dead.items(), key=lambda item: item[1].count(".")):
            if any(outer in removed for outer in _prefixes(path)) or self._is_used(module):
                continue
            owner = owner_of(path)
            if owner is not None and not stays(owner, path) and not named(owner, path):
                removed[path] = None
        removed |= dict.fromkeys(self._emptied(removed, rewritten))
        removed = {path: None for path in removed if not any(outer in removed for outer in _prefixes(path))}
        tensors = [path for key, path in self.dead_tensors.items() if key not in self.live_tensors and not pinned(path)]
        owners = {path: owner_of(path) for path in tensors}
        tensors = [p for p, owner in owners.items() if owner is None or not (stays(owner, p) or named(owner, p))]
        return [*removed, *(t for t in tensors if not any(outer in removed for outer in _prefixes(t)))]

    def _emptied(self, removed: Collection[str], rewritten: dict[str, nn.Module]) -> Iterator[str]:
        """Lists of modules of which every entry is removed."""
        for path in dict.fromkeys(path.rpartition(".")[0] for path in removed):
            owner = next((p for p in (path, *_prefixes(path)) if p in rewritten), None)
            if owner is None or owner == path:
                continue
            inner = module_at(rewritten[owner], path.removeprefix(owner).strip("."))
            if isinstance(inner, nn.ModuleList) and all(join(path, name) in removed for name in inner._modules):
                yield path


def dead_tensors(model: nn.Module, replaced: Iterable[str]) -> list[Tensor]:
    """The parameters and buffers that ``model`` holds at or under the paths in ``replaced`` and nowhere else."""
    gone = set(replaced)
    kept: set[int] = set()
    found: list[Tensor] = []
    for name, tensor in named_tensors(model):
        if name in gone or any(outer in gone for outer in _prefixes(name)):
            found.append(tensor)
        else:
            kept.add(id(tensor))
    return [tensor for tensor in found if id(tensor) not in kept]


def _prefixes(path: str) -> Iterator[str]:
    """The paths of the modules around ``path``, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _dead_calls(program: Program, edits: Edits, anew: Collection[nn.Module]) -> set[Call]:
    """Calls of which nothing is computed any more, made by modules whose forward is ``anew``."""
    piece: Piece = program.piece
    idle: set[fx.Node] = edits.gone.keys() | edits.droppable
    dead: set[Call] = set()
    for call in piece.calls:
        inside = program.nodes[slice(*piece.span(call, program.position))]
        some = any(n in edits.gone for n in inside)
        made_anew = call.parent is not None and call.parent.module in anew
        if call.parent in dead or (made_anew and some and all(n in idle for n in inside)):
            dead.add(call)
    return dead
