"""Whether code that is not traced may change a list, a dictionary, an attribute or a tensor that traced code reads.

The trace would hold what was there before. Such code is judged by its bytecode, and in doubt it does.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import inspect
import re
from collections import deque
from collections.abc import Iterable, Iterator
from types import CodeType, EllipsisType, FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from .bytecode import reads_in
from .clone import ATOMIC, STANDARD
from .code import reachable_from, reachable_functions, users_function
from .kinds import NORMS, updated_tensors
from .walk import tensors

CONTAINERS = (dict, list, set, deque)
PLAIN = {tuple, *CONTAINERS, immutable_list, immutable_dict}  # without attributes, or with such as nobody assigns
# Methods of containers, and functions of Python's own, that change one.
CHANGING = {
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "insert",
    "intersection_update", "move_to_end", "pop", "popitem", "popleft", "remove", "reverse", "rotate", "setdefault",
    "sort", "symmetric_difference_update", "update", "__setattr__", "__delattr__", "__setitem__", "__delitem__",
    "__iadd__", "__imul__", "__ior__", "__iand__", "__ixor__", "__isub__", "setattr", "delattr", "setitem", "delitem",
    "iadd", "iconcat", "imul", "ior", "iand", "ixor", "isub", "heapify", "heappush", "heappop", "heapreplace",
    "heappushpop", "insort", "insort_left", "insort_right", "shuffle",
}  # fmt: skip
STORES = {"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL"}
# What changes no list, dictionary or set, and what changes no list or set.
OTHER = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "__setattr__", "__delattr__", "setattr", "delattr"}
OF_DICTS = {"setdefault", "popitem", "move_to_end"}
INPLACE_STEPS = {"ADD": "+=", "MULTIPLY": "*=", "OR": "|=", "AND": "&=", "XOR": "^=", "SUBTRACT": "-="}
FRESH = {"BUILD_LIST", "BUILD_MAP", "BUILD_SET"}
SHUFFLING = {"SWAP", "ROT_TWO", "ROT_THREE", "ROT_FOUR"}
MAKERS = {"list", "dict", "set", "OrderedDict", "deque"}
LISTS, DICTS, ANY = range(3)  # what somebody may change: only lists and sets; dictionaries, too; any object
WALKS = {"parameters", "buffers", "named_parameters", "named_buffers", "state_dict", "load_state_dict", "modules"}
SKIPPED = {"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "NOT_TAKEN"}


class Step(NamedTuple):
    """An instruction; ``reached`` says that a jump leads to it."""

    name: str
    value: Any
    shown: str
    reached: bool


def holds_container(value: object) -> bool:
    """Whether there is something in a nest of arguments that whoever gets it can change, but for tensors."""
    if isinstance(value, tuple):
        return any(map(holds_container, value))
    if isinstance(value, CONTAINERS):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def may_change(code: nn.Module | FunctionType, given: Iterable[object]) -> bool:
    """Whether a call of ``code`` may change a container among what it is ``given``, or one in a tuple there."""
    what = ANY if any(map(_has_attributes, given)) else DICTS if any(map(_has_dicts, given)) else LISTS
    if isinstance(code, FunctionType):
        return may_change_any(reachable_from([code]), what)
    modules = [m for m in reached(code) if isinstance(m, nn.Module)]
    return any(_is_unseen(m) or may_change_any(_functions(m), what) for m in modules)


def _has_attributes(value: object) -> bool:
    """Whether there is an object in a nest that has attributes which may be assigned."""
    if type(value) in PLAIN:
        return any(map(_has_attributes, _inside(value)))
    return holds_container(value)


def _has_dicts(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(map(_has_dicts, value)))


def stale(reads: list[tuple[nn.Module, str, Any]], untraced: Iterable[nn.Module]) -> set[tuple[nn.Module, str]]:
    """Which attributes, out of ``reads`` (module, name and value), a call of an ``untraced`` module may change."""
    found: set[tuple[nn.Module, str]] = set()
    for module in untraced:
        functions = _functions(module)
        if not may_change_any(functions):
            continue
        mentioned, stored = set[str]().union(*map(_words, functions)), set[str]().union(*map(_stored, functions))
        near = [read for read in reads if isinstance(read[2], (*CONTAINERS, tuple)) or read[1] in stored]
        if near:
            things = reached(module)
            owners = set(map(id, things))
            held = [vars(thing).get(name) for thing in things if hasattr(thing, "__dict__") for name in mentioned]
            changed = set(map(id, containers_in(held)))
            for owner, name, value in near:
                rebound = name in stored and id(owner) in owners
                if rebound or not changed.isdisjoint(map(id, containers_in([value]))):
                    found.add((owner, name))
    return found


def written_storages(untraced: Iterable[nn.Module]) -> set[int]:
    """Where the tensors are that a call of an ``untraced`` module may write to or replace, by name or one and all."""
    found: set[int] = set()
    for module in untraced:
        functions = _functions(module)
        writes = any(_writes_tensor(step) for f in functions for step in steps_in(f.__code__))
        words = set[str]().union(*map(_words, functions))
        norms = any(name in word for word in words for name in NORMS)  # of which it is not known whether they train
        things = reached(module)
        held: list[Any] = [t for m in things if isinstance(m, nn.Module) for t in updated_tensors(m)]
        if writes:
            held += _read(things, functions)
        else:
            names = set[str]().union(*map(_stored, functions))
            held += (value for thing in things for value in _attributes(thing, names))
        if norms:  # their statistics are no parameters
            held += (v for thing in things for v in _attributes(thing, words) if not isinstance(v, nn.Parameter))
        if writes and any(_walks(steps_in(f.__code__)) for f in functions):
            held += tensors(module)
        found.update(t.untyped_storage().data_ptr() for t in held if isinstance(t, Tensor))
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
                yield from _inside(space[name])


def _attributes(thing: Any, names: set[str]) -> Iterator[Any]:
    """What a module or another object has under these names, and what is in it if that is a list or the like."""
    own: dict[str, Any] = getattr(thing, "__dict__", {})
    spaces = (own, thing._parameters, thing._buffers) if isinstance(thing, nn.Module) else (own,)
    for space in spaces:
        for name in names.intersection(space.keys()):  # a list, in a script
            yield space[name]
            yield from (item for value in containers_in([space[name]]) for item in _inside(value))


def _writes_tensor(step: Step) -> bool:
    """Whether a step may belong to a write to a tensor: ``x.add_(1)``, ``x[0] = 1``, ``x += 1``, ``out=x``.

    Also ``embedding(i, x, max_norm=1)``.
    """
    if step.name in ("STORE_SUBSCR", "STORE_SLICE") or step.shown in INPLACE_STEPS.values():
        return True
    if step.name.startswith("INPLACE_") or (step.name == "STORE_ATTR" and step.value == "data"):  # x.data = y
        return True
    words = step.value if isinstance(step.value, tuple) else (step.value,)
    return any(
        isinstance(w, str) and (w in ("out", "max_norm") or (w.endswith("_") and not w.startswith("_"))) for w in words
    )


def _walks(steps: list[Step]) -> bool:
    """Whether a function goes through the tensors of a module; ``next(self.parameters())`` asks what kind they are."""
    asks = [i for i, step in enumerate(steps) if step.value in WALKS]
    return any(i < 2 or steps[i - 2].value != "next" for i in asks)


def _functions(module: nn.Module) -> list[FunctionType]:
    """The functions that a call of a module may go through, but for those of the modules in it."""
    return [*reachable_functions(module)[1], *reachable_from([vars(module).get("forward")], module)]


def _words(function: FunctionType) -> set[str]:
    """The names of attributes and the texts in a function's code, without those of its own variables."""
    named = (step for step in steps_in(function.__code__) if isinstance(step.value, str))
    return {step.value for step in named if not step.name.endswith(("_FAST", "_DEREF", "_FAST_CHECK"))}


