"""Copies of a model that share its weights, and the way back to a model that owns them.

A structural copy costs milliseconds: the pass can trace and rewrite it without touching the caller's model, and only
what survives the rewrite is ever copied.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .walk import tensors, walk

M = TypeVar("M", bound=nn.Module)

ATOMIC = {type(None), bool, int, float, complex, str, bytes, type, FunctionType, torch.dtype, torch.device}
STANDARD = set(vars(nn.Module()))  # what every module has: its parameters are leaves, and its children are visited
# A class that copies or pickles in its own way is left to do so.
PROTOCOL = {
    name: getattr(nn.Module, name, None)
    for name in ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__new__")
}


def structural_copy(model: M) -> M:
    """A deep copy of ``model`` whose parameters and registered buffers are the caller's own tensors."""
    copied: M = _copy(model, _caches(model) | {id(t): t for t in tensors(model)})
    return copied


def owning_copy(model: M, except_for: Iterable[Tensor] = ()) -> M:
    """A deep copy of ``model`` that shares the tensors ``except_for``, which the caller is about to drop from it."""
    copied: M = _copy(model, _caches(model) | {id(t): t for t in except_for})
    return copied


def copied_state(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of a module's attributes, but for what ``memo`` has an answer for."""
    return _copy_state(vars(module), _caches(module) | memo)


def with_tensors(module: nn.Module, cast: Callable[[Tensor], Tensor]) -> Any:
    """A module like one of torch's own, which has no children and no hooks, on other tensors."""
    twin: Any = object.__new__(type(module))
    vars(twin).update(vars(module))
    for name in ("_parameters", "_buffers"):
        own = vars(module)[name]
        vars(twin)[name] = {key: tensor if tensor is None else cast(tensor) for key, tensor in own.items()}
    return twin


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy``, several times as fast on what modules are made of: modules, dictionaries and plain values."""
    kind = type(value)
    if kind in ATOMIC:
        return value
    if (kind is tuple or kind is set) and ATOMIC.issuperset(map(type, value)):
        return value if kind is tuple else set(value)
    if id(value) in memo:
        return memo[id(value)]
    if kind is dict or kind is OrderedDict:
        copied: dict[Any, Any] = kind()
        memo[id(value)] = copied
        for key, item in value.items():
            copied[_copy(key, memo)] = _copy(item, memo)
        return copied
    if kind is list:
        items: list[Any] = []
        memo[id(value)] = items
        items.extend(_copy(item, memo) for item in value)
        return items
    if isinstance(value, nn.Module) and all(getattr(kind, name, None) is ours for name, ours in PROTOCOL.items()):
        memo[id(value)] = module = kind.__new__(kind)  # type: ignore[call-overload]
        module.__setstate__(_copy_state(vars(value), memo))
        return module
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:  # a lock, an open file, a generator; a dictionary that takes no items: there is only one
        if isinstance(value, nn.Module) and "cannot pickle" not in str(error):
            raise
        return value


def _copy_state(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of a module's attributes. Most are plain values, or the empty dictionaries that every module has."""
    copied = dict(state)
    for key, value in state.items():
        kind = type(value)
        if kind in ATOMIC:
            continue
        if key in STANDARD and not value and (kind is dict or kind is OrderedDict):
            copied[key] = kind()
        else:
            copied[key] = _copy(value, memo)
    copied.pop("_compiled_call_impl", None)  # it runs the original
    return copied


def _caches(model: nn.Module) -> dict[int, object]:
    """Detached copies of tensors that were computed, which refuse ``deepcopy``: those that ``forward`` left behind."""
    own = (v for _, module in walk(model) for key, v in vars(module).items() if key not in STANDARD)
    values = chain(_tensors(own), tensors(model))  # the merged weights, where those of the branches are trained
    return {id(t): t.detach().clone() for t in values if t.grad_fn is not None}


def _tensors(values: Iterable[object], depth: int = 3) -> Iterator[Tensor]:
    for value in values:
        if type(value) in ATOMIC:
            continue
        if isinstance(value, Tensor):
            yield value
        elif depth and isinstance(value, dict):
            yield from _tensors(value.values(), depth - 1)
        elif depth and isinstance(value, list | tuple | set | deque):
            yield from _tensors(value, depth - 1)
        elif depth and hasattr(value, "__dict__") and not isinstance(value, nn.Module | type | FunctionType):
            yield from _tensors(vars(value).values(), depth - 1)
