"""What nothing computes with any more once a plan is carried out: modules, parameters and buffers, by path."""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, fx, nn

from ..analysis.program import Program
from ..capture.clone import ATOMIC, STANDARD
from ..capture.scopes import Edits
from ..capture.tracer import Call, Piece, join
from ..capture.walk import named_tensors, tensors, walk

T = TypeVar("T")

DATA = ATOMIC - {type, FunctionType}


@dataclass
class Liveness:
    """Collects, program by program, what still runs and what ran and does not any more."""

    live: set[nn.Module] = field(default_factory=set)
    dead: dict[nn.Module, str] = field(default_factory=dict)
    live_tensors: set[int] = field(default_factory=set)
    read_tensors: set[int] = field(default_factory=set)
    dead_tensors: dict[int, str] = field(default_factory=dict)

    def add(self, program: Program, edits: Edits, rewritten: Iterable[Call]) -> None:
        """Take a program with its edits into account; ``rewritten`` calls get a forward without what vanishes."""
        piece, rewritten = program.piece, set(rewritten)
        vanished = _dead_calls(program, edits)
        for call in piece.calls:
            self._module(call.module, join(piece.path, call.path), call in vanished)
        for node in program.nodes:
            gone = node in edits.gone
            module = program.module(node)
            if module is not None:
                dropped = gone or node in edits.sites or (node in edits.passing and piece.call_of[node] in rewritten)
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
        return any(m in self.live for _, m in walk(module)) or any(id(t) in self.read_tensors for t in tensors(module))

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

        for module, path in sorted(self.dead.items(), key=lambda item: item[1].count(".")):
            if any(outer in removed for outer in _prefixes(path)) or self._is_used(module):
                continue
            owner = next((p for p in _prefixes(path) if p in rewritten), None)
            if owner is not None and not pinned(path) and not named(owner, path):
                removed[path] = None
        removed |= dict.fromkeys(self._emptied(removed, rewritten))
        removed = {path: None for path in removed if not any(outer in removed for outer in _prefixes(path))}
        tensors = [path for key, path in self.dead_tensors.items() if key not in self.live_tensors and not pinned(path)]
        owners = {path: next((p for p in _prefixes(path) if p in rewritten), None) for path in tensors}
        tensors = [path for path, owner in owners.items() if owner is None or not named(owner, path)]
        return [*removed, *(t for t in tensors if not any(outer in removed for outer in _prefixes(t)))]

    def _emptied(self, removed: Collection[str], rewritten: dict[str, nn.Module]) -> Iterator[str]:
        """Lists of modules of which every entry is removed."""
        for path in dict.fromkeys(path.rpartition(".")[0] for path in removed):
            owner = next((p for p in (path, *_prefixes(path)) if p in rewritten), None)
            if owner is None or owner == path:
                continue
            inner = rewritten[owner].get_submodule(path.removeprefix(owner).strip("."))
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


def _dead_calls(program: Program, edits: Edits) -> set[Call]:
    """Calls of which nothing is computed any more."""
    piece: Piece = program.piece
    idle: set[fx.Node] = edits.gone.keys() | edits.droppable
    dead: set[Call] = set()
    for call in piece.calls:
        inside = program.nodes[slice(*piece.span(call, program.position))]
        some = any(n in edits.gone for n in inside)
        if call.parent in dead or (some and all(n in idle for n in inside)):
            dead.add(call)
    return dead


def reachable_names(module: nn.Module, but_forward: bool = False) -> set[str]:
    """The names that ``module.forward`` and hooks mention, and the methods and functions that they go through.

    Without those of ``forward`` itself if ``but_forward``.
    """
    forward, functions = reachable_functions(module)
    return set[str]().union(*(_names(f) for f in functions if not (but_forward and f is forward)))


def reachable_functions(module: nn.Module) -> tuple[FunctionType | None, list[FunctionType]]:
    """``module.forward``, and all functions of the user's that it and the hooks may go through."""
    forward = _users_function(getattr(type(module), "forward", None))
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    functions: dict[FunctionType, None] = {}
    spaces: list[dict[str, Any]] = [vars(module)]
    holders: set[type | ModuleType] = set()
    names: set[str] = set()
    waiting: list[object] = [forward, *hooks]

    def reach(value: object) -> None:
        waiting.append(value)
        waiting.extend(_items(value))  # a table of helpers, say

    def hold(holder: type | ModuleType) -> None:
        if holder not in holders and _is_users(holder):
            holders.add(holder)
            space = _namespace(holder) if isinstance(holder, type) else vars(holder)
            spaces.append(space)
            for name in names & space.keys():
                reach(space[name])

    hold(type(module))
    while waiting:
        value = waiting.pop()
        hold(value if isinstance(value, ModuleType) else type(value))
        function = _users_function(value)
        if function is None or function in functions:
            continue
        functions[function] = None
        waiting += _enclosed(function)
        mentioned = _names(function)
        for name in _globals_in(function.__code__) & function.__globals__.keys():
            reach(function.__globals__[name])
        for name in mentioned - names:
            for space in spaces:
                if name in space:
                    reach(space[name])
        names |= mentioned
    return forward, list(functions)


