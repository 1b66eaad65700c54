"""Pads whose border is filled by slice writes, merged where it holds what the padded value would be for zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxrep
from tests.counting import count_ops
from tests.helpers import assert_merged, randomize, relative_error, run

Index = tuple[Any, ...]
ALL = slice(None)


def sides(width: int = 1) -> list[Index]:
    """The four sides of a border."""
    low, high = slice(0, width), slice(-width, None)
    return [(ALL, ALL, low, ALL), (ALL, ALL, high, ALL), (ALL, ALL, ALL, low), (ALL, ALL, ALL, high)]


class Filled(nn.Module):
    """``conv3(pad(bn(conv1 x)))`` with ``writes``, indices in order, of what ``bn(conv1 0)`` is."""

    def __init__(self, writes: list[Index], amounts: tuple[int, ...] = (1, 1, 1, 1), off: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3)
        self.writes, self.amounts, self.off = writes, list(amounts), off

    def border(self) -> Tensor:
        conv, norm = self.conv, self.norm
        std = torch.sqrt(norm.running_var + norm.eps)
        value: Tensor = (conv.bias - norm.running_mean) / std * norm.weight + norm.bias
        return value.view(1, -1, 1, 1) + self.off if self.off else value.view(1, -1, 1, 1)

    def pad(self, x: Tensor) -> Tensor:
        out, border = F.pad(self.norm(self.conv(x)), self.amounts), self.border()
        for index in self.writes:
            out[index] = border
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.pad(x))
        return out


class Wide(Filled):
    """The border is two wide, and so are the writes."""

    def __init__(self) -> None:
        super().__init__(sides(2), (2, 2, 2, 2))


class Returned(Filled):
    """The padded value is given back, too."""

    def forward(self, x: Tensor) -> Any:
        out = self.pad(x)
        return self.second(out), out


class OnItsOwn(Filled):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.pad(x))


class Stacked(Filled):
    """The writes are below, and another merge above."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.left, self.right = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return self.left(out) + self.right(out)


class ReadBetween(Filled):
    """Somebody reads the padded value before its last side is filled."""

    def forward(self, x: Tensor) -> Tensor:
        out, border = F.pad(self.norm(self.conv(x)), self.amounts), self.border()
        for index in self.writes[:-1]:
            out[index] = border
        early = out.sum(1, keepdim=True)
        out[self.writes[-1]] = border
        return self.second(out) + early.mean()


class ReadThroughView(Filled):
    """A view that was made before the writes sees them."""

    def forward(self, x: Tensor) -> Tensor:
        out, border = F.pad(self.norm(self.conv(x)), self.amounts), self.border()
        view = out[:, :, :, :]
        for index in self.writes:
            out[index] = border
        return self.second(view) + self.second(out)


