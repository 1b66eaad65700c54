"""What code keeps from one call to the next outside of attributes: in variables around a function, in defaults, on it.

A trace sees one call. Where another would do something else, the code is left as it is.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep.capture.state import State
from tests.blocks import TwoBranches as Branches
from tests.helpers import randomize, relative_error


def counting() -> Callable[[], int]:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


def times_the_calls(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    calls = 0

    @functools.wraps(forward)
    def multiplied(self: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, x) * calls

    return multiplied


def times_the_length(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    calls: list[int] = []

    def multiplied(self: Any, x: Tensor) -> Tensor:
        calls.append(1)
        return forward(self, x) * len(calls)

    return multiplied


class Nonlocal(Branches):
    @times_the_calls
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Around(Branches):
    @times_the_length
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Default(Branches):
    def count(self, calls: list[int] = []) -> int:  # noqa: B006
        calls.append(1)
        return len(calls)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.count()


def counter() -> None: ...


counter.calls = 0  # type: ignore[attr-defined]


class OnAFunction(Branches):
    def forward(self, x: Tensor) -> Tensor:
        counter.calls += 1  # type: ignore[attr-defined]
        return super().forward(x) * counter.calls  # type: ignore[attr-defined]


class Held(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.count = counting()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.count()


class HeldInAList(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.counts = [counting()]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.counts[0]()


class Iterates(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * next(self.calls)


CALLS = itertools.count(1)


class IteratesGlobally(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * next(CALLS)


KEPT = [Nonlocal, Around, Default, OnAFunction, Held, HeldInAList, Iterates, IteratesGlobally]


@pytest.mark.parametrize("kind", KEPT)
def test_calls_that_are_counted(kind: type[Branches]) -> None:
    model = randomize(kind()).double().eval()
    x = torch.randn(2, 4, 5, 5).double()
    once = Branches.forward(model, x)
    merged = fxrep.reparameterize(model)
    for calls in (1, 2, 3):  # neither did the trace count
        assert relative_error(merged(x), calls * once) <= 1e-9


def test_compiled_methods_do_not_change() -> None:
    module = nn.Identity()
    module.kind = np.random.RandomState  # type: ignore[assignment]
    assert not State(module).changed()


def test_what_is_kept_and_not_changed_is_no_reason_to_stop() -> None:
    scale = {"factor": 2.0}

    class Closed(Branches):
        def forward(self, x: Tensor, power: float = 3.0) -> Tensor:
            return super().forward(x) * scale["factor"] * power

    model = randomize(Closed()).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert fxrep.report(merged).merged
    assert relative_error(merged(x), model(x)) <= 1e-9
