"""Whether code that is not traced may change a list, a dictionary or an attribute that traced code reads.

The trace would hold what was there before. Such code is judged by its bytecode, and in doubt it does.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections import deque
from collections.abc import Iterable, Iterator
from types import CodeType, EllipsisType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.jit import ScriptModule

from .clone import ATOMIC, STANDARD
from .code import reachable_from, reachable_functions, users_function
from .libraries import home_of
from .steps import INPLACE, Step, inplace_operator, steps_in, steps_of

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
# What changes no list, dictionary or set; what changes only a dictionary; and what changes no list.
OTHER = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "__setattr__", "__delattr__", "setattr", "delattr"}
OF_DICTS = {"setdefault", "popitem", "move_to_end"}
OF_OTHERS = {
    "add", "appendleft", "difference_update", "discard", "extendleft", "intersection_update", "popleft", "rotate",
    "symmetric_difference_update", "update", "__ior__", "__iand__", "__ixor__", "__isub__", "ior", "iand", "ixor",
    "isub",
}  # fmt: skip
FRESH = {"BUILD_LIST", "BUILD_MAP", "BUILD_SET"}
SHUFFLING = {"SWAP", "ROT_TWO", "ROT_THREE", "ROT_FOUR"}
MAKERS = {"list", "dict", "set", "OrderedDict", "deque"}
LISTS, SETS, DICTS, ANY = range(4)  # what somebody may change: only lists; sets and deques, too; dictionaries; anything


def holds_container(value: object) -> bool:
    """Whether there is something in a nest of arguments that whoever gets it can change, but for tensors."""
    if isinstance(value, tuple):
        return any(map(holds_container, value))
    if isinstance(value, CONTAINERS):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def may_change(code: nn.Module | FunctionType, given: Iterable[object]) -> bool:
    """Whether a call of ``code`` may change a container among what it is ``given``, or one in a tuple there."""
    what = max((_what(value) for value in given), default=LISTS)
    if isinstance(code, FunctionType):
        return may_change_any(reachable_from([code]), what)
    modules = [m for m in reached(code) if isinstance(m, nn.Module)]
    return any(_is_unseen(m) or may_change_any(functions_of(m), what) for m in modules)


def _what(value: object) -> int:
    """The most of what there is in a nest that may be changed: an object of another class may have attributes."""
    if type(value) not in PLAIN:
        return ANY if holds_container(value) else LISTS
    own = DICTS if isinstance(value, dict) else LISTS if isinstance(value, list | tuple) else SETS
    return max([own, *map(_what, inside(value))])


def stale(reads: list[tuple[nn.Module, str, Any]], untraced: Iterable[nn.Module]) -> set[tuple[nn.Module, str]]:
    """Which attributes, out of ``reads`` (module, name and value), a call of an ``untraced`` module may change."""
    found: set[tuple[nn.Module, str]] = set()
    for module in untraced:
        functions = functions_of(module)
        if not may_change_any(functions):
            continue
        mentioned, stored = set[str]().union(*map(words_of, functions)), set[str]().union(*map(stored_by, functions))
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


def functions_of(module: nn.Module) -> list[FunctionType]:
    """The functions that a call of a module may go through, but for those of the modules in it."""
    return [*reachable_functions(module)[1], *reachable_from([vars(module).get("forward")], module)]


def words_of(function: FunctionType) -> set[str]:
    """The names of attributes and the texts in a function's code, without those of its own variables."""
    named = (step for step in steps_in(function.__code__) if isinstance(step.value, str))
    return {step.value for step in named if not step.name.endswith(("_FAST", "_DEREF", "_FAST_CHECK"))}


def stored_by(function: FunctionType) -> set[str]:
    """The names of the attributes that a function may assign; any that it mentions, where it has ``setattr``."""
    words = words_of(function)
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
            waiting += inside(value)
    return [value for value in found.values() if not isinstance(value, tuple)]


def may_change_any(functions: Iterable[FunctionType], what: int = ANY) -> bool:
    """Whether one of the functions may change an object that it has not made itself, if it is one of ``what``."""
    return any(changes(function.__code__, what) for function in functions)


def _is_unseen(module: nn.Module) -> bool:
    """Whether a call of a module runs code that is not to be seen, and not torch's own either."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    if "forward" in vars(module) or not all(users_function(h) or _is_torch(type(h)) for h in hooks):
        return True
    forward = getattr(type(module), "forward", None)
    if forward is nn.Module.forward:  # it has none, and is there for its parts and its other methods
        return False
    return users_function(forward) is None and not _is_torch(type(module))


def _is_torch(kind: type) -> bool:
    return home_of(kind).startswith(("torch.nn.", "torch.ao."))


def reached(root: nn.Module) -> list[Any]:
    """The modules, containers and other objects that the code of ``root`` can get at by attributes and items."""
    found: dict[int, Any] = {id(root): root}
    waiting: list[Any] = [root]
    while waiting:
        for value in inside(waiting.pop()):
            if type(value) not in ATOMIC and id(value) not in found:
                found[id(value)] = value
                waiting.append(value)
    return list(found.values())


def inside(value: Any) -> Iterator[Any]:
    if isinstance(value, ScriptModule):
        return  # which has no code of Python's
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
    if (what < ANY and (step.name in OTHER or step.value in OTHER)) or (what < DICTS and step.value in OF_DICTS):
        return False
    named = key.name == "BUILD_TUPLE" or (key.name == "LOAD_CONST" and type(key.value) in (str, tuple, EllipsisType))
    other = named and step.name.endswith("_SUBSCR") and not step.reached
    if what < DICTS and other:
        return False
    return what > LISTS or not (step.value in OF_OTHERS or inplace_operator(step) in ("|=", "&=", "^=", "-="))


def _changes(steps: list[Step], at: int, own: set[str]) -> bool:
    step, before = steps[at], steps[at - 1] if at else steps[at]
    if step.name in STORES:
        simple = before.name in ("LOAD_CONST", "LOAD_FAST") and not (before.reached or step.reached)
        return not (step.name == "STORE_SUBSCR" and simple and at > 1 and _loads(steps[at - 2], own))
    if isinstance(step.value, str) and step.value in CHANGING:
        method = step.name in ("LOAD_METHOD", "LOAD_ATTR") and not step.reached
        return not (method and _loads(before, own))
    operator = inplace_operator(step)
    if operator not in INPLACE.values():
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