def has_own_code(module: nn.Module) -> bool:
    """Whether a module holds hooks, functions or objects that others of its class may not hold."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return not all(_is_data(value) for key, value in vars(module).items() if key not in STANDARD)


def _is_data(value: object) -> bool:
    if type(value) in (list, tuple, dict):
        return all(map(_is_data, _items(value)))
    return type(value) in DATA or isinstance(value, Tensor | nn.Module)


def asks_for_types(module: nn.Module) -> bool:
    """Whether the code that ``module.forward`` and hooks go through asks an object for its class."""
    _, functions = reachable_functions(module)
    return any(_asks_for_types(function.__code__) for function in functions)


@functools.lru_cache(maxsize=4096)
def _asks_for_types(code: CodeType) -> bool:
    """Whether a function's code takes the class of an object for more than its name, which a rewritten class keeps."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "CACHE")]
    steps.append(steps[-1])  # something comes after whatever is found
    for at, step in enumerate(steps[:-1]):
        found = at if step.argval == "__class__" and step.opname.startswith("LOAD_ATTR") else None
        if step.argval == "type" and step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found = next((n for n in range(at, len(steps) - 1) if steps[n].opname.startswith("CALL")), at)
        if found is not None:
            then = steps[found + 1]
            named = then.opname.startswith("LOAD_ATTR") and then.argval in ("__name__", "__qualname__", "__module__")
            if not named and not then.opname.startswith(("FORMAT", "CONVERT")):
                return True
    return any(_asks_for_types(inner) for inner in code.co_consts if isinstance(inner, CodeType))


def _by_class(function: Callable[[type], T]) -> Callable[[type], T]:
    """Remember the answer for each class, as long as there is the class."""
    known: weakref.WeakKeyDictionary[type, T] = weakref.WeakKeyDictionary()

    def answer(cls: type) -> T:
        if cls not in known:
            known[cls] = function(cls)
        return known[cls]

    return answer


@_by_class
def entry_points(cls: type) -> list[frozenset[str]]:
    """The names that each public method of a user's class mentions, where it takes an input as ``forward`` does."""
    found = []
    for name, function in _namespace(cls).items():
        if name.startswith("_") or name == "forward":
            continue
        method = _users_function(function)
        parameters = list(inspect.signature(method).parameters.values())[1:] if method is not None else []
        if any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
            found.append(_names(method))
    return found


@_by_class
def _namespace(cls: type) -> dict[str, object]:
    """The attributes of a class and of those that it inherits from, but for ``nn.Module``'s own."""
    own = [vars(base) for base in reversed(cls.__mro__) if _is_users(base)]
    return {name: value for attributes in own for name, value in attributes.items()}


def _items(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list | tuple) else ()


def _is_users(holder: type | ModuleType) -> bool:
    """Whether a class or a file is neither Python's nor torch's own."""
    home = holder.__module__ if isinstance(holder, type) else holder.__name__
    package = home.split(".")[0]
    return package != "torch" and package not in sys.stdlib_module_names


def _users_function(value: object) -> FunctionType | None:
    """``value`` as a Python function that is not torch's own."""
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType) and not (value.__module__ or "").startswith("torch."):
        return value
    return None


def _enclosed(function: FunctionType) -> list[object]:
    """What a function has from the code around it: what a decorator is wrapped around, say."""
    values = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell may be empty
            values.append(cell.cell_contents)
    return values


def _names(function: object) -> frozenset[str]:
    """The attribute names that a function's code mentions, and the names of torch's own decorators on it."""
    if not isinstance(function, FunctionType):
        return frozenset()
    kinds = [type(getattr(value, "__self__", value)) for value in _enclosed(function)]
    return _names_in(function.__code__).union(k.__name__ for k in kinds if k.__module__.startswith("torch."))


@functools.lru_cache(maxsize=4096)
def _globals_in(code: CodeType) -> frozenset[str]:
    """The names in a function's code that are not attributes."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    own = (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return frozenset(own).union(*map(_globals_in, inner))


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> frozenset[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))
