"""Methods that a traced forward calls as their author wrote them: those that keep a tensor for the next call.

``bias = self.get_bias(x.device)``, which looks the bias up in a dictionary and puts it there the first time, cannot be
traced: the trace would leave a symbol in the dictionary. Nor need it be. Where such a method is given numbers only, and
shares nothing with the code around it but numbers, whatever it does stays between it and its dictionary; the trace
holds one call of it, of which only its place and its result are known. In doubt, the module is not traced.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from .bytecode import globals_in
from .changes import CHANGING, containers_in, may_change_any
from .code import DATA, names_of, reachable_from, reachable_functions, users_function
from .kinds import is_number
from .piece import Piece
from .steps import steps_in, steps_of
from .walk import place_of, tensors
from .watch import INHERITED, is_patched

Apart = dict[nn.Module, dict[str, "Reach"]]
"""Of a module: its methods that are called as they are, by name, and what they get at."""

PACKAGES = {"torch", "math", "numpy"}
BUILTINS = {"abs", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "range",
            "repr", "reversed", "round", "str", "sum", "tuple", "zip"}  # fmt: skip
OTHER_STATE = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"}
MAY_GIVE_NONE = {"get"}
LAZY = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
ATTRIBUTES = ("__getattr__", "__getattribute__", "__setattr__", "__delattr__")


@dataclass
class Reach:
    """What a method gets at: ``names`` of attributes that are more than numbers, memory and containers by identity."""

    names: set[str] = field(default_factory=set)
    storages: set[int] = field(default_factory=set)
    containers: set[int] = field(default_factory=set)

    def take(self, name: str, value: Any) -> bool:
        """Add an attribute; returns whether nothing is to be got at beyond it."""
        if _is_data(value):
            return True
        self.names.add(name)
        items = list(value.values()) if type(value) is dict else value if type(value) in (list, set, tuple) else [value]
        self.containers.update(map(id, containers_in([value])))
        return all(map(self._take_item, items))

    def _take_item(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            self.storages.add(place_of(value))
            return True
        return all(map(self._take_item, value)) if type(value) is tuple else _is_data(value)


def takes_numbers(value: Any) -> bool:
    """Whether there is nothing in a nest of arguments but numbers, computed from sizes or types, and the like."""
    if isinstance(value, fx.Proxy):
        return is_number(value.node)
    if type(value) is tuple:
        return all(map(takes_numbers, value))
    return type(value) in DATA


def methods_apart(module: nn.Module) -> dict[str, Reach]:
    """The methods of a module, by name, that its forward may go through and a trace may call as they are."""
    forward, functions = reachable_functions(module)
    if forward is None or any(name in vars(base) for base in _own_classes(module) for name in ATTRIBUTES):
        return {}
    methods: dict[str, FunctionType] = {}
    reaches: dict[str, Reach] = {}
    for name in set[str]().union(*map(names_of, functions)):
        method = _method(module, name)
        reach = _reach(module, method) if method is not None and method is not forward else None
        if method is not None and reach is not None:
            methods[name], reaches[name] = method, reach
    around = reachable_from([forward], module, but=methods.values())
    mentioned = set[str]().union(*map(names_of, around))
    if (
        may_change_any(around)
        or any(map(_runs_a_base, around))
        or any(not mentioned.isdisjoint(reach.names) for reach in reaches.values())
    ):
        return {}
    return reaches


def _runs_a_base(function: FunctionType) -> bool:
    """Whether a function may go through methods of another class, such as the one that its own overrides."""
    names = globals_in(function.__code__)
    values = (function.__globals__.get(name) for name in names)
    return "super" in names or any(isinstance(value, type) and issubclass(value, nn.Module) for value in values)


def shared(apart: Apart, pieces: Collection[Piece], opaque: Collection[nn.Module]) -> dict[nn.Module, str]:
    """The modules with methods that are called as they are and get at something that traced code reads, too."""
    if not any(apart.values()):
        return {}
    storages, containers = set[int](), set[int]()
    for piece in pieces:
        for node in piece.graph.nodes:
            storages.update(place_of(t) for t in _read_by(node, piece, opaque))
        held = [value for call in piece.calls for value in call.held.values()]
        storages.update(place_of(t) for t in held if isinstance(t, Tensor))
        containers.update(map(id, containers_in(held)))
    traced = {call.module for piece in pieces for call in piece.calls}
    return {
        module: f"what .{name}() keeps for the next call is read by other code, too"
        for module, reaches in apart.items()
        if module in traced
        for name, reach in reaches.items()
        if not (storages.isdisjoint(reach.storages) and containers.isdisjoint(reach.containers))
    }


def _read_by(node: fx.Node, piece: Piece, opaque: Collection[nn.Module]) -> list[Tensor]:
    """The parameters and the like that a node reads."""
    if node.op not in ("get_attr", "call_module"):
        return []
    value: Any = piece.root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    if isinstance(value, nn.Module):
        return [] if value in opaque else list(tensors(value))
    return [value] if isinstance(value, Tensor) else []


def _own_classes(module: nn.Module) -> list[type]:
    return [base for base in type(module).__mro__ if base not in nn.Module.__mro__]


def _method(module: nn.Module, name: str) -> FunctionType | None:
    """The function that ``module.name`` is a method of, if the module's class and nothing else says so."""
    held = vars(module)  # whose own dictionaries, read as attributes while it is traced, would be noted
    if name in INHERITED or any(name in held[own] for own in ("_parameters", "_buffers", "_modules")):
        return None
    found = next((vars(base)[name] for base in _own_classes(module) if name in vars(base)), None)
    return found if isinstance(found, FunctionType) and name not in held else None