def _reads(function: FunctionType) -> set[tuple[str, str]]:
    """The names of attributes in a function's code, each with the name of what it is read off: "" for anything."""
    return {(of, name) for of, name in reads_in(function.__code__)} | {("", text) for text in _texts(function)}


def _texts(function: FunctionType) -> set[str]:
    return {s.value for s in steps_in(function.__code__) if s.name == "LOAD_CONST" and isinstance(s.value, str)}


def _stored(function: FunctionType) -> set[str]:
    """The names of the attributes that a function may assign; any that it mentions, where it has ``setattr``."""
    words = _words(function)
    if words & {"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"}:
        return words
    steps = steps_in(function.__code__)
    return {step.value for step in steps if step.name in ("STORE_ATTR", "DELETE_ATTR")}


def containers_in(values: Iterable[Any]) -> list[Any]:
    """The containers among ``values`` and those inside of them."""
    found: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, (*CONTAINERS, tuple)) and id(value) not in found:
            found[id(value)] = value
            waiting += _inside(value)
    return [value for value in found.values() if not isinstance(value, tuple)]


def may_change_any(functions: Iterable[FunctionType], what: int = ANY) -> bool:
    """Whether one of the functions may change an object that it has not made itself, if it is one of ``what``."""
    return any(changes(function.__code__, what) for function in functions)


