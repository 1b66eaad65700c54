"""What a forward may change beside tensors: attributes, lists, objects, classes, globals. Compared, and restored.

A graph holds what was there while it was traced, and none of what the code does to it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import operator
import pickle
import random
import sys
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Collection, Iterable
from types import BuiltinMethodType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from .bytecode import names_in
from .clone import ATOMIC, STANDARD
from .code import reachable_functions, users_function
from .libraries import home_of, is_users

MOST = 5000  # objects are looked into
FIXED = ATOMIC - {type, FunctionType}
OPAQUE = (Tensor, nn.Module, fx.Proxy, fx.Node, ModuleType)
NAMESPACES = {"__builtins__", "__build_class__", "__spec__"}  # what files have, and nobody may restore
SPACES = (SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)
CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, set, deque)

Stream = tuple[Callable[[], Any], Callable[[Any], Any]]
Outside = tuple[list[tuple[dict[str, Any], str]], list[FunctionType]]


class State:
    """What a module holds, and what its lists and objects and those that its code gets at hold, at one time."""

    def __init__(self, module: nn.Module, outside: Outside = ([], [])) -> None:
        names, functions = outside
        self.module = module
        self.attributes = dict(vars(module))
        self.globals = [(space, name, space.get(name)) for space, name in names]
        self.held: dict[int, tuple[Any, Any]] = {}
        self.iterates = False  # over something, and does not say how far it is
        self.tensors: dict[int, tuple[Tensor, int, Tensor]] = {}
        self.streams: dict[int, tuple[Stream, Any]] = {}
        self.empty = [v for key, v in self.attributes.items() if key in STANDARD and not v]  # nearly all of a module's
        self.add(v for key, v in self.attributes.items() if key not in STANDARD or v)
        self.add(value for *_, value in self.globals)
        self.add(functions)

    def add(self, values: Iterable[Any]) -> None:
        """Look at more values."""
        waiting = deque(values)
        while waiting:
            value = waiting.popleft()  # in what is large, something may be left out: rather what is deep inside
            kind = type(value)
            if kind in FIXED or id(value) in self.held or (kind is dict and not NAMESPACES.isdisjoint(value)):
                continue
            self.iterates = self.iterates or _iterates(kind)  # type: ignore[arg-type]
            if kind is Tensor and not value.is_inference() and id(value) not in self.tensors:
                own = value.detach().clone() if value.numel() <= MOST else value
                self.tensors[id(value)] = value, value._version, own
            if kind is nn.Parameter or issubclass(kind, OPAQUE):
                continue
            if kind not in CONTAINERS and _draws(kind) and (stream := _stream(value)) is not None:  # type: ignore[arg-type]
                self.streams.setdefault(id(value), (stream, stream[0]()))
            if len(self.held) > MOST:
                return
            if issubclass(kind, tuple | frozenset):
                waiting += value
            elif (content := _content(value)) is not None:
                self.held[id(value)] = value, content
                if isinstance(value, type):  # of its methods, those that the code goes through are looked into
                    waiting += (v for v in content.values() if type(v) is not FunctionType)
                elif content:
                    waiting += content.values() if isinstance(content, dict) else content
                if issubclass(kind, CONTAINERS):
                    waiting += getattr(value, "__dict__", {}).values()

    def changed(self, but: Collection[str] = ()) -> bool:
        """Whether anything is another now; ``but`` are attributes that may be."""
        now, before = vars(self.module), self.attributes
        if but:
            now, before = ({k: v for k, v in each.items() if k not in but} for each in (now, before))
        return (
            self.iterates
            or now.keys() != before.keys()
            or any(now[key] is not value for key, value in before.items())
            or any(self.empty)
            or any(space.get(name) is not value for space, name, value in self.globals)
            or any(not _is_alike(stream[0](), before) for stream, before in self.streams.values())
            or any(tensor._version != version for tensor, version, _ in self.tensors.values())
            or not all(_same(_content(value), content) for value, content in self.held.values())
        )

    def restore(self) -> None:
        for value, content in self.held.values():
            if not _same(_content(value), content):
                with contextlib.suppress(AttributeError, TypeError):  # what refuses to be changed back is left
                    _put_back(value, content)
        for value in filter(None, self.empty):
            value.clear()
        for tensor, version, own in self.tensors.values():
            if tensor._version != version and own is not tensor:
                tensor.detach().copy_(own)
        for (_, set_state), state in self.streams.values():
            set_state(state)
        for space, name, value in self.globals:
            space[name] = value
        vars(self.module).clear()
        vars(self.module).update(self.attributes)


def outside(module: nn.Module) -> Outside:
    """The data outside of a module that its code gets at.

    That is the global names that it mentions, each with its file's names, and the functions that keep something.
    """
    found: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
    packages = {home_of(base).split(".")[0] for base in type(module).__mro__}
    functions = [f for f in reachable_functions(module)[1] if not _is_installed(f, packages)]
    for function in functions:
        names = names_in(function.__code__)
        spaces, files = [function.__globals__], set[int]()
        while spaces:
            space = spaces.pop()
            if id(space) in files:
                continue
            files.add(id(space))
            for name in names & space.keys():
                value = space[name]
                if isinstance(value, ModuleType) and is_users(value):
                    spaces.append(vars(value))
                elif isinstance(value, type) or not isinstance(value, (nn.Module, fx.Proxy, fx.Node, ModuleType)):
                    found[id(space), name] = space, name
    return list(found.values()), [function for function in functions if _kept_by(function)]


def _is_installed(function: FunctionType, but: Collection[str]) -> bool:
    """Whether a function is of an installed package whose state is no business of a model of another."""
    package = (function.__module__ or "").split(".")[0]
    return "site-packages" in function.__code__.co_filename and package not in but


def _kept_by(function: FunctionType) -> dict[str, Any]:
    """What a function keeps from one call to the next: variables around it, attributes, values of its defaults."""
    if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__):
        return {}
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    kept = {f"default {i}": value for i, value in enumerate(defaults)} | vars(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it may be empty
            kept[name] = cell.cell_contents
    return {name: value for name, value in kept.items() if not isinstance(value, type)}  # the class, for super()


def _is_foreign(kind: type) -> bool:
    """Whether a class is of the user's, and not one of the trace itself, which the code may come by."""
    return is_users(kind) and not home_of(kind).startswith("fxrep.")


