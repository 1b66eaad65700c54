"""What a forward may change beside tensors: attributes, lists, objects, classes, globals. Compared, and restored.

A graph holds what was there while it was traced, and none of what the code does to it.
"""

from __future__ import annotations

import argparse
import operator
from collections import deque
from collections.abc import Collection, Iterable
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, fx, nn

from .clone import ATOMIC
from .code import is_users, names_in, users_function

MOST = 5000  # objects are looked into
OPAQUE = (Tensor, nn.Module, fx.Proxy, fx.Node, FunctionType, ModuleType)
SPACES = (SimpleNamespace, argparse.Namespace)


class State:
    """What a module holds, and what its lists and objects and those that its code names globally hold, at one time."""

    def __init__(self, module: nn.Module, names: Iterable[tuple[dict[str, Any], str]] = ()) -> None:
        self.module = module
        self.attributes = dict(vars(module))
        self.globals = [(space, name, space.get(name)) for space, name in names]
        self.held: dict[int, tuple[Any, Any]] = {}
        self.add(self.attributes.values())
        self.add(value for *_, value in self.globals)

    def add(self, values: Iterable[Any]) -> None:
        """Look at more values."""
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            kind = type(value)
            if (kind in ATOMIC and kind is not type) or isinstance(value, OPAQUE) or id(value) in self.held:
                continue
            if len(self.held) > MOST:
                return
            if isinstance(value, tuple | frozenset):
                waiting += value
            elif (content := _content(value)) is not None:
                self.held[id(value)] = value, content
                if content:
                    waiting += content.values() if isinstance(content, dict) else content

    def changed(self, but: Collection[str] = ()) -> bool:
        """Whether anything is another now; ``but`` are attributes that may be."""
        now = vars(self.module)
        if now.keys() - but != self.attributes.keys() - but:
            return True
        return (
            any(now[key] is not value for key, value in self.attributes.items() if key not in but)
            or any(space.get(name) is not value for space, name, value in self.globals)
            or not all(_same(_content(value), content) for value, content in self.held.values())
        )

    def restore(self) -> None:
        for value, content in self.held.values():
            if isinstance(value, list):
                value[:] = content
            elif isinstance(value, type):
                for name in _content(value).keys() - content.keys():
                    delattr(value, name)
                for name in content:
                    if vars(value).get(name) is not content[name]:
                        setattr(value, name, content[name])
            else:
                into = value if isinstance(value, dict | set | deque) else vars(value)
                into.clear()
                into.extend(content) if isinstance(into, deque) else into.update(content)
        for space, name, value in self.globals:
            space[name] = value
        vars(self.module).clear()
        vars(self.module).update(self.attributes)


def named_globally(kind: type[nn.Module]) -> list[tuple[dict[str, Any], str]]:
    """The global names of data that the code of a module's class mentions, each with its file's names."""
    found: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
    seen: set[CodeType] = set()
    waiting = [users_function(kind.forward)]
    while waiting:
        function = waiting.pop()
        if function is None or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        space = function.__globals__
        for name in names_in(function.__code__):
            waiting.append(users_function(getattr(kind, name, None)))
            if name in space:
                value = space[name]
                waiting.append(users_function(value))
                if isinstance(value, type) or not (callable(value) or isinstance(value, OPAQUE)):
                    found[id(space), name] = space, name
    return list(found.values())


def _content(value: Any) -> Any:
    """A copy of what a container or an object of the user's holds; None of anything else."""
    if isinstance(value, dict | list | set | deque):
        return value.copy() if value else ()
    if isinstance(value, type):
        return {k: v for k, v in vars(value).items() if not k.startswith("__")} if is_users(value) else None
    if hasattr(value, "__dict__") and (isinstance(value, SPACES) or is_users(type(value))):
        return dict(vars(value))
    return None


def _same(now: Any, before: Any) -> bool:
    """Whether two copies hold the same things, by identity and in order."""
    if len(now) != len(before):
        return False
    if isinstance(now, set):
        return bool(now == before)
    if isinstance(now, dict):
        return [*now] == [*before] and all(map(operator.is_, now.values(), before.values()))
    return all(map(operator.is_, now, before))
