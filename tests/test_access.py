"""Modules that answer for their attributes themselves, and what else is not as torch's own code expects it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fxrep
from tests.helpers import assert_merged, assert_unchanged, randomize, relative_error, run, snapshot

C = 4
X = torch.randn(2, C, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)).relu()


# -------------------------------------------------------------------------------------------- attributes of its own
class Wrapper(Branches):
    """It has branches, too, before or after those of the model that is wrapped."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.model, self.first = Branches(), first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else self.model(x)
        x = (self.a(x) + self.b(x)).relu()
        return self.model(x) if self.first else x  # type: ignore[no-any-return]


class FallsBack(Wrapper):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class AsksFirst(Wrapper):
    def __getattr__(self, name: str) -> Any:
        model = vars(self)["_modules"].get("model")
        if name not in ("model", "a", "b") and not name.startswith("_") and hasattr(model, name):
            return getattr(model, name)
        return super().__getattr__(name)


class HandsOn(Wrapper):
    """What is set is set on the wrapped model."""

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("_modules", {}).get("model")
        setattr(inner, name, value) if inner is not None and name not in ("first", "training") else super().__setattr__(
            name, value
        )


class Locked(Branches):
    def __init__(self) -> None:
        super().__init__()
        vars(self)["locked"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        own = name == "training" or name.startswith("_tensor")  # as torch.fx names the constants of a trace
        if "locked" in vars(self) and not own:
            raise AttributeError(f"{name} cannot be set")
        super().__setattr__(name, value)


class HasEverything(Branches):
    """Options that were not given are None."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return None


class Refuses(Branches):
    @property
    def merged(self) -> Any:
        raise RuntimeError("nothing is merged")

    def add_module(self, name: str, module: nn.Module | None) -> None:
        raise RuntimeError("nothing is added")

    def register_buffer(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("nothing is registered")

    def get_submodule(self, target: str) -> nn.Module:
        raise RuntimeError("nothing is given out")


class Constants(Branches):
    """Its forward makes a tensor, which the merged one has as a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(C, 1, 1)


class RefusesConstants(Constants, Refuses): ...


class LockedConstants(Constants, Locked): ...


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [Wrapper, FallsBack, AsksFirst])
def test_a_wrapper(kind: Callable[[bool], nn.Module], first: bool) -> None:
    for model in (kind(first), nn.Sequential(kind(first), kind(not first))):
        merged = assert_merged(model, X, convs=2 if isinstance(model, Wrapper) else 4)
        assert relative_error(run(fxrep.reparameterize(merged), X), run(model.double(), X)) < 1e-12


@pytest.mark.parametrize(
    "make",
    [Locked, lambda: HandsOn(True), HasEverything, Refuses, RefusesConstants, LockedConstants],
)
def test_methods_of_its_own(make: Callable[[], nn.Module]) -> None:
    model = make().eval().double()
    expected = run(model, X)
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, X), expected) < 1e-12
    assert fxrep.report(merged).merged
    assert {name.rpartition(".")[2] for name in merged.state_dict()} == {"weight", "bias"}
    stopped = pytest.raises(KeyboardInterrupt)
    with stopped, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fxrep.api._require_equal", _interrupt)
        fxrep.reparameterize(model, (X,), inplace=True)
    assert relative_error(run(model, X), expected) == 0
    assert type(model) is type(make())
    assert relative_error(run(fxrep.reparameterize(model, inplace=True), X), expected) < 1e-12


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------ tensors and scripts
class Beside(Branches):
    """It holds something, and multiplies with it if it is to."""

    def __init__(self, held: Any, uses: bool = False) -> None:
        super().__init__()
        self.held, self.uses = held, uses

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (self.held @ torch.ones(C, 1, dtype=x.dtype)).view(C, 1, 1) if self.uses else y


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*beta state")
@pytest.mark.parametrize("uses", [True, False])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("trained", [True, False])
def test_a_sparse_tensor(layout: torch.layout, trained: bool, uses: bool) -> None:
    sparse = torch.diag(torch.arange(1.0, C + 1, dtype=torch.float64)).to_sparse(layout=layout)
    model = Beside(nn.Parameter(sparse) if trained else None, uses).double()
    if not trained:
        del model.held
        model.register_buffer("held", sparse)
    expected = run(model.eval(), X)
    for options in ({}, {"inplace": True}):
        merged = fxrep.reparameterize(model, **options)
        assert relative_error(run(merged, X), expected) < 1e-12
    assert len(fxrep.report(merged).merged) == 1
    before, after = fxrep.report(merged).weight_bytes
    assert before > after >= sum(p.numel() for p in merged.merged.parameters()) * 8 + 32 * trained  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, X), lambda m: torch.jit.freeze(torch.jit.script(m))]
)
@pytest.mark.parametrize("untraced", [True, False])
def test_a_script_inside(make: Callable[[nn.Module], Any], untraced: bool) -> None:
    class Net(Branches):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: Tensor) -> Any:
            y = self.part(super().forward(x))
            return y if not untraced or float(y.sum()) != 0.5 else -y

    for part in (nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)), nn.Conv2d(C, C, 1)):
        model = Net(make(part.eval().double())).double().eval()
        assert relative_error(run(fxrep.reparameterize(model), X), run(model, X)) < 1e-12


