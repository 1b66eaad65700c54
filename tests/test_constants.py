"""Values that torch's modules compute from parameters alone: constants, as long as each call gives the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from fxrep.analysis.program import Program
from tests.helpers import assert_merged, randomize, relative_error, run

X = torch.randn(2, 4, 7, 6)


class Gated(nn.Module):
    """``conv(x) * gate(parameter)``."""

    def __init__(self, *gate: nn.Module) -> None:
        super().__init__()
        self.conv, self.seed = nn.Conv2d(4, 8, 3), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.gate = nn.Sequential(*gate)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) * self.gate(self.seed)
        return out


class Drifting(Gated):
    """The gate's weights are written to before they are used."""

    def forward(self, x: Tensor) -> Tensor:
        self.gate[0].weight.mul_(0.5)
        return super().forward(x)


class Noise(nn.Module):
    """Not one of torch's: what it does is not known, and tracing it ends the trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(torch.rand(())) if bool(x.sum() > -1e9) else x


def hooked(gate: nn.Module) -> nn.Module:
    gate.register_forward_hook(lambda module, args, output: output * 2)
    return gate


CONSTANT: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: Gated(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()),
    "a norm": lambda: Gated(nn.BatchNorm2d(8), nn.Tanh()),
    "linear layers": lambda: Gated(nn.Flatten(1), nn.Linear(8, 8, bias=False), nn.Unflatten(1, (8, 1, 1))),
}
CHANGING: dict[str, Callable[[], nn.Module]] = {
    "a module with a hook": lambda: Gated(hooked(nn.Conv2d(8, 8, 1))),
    "weights that are written to": lambda: Drifting(nn.Conv2d(8, 8, 1)),
    "somebody's module": lambda: Gated(Noise()),
}


@pytest.mark.parametrize("case", [case for case in CONSTANT if case != "linear layers"])
def test_what_modules_make_of_a_parameter_is_a_constant(case: str) -> None:
    assert_merged(randomize(CONSTANT[case]()), X, convs=1)


def test_a_module_that_is_not_known_makes_no_constant() -> None:
    model = randomize(CONSTANT["linear layers"]()).double()
    assert relative_error(run(fxrep.reparameterize(model), X.double()), run(model, X.double())) <= 1e-9


@pytest.mark.parametrize("case", CHANGING)
def test_what_changes_is_none(case: str) -> None:
    model = randomize(CHANGING[case]()).double()
    after = fxrep.reparameterize(model)
    for _ in range(2):
        torch.manual_seed(0)
        expected = run(model, X.double())
        torch.manual_seed(0)
        assert relative_error(run(after, X.double()), expected) <= 1e-9
    assert not fxrep.report(after).merged


class Asked(nn.Module):
    """``conv3(x) + conv1(x) + alpha conv1(x)``, if ``alpha`` is not zero."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.three, self.two, self.one = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.three(x) + self.two(x)
        if self.alpha:
            return out + self.alpha * self.one(x)
        return torch.relu(out)


