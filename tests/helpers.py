"""Helpers for the tests: random statistics, relative errors, and the one assertion that most tests come down to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import fxrep
from tests.counting import count_ops

TOLERANCE = 1e-9


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give ``model`` what training would: random statistics and affine parameters in every norm, and a random value for
    every parameter that was initialised to zero. In eval mode, and returned for chaining."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.copy_(0.5 * normal(module.running_mean))
                module.running_var.copy_(uniform(module.running_var, 0.5, 2.0))
                if isinstance(getattr(module, "weight", None), Tensor):
                    module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                if isinstance(getattr(module, "bias", None), Tensor):
                    module.bias.copy_(0.5 * normal(module.bias))
        for parameter in model.parameters():
            if parameter.numel() and not parameter.any():
                parameter.copy_(0.1 * normal(parameter))
    return model.eval()


def calibrate(model: nn.Module, x: Tensor, seed: int = 0) -> nn.Module:
    """``randomize``, with statistics near those of the activations, so that a deep model does not amplify rounding."""
    randomize(model, seed)
    norms = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
        generator = torch.Generator().manual_seed(seed)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            var = norm.running_var  # a channel that hardly moves on the few samples would amplify anything else
            var.clamp_(min=float(var.mean())).mul_(0.7 + 0.7 * torch.rand(var.shape, generator=generator)).add_(1e-3)
    return model.eval()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``|actual - expected| / |expected|`` in the Euclidean norm, computed in float64; NaN or infinity count as inf."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    difference, size = (actual - expected).norm().item(), expected.norm().item()
    return difference / size if size else difference


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything in ``state_dict``."""
    return {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    """``model`` still has exactly the state of ``snapshot``, bit for bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert after[key].dtype == value.dtype, key
        assert torch.equal(after[key], value), key


def run(model: nn.Module, x: Any) -> Tensor:
    """The output of ``model`` for a tensor (copied, for models that write to it) or a tuple of tensors."""
    inputs = x if isinstance(x, tuple) else (x,)
    with torch.no_grad():
        output: Tensor = model(*(value.clone() for value in inputs))
    return output


def assert_merged(model: nn.Module, x: Any, *, convs: int, norms: int = 0, adds: int = 0, **options: Any) -> nn.Module:
    """Merging ``model`` gives the same function with exactly these operators, and touches nothing of the caller's.

    Runs in float64, so that agreement can be asked for to 1e-9. Returns the merged model.
    """
    before = copy.deepcopy(model).double().eval()
    inputs = tuple(value.double() for value in (x if isinstance(x, tuple) else (x,)))
    expected = run(before, inputs)
    state, names = snapshot(before), [name for name, _ in before.named_modules()]

    after = fxrep.reparameterize(before, **options)

    assert after is not before
    assert isinstance(after, type(before)), f"{type(before).__name__} became {type(after).__name__}"
    assert_unchanged(before, state)
    assert [name for name, _ in before.named_modules()] == names
    assert relative_error(run(before, inputs), expected) == 0.0, "the caller's model computes something else now"
    error = relative_error(run(after, inputs), expected)
    assert error <= TOLERANCE, f"relative error {error:.2e}\n{after}"
    counts = count_ops(after, *(value.clone() for value in inputs))
    found = {kind: counts[kind] for kind in ("conv", "norm", "add")}
    assert found == {"conv": convs, "norm": norms, "add": adds}, f"{found}\n{fxrep.report(after)}"
    return after