def test_a_mode_without_values() -> None:
    model = Branches().eval()
    state = snapshot(model)
    for call in (fxrep.reparameterize, fxrep.explain):
        with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match="FakeTensorMode"):
            call(model)
    assert_unchanged(model, state)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_convolution_of_no_channels() -> None:
    model = nn.Sequential(nn.Conv2d(0, C, 1), nn.BatchNorm2d(C))
    assert_merged(randomize(model), torch.randn(2, 0, 5, 5), convs=1)


def test_inputs_that_another_model_computed() -> None:
    model, x = Branches().eval().double(), nn.Conv2d(C, C, 1).double()(X)
    merged = fxrep.reparameterize(model, (x,))
    assert fxrep.explain(model, (x,)).merged
    assert fxrep.verify(model, merged, (x,)).ok
    assert x.grad_fn is not None


def test_a_class_from_nowhere() -> None:
    kind = eval("type('Options', (dict,), {})", {})
    assert getattr(kind, "__module__", None) is None
    base = eval("lambda base: type('Net', (base,), {})", {})(Beside)
    for model in (Beside(kind(a=1)), base(kind())):
        assert_merged(model, X, convs=1)


def test_variables_of_old() -> None:
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(C, C, 3, bias=False), nn.BatchNorm2d(C)
            self.register_buffer("index", torch.arange(C).flip(0))

        def forward(self, x: Tensor) -> Any:
            x = torch.index_select(x, 1, torch.autograd.Variable(self.index))
            return self.norm(self.conv(torch.autograd.Variable(x)))

    variable = vars(type(torch.autograd.Variable)).get("__call__")
    merged = assert_merged(randomize(Old()), X, convs=1)
    assert vars(type(torch.autograd.Variable)).get("__call__") is variable
    x = X.clone().requires_grad_()
    merged(x).sum().backward()
    assert x.grad is None  # as before the merge


# ---------------------------------------------------------------------------------------------- what goes on by a name
class Ends(nn.Module):
    """A block that ends in something that does nothing."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = Branches(), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.body.a(x) + self.body.b(x)).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("last", [nn.Identity, nn.Dropout, nn.Sequential, nn.ReLU])
def test_blocks_that_end_in_nothing(last: Callable[[], nn.Module]) -> None:
    assert_merged(nn.Sequential(Ends(last()), Ends(last())), X, convs=2)
    assert_merged(nn.Sequential(Ends(last()), nn.ReLU(), nn.Sequential(Ends(last()))), X, convs=2)


class CallsOnly(nn.Module):
    """Code that cannot be traced, and does no more with a part than to call it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(C, C, 3, bias=False), nn.BatchNorm2d(C), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y if float(y.sum()) != 0.5 else -y


