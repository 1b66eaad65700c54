"""What else must not be merged, or not lost: one small model for each guard of the pass that no other test needs.

``python -m tests.guards`` takes the guards out one by one; see tests/guards/TABLE.md for what notices which.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxrep
from tests.helpers import randomize, relative_error

Body = Callable[[Any, Tensor], Any]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Model(nn.Module):
    """A few convolutions and constants, and what ``body`` does with them."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 1)
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.valid = nn.Conv2d(4, 4, 3)
        self.six = nn.Conv2d(6, 4, 1)
        self.n = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 4)
        self.flat, self.id, self.relu = nn.Flatten(2), nn.Identity(), nn.ReLU(inplace=True)
        self.c = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.register_buffer("many", torch.zeros(3, 1, 1, 1, 1))
        self.register_buffer("five", torch.full((1, 1, 1, 1, 1), 2.0))
        self.register_buffer("table", torch.randn(4, 1, 1))
        self.register_buffer("view", self.table[:])
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def image(*size: int) -> Tensor:
    return torch.randn(*(size or (2, 4, 5, 5)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """What two calls return; random numbers are the same each time."""
    torch.manual_seed(3)
    found = []
    with torch.no_grad():
        for _ in range(2):
            made = model(*copy.deepcopy(inputs))
            found += list(made) if isinstance(made, tuple | list) else [made]
    return found


def assert_same(model: nn.Module, *inputs: Tensor, **options: Any) -> nn.Module:
    """Merging ``model`` changes none of its outputs, in two calls."""
    inputs = inputs or (image(),)
    model = randomize(model).double()
    expected = outputs(copy.deepcopy(model), *inputs)
    after = fxrep.reparameterize(model, policy="kernels", **options)
    for found, wanted in zip(outputs(after, *inputs), expected, strict=True):
        assert found.dtype == wanted.dtype
        assert relative_error(found, wanted) <= 1e-9
    return after


def reasons(model: nn.Module) -> str:
    return "; ".join(kept.reason for kept in fxrep.report(model).kept)


# ----------------------------------------------------------------------------------------------- arguments of operators
def _out(function: Any, *values: Any) -> Body:
    """A body in which ``function`` writes its result to an ``out=`` that is read."""

    def body(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        out = x.new_empty(0)
        return function(*(value(m, x) for value in values), out=out) * 1, out * 2

    return body


def a(m: Any, x: Tensor) -> Tensor:
    return m.a(x)  # type: ignore[no-any-return]


def b(m: Any, x: Tensor) -> Tensor:
    return m.b(x)  # type: ignore[no-any-return]


def stacked(m: Any, x: Tensor) -> Tensor:
    return torch.stack([m.a(x), m.b(x)])


def _stack_out(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    out = x.new_empty(0)
    return torch.stack([m.a(x), m.b(x)], out=out).sum(0), out * 2


OPERATORS: dict[str, Body] = {
    "rsub with alpha": lambda m, x: torch.rsub(m.a(x), m.b(x), alpha=2),
    "a division that rounds": lambda m, x: torch.div(m.n(m.a(x)), 0.5, rounding_mode="floor"),
    "a computed alpha": lambda m, x: m.a(x).add(m.b(x), alpha=x.shape[0]),
    "add(out=)": _out(torch.add, a, b),
    "mul(out=)": _out(torch.mul, a, lambda m, x: 2.0),
    "sum(out=)": _out(lambda s, out: torch.sum(s, 0, out=out), stacked),
    "stack(out=)": _stack_out,
    "a stack with two readers": lambda m, x: (lambda s: s.sum(0) + s.amax(0))(stacked(m, x)),
    "a stack of what is split": lambda m, x: m.b(x) + torch.stack(m.a(x).split(1)).sum(0),
    "a sum that keeps its axis": lambda m, x: stacked(m, x).sum(0, keepdim=True),
    "a sum of another type": lambda m, x: stacked(m, x).sum(0, dtype=torch.float32),
    "a sum over two axes": lambda m, x: stacked(m, x).sum((0, 1)),
    "a sum over everything": lambda m, x: stacked(m, x).sum(),
    "a sum over another axis": lambda m, x: torch.stack([m.a(x), m.b(x)], 1).sum(0),
    "a sum over the channels": lambda m, x: (m.a(x) + m.b(x)).sum(1),
    "zeros that widen": lambda m, x: m.n(m.a(x)) + m.many,
    "one number of five axes": lambda m, x: (m.a(x) + m.b(x)) * m.five,
    "one number of five axes on a linear layer": lambda m, x: m.linear(m.linear(x[..., :4]) * m.five),
    "a computed pad": lambda m, x: m.valid(F.pad(x, (x.shape[0], 0, 0, 0))),
    "a pad that crops and reflects": lambda m, x: m.valid(F.pad(x, (2, -1, 1, 1), mode="reflect")),
    "a pad of the channels": lambda m, x: m.six(F.pad(x, (0, 0, 0, 0, 1, 1))),
    "a pad with ones": lambda m, x: m.b(F.pad(x, (1, 1, 1, 1), value=1.0)),
    "a pad of the features": lambda m, x: F.linear(F.pad(x.exp(), (1, 0)), m.six.weight.flatten(1)),
    "a computed window": lambda m, x: m.b(F.avg_pool2d(x, x.shape[0], 1)),
    "a pool that rounds up": lambda m, x: m.b(F.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "a pool of what is inside": lambda m, x: m.plain(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
    "a pool with another divisor": lambda m, x: m.b(F.avg_pool2d(x, 2, 1, divisor_override=3)),
    "a computed weight": lambda m, x: F.conv2d(x, m.b.weight * x.mean()) + m.b(x),
    "a computed stride": lambda m, x: F.conv2d(x, m.b.weight, stride=x.shape[0]),
    "a computed padding": lambda m, x: m.n(F.conv2d(x, m.b.weight, padding=(x.shape[0], 0))),
    "a weight of three axes": lambda m, x: F.linear(x[:, :, 0, :4], m.table[:, 0, 0]),
    "an image without a batch": lambda m, x: m.n(F.conv2d(x[0], m.a.weight, padding=1)[None]),
    "items of a list": lambda m, x: (lambda h: h[0] + h[1])(m.id([m.a(x), m.b(x)])),
    "an item of a chunk": lambda m, x: m.six(torch.cat([m.a(x), x.chunk(2, 1)[0]], 1)),
    "a norm by its batch": lambda m, x: F.batch_norm(m.a(x), None, None, training=True),
    "two pools": lambda m, x: F.avg_pool2d(x, 3, 1, 1) + F.avg_pool2d(x, 5, 1, 2),
    "a pool and a convolution of another rank": lambda m, x: m.linear(x[..., :4]) + m.b(x)[..., :4],
}


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case: str) -> None:
    assert_same(Model(OPERATORS[case]))


def test_a_constant_of_a_larger_type() -> None:
    """It makes the result float64."""
    model = randomize(Model(lambda m, x: m.n(m.a(x)) * m.table))
    model.table = model.table.double()
    x = image().float()
    after = fxrep.reparameterize(model)
    assert after(x).dtype == model(x).dtype == torch.float64


@pytest.mark.parametrize("dropout", [F.dropout, F.dropout2d, nn.Dropout()])
def test_a_dropout_that_drops(dropout: Any) -> None:
    model = Model(lambda m, x: m.n(m.d(m.a(x))))
    model.d = dropout
    model.double().eval()
    if isinstance(dropout, nn.Module):
        dropout.train()
    expected = outputs(copy.deepcopy(model), image())
    assert_all_close(outputs(fxrep.reparameterize(model), image()), expected)


def assert_all_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, its in zip(found, expected, strict=True):
        assert relative_error(mine, its) <= 1e-9


# -------------------------------------------------------------------------------------------------- writes and aliases
def _between(write: Callable[[Any, Tensor], Any]) -> Body:
    """Two branches of one value that ``write`` may change in between."""

    def body(m: Any, x: Tensor) -> Tensor:
        h = x.exp()
        first = m.a(h)
        write(m, h)
        return first + m.b(h)  # type: ignore[no-any-return]

    return body


def _first(write: Callable[[Any, Tensor], Any], alias: Callable[[Any, Tensor], Tensor]) -> Body:
    """As ``_between``, through another name of the value that was made before."""

    def body(m: Any, x: Tensor) -> Tensor:
        h = x.exp()
        other = alias(m, h)
        first = m.a(h)
        write(m, other)
        return first + m.b(h)  # type: ignore[no-any-return]

    return body


def clamp(x: Tensor) -> Tensor:
    """Not torch's, and it cannot be traced: it writes."""
    return x.mul_(2) if x.sum() > 0 else x.mul_(3)


fx.wrap("clamp")


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) if x.sum() > 0 else x.mul_(3)


class WritingRelu(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) if x.sum() > 0 else x.mul_(3)


class ReturningConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else x[:]


def _set(m: Any, h: Tensor) -> None:
    h[:, 0] = 3.0


def _iadd(m: Any, h: Tensor) -> None:
    h += 1


WRITES: dict[str, Body] = {
    "a method": _between(lambda m, h: h.mul_(2)),
    "an operator": _between(_iadd),
    "an assignment": _between(_set),
    "inplace=True": _between(lambda m, h: F.threshold(h, 1.5, 0.0, inplace=True)),
    "inplace by position": _between(lambda m, h: F.threshold(h, 1.5, 0.0, True)),
    "inplace module": _between(lambda m, h: m.relu(h.sub_(1))),
    "an in-place module": _first(lambda m, h: m.relu(h), lambda m, h: h.sub_(2)),
    "out=": _between(lambda m, h: torch.mul(h, 3, out=h)),
    "a wrapped function": _between(lambda m, h: clamp(h)),
    "a module that cannot be traced": _between(lambda m, h: m.writes(h)),
    "a subclass that cannot be traced": _between(lambda m, h: m.writing(h)),
    "a transposed view": _first(lambda m, v: v.mul_(2), lambda m, h: h.transpose(2, 3)),
    "a chunk": _first(lambda m, v: v.mul_(2), lambda m, h: h.chunk(2, 1)[0]),
    "a flattened view": _first(lambda m, v: v.mul_(2), lambda m, h: m.flat(h)),
    "what a dropout passes on": _first(lambda m, v: v.mul_(2), lambda m, h: F.dropout(h, training=False)),
    "what a subclass returns": _first(lambda m, v: v.mul_(2), lambda m, h: m.returning(h)),
}


OPEN = {"a subclass that cannot be traced"}  # effects.may_write takes it for the class that it inherits from


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.xfail(strict=False) if case in OPEN else ()) for case in WRITES]
)
@pytest.mark.parametrize("exported", [False, True], ids=["", "exported"])
def test_a_value_that_is_written_between_two_reads(case: str, exported: bool) -> None:
    model = Model(WRITES[case])
    model.writes, model.writing, model.returning = Writes(), WritingRelu(), ReturningConv(4, 4, 1)
    if not exported:
        assert_same(model)
    elif "trace" not in case and "wrap" not in case and "subclass" not in case:
        program = torch.export.export(randomize(model).double(), (image(),))
        assert_all_close(outputs(fxrep.reparameterize(program).module(), image()), outputs(model, image()))


def _written_constant(m: Any, x: Tensor) -> Tensor:
    t = m.c * 2
    y = m.n(m.a(x)) * t
    t[0] = 5.0
    return y + m.b(x) * t  # type: ignore[no-any-return]


def _shared_storage(m: Any, x: Tensor) -> Tensor:
    m.table.add_(1)
    return m.b(x) * m.view  # type: ignore[no-any-return]


def _out_of_a_constant(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * torch.add(m.c, 1, out=m.table) + m.view  # type: ignore[no-any-return]


CONSTANTS: dict[str, Body] = {
    "a random mask": lambda m, x: m.n(m.a(x)) * torch.bernoulli(torch.sigmoid(m.c)),
    "a dropout on a weight": lambda m, x: m.n(m.a(x)) * F.dropout(m.c, 0.5),
    "a value that is written to": _written_constant,
    "a buffer that is written to": lambda m, x: m.b(x) * m.table.add_(1),
    "a buffer that shares memory with one that is written to": _shared_storage,
    "a buffer that is an out=": _out_of_a_constant,
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_that_change(case: str) -> None:
    assert_same(Model(CONSTANTS[case]))


def test_one_tensor_for_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            first = self.a(x)
            y.relu_()
            return first + self.b(x)  # type: ignore[no-any-return]

    model = randomize(Two()).double()
    expected, found = (both(image()) for both in map(_twice, (copy.deepcopy(model), fxrep.reparameterize(model))))
    assert relative_error(found, expected) <= 1e-9


def _twice(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x, x)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------- what reports say
REPORTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no statistics": (lambda m: setattr(m, "n", nn.BatchNorm2d(4, track_running_stats=False).eval()), "no running"),
    "NaN": (lambda m: m.n.running_mean.fill_(float("nan")), "NaN or infinite"),
    "training": (lambda m: m.n.train(), "call .eval()"),
}


@pytest.mark.parametrize("case", REPORTED)
def test_the_reason_for_a_norm_that_stays(case: str) -> None:
    change, reason = REPORTED[case]
    model = Model(lambda m, x: m.n(m.a(x))).eval()
    change(model)
    assert reason in reasons(fxrep.reparameterize(model))