class Twice(Filled):
    """A second write to one of the sides."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.pad(x)
        out[:, :, 0:1, :] = 2.0
        return self.second(out)


X = torch.randn(2, 4, 7, 6)
BACK_TO_FRONT = sides()[::-1]
WITH_ELLIPSIS = [(..., slice(None, 1), ALL), (..., slice(-1, None), ALL), (..., slice(0, 1)), (..., slice(-1, None))]
MERGED: dict[str, Callable[[], nn.Module]] = {
    "one by one": lambda: Filled(sides()),
    "in another order": lambda: Filled(BACK_TO_FRONT),
    "from the last axis": lambda: Filled(WITH_ELLIPSIS),
    "one axis only": lambda: Filled(sides()[2:], (1, 1, 0, 0)),
    "two wide": Wide,
    "on its own": lambda: OnItsOwn(sides()),
}
LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a side is left": (lambda: Filled(sides()[:3]), "another is left"),
    "another value": (lambda: Filled(sides(), off=1e-3), "something else than what the inside would be"),
    "wider than the border": (lambda: Filled(sides(2)), "more, or less, than one side"),
    "narrower than the border": (lambda: Filled(sides(), (2, 2, 2, 2)), "more, or less, than one side"),
    "a side twice": (lambda: Filled([*sides(), sides()[0]]), ""),
    "then something else": (lambda: Twice(sides()), ""),
    "read in between": (lambda: ReadBetween(sides()), ""),
    "read through a view": (lambda: ReadThroughView(sides()), ""),
}


@pytest.mark.parametrize("case", MERGED)
def test_is_merged(case: str) -> None:
    assert_merged(randomize(MERGED[case]()), X, convs=1)


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("case", [case for case in MERGED if case != "from the last axis"])
def test_is_merged_in_an_exported_program(case: str, core: bool) -> None:
    model, x = randomize(MERGED[case]()).double(), X.double()
    try:
        program = torch.export.export(model, (x,))
    except KeyError as error:  # torch 2.5 loses the buffers that are read off a module
        pytest.skip(f"torch does not export it: {error}")
    merged = fxrep.reparameterize(program.run_decompositions() if core else program)
    merged.validate()
    assert relative_error(run(merged.module(), x), run(model, x)) < 1e-9
    assert fxrep.report(merged).after["conv"] == 1
    assert not any("slice" in node.name or "copy" in node.name for node in merged.graph.nodes)


@pytest.mark.parametrize("case", LEFT)
@pytest.mark.parametrize("through", ["the model", "fx", "export"])
def test_is_left_alone(case: str, through: str) -> None:
    make, reason = LEFT[case]
    model, x = randomize(make()).double(), X.double()
    expected = run(model, x)
    if through == "export":
        try:
            program = torch.export.export(model, (x,))
        except KeyError as error:
            pytest.skip(f"torch does not export it: {error}")
        merged = fxrep.reparameterize(program)
        found = run(merged.module(), x)
    else:
        merged = fxrep.reparameterize(fxrep.trace(model) if through == "fx" else model)
        found = run(merged, x)
    assert relative_error(found, expected) <= 1e-9
    report = fxrep.report(merged)
    assert report.after["conv"] >= 2
    assert reason in str(report).replace("\n    ", " ")


def test_what_stays_beside_a_merge_is_as_it_was() -> None:
    """The graph of the forward is made anew, with writes in it that give nothing back."""
    model = randomize(Stacked(sides(), off=1.0)).double()
    assert_merged(model, X, convs=3, adds=2)
    graph = fxrep.reparameterize(fxrep.trace(model))
    assert isinstance(graph, fx.GraphModule)
    assert relative_error(run(graph, X.double()), run(model, X.double())) <= 1e-9


def test_the_padded_value_is_a_convolution_of_its_own() -> None:
    model = randomize(Returned(sides())).double()
    after = fxrep.reparameterize(model)
    for a, b in zip(after(X.double()), model(X.double()), strict=True):
        assert relative_error(a, b) <= 1e-9
    assert count_ops(after, X.double())["conv"] == 2
    assert count_ops(after, X.double())["norm"] == 0


class EverySecond(Filled):
    """The writes leave out every second position of their sides."""

    def __init__(self) -> None:
        step = slice(None, None, 2)
        low, high = slice(0, 1), slice(-1, None)
        super().__init__([(ALL, ALL, low, step), (ALL, ALL, high, step), (ALL, ALL, step, low), (ALL, ALL, step, high)])


@pytest.mark.parametrize("core", [False, True])
def test_a_write_with_steps_is_no_side(core: bool) -> None:
    model, x = randomize(EverySecond()).double(), X.double()
    assert relative_error(run(fxrep.reparameterize(model), x), run(model, x)) <= 1e-9
    try:
        program = torch.export.export(model, (x,))
    except KeyError as error:
        pytest.skip(f"torch does not export it: {error}")
    merged = fxrep.reparameterize(program.run_decompositions() if core else program)
    assert relative_error(run(merged.module(), x), run(model, x)) <= 1e-9


def test_a_write_to_something_else_than_a_pad() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            out = self.conv(x)
            out[:, :, 0:1, :] = 0.0
            return self.norm(out)

    model = randomize(Written()).double()
    after = fxrep.reparameterize(model)
    assert relative_error(run(after, X.double()), run(model, X.double())) <= 1e-9
    assert not fxrep.report(after).merged
