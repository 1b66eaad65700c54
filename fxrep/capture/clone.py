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
    """A deep copy of ``model`` whose parameters and registered buffers are the caller's own tensors.

    Other tensors, such as caches that ``forward`` has left behind, are copied detached: a model that was run with
    gradients can hold tensors that refuse ``deepcopy``.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in _tensors(vars(module).values()):
            memo.setdefault(id(value), value.detach().clone() if value.grad_fn is not None else value)
    keep = {id(t) for t in registered_tensors(model)}
    loose = [key for key, value in memo.items() if key not in keep and isinstance(value, Tensor) and value.is_leaf]
    for key in loose:
        tensor = memo[key]
        assert isinstance(tensor, Tensor)
        memo[key] = copy.deepcopy(tensor)
    return copy.deepcopy(model, memo)


def owning_copy(model: M, owned: Iterable[Tensor]) -> M:
    """A deep copy of ``model`` that takes the tensors in ``owned`` over as they are and copies the rest."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in owned}
    return copy.deepcopy(model, memo)


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
