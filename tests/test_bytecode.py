"""What is read off bytecode, which differs from one Python to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fxrep.capture import bytecode

Function = Callable[..., Any]


def default(self: Any, x: Any, m: Any = None) -> Any:
    if m is None:
        return x
    return x * 2


def called(self: Any, x: Any) -> Any:
    y = self.u(x)
    return 1 if y is None else 2


def summed(self: Any, x: Any) -> Any:
    total = None
    for _ in range(2):
        part = self.a(x) + self.b(x)
        total = part if total is None else total + part
    return total


def held(self: Any, x: Any) -> Any:
    extra = getattr(self, "extra", None)
    if extra is not None:
        return 1
    if self.other is None:
        return 2
    return 3


def unpacked(self: Any, x: Any) -> Any:
    _, b = self.u(x)
    return 2 if b is None else 3


def item(self: Any, x: Any) -> Any:
    found = self.u(x)
    return 1 if found[1] is None else 3


def field(self: Any, x: Any) -> Any:
    found = self.u(x)
    return 3 if found.aux is None else 2


def renamed(self: Any, x: Any, found: Any) -> Any:
    y = found
    if y is None:
        return 3
    return 1


ASKS: list[tuple[Function, set[str], bool]] = [
    (default, {"m"}, False),
    (called, set(), True),
    (summed, set(), False),
    (held, set(), False),
    (unpacked, set(), True),
    (item, set(), True),
    (field, set(), True),
    (renamed, {"found"}, False),
]


@pytest.mark.parametrize(("function", "arguments", "results"), ASKS, ids=[a[0].__name__ for a in ASKS])
def test_who_asks_for_none(function: Function, arguments: set[str], results: bool) -> None:
    assert bytecode.asks_for_none(function.__code__) == (arguments, results)


def early(x: Any) -> Any:
    if x:
        return None
    return x


def stored(x: Any) -> Any:
    y = None
    if x:
        y = x
    return y


GIVES: dict[str, tuple[Function, bool]] = {
    "a new axis": (lambda x: x[:, None], False),
    "a slice": (lambda x: x[:, :, 1:-1], False),
    "an argument": (lambda x: torch.add(x, None, out=None), False),
    "a tuple": (lambda x: (x, None), True),
    "a dictionary": (lambda x: {"a": None}, True),
    "a choice": (lambda x: x if x else None, True),
    "early": (early, True),
    "stored": (stored, True),
}


@pytest.mark.parametrize("case", GIVES)
def test_who_gives_none(case: str) -> None:
    function, expected = GIVES[case]
    assert bytecode.gives_none(function.__code__) == expected


QUESTIONS: dict[str, tuple[Function, bool]] = {
    "a gradient": (lambda x: x.grad is None, True),
    "computing gradients": (lambda x: torch.autograd.grad(x, x), False),
    "a type": (lambda x: x.dtype is torch.float32, True),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_questions_that_no_symbol_hears(case: str) -> None:
    function, expected = QUESTIONS[case]
    assert bytecode.asks_for_identity(function.__code__) == expected
