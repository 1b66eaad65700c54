"""Types, scales and memory formats: what a merge does to the rounding, and to where and how weights are stored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep import weights
from tests.blocks import ConvNorm, OriginalRepVGGBlock
from tests.counting import count_ops
from tests.helpers import randomize, relative_error, run

HALF = [torch.bfloat16, torch.float16]


class MobileOneBlock(nn.Module):
    """``k`` convolutions, a 1x1 and a norm of one input (Vasu et al., *MobileOne*, CVPR 2023, section 3.2)."""

    def __init__(self, channels: int, groups: int = 1, k: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(channels, channels, padding=1, groups=groups) for _ in range(k))
        self.scale, self.skip = ConvNorm(channels, channels, 1, groups=groups), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.scale(x) + self.skip(x)
        for conv in self.convs:
            out = out + conv(x)
        return out.relu()


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "RepVGG": lambda: OriginalRepVGGBlock(16, 16),
    "MobileOne": lambda: MobileOneBlock(16),
    "MobileOne, depthwise": lambda: MobileOneBlock(16, groups=16),
}


def image(*, channels: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 15, 15, generator=torch.Generator().manual_seed(seed))


def distances(model: nn.Module, x: Tensor, call: Callable[..., Tensor] = run) -> tuple[float, float, nn.Module]:
    """How far the outputs of ``model`` are from those in float64, before and after; and the merged model."""
    expected = run(copy.deepcopy(model).double(), x.double())
    after = fxrep.reparameterize(model)
    return relative_error(call(model, x), expected), relative_error(call(after, x), expected), after


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------------- types
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_a_merged_model_is_as_near_to_float64_as_the_model(block: str, dtype: torch.dtype) -> None:
    before = after = 0.0
    for seed in range(4):
        model = randomize(nn.Sequential(BLOCKS[block](), BLOCKS[block]()), seed).to(dtype)
        errors = distances(model, image(seed=seed).to(dtype))
        assert count_ops(errors[2], image().to(dtype)) == {"conv": 2}
        assert {p.dtype for p in errors[2].parameters()} == {dtype}
        before, after = before + errors[0], after + errors[1]
    if dtype in HALF:  # fewer values are rounded
        assert after <= before
    else:
        assert after / 4 <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF)
def test_half_weights_with_float32_norms(dtype: torch.dtype) -> None:
    model = randomize(nn.Sequential(ConvNorm(16, 16, padding=1), nn.ReLU(), OriginalRepVGGBlock(16, 16))).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    before, after, merged = distances(model, image().to(dtype))
    assert after <= 1.2 * before
    assert run(merged, image().to(dtype)).dtype == dtype


@pytest.mark.parametrize("block", BLOCKS)
def test_autocast_around_the_result(block: str) -> None:
    def autocast(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return run(model, x)

    model = randomize(nn.Sequential(BLOCKS[block](), BLOCKS[block]()))
    before, after, merged = distances(model, image(), autocast)
    assert after <= 1.5 * before  # which runs the norm of the input itself in float32
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


# --------------------------------------------------------------------------------------------------------------- scales
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1e6, 1e12, 1e30])
def test_huge_and_tiny_variances(scale: float, dtype: torch.dtype) -> None:
    model: Any = randomize(nn.Sequential(ConvNorm(16, 16, padding=1)))
    model[0].conv.weight.data *= scale**0.5
    model[0].bn.running_var *= scale
    model[0].bn.running_mean *= scale**0.5
    model[0].bn.eps = 0.0
    before, after, merged = distances(model.to(dtype), image().to(dtype))
    assert after <= 2 * before
    assert count_ops(merged, image().to(dtype)) == {"conv": 1}


def standing_out(times: float, *rest: nn.Module) -> Any:
    """A norm of which each mean is so many times its deviation, and what follows."""
    model: Any = randomize(nn.Sequential(nn.BatchNorm2d(16, eps=0.0), *rest))
    model[0].running_mean.fill_(1.0)
    model[0].running_var.fill_(times**-2)
    return model


@pytest.mark.parametrize(
    ("dtype", "times"), [(torch.float64, 1e6), (torch.float32, 500.0), (torch.float16, 16.0), (torch.bfloat16, 8.0)]
)
def test_a_norm_that_cancels(dtype: torch.dtype, times: float) -> None:
    """Merged, it is a difference of rounded values: fine in moderation, refused where half of the digits would go."""
    x = (1 + image() / times).to(dtype)
    _, after, merged = distances(standing_out(times, nn.Conv2d(16, 16, 1)).to(dtype), x)
    assert count_ops(merged, x) == {"conv": 1}
    assert after <= torch.finfo(dtype).eps ** 0.5

    times *= 100
    model, x = standing_out(times, nn.Conv2d(16, 16, 1)).to(dtype), (1 + image() / times).to(dtype)
    before, after, merged = distances(model, x)
    assert after == before
    assert count_ops(merged, x) == {"conv": 1, "norm": 1}
    assert any("times its deviations, too many to merge it in" in kept.reason for kept in fxrep.report(merged).kept)


def test_a_norm_that_cancels_behind_a_convolution() -> None:
    """The output of the convolution is rounded anyway."""
    model: Any = randomize(nn.Sequential(ConvNorm(16, 16, padding=1))).half()
    with torch.no_grad():
        out = model[0].conv(image().half())
        model[0].conv.bias = nn.Parameter(100 - out.mean((0, 2, 3)))
        model[0].bn.running_mean.fill_(100)
    before, after, merged = distances(model, image().half())
    assert count_ops(merged, image().half()) == {"conv": 1}
    assert after <= before


def test_weights_that_float16_cannot_hold() -> None:
    model: Any = randomize(nn.Sequential(nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16)))
    model[0].weight.data *= 1e-3
    model[1].weight.data.fill_(1e-3)
    model[1].running_mean.zero_()
    model[1].bias.data.zero_()
    x = 30 * image().half()
    before, after, merged = distances(model.half(), x)
    assert after == before
    assert count_ops(merged, x) == {"conv": 1, "norm": 1}
    assert any("do not fit into torch.float16" in kept.reason for kept in fxrep.report(merged).kept)

    model[1].bias.data.fill_(1.0)  # beside which such a channel does not count
    before, after, merged = distances(model, x)
    assert after <= 1.2 * before
    assert count_ops(merged, x) == {"conv": 1}


# --------------------------------------------------------------------------------------------------------------- places
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_channels_last_weights_stay_channels_last(dtype: torch.dtype) -> None:
    model = randomize(nn.Sequential(BLOCKS["RepVGG"](), BLOCKS["MobileOne"]())).to(dtype)
    model = model.to(memory_format=torch.channels_last)
    x = image().to(dtype).contiguous(memory_format=torch.channels_last)
    merged = fxrep.reparameterize(model)
    kernels = [p for p in merged.parameters() if p.dim() == 4]
    assert len(kernels) == 2
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in kernels)
    assert run(merged, x).is_contiguous(memory_format=torch.channels_last)


def test_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic is done on the CPU, and the result goes back."""
    asked: list[torch.device] = []
    monkeypatch.setattr(weights, "_has_float64", lambda device: asked.append(device) and False)
    _, after, merged = distances(randomize(BLOCKS["RepVGG"]()), image())
    assert asked
    assert count_ops(merged, image()) == {"conv": 1}
    assert after <= 1e-6
