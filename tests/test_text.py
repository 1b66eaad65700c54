"""What is read off the text of a function, and what follows for a method that reads a value on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep.capture.text import flows_in
from tests.helpers import randomize, relative_error, run


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))

    taps: Callable[[Tensor], Any]


class Nested(Net):
    def taps(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


class OneByOne(Net):
    def taps(self, x: Tensor) -> Any:
        x = self.conv(x)
        x = self.norm(x)
        return [x, self.act(x)]


class Renamed(Net):
    def taps(self, x: Tensor) -> Any:
        y = self.conv(x)
        z = y
        return self.norm(z) * x.mean()


class Appended(Net):
    def taps(self, x: Tensor) -> Any:
        x = self.conv(x)
        found = [x.clone()]
        x = self.norm(x)
        return [*found, self.act(x)]


class ReadLater(Net):
    def taps(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm(y), y


class InOneBranch(Net):
    def taps(self, x: Tensor, more: bool = True) -> Any:
        x = self.conv(x)
        if more:
            x = x * 2
        return self.norm(x)


class AfterBranches(Net):
    def taps(self, x: Tensor, more: bool = True) -> Any:
        if more:
            y = self.conv(x)
        else:
            y = self.norm(self.conv(x))
        return y


class Added(Net):
    def taps(self, x: Tensor) -> Any:
        y = self.conv(x)
        y += 1
        return self.norm(y)


class Given(Net):
    def taps(self, x: Tensor) -> Any:
        return self.conv(x), self.norm(self.conv(x))


class Walrus(Net):
    def taps(self, x: Tensor) -> Any:
        return self.norm(y := self.conv(x)), y


@pytest.mark.parametrize("kind", [Nested, OneByOne, Renamed])
def test_one_after_the_other(kind: type[Net]) -> None:
    assert flows_in(kind.__dict__["taps"])["conv"] == {"norm"}
    check(kind, whole=True)


@pytest.mark.parametrize("kind", [Appended, ReadLater, InOneBranch, AfterBranches, Added, Given, Walrus])
def test_a_value_on_the_way_is_read(kind: type[Net]) -> None:
    assert "" in flows_in(kind.__dict__["taps"])["conv"]
    check(kind, whole=False)


def test_without_its_text() -> None:
    space: dict[str, Any] = {}
    exec("def taps(self, x):\n    y = self.conv(x)\n    return self.norm(y), y", space)
    check(type("Made", (Net,), {"taps": space["taps"]}), whole=False)


def check(kind: type[Net], whole: bool) -> None:
    model, x = randomize(kind()).double().eval(), torch.randn(2, 3, 5, 5).double()
    merged: Any = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9
    assert isinstance(merged.norm, nn.Identity) is whole
    with torch.no_grad():
        for after, before in zip(merged.taps(x), model.taps(x), strict=True):
            assert relative_error(after, before) <= 1e-9
