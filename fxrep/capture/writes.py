"""Where the tensors are that code which is not traced may write to: judged by its bytecode, and in doubt it does."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from .bytecode import reads_in
from .changes import containers_in, functions_of, inside, reached, stored_by, words_of
from .kinds import NORMS, updated_tensors
from .steps import Step, inplace_operator, steps_in
from .walk import place_of, tensors

WALKS = {"parameters", "buffers", "named_parameters", "named_buffers", "state_dict", "load_state_dict", "modules"}


def written_storages(untraced: Iterable[nn.Module]) -> set[int]:
    """Where the tensors are that a call of an ``untraced`` module may write to or replace, by name or one and all."""
    found: set[int] = set()
    for module in untraced:
        functions = functions_of(module)
        writes = any(_writes_tensor(step) for f in functions for step in steps_in(f.__code__))
        words = set[str]().union(*map(words_of, functions))
        norms = any(name in word for word in words for name in NORMS)  # of which it is not known whether they train
        things = reached(module)
        held: list[Any] = [t for m in things if isinstance(m, nn.Module) for t in updated_tensors(m)]
        if writes:
            held += _read(things, functions)
        else:
            names = set[str]().union(*map(stored_by, functions))
            held += (value for thing in things for value in _attributes(thing, names))
        if norms:  # their statistics are no parameters
            held += (v for thing in things for v in _attributes(thing, words) if not isinstance(v, nn.Parameter))
        if writes and any(_walks(steps_in(f.__code__)) for f in functions):
            held += tensors(module)
        found.update(place_of(t) for t in held if isinstance(t, Tensor))
    return found


def _read(things: list[Any], functions: Iterable[FunctionType]) -> Iterator[Any]:
    """What functions may read: by a name off anything, or by ``.a.name`` off what some thing has as ``a``."""
    reads = set[tuple[str, str]]().union(*map(_reads, functions))
    owners = {of: list(_owned(things, of)) for of, _ in reads if of}
    spaces = {id(f.__globals__): f.__globals__ for f in functions}.values()
    others = [
        *set(map(type, things)),
        *(v for space in spaces for v in space.values() if not isinstance(v, ModuleType)),
    ]
    unknown = {of for of, found in owners.items() if not found and any(_may_have(other, of) for other in others)}
    free = {name for of, name in reads if not of or of in unknown}
    yield from (value for thing in things for value in _attributes(thing, free))
    for of, name in reads:
        yield from (value for owner in owners.get(of, ()) for value in _attributes(owner, {name} - free))


def _may_have(value: object, name: str) -> bool:
    """Whether an object or its class, or a class, has an attribute, or code that makes some."""
    found = (inspect.getattr_static(value, each, None) for each in (name, "__getattr__"))
    return any(each not in (None, nn.Module.__getattr__) for each in found)


def _owned(things: list[Any], name: str) -> Iterator[Any]:
    """What the things have under a name, and what is in that."""
    for thing in things:
        own = getattr(thing, "__dict__", {})
        for space in (own, own.get("_modules") or {}) if isinstance(thing, nn.Module) else (own,):
            if name in space:
                yield space[name]
                yield from inside(space[name])


def _attributes(thing: Any, names: set[str]) -> Iterator[Any]:
    """What a module or another object has under these names, and what is in it if that is a list or the like."""
    own: dict[str, Any] = getattr(thing, "__dict__", {})
    spaces = (own, thing._parameters, thing._buffers) if isinstance(thing, nn.Module) else (own,)
    for space in spaces:
        for name in names.intersection(space.keys()):  # a list, in a script
            yield space[name]
            yield from (item for value in containers_in([space[name]]) for item in inside(value))


def _writes_tensor(step: Step) -> bool:
    """Whether a step may belong to a write to a tensor: ``x.add_(1)``, ``x[0] = 1``, ``x += 1``, ``out=x``.

    Also ``embedding(i, x, max_norm=1)``.
    """
    if step.name in ("STORE_SUBSCR", "STORE_SLICE") or inplace_operator(step):
        return True
    if step.name == "STORE_ATTR" and step.value == "data":  # x.data = y
        return True
    words = step.value if isinstance(step.value, tuple) else (step.value,)
    return any(
        isinstance(w, str) and (w in ("out", "max_norm") or (w.endswith("_") and not w.startswith("_"))) for w in words
    )


def _walks(steps: list[Step]) -> bool:
    """Whether a function goes through the tensors of a module; ``next(self.parameters())`` asks what kind they are."""
    asks = [i for i, step in enumerate(steps) if step.value in WALKS]
    return any(i < 2 or steps[i - 2].value != "next" for i in asks)


def _reads(function: FunctionType) -> set[tuple[str, str]]:
    """The names of attributes in a function's code, each with the name of what it is read off: "" for anything."""
    return {(of, name) for of, name in reads_in(function.__code__)} | {("", text) for text in _texts(function)}


def _texts(function: FunctionType) -> set[str]:
    return {s.value for s in steps_in(function.__code__) if s.name == "LOAD_CONST" and isinstance(s.value, str)}