def _reach(module: nn.Module, method: FunctionType) -> Reach | None:
    """What a method gets at, itself and by others; None if that cannot be told, or if it keeps nothing."""
    reach, keeps = Reach(), False
    waiting, seen = [(method, True)], set[FunctionType]()
    while waiting:
        function, bound = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        used = _used(function.__code__) if bound else set[str]()
        helpers = _helpers(function)
        if used is None or helpers is None or not _is_simple(function):
            return None
        keeps = keeps or any(step.name == "STORE_SUBSCR" for step in steps_of(function.__code__))
        waiting += [(helper, False) for helper in helpers]
        for name in used:
            inner = _method(module, name)
            if inner is not None:
                waiting.append((inner, True))
            elif not reach.take(name, _value(module, name)):
                return None
    return reach if keeps and reach.containers else None


def _value(module: nn.Module, name: str) -> Any:
    """What ``module.name`` is; the module itself, which nothing may get at, where code would run to tell."""
    if name in INHERITED and name != "training":
        return module
    held, classes = vars(module), [vars(base) for base in _own_classes(module)]
    if any(hasattr(own.get(name), "__get__") for own in classes):
        return module
    places = (held, held["_parameters"], held["_buffers"], *classes)
    return next((place[name] for place in places if name in place), module)


def _used(code: CodeType) -> set[str] | None:
    """The attributes of ``self`` that a method reads; None if it does something else with ``self``."""
    if not code.co_argcount or code.co_varnames[0] in code.co_cellvars:
        return None
    used, me, steps = set[str](), code.co_varnames[0], steps_of(code)
    for step, then in itertools.pairwise(steps):
        if step.value == me:
            if step.name != "LOAD_FAST" or then.name not in ("LOAD_ATTR", "LOAD_METHOD"):
                return None
            used.add(then.value)
    return used


def _is_simple(function: FunctionType) -> bool:
    """Whether a function gives a value, has no state of its own and changes nothing but by ``x[i] = y`` or torch's."""
    code = function.__code__
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if code.co_flags & LAZY or function.__closure__ or vars(function) or not all(map(_is_data, defaults)):
        return False
    steps = steps_in(code)
    if any(s.name in OTHER_STATE or (type(s.value) is str and s.value in CHANGING | MAY_GIVE_NONE) for s in steps):
        return False
    nones = [at for at, s in enumerate(steps) if s.value is None and s.name in ("LOAD_CONST", "RETURN_CONST")]
    return all("BUILD_SLICE" in (s.name for s in steps[at + 1 : at + 3]) for at in nones)  # or it may give None


def _helpers(function: FunctionType) -> list[FunctionType] | None:
    """The user's functions that a function refers to; None if it refers to something that may have a state."""
    found = []
    for name in globals_in(function.__code__):
        value = function.__globals__.get(name)
        own = users_function(value)
        if name not in function.__globals__ or is_patched(value):
            if name not in BUILTINS:
                return None
        elif own is not None:
            found.append(own)
        elif not _is_stateless(value):
            return None
    return found


def _is_stateless(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0] in PACKAGES
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return (value.__module__ or "torch").split(".")[0] in {*PACKAGES, "builtins"}
    return _is_data(value)


def _is_data(value: Any) -> bool:
    """Whether a value is a number or the like, which nobody can change. None is not: it may come to be a tensor."""
    if type(value) in (tuple, torch.Size):
        return all(map(_is_data, value))
    return value is not None and type(value) in DATA
