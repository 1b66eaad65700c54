"""Functions that ask a value for its class, in a file in which no module is written."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def is_exactly_tensor(value: Any) -> bool:
    return type(value) is Tensor


def is_matched(value: Any) -> bool:
    match value:
        case Tensor():
            return True
    return False


@functools.singledispatch
def is_dispatched(value: Any) -> bool:
    return False


@is_dispatched.register
def _(value: Tensor) -> bool:
    return True


def twice(value: Any) -> Any:
    return value * 2 if isinstance(value, Tensor) else value


class Twice:
    def __call__(self, value: Any) -> Any:
        return value * 2 if isinstance(value, Tensor) else value

    @staticmethod
    def fixed(value: Any) -> Any:
        return value * 2 if isinstance(value, Tensor) else value


@functools.lru_cache(maxsize=8)
def cached(value: Any) -> Any:
    return value * 2 if isinstance(value, Tensor) else value
