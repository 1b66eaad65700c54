"""What code that cannot be traced, or another method, may do to modules that a merge would change."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.helpers import assert_unchanged, randomize, relative_error, run, snapshot


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.point = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.bn(self.conv(x)) + self.point(x)
        return y if mask is None else y * mask


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Pair(nn.Module):
    """A convolution in a module of its own, and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = Inner(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.inner(x))  # type: ignore[no-any-return]


class TwoOutputs(nn.Module):
    """Its norm goes into the linear layer, and out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        return y, self.linear(y.mean((2, 3)))


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = TwoOutputs()

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[1]  # type: ignore[no-any-return]


class Root(nn.Module):
    """The forward of a case, with control flow on a value in front of it."""

    def __init__(self, body: Callable[[Any, Tensor], Any], traced: bool = False) -> None:
        super().__init__()
        self.branch, self.pair, self.second = Branch(), Pair(), Second()
        self.body, self.traced = body, traced

    def forward(self, x: Tensor) -> Any:
        if not self.traced and x.sum() > 1e9:
            return x
        return self.body(self, x)


def hooked(m: Any, x: Tensor) -> Any:
    handle = m.branch.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    y = m.branch(x)
    handle.remove()
    return y


def put(m: Any, x: Tensor) -> Any:
    m.branch.bn = nn.Identity()
    return m.branch(x)


def put_by_name(m: Any, x: Tensor) -> Any:
    setattr(m.branch, "bn", nn.Identity())  # noqa: B010
    return m.branch(x)


def reset(m: Any, x: Tensor) -> Any:
    m.branch.bn.reset_running_stats()
    return m.branch(x)


def loaded(m: Any, x: Tensor) -> Any:
    m.branch.conv.load_state_dict({name: value * 1.5 for name, value in m.branch.conv.state_dict().items()})
    return m.branch(x)


def settings(m: Any, x: Tensor) -> Any:
    m.branch.conv.padding = m.branch.conv.dilation = (2, 2)
    return m.branch(x)


def epsilon(m: Any, x: Tensor) -> Any:
    m.branch.bn.eps = x.shape[-1] / 2
    return m.branch(x)


def trains(m: Any, x: Tensor) -> Any:
    m.branch.train()
    y = m.branch(x)
    m.branch.eval()
    return y


def trains_norm(m: Any, x: Tensor) -> Any:
    m.branch.bn.train()
    y = m.branch(x)
    m.branch.bn.eval()
    return y


def in_buffers(m: Any, x: Tensor) -> Any:
    m.branch.bn._buffers["running_mean"] = m.branch.bn.running_mean + 1
    return m.branch(x)


CASES: dict[str, Callable[[Any, Tensor], Any]] = {
    "a hook for one call": hooked,
    "hasattr": lambda m, x: m.branch(x).relu() if hasattr(m.branch, "bn") else m.branch(x),
    "another module": put,
    "another module, by its name": put_by_name,
    "statistics": reset,
    "weights": loaded,
    "settings of a convolution": settings,
    "a setting of a norm": epsilon,
    "training mode": trains,
    "training mode of a norm": trains_norm,
    "buffers": in_buffers,
    "functional_call": lambda m, x: torch.func.functional_call(m.branch, {"bn.bias": m.branch.point.bias * 2}, (x,)),
    "a part of it": lambda m, x: m.pair(x) + m.pair.inner(x),
    "what a part hands out": lambda m, x: (m.second.both(x), m.second(x)),
    "an argument by its name": lambda m, x: m.branch(x, mask=(x > 0).double()),
    "an argument by its place": lambda m, x: m.branch(x, (x > 0).double()),
    "arguments in a list": lambda m, x: m.branch(*[x, (x > 0).double()]),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_is_right(case: str, traced: bool) -> None:
    model = randomize(Root(CASES[case], traced)).double().eval()
    x = torch.randn(2, 4, 6, 6).double()
    before = snapshot(model)
    merged = fxrep.reparameterize(model)
    assert_unchanged(model, before)
    for _ in range(2):
        expected, found = run(model, x), run(merged, x)
        pairs = zip(torch.utils._pytree.tree_leaves(expected), torch.utils._pytree.tree_leaves(found), strict=True)
        assert all(relative_error(one, other) <= 1e-9 for one, other in pairs)


def test_what_is_only_called_is_merged() -> None:
    model = randomize(Root(lambda m, x: (m.branch(x), m.pair(x), m.second(x)))).double().eval()
    assert len(fxrep.report(fxrep.reparameterize(model)).merged) == 3


class Methods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x)  # type: ignore[no-any-return]


class Part(Methods):
    def features(self, x: Tensor) -> Tensor:
        return self.pair.inner(x)  # type: ignore[no-any-return]


class Whole(Methods):
    def features(self, x: Tensor) -> Tensor:
        return self.pair(x)  # type: ignore[no-any-return]


class UnseenPart(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 1e9 else self.pair(x)


@pytest.mark.parametrize("kind", [Part, Whole, UnseenPart])
def test_a_method_that_calls_a_part(kind: Callable[[], Any]) -> None:
    model, x = randomize(kind()).eval(), torch.randn(2, 4, 6, 6)
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), run(model, x)) < 1e-5
    assert relative_error(merged.features(x), model.features(x)) < 1e-5
    if kind is Whole:
        assert fxrep.report(merged).merged


# ------------------------------------------------------------------------------------------ weights that a trace writes
def momentum(m: Any, x: Tensor) -> Any:
    for query, key in zip(m.branch.parameters(), m.pair.parameters(), strict=False):
        key.data = key.data * 0.9 + query.data.mean() * 0.1
    return m.branch(x)


def momentum_in_place(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        for parameter in m.pair.parameters():
            parameter.mul_(0.9).add_(0.1)
    return m.branch(x)


def clipped(m: Any, x: Tensor) -> Any:
    for parameter in m.branch.parameters():
        parameter.data.clamp_(-0.05, 0.05)
    return m.branch(x)


def frozen(m: Any, x: Tensor) -> Any:
    m.branch.requires_grad_(False)
    return m.branch(x)


def filled(m: Any, x: Tensor) -> Any:
    for buffer in m.branch.buffers():
        buffer.data.fill_(1)
    return m.branch(x)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("body", [momentum, momentum_in_place, clipped, frozen, filled, loaded, reset])
@pytest.mark.parametrize("what", [fxrep.reparameterize, fxrep.explain])
def test_the_callers_weights_are_not_written(what: Callable[[Any], Any], body: Any, traced: bool) -> None:
    model = randomize(Root(body, traced)).eval()
    before, flags = snapshot(model), [p.requires_grad for p in model.parameters()]
    what(model)
    assert_unchanged(model, before)
    assert flags == [p.requires_grad for p in model.parameters()]


# ------------------------------------------------------------------------------------------ what it was traced with
class Mode(enum.Enum):
    ONE = 1
    TWO = 2


class Level(enum.IntEnum):
    LOW = 1


class Text(str, enum.Enum):
    A = "a"


class Switched(Branch):
    """What it computes depends on an argument, which another call of it may give another value."""

    def forward(self, x: Tensor, switch: Any) -> Tensor:  # type: ignore[override]
        y = super().forward(x)
        if isinstance(switch, list | tuple):
            return y * (len(switch) + switch[-1]) if isinstance(switch[-1], int) else y * len(switch)
        if isinstance(switch, dict):
            return y * switch["factor"]
        return y.relu() if switch in (Mode.ONE, Level.LOW, Text.A, torch.float32, nn.ReLU) else y


class Calls(nn.Module):
    def __init__(self, switch: Any) -> None:
        super().__init__()
        self.child, self.get = Switched(), lambda x: switch(x) if callable(switch) else switch

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x, self.get(x)).sigmoid()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (Mode.ONE, Mode.TWO),
        (Level.LOW, 2),
        (Text.A, "b"),
        ([1, 2], [1, 3]),
        ((1, 2), (1, 2, 2)),
        ((1, 2), [1, 2]),
        (torch.Size([1, 2]), torch.Size([1, 3])),
        ({"factor": 2.0}, {"factor": 3.0}),
        (torch.float32, torch.float64),
        (lambda x: (x.abs(), 3), lambda x: (x.abs(), 4)),
        (lambda x: [x.exp(), x.abs()], lambda x: [x.exp(), x.abs(), x]),
        (lambda x: {"x": x.abs(), "factor": 2}, lambda x: {"x": x.abs(), "factor": 3}),
    ],
)
def test_an_argument_that_is_another_one_than_then(first: Any, other: Any) -> None:
    model, x = randomize(Calls(first)).eval(), torch.randn(2, 4, 5, 5)
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).merged
    assert relative_error(run(merged, x), run(model, x)) < 1e-5
    with pytest.raises(ValueError, match="was merged by fxrep for switch="):
        merged.child(x, other(x) if callable(other) else other)


class Attribute(Branch):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = super().forward(x)
        if isinstance(self.value, Mode):
            return y.relu() if self.value is Mode.ONE else y
        if isinstance(self.value, float):
            return y.masked_fill(y > 1, self.value)
        return self.value(y) if callable(self.value) else y.to(self.value)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (Mode.ONE, Mode.TWO),
        (float("nan"), 1.0),
        (float("inf"), 1.0),
        (nn.functional.relu, torch.sigmoid),
        (torch.float64, torch.float32),
    ],
)
def test_an_attribute_that_is_another_one_than_then(first: Any, other: Any) -> None:
    model, x = randomize(Attribute(first)).eval(), torch.randn(2, 4, 5, 5)
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).merged
    pairs = zip(run(merged, x).flatten().tolist(), run(model, x).flatten().tolist(), strict=True)
    assert all(one == pytest.approx(other, rel=1e-4, abs=1e-4, nan_ok=True) for one, other in pairs)
    merged.value = other
    with pytest.raises(ValueError, match=r"was merged by fxrep for self\.value="):
        run(merged, x)


class Default(Branch):
    def forward(self, x: Tensor, mode: Level = Level.LOW, fill: float = float("nan")) -> Tensor:  # type: ignore[override]
        y = super().forward(x)
        return y.relu() if mode == Level.LOW else y


def test_defaults_that_have_no_plain_text() -> None:
    model, x = randomize(Default()).eval(), torch.randn(2, 4, 5, 5)
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).merged
    assert relative_error(run(merged, x), run(model, x)) < 1e-5


class Asks(Branch):
    def forward(self, x: Tensor, other: Any) -> Tensor:  # type: ignore[override]
        y = super().forward(x)
        return y * other if isinstance(other, float) else y + other


def test_an_argument_that_is_no_tensor() -> None:
    model, x = randomize(Asks()).eval(), torch.randn(2, 4, 5, 5)
    merged = fxrep.reparameterize(model)
    assert fxrep.report(merged).merged
    with torch.no_grad():
        assert relative_error(merged(x, x), model(x, x)) < 1e-5
    with pytest.raises(ValueError, match="merged by fxrep for a tensor 'other'"):
        merged(x, 2.0)


class RunsAClass(nn.Module):
    """Runs the forward of a class, and not that of the module, which is a subclass's once it is merged."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = Branch()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        return self.branch(x) + Branch.forward(self.branch, x * 2)


def test_the_forward_of_a_class_is_run_by_untraced_code() -> None:
    model = randomize(RunsAClass()).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


class Alternating(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        start = x
        for i, module in enumerate(self):
            x = module(x) + (start if i % 2 == 0 else 0)
        return x


def test_a_slice_of_a_chain_with_a_forward_of_its_own_is_refused() -> None:
    model = Alternating(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    merged = fxrep.reparameterize(randomize(model).double().eval())
    assert fxrep.report(merged).merged
    with pytest.raises(TypeError, match="take the slice, then merge it"):
        merged[:2]