def _is_unseen(module: nn.Module) -> bool:
    """Whether a call of a module runs code that is not to be seen, and not torch's own either."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    if "forward" in vars(module) or not all(users_function(h) or _is_torch(type(h)) for h in hooks):
        return True
    return users_function(getattr(type(module), "forward", None)) is None and not _is_torch(type(module))


def _is_torch(kind: type) -> bool:
    return kind.__module__.startswith(("torch.nn.", "torch.ao."))


def reached(root: nn.Module) -> list[Any]:
    """The modules, containers and other objects that the code of ``root`` can get at by attributes and items."""
    found: dict[int, Any] = {id(root): root}
    waiting: list[Any] = [root]
    while waiting:
        for value in _inside(waiting.pop()):
            if type(value) not in ATOMIC and id(value) not in found:
                found[id(value)] = value
                waiting.append(value)
    return list(found.values())


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, nn.Module):
        yield from vars(value)["_modules"].values()  # which a trace does not take for a walk
        yield from (item for name, item in vars(value).items() if name not in STANDARD)
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    elif hasattr(value, "__dict__") and not isinstance(value, Tensor | type | ModuleType):
        yield from vars(value).values()


@functools.lru_cache(maxsize=4096)
def changes(code: CodeType, what: int) -> bool:
    """Whether a function may change an object that it has not made itself, if it is one of ``what``."""
    steps = steps_of(code)
    own = _own(code, steps)
    return any(_concerns(steps, at, what) and _changes(steps, at, own) for at in range(len(steps))) or any(
        changes(inner, what) for inner in code.co_consts if isinstance(inner, CodeType)
    )


def _concerns(steps: list[Step], at: int, what: int) -> bool:
    """Whether a step may change one of ``what``: a list has no attributes, and is not indexed by texts and tuples."""
    step, key = steps[at], steps[at - 1] if at else steps[at]
    if what < ANY and (step.name in OTHER or step.value in OTHER):
        return False
    named = key.name == "BUILD_TUPLE" or (key.name == "LOAD_CONST" and type(key.value) in (str, tuple, EllipsisType))
    other = named and step.name.endswith("_SUBSCR") and not step.reached
    return what > LISTS or not (other or step.value in OF_DICTS)


def _changes(steps: list[Step], at: int, own: set[str]) -> bool:
    step, before = steps[at], steps[at - 1] if at else steps[at]
    if step.name in STORES:
        simple = before.name in ("LOAD_CONST", "LOAD_FAST") and not (before.reached or step.reached)
        return not (step.name == "STORE_SUBSCR" and simple and at > 1 and _loads(steps[at - 2], own))
    if isinstance(step.value, str) and step.value in CHANGING:
        method = step.name in ("LOAD_METHOD", "LOAD_ATTR") and not step.reached
        return not (method and _loads(before, own))
    operator = INPLACE_STEPS.get(step.name.removeprefix("INPLACE_")) if step.name.startswith("INPLACE_") else step.shown
    if operator not in INPLACE_STEPS.values():
        return False
    counts = operator in ("+=", "-=") and before.name == "LOAD_CONST" and type(before.value) in (int, float)
    return not counts or step.reached  # ``n += 1`` is no list


def _loads(step: Step, names: set[str]) -> bool:
    return step.name == "LOAD_FAST" and step.value in names


def _own(code: CodeType, steps: list[Step]) -> set[str]:
    """The local variables that only ever hold a list or the like that was made on the spot."""
    fresh: dict[str, bool] = {}
    for at, step in enumerate(steps):
        if step.name == "STORE_FAST":
            made = at > 0 and not step.reached and (_makes(steps[max(0, at - 2) : at]) or _makes_each(steps, at))
            fresh[step.value] = fresh.get(step.value, True) and made
    rest = sum(bool(code.co_flags & flag) for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS))
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + rest]
    return {name for name, made in fresh.items() if made}.difference(parameters)


def _makes(steps: list[Step]) -> bool:
    """Whether what two steps leave behind is a new container: ``[a, b]``, ``dict()``, or a comprehension."""
    first, last = steps[0], steps[-1]
    if last.name in FRESH:
        return True
    if not last.name.startswith("CALL") or last.reached:
        return False
    return first.name == "GET_ITER" or (first.name == "LOAD_GLOBAL" and first.value in MAKERS)


def _makes_each(steps: list[Step], at: int) -> bool:
    """Whether a step stores one of several new containers: ``a, b = [], []``."""
    first, last = at, at + 1
    while first and steps[first - 1].name == "STORE_FAST":
        first -= 1
    while last < len(steps) and steps[last].name == "STORE_FAST":
        last += 1
    made = first
    while made and steps[made - 1].name in SHUFFLING:
        made -= 1
    start = made - (last - first)
    together = start >= 0 and not any(step.reached for step in steps[start + 1 : last])
    return together and all(step.name in FRESH and step.value == 0 for step in steps[start:made])


def steps_in(code: CodeType) -> list[Step]:
    """The instructions of a function and of those inside of it."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return [*steps_of(code), *(step for c in inner for step in steps_in(c))]


@functools.lru_cache(maxsize=4096)
def steps_of(code: CodeType) -> list[Step]:
    """The instructions of a function; those that newer versions of Python join are taken apart."""
    steps: list[Step] = []
    for each in dis.get_instructions(code):
        if each.opname in SKIPPED:
            continue
        names = re.findall("(?:LOAD|STORE)_FAST", each.opname)
        if len(names) == 2 and isinstance(each.argval, tuple):
            steps.append(Step(names[0], each.argval[0], "", each.is_jump_target))
            steps.append(Step(names[1], each.argval[1], "", False))
        else:
            name = each.opname.replace("_BORROW", "")
            value = code.co_consts[each.arg or 0] if name == "KW_NAMES" else each.argval  # Python 3.11 does not say
            steps.append(Step(name, value, each.argrepr, each.is_jump_target))
    return steps