class Flipped(Asked):
    """The parameter that is asked is another one in the next call."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.alpha.mul_(0.0)
        return out


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_a_condition_on_a_parameter(alpha: float) -> None:
    assert_merged(Asked(alpha).eval(), X, convs=1)


def test_a_condition_on_a_parameter_that_the_forward_writes_to() -> None:
    model = Flipped(0.5).eval().double()
    after = fxrep.reparameterize(model)
    for _ in range(2):
        assert relative_error(run(after, X.double()), run(model, X.double())) <= 1e-9


class Computed(nn.Module):
    """Convolutions and norms, with weights that are computed from parameters."""

    def __init__(self, shape: tuple[int, ...], *weights: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel, self.norm, self.weights = nn.Parameter(torch.randn(shape)), nn.BatchNorm2d(4), weights

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(F.conv2d(x, weight(self.kernel)) for weight in self.weights)  # type: ignore[assignment]
        return self.norm(total)  # type: ignore[no-any-return]


def standardised(kernel: Tensor) -> Tensor:
    weight = F.batch_norm(kernel.reshape(1, len(kernel), -1), None, None, training=True)
    return weight.reshape_as(kernel)


WEIGHTS: dict[str, tuple[tuple[int, ...], list[Callable[[Tensor], Tensor]]]] = {
    "a view of a parameter": ((4, 4, 9), [lambda kernel: kernel.unflatten(2, (3, 3))]),
    "two views of a parameter": ((4, 4, 9), [lambda k: k.view(4, 4, 3, 3), lambda k: k.view(4, 4, 3, 3)]),
    "an expanded parameter": ((4, 4, 1, 1), [lambda kernel: kernel.expand(4, 4, 3, 3)]),
    "another memory format": ((4, 3, 3, 4), [lambda kernel: kernel.permute(0, 3, 1, 2)]),
    "standardised weights": ((4, 4, 3, 3), [standardised]),
    "weights that look at their content": ((4, 4, 3, 3), [lambda kernel: kernel * kernel[0, 0, 0, 0].item()]),
    "large views": ((4, 4, 4096), [lambda k: k.view(4, 4, 64, 64), lambda k: k.view(4, 4, 64, 64)]),
    "large weights": ((4, 4, 64, 64), [standardised, lambda kernel: kernel.flip(3)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_computed_weights(name: str, dtype: torch.dtype) -> None:
    shape, weights = WEIGHTS[name]
    model = randomize(Computed(shape, *weights).eval()).to(dtype)
    x = torch.randn(1, 4, 66, 66, dtype=dtype)
    before, expected = copy.deepcopy(model.state_dict()), run(model, x)
    result = fxrep.reparameterize(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    assert relative_error(expected, run(result, x)) < 1e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


class Shared(nn.Module):
    """Convolutions of which two have weights that are computed from one that is computed."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel, self.other = nn.Parameter(torch.randn(4, 4, 64, 64)), nn.Parameter(torch.randn(4, 4, 64, 64))
        self.norm, self.make = nn.BatchNorm2d(4), make

    def forward(self, x: Tensor) -> Tensor:
        weight = self.make(self.kernel)
        total = F.conv2d(x, weight.flip(2)) + F.conv2d(x, self.other.flip(2)) + F.conv2d(x, weight.flip(3))
        return self.norm(total + F.conv2d(x, weight))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [standardised, lambda kernel: kernel.reshape(4, 4, 64, 64)])
def test_a_weight_that_several_convolutions_share(make: Callable[[Tensor], Tensor]) -> None:
    model, x = randomize(Shared(make).eval()), torch.randn(1, 4, 66, 66)
    result = fxrep.reparameterize(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    assert relative_error(run(model, x), run(result, x)) < 1e-5


def test_what_nobody_merges_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mlp = nn.Parameter(torch.randn(49, 2)), nn.Sequential(nn.Linear(2, 8), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x @ x.transpose(-2, -1) + self.mlp(self.table) @ self.mlp(self.table).t(), -1)

    def fails(*_: object) -> None:
        raise AssertionError("a constant is computed")

    monkeypatch.setattr(Program, "_content", fails)
    monkeypatch.setattr(Program, "_compute", fails)
    fxrep.reparameterize(Biased().eval())


def test_a_constant_that_a_convolution_reads_and_that_is_added_to_it() -> None:
    class Seeded(nn.Module):
        """``conv(seed) + seed``, and the seed once more: a source to the convolution, a constant to both additions."""

        def __init__(self) -> None:
            super().__init__()
            self.seed, self.drop, self.conv = nn.Parameter(torch.randn(1, 4, 1, 1)), nn.Dropout2d(), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            seed = self.seed
            total = 0 + seed + self.conv(self.drop(seed))
            total += seed
            return total - x

    result = assert_merged(randomize(Seeded().eval()), X[:, :, :1, :1], convs=1, adds=1, policy="kernels")  # the add: x
    assert "the check failed" not in str(fxrep.report(result))


def test_a_constant_in_the_type_of_another_value() -> None:
    class Rounded(nn.Module):
        """The scale is rounded to half precision."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.Parameter(torch.rand(4, 1, 1, 1) + 0.5)
            self.narrow, self.norm = nn.Parameter(torch.ones(1, dtype=torch.half)), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.scale.to(self.narrow.dtype).to(self.weight.dtype)
            return self.norm(F.conv2d(x, self.weight * scale))  # type: ignore[no-any-return]

    model = randomize(Rounded())
    assert relative_error(run(fxrep.reparameterize(model), X), run(model, X)) < 1e-6