@functools.lru_cache(maxsize=256)
def _iterates(kind: type) -> bool:
    return hasattr(kind, "__next__") and not is_users(kind) and not issubclass(kind, io.IOBase)


@functools.lru_cache(maxsize=256)
def _draws(kind: type) -> bool:
    """Whether a class may be one of generators of random numbers."""
    return issubclass(kind, torch.Generator | random.Random) or home_of(kind).startswith("numpy.random")


def _stream(value: Any) -> Stream | None:
    """How to read and set where a generator of random numbers stands; None of anything else."""
    numpy = sys.modules.get("numpy.random")
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if numpy and isinstance(value, numpy.RandomState):
        return value.get_state, value.set_state
    if numpy and isinstance(value, numpy.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return None


def _is_alike(now: Any, before: Any) -> bool:
    return torch.equal(now, before) if isinstance(now, Tensor) else pickle.dumps(now) == pickle.dumps(before)


def _content(value: Any) -> Any:
    """A copy of what a container or an object of the user's holds; None of anything else."""
    for kind in CONTAINERS:
        if issubclass(type(value), kind):  # which may have a copy() of its own
            return [*kind.__iter__(value)] if kind in (list, deque) else kind.copy(value)
    if isinstance(value, type):
        return {k: v for k, v in vars(value).items() if not k.startswith("__")} if _is_foreign(value) else None
    if isinstance(value, FunctionType):
        return _kept_by(value) or None if users_function(value) else None
    if isinstance(value, functools.partial):
        return {"function": value.func, "arguments": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType | BuiltinMethodType):
        return {"self": value.__self__}
    if issubclass(type(value), SPACES) or _is_foreign(type(value)):
        own = getattr(value, "__dict__", None)
        slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
        return {**own, **slots} if isinstance(own, dict) else slots or None
    return None


def _put_back(value: Any, content: Any) -> None:
    """Let a container or an object hold what it held."""
    for kind in CONTAINERS:
        if issubclass(type(value), kind):
            kind.clear(value)
            (kind.extend if kind in (list, deque) else kind.update)(value, content)
            return
    if isinstance(value, type):
        for name in _content(value).keys() - content.keys():
            delattr(value, name)
        for name in content:
            if vars(value).get(name) is not content[name]:
                setattr(value, name, content[name])
        return
    if isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if name in content:
                cell.cell_contents = content[name]
        vars(value).update({name: content[name] for name in vars(value).keys() & content.keys()})
        return
    if isinstance(value, functools.partial | MethodType | BuiltinMethodType):
        return
    slots = _slots(type(value))
    for name in slots & content.keys():
        object.__setattr__(value, name, content[name])
    if hasattr(value, "__dict__"):
        vars(value).clear()
        vars(value).update({name: item for name, item in content.items() if name not in slots})


def _slots(kind: type) -> set[str]:
    """The names of the attributes that objects of a class have outside of their ``__dict__``."""
    slots = (item for base in kind.__mro__ for item in vars(base).items())
    return {n for n, slot in slots if isinstance(slot, MemberDescriptorType) and not n.startswith("__")}


def _same(now: Any, before: Any) -> bool:
    """Whether two copies hold the same things, by identity and in order."""
    if len(now) != len(before):
        return False
    if isinstance(now, set):
        return bool(now == before)
    if isinstance(now, dict):
        return [*now] == [*before] and all(map(operator.is_, now.values(), before.values()))
    return all(map(operator.is_, now, before))
