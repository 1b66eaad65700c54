"""What is read off the text of a function, and what follows for a method that reads a value on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxrep
from fxrep.capture.text import flows_in
from tests.helpers import randomize, relative_error


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
    assert flows_in(kind.__dict__["taps"].__code__)["conv"] == {"norm"}
    check(kind, whole=True)


@pytest.mark.parametrize("kind", [Appended, ReadLater, InOneBranch, AfterBranches, Added, Given, Walrus])
def test_a_value_on_the_way_is_read(kind: type[Net]) -> None:
    assert not flows_in(kind.__dict__["taps"].__code__)["conv"].isdisjoint({"", "return"})
    check(kind, whole=False)


class Bottleneck(Net):
    """As in a dense layer: what forward has in a method of its own gives the convolution's value to forward alone."""

    def bottleneck(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y  # noqa: RET504

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.bottleneck(x))

    def taps(self, x: Tensor) -> Any:
        return self.norm(self.bottleneck(x))


class Returned(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class NormAct(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return y.relu()


@pytest.mark.parametrize(("kind", "norms"), [(Appended, 1), (OneByOne, 0), (Bottleneck, 0), (Returned, 1)])
def test_a_norm_of_its_own_code(kind: type[Net], norms: int) -> None:
    model, x = kind(), torch.randn(2, 3, 5, 5).double()
    model.norm = NormAct(4)
    randomize(model).double().eval()
    merged: Any = fxrep.reparameterize(model)
    assert fxrep.report(merged).after["norm"] == norms
    assert_same(merged.taps, model.taps, x)


def test_a_method_without_the_norm() -> None:
    model, x = randomize(Bottleneck()).double().eval(), torch.randn(2, 3, 5, 5).double()
    merged: Any = fxrep.reparameterize(model)
    assert_same(merged.bottleneck, model.bottleneck, x)
    assert_same(merged, model, x)
    assert fxrep.report(merged).merged


class Scales(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x) * 2))

    def taps(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


def test_a_method_without_the_scale() -> None:
    check(Scales, whole=False)


def test_without_its_text() -> None:
    space: dict[str, Any] = {}
    exec("def taps(self, x):\n    y = self.conv(x)\n    return self.norm(y), y", space)
    check(type("Made", (Net,), {"taps": space["taps"]}), whole=False)


def test_another_text(tmp_path: Path) -> None:
    """A file that was edited since says nothing about what runs."""
    path, space = tmp_path / "taps.py", dict[str, Any]()
    exec(compile("def taps(self, x):\n    y = self.conv(x)\n    return self.norm(y), y", str(path), "exec"), space)
    path.write_text("def other(self, x):\n    return self.norm(self.conv(x))\n")
    check(type("Made", (Net,), {"taps": space["taps"]}), whole=False)


class Items(nn.Module):
    """The norm at the start of the second goes into the first, unless a method reads what that gives."""

    def __init__(self) -> None:
        super().__init__()
        second = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.parts = nn.Sequential(nn.Conv2d(3, 3, 3), second)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)

    def taps(self, x: Tensor) -> Any:
        return [self.parts(x)]


class InTurn(Items):
    def taps(self, x: Tensor) -> Any:
        found = []
        for part in self.parts:
            x = part(x)
            found.append(x)
        return found


class ByChildren(Items):
    def taps(self, x: Tensor) -> Any:
        return [x := part(x) for part in self.parts.children()]


class InSlices(Items):
    def taps(self, x: Tensor) -> Any:
        return [self.parts[:1](x)]


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(inner)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)

    def taps(self, x: Tensor) -> Any:
        return self.inner[0].taps(x)


@pytest.mark.parametrize("kind", [Items, InTurn, ByChildren, InSlices])
@pytest.mark.parametrize("outer", [lambda inner: inner, Outer])
def test_parts_one_by_one(kind: type[Items], outer: Callable[[Any], Any]) -> None:
    model, x = randomize(outer(kind())).double().eval(), torch.randn(2, 3, 5, 5).double()
    merged: Any = fxrep.reparameterize(model)
    assert fxrep.report(merged).after["norm"] == (kind is not Items)
    assert_same(merged.taps, model.taps, x)


class Classifies(nn.Module):
    """The norm at the end of the features could go into the classifier, but for who wants the features."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.BatchNorm2d(3))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.last(x.relu())

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_norm_of_the_features() -> None:
    model, x = randomize(Classifies()).double().eval(), torch.randn(2, 3, 5, 5).double()
    merged: Any = fxrep.reparameterize(model)
    assert_same(merged.forward_features, model.forward_features, x)
    assert_same(merged, model, x)


def assert_same(after: Callable[[Tensor], Any], before: Callable[[Tensor], Any], x: Tensor) -> None:
    with torch.no_grad():
        for found, expected in zip(tree_leaves(after(x)), tree_leaves(before(x)), strict=True):
            assert relative_error(found, expected) <= 1e-9


def check(kind: type[Net], whole: bool) -> None:
    model, x = randomize(kind()).double().eval(), torch.randn(2, 3, 5, 5).double()
    merged: Any = fxrep.reparameterize(model)
    assert_same(merged, model, x)
    assert isinstance(merged.norm, nn.Identity) is whole
    assert_same(merged.taps, model.taps, x)
