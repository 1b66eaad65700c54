"""A forward that may take another way between a convolution and its norm: that is right, or an error, never wrong."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.helpers import randomize, relative_error


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.flag, self.mode, self.steps = False, "plain", [2.0]
        self.post: Callable[[Tensor], Tensor] = _same


def _same(x: Tensor) -> Tensor:
    return x


class Added(Net):
    """As in the block of a diffusion model."""

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        if more is not None:
            y = y + more
        return self.norm(y)


class Masked(Net):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return self.norm(self.conv(x) if more is None else self.conv(x) * more)


class Convolved(Net):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        return self.norm(y if more is None else y + self.other(more))


class Taps(Net):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Any:
        y = self.conv(x)
        z = self.norm(y)
        return z if more is None else y


class Skipped(Net):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        if more is None:
            y = self.norm(y)
        return y


class Before(Net):
    """The norm goes into the convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.padding = (0, 0)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if more is not None:
            y = y + more
        return self.conv(y)


class ByMethod(Net):
    def stem(self, x: Tensor, more: Tensor | None) -> Tensor:
        y = self.conv(x)
        return y if more is None else y * more

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.stem(x, None)
        if more is not None:
            y = y + more
        return self.norm(y)


class IntoMethod(Net):
    def after(self, y: Tensor, more: Tensor | None) -> Tensor:
        return self.norm(y if more is None else y + more)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return self.after(self.conv(x), more)


class Items(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([self.conv, self.norm])
        del self.conv, self.norm

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        for part in self.parts:
            x = part(x) if more is None else part(x) + more
        return x


class Head(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        if more is not None:
            x = x + more
        return self.norm(x)


class Stem(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        return x if more is None else x + more


class InHead(Net):
    """The norm is in another module, which the value is handed to."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head(self.norm)
        del self.norm

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return self.head(self.conv(x), more)


class InStem(Net):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(self.conv)
        del self.conv

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return self.norm(self.stem(x, more))


class Longer(Stem):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        return x if more is None else x + more


class InSuper(InStem):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Longer(self.stem.conv)


class InWrapped(InStem):
    """What is around a forward counts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Wrapped(self.stem.conv)


def _adds(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def added(self: nn.Module, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = forward(self, x)
        return x if more is None else x + more

    return added


class Wrapped(Stem):
    @_adds
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class InParts(Net):
    """Both are in parts of it, and the way between these is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = Stem(self.conv), Head(self.norm)
        del self.conv, self.norm

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        if more is not None:
            x = x * more
        return self.head(x)


class ByClass(Net):
    def forward(self, x: Any) -> Tensor:
        more = None
        if isinstance(x, tuple):
            x, more = x
        y = self.conv(x)
        if more is not None:
            y = y + more
        return self.norm(y)


KINDS = [Added, Masked, Convolved, Taps, Skipped, Before, ByMethod, IntoMethod, Items]
KINDS += [InHead, InStem, InSuper, InParts]


@pytest.mark.parametrize("kind", KINDS)
def test_an_argument(kind: type[Net]) -> None:
    model, x, more = randomize(kind()).double().eval(), image(), image()
    merged = fxrep.reparameterize(model)
    assert_right(model, merged, x)
    assert_right_or_error(model, merged, x, more)


def test_around_a_forward() -> None:
    model, x, more = randomize(InWrapped()).double().eval(), image(), image()
    merged = fxrep.reparameterize(model)
    assert_right_or_error(model, merged, x)
    assert_right_or_error(model, merged, x, more)


def test_a_tuple() -> None:
    model, x = randomize(ByClass()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert_right(model, merged, x)
    assert_right_or_error(model, merged, (x, image()))


@pytest.mark.parametrize("kind", [Added, Masked, Convolved, InHead, InParts])
def test_in_a_model_that_gives_the_argument(kind: type[Net]) -> None:
    """Then the code with it is what is traced."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = kind(), kind()

        def forward(self, x: Tensor, more: Tensor) -> Tensor:
            return self.second(self.first(x, more).relu())

    model, x, more = randomize(Outer()).double().eval(), image(), image()
    assert_right(model, fxrep.reparameterize(model), x, more)


class Flag(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.flag:
            y = y * 2
        return self.norm(y)


class Mode(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y.relu()) if self.mode == "other" else self.norm(y)


class Function(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.post(self.conv(x)))


class Flipped(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if self.flag else self.norm(y)


class Rounds(Net):
    """What it gave is read the next time."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 1

    def forward(self, x: Tensor) -> Tensor:
        y = total = None
        for _ in range(self.rounds):
            total = y
            y = self.conv(x)
            x = self.norm(y)
        return x if total is None else x + total


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Flag, "flag", True),
        (Mode, "mode", "other"),
        (Flipped, "flag", True),
        (Function, "post", torch.relu),
        (Rounds, "rounds", 2),
    ],
)
def test_an_attribute(kind: type[Net], name: str, value: object) -> None:
    model, x = randomize(kind()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert_right(model, merged, x)
    setattr(model, name, value)
    setattr(merged, name, value)
    assert_right_or_error(model, merged, x)


class Straight(Net):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        if more is not None:
            x = x + more
        x = self.norm(self.conv(x))
        return x if more is None else x * more


class ThroughList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([self.conv, self.norm])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class ThroughMethod(Net):
    def _stem(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def _after(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self._after(self._stem(x))
        return y if more is None else y + more


@pytest.mark.parametrize("kind", [Straight, ThroughList, ThroughMethod])
def test_one_way_is_kept(kind: type[Net]) -> None:
    """A forward that has one way between the two stays what it is, whatever it does before and after."""
    model, x = randomize(kind()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert type(merged) is kind
    assert fxrep.report(merged).after["norm"] == 0
    assert_right(model, merged, x)
    if kind is not ThroughList:
        assert_right(model, merged, x, image())


class Levels(nn.ModuleDict):
    """The levels of a backbone, as a detector has them."""

    def __init__(self) -> None:
        super().__init__({"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "act": nn.ReLU()})
        self.names = ["act"]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        found = OrderedDict[str, Tensor]()
        for name, part in self.items():
            x = part(x)
            if name in self.names:
                found[name] = x
        return found


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, levels: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        levels.move_to_end("act")  # a plain dictionary has no such method
        return OrderedDict((name, self.conv(level)) for name, level in levels.items())


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels, self.neck, self.norm = Levels(), Neck(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        levels = self.neck(self.levels(x))
        y = levels["act"]
        return self.norm(y if more is None else y + more)


def test_levels_by_name() -> None:
    model, x = randomize(Levels()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).after["norm"] == 0
    found = merged(x)
    assert type(found) is OrderedDict
    assert list(found) == ["act"]
    assert relative_error(found["act"], model(x)["act"]) <= 1e-9


def test_levels_that_are_handed_on() -> None:
    model, x, more = randomize(Detector()).double().eval(), image(), image()
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).after["norm"] == 0
    assert_right(model, merged, x)
    assert_right_or_error(model, merged, x, more)


def image() -> Tensor:
    return torch.randn(2, 4, 6, 6).double()


def assert_right(model: nn.Module, merged: nn.Module, *inputs: Any) -> None:
    assert fxrep.report(merged).merged
    with torch.no_grad():
        assert relative_error(merged(*inputs), model(*inputs)) <= 1e-9


def assert_right_or_error(model: nn.Module, merged: nn.Module, *inputs: Any) -> None:
    with torch.no_grad():
        try:
            found = merged(*inputs)
        except ValueError as error:
            assert "merged by fxrep for" in str(error)  # noqa: PT017
            return
        assert relative_error(found, model(*inputs)) <= 1e-9
