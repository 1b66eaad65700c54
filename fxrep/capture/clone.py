"""Copies of a model that share its weights, and the way back to a model that owns them.

A structural copy costs milliseconds: the pass can trace and rewrite it without touching the caller's model, and only
what survives the rewrite is ever copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def structural_copy(model: M) -> M:
    """A deep copy of ``model`` whose parameters and registered buffers are the caller's own tensors."""
    return copy.deepcopy(model, {id(t): t for t in registered_tensors(model)} | _caches(model))


def owning_copy(model: M, except_for: Iterable[Tensor] = ()) -> M:
    """A deep copy of ``model`` that shares the tensors ``except_for``, which the caller is about to drop from it."""
    return copy.deepcopy(model, {id(t): t for t in except_for} | _caches(model))


def _caches(model: nn.Module) -> dict[int, object]:
    """Detached copies of tensors that ``forward`` has left behind: with a gradient, they refuse ``deepcopy``."""
    values = (value for module in model.modules() for value in _tensors(vars(module).values()))
    return {id(t): t.detach().clone() for t in values if t.grad_fn is not None}


def registered_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer of ``model``, each once."""
    yield from model.parameters()
    yield from model.buffers()


def _tensors(values: Iterable[object], depth: int = 3) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif depth and isinstance(value, dict):
            yield from _tensors(value.values(), depth - 1)
        elif depth and isinstance(value, list | tuple | set):
            yield from _tensors(value, depth - 1)
