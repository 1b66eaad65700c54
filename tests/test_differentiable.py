"""Merged weights as functions of the branches': gradients go where they went before the merge."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxrep
from tests.blocks import repvgg, tutorials
from tests.helpers import assert_unchanged, randomize, relative_error, run, snapshot

X = torch.randn(2, 8, 9, 9, dtype=torch.float64)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model: nn.Module, x: Tensor, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = fxrep.reparameterize(model, differentiable=True, **options)
    weight = torch.randn_like(model(x))
    found, expected = (gradients(model, (one(x) * weight).sum()) for one in (after, model))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) <= 1e-9, name
    return after


BLOCKS = {
    "RepVGG": lambda: tutorials.OriginalRepVGGBlock(8, 8),
    "without norms": lambda: tutorials.SameBranches(8),
    "QARepVGG": lambda: repvgg.QARepVGGBlock(8, 8),
    "composed": lambda: nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3)),
    "grouped": lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.BatchNorm2d(16)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2), nn.BatchNorm2d(4)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8 * 9 * 9, 4), nn.BatchNorm1d(4)),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_of_a_block(block: str) -> None:
    after = assert_same_gradients(randomize(BLOCKS[block]()).double(), X, example_inputs=(X,))
    assert fxrep.report(after).merged


def test_once_more() -> None:
    model = randomize(BLOCKS["RepVGG"]()).double()
    after = fxrep.reparameterize(model, differentiable=True)
    for options in ({}, {"norms": "keep"}, {"inplace": True}, {"example_inputs": (X,)}):
        assert relative_error(run(fxrep.reparameterize(after, **options), X), run(model, X)) <= 1e-9
    again = fxrep.reparameterize(after, differentiable=True)
    again(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_gradients_of_a_model(name: str) -> None:
    model = randomize(timm.create_model(name, num_classes=10)).double()
    after = assert_same_gradients(model, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    report = fxrep.report(after)
    assert report.after.get("norm", 0) == 0
    assert report.parameters[1] < report.parameters[0]


def test_the_weights_are_those_of_the_merge() -> None:
    model = randomize(tutorials.OriginalRepVGGBlock(8, 8)).double()
    state = snapshot(model)
    after, merged = fxrep.reparameterize(model, differentiable=True), fxrep.reparameterize(model)
    assert_unchanged(model, state)
    assert after.state_dict().keys() == merged.state_dict().keys()
    for name, value in merged.state_dict().items():
        assert relative_error(after.state_dict()[name], value) <= 1e-12


def test_what_is_not_merged_is_the_models_own() -> None:
    model = randomize(nn.Sequential(tutorials.OriginalRepVGGBlock(8, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    after = fxrep.reparameterize(model, differentiable=True)
    assert after[2].weight is model[2].weight


def test_a_penalty_on_the_merged_kernel() -> None:
    """Training the branches towards a small merged kernel makes it smaller."""
    model = randomize(tutorials.OriginalRepVGGBlock(8, 8)).double()
    step = torch.optim.SGD(model.parameters(), lr=0.05)
    sizes = []
    for _ in range(5):
        kernel = fxrep.reparameterize(model, differentiable=True).get_buffer("merged.weight")
        penalty = kernel.square().sum()
        sizes.append(float(penalty.detach()))
        step.zero_grad()
        penalty.backward()
        step.step()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.9 * sizes[0]


def test_half_precision_and_frozen_branches() -> None:
    model = randomize(tutorials.OriginalRepVGGBlock(8, 8)).to(torch.bfloat16)
    after = fxrep.reparameterize(model, differentiable=True)
    after(X.to(torch.bfloat16)).float().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    frozen = fxrep.reparameterize(model.requires_grad_(False), differentiable=True)
    assert not any(t.requires_grad for t in (*frozen.parameters(), *frozen.buffers()))


def zeros(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        nn.init.zeros_(model.get_parameter(name))
    return model


class Scaled(nn.Module):
    """A layer scale that is zero, as it is at first."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale + x  # type: ignore[no-any-return]


class Shifted(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.scale  # type: ignore[no-any-return]


FRESH = {
    "RepVGG": tutorials.OriginalRepVGGBlock(8, 8),
    "convolution and norm": nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)),
    "layer scale": Scaled(8, 1, 1),
    "scalar": Scaled(),
    "shift": Shifted(8, 1, 1),
    "number that is added": Shifted(),
    "biases": zeros(
        tutorials.SameBranches(8), *(n for n, _ in tutorials.SameBranches(8).named_parameters() if "bias" in n)
    ),
    "bias before a border": zeros(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)), "0.bias"),
}


@pytest.mark.parametrize("model", FRESH)
def test_what_is_zero_now_is_trained_all_the_same(model: str) -> None:
    assert_same_gradients(copy.deepcopy(FRESH[model]).eval().double(), X)
    merged = fxrep.reparameterize(copy.deepcopy(FRESH[model]).eval().float(), differentiable=True)
    assert all(p.dtype == torch.float32 for p in merged.parameters())


def test_other_gradients_are_off() -> None:
    model = randomize(tutorials.OriginalRepVGGBlock(8, 8))
    assert all(p.grad_fn is None for p in fxrep.reparameterize(model).parameters())
    assert torch.is_grad_enabled()


def test_what_drops_the_branches() -> None:
    model = randomize(tutorials.OriginalRepVGGBlock(8, 8)).double()
    with pytest.raises(ValueError, match="inplace=True drops"):
        fxrep.reparameterize(model, differentiable=True, inplace=True)
    with pytest.raises(ValueError, match="an exported program drops"):
        fxrep.reparameterize(torch.export.export(model, (X,)), differentiable=True)
    assert relative_error(run(fxrep.reparameterize(model), X), run(model, X)) <= 1e-9