class GoesThrough(CallsOnly):
    def forward(self, x: Tensor) -> Tensor:
        for part in self.block:
            x = part(x)
        return x if float(x.sum()) != 0.5 else -x


class TakesOne(CallsOnly):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if float(y.sum()) != 0.5 else self.block[0](x)  # type: ignore[no-any-return]


class HandsItOn(CallsOnly):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if float(y.sum()) != 0.25 else first_of(self.block)(x)


class ByMethod(CallsOnly):
    def features(self, x: Tensor) -> Tensor:
        return first_of(self.block)(x)


class Walks(CallsOnly):
    def __init__(self) -> None:
        super().__init__()
        self.named = Named()

    def forward(self, x: Tensor) -> Tensor:
        *_, norm = self.modules()
        y: Tensor = norm(self.named(x))
        return y if float(y.sum()) != 0.5 else -y


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, bias=False), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


def first_of(parts: nn.Sequential) -> Any:
    return parts[0]


@pytest.mark.parametrize("kind", [CallsOnly, GoesThrough, TakesOne, HandsItOn, ByMethod])
def test_what_code_that_cannot_be_traced_may_come_by(kind: Callable[[], Any]) -> None:
    model = randomize(kind()).double()
    merged: Any = fxrep.reparameterize(model)
    assert relative_error(run(merged, X), run(model, X)) < 1e-12
    assert relative_error(run(first_of(merged.block), X), run(first_of(model.block), X)) < 1e-12 or kind is CallsOnly
    assert isinstance(merged.block[1], nn.Identity) == (kind is CallsOnly)
    assert len([m for m in merged.modules() if isinstance(m, nn.Conv2d)]) <= 1 + (kind is not CallsOnly)


def test_code_that_walks_over_all_modules() -> None:
    model = randomize(Walks()).double()
    assert relative_error(run(fxrep.reparameterize(model), X), run(model, X)) < 1e-12


def test_parts_of_different_types() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shift = nn.Conv2d(C, C, 1).bfloat16(), nn.Parameter(torch.rand(C, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.shift  # type: ignore[no-any-return]

    model, x = Mixed().eval(), X.bfloat16()
    merged = fxrep.reparameterize(model)
    assert run(merged, x).dtype == torch.float32
    assert torch.equal(run(merged, x), run(model, x))
    (add,) = fxrep.report(merged).refused
    assert add.reason == "its parts compute in different types: torch.bfloat16, torch.float32"


@pytest.mark.parametrize("case", ["crop", "permute", "sum"])
def test_who_sees_a_write_depends_on_the_layout(case: str) -> None:
    """Of a crop ``flatten`` is a copy, and of a convolution's value a view, which a write to the value changes."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(C, C, 1), nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            if case == "crop":
                y = self.conv(x)[:, :, 1:-1, 1:-1]
            elif case == "permute":
                y = self.linear(self.conv(x).permute(0, 2, 3, 1))
            else:
                y = x.transpose(2, 3) + self.conv(x.transpose(2, 3))
            z = y.flatten(2)
            y.mul_(2)
            return z * 3

    model = randomize(Writes()).double()
    assert relative_error(run(fxrep.reparameterize(model, policy="kernels"), X), run(model, X)) < 1e-12


def test_the_axes_behind_a_norm_of_the_users() -> None:
    """``example_inputs`` say how many there are; they are known behind what works on each element, too."""

    class ChannelsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(C)), nn.Parameter(torch.rand(C))
            self.conv = nn.Conv2d(C, 8, 2, 2)

        def forward(self, x: Tensor) -> Any:
            centred = x - x.mean(1, keepdim=True)
            x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
            return self.conv(self.weight[:, None, None] * x.abs() + self.bias[:, None, None])

    model = ChannelsFirst().double().eval()
    merged = fxrep.reparameterize(model, (X,))
    assert fxrep.verify(model, merged, (X,)).ok
    (merge,) = fxrep.report(merged).merged
    assert merge.operators["scale"] == 1
