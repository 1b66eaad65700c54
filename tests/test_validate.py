"""The proof: how small its image may be, and that it sees a wrong weight at any tap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep import weights
from fxrep.capture import structural_copy
from fxrep.validate import Check
from tests.helpers import assert_merged, randomize


class Dilated(nn.Module):
    """A dilated convolution beside another."""

    def __init__(self, *dilations: int, **options: Any) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=d, dilation=d, **options) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv in self.convs:
            out = out + conv(x)
        return out


CASES = {
    "one dilation": (Dilated(24), 2),
    "two that share a grid": (Dilated(24, 12), 3),
    "two that share none": (Dilated(4, 3), 5),
    "another padding": (Dilated(6, padding_mode="reflect"), 7),
}


@pytest.mark.parametrize("case", CASES)
def test_the_image_leaves_out_what_never_meets(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = CASES[case]
    seen: list[tuple[int, ...]] = []

    class Noted(Check):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.extend(tuple(image.shape[2:]) for image in self.images.values())

    monkeypatch.setattr(weights, "Check", Noted)
    assert_merged(randomize(model), torch.randn(2, 4, 30, 30), convs=1, policy="kernels")
    assert seen == [(size, size)]


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_weight_is_found(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize(structural_copy(CASES[case][0]))
    built = weights._convolutions
    for tap in (0, 4, 5, 8):

        def wrong(*args: Any, tap: int = tap) -> Any:
            modules, made = built(*args)
            kernel = made[0][0]
            row, column = divmod(tap, 3)
            step = (kernel.shape[2] - 1) // 2
            kernel[:, :, row * step, column * step] += 1e-6
            return modules, made

        monkeypatch.setattr(weights, "_convolutions", wrong)
        report = fxrep.explain(model, policy="kernels")
        assert not report.merged
        assert any("the check failed" in kept.reason for kept in report.kept)


class ScaledPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 1, 1, 1))
        self.pool = nn.AvgPool3d(3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(x * self.scale)
        return out


def test_an_average_pool_in_three_dimensions() -> None:
    """Of which torch wants an image as large as its kernel, however much is padded."""
    x = torch.randn(1, 3, 4, 4, 4)
    assert_merged(randomize(ScaledPool()), x, convs=1, policy="kernels", example_inputs=(x.double(),))
