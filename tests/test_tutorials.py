"""Every block that the tutorials publish, and every way to write the addition: same function, predicted operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests import blocks
from tests.helpers import assert_merged, randomize, relative_error, run


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def image(channels: int = 4, size: tuple[int, ...] = (7, 6)) -> Tensor:
    return torch.randn(2, channels, *size)


def only_conv(model: nn.Module) -> nn.Module:
    """The one convolution that is left in ``model``."""
    (conv,) = (m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return conv


# --------------------------------------------------------------------------------------------------- a) conv, norm
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular"},
        {"padding": "valid"},
        {"padding": (0, 2), "kernel": (2, 4)},
    ],
)
def test_conv_norm(bias: bool, affine: bool, options: dict[str, Any]) -> None:
    """a), and g) with a bias before the norm."""
    model = blocks.ConvNorm(4, 6, bias=bias, **options)
    if not affine:
        model.bn = nn.BatchNorm2d(6, affine=False)
    after = assert_merged(randomize(model), image(), convs=1)
    conv = only_conv(after)
    assert conv.bias is not None
    assert conv.weight.shape == model.conv.weight.shape
    assert (conv.groups, conv.stride, conv.padding_mode) == (
        model.conv.groups,
        model.conv.stride,
        model.conv.padding_mode,
    )


def test_a_norm_with_another_epsilon_and_no_momentum() -> None:
    model = blocks.ConvNorm()
    model.bn = nn.BatchNorm2d(6, eps=0.1, momentum=None)
    assert_merged(randomize(model), image(), convs=1)


def test_two_norms_in_a_row() -> None:
    model = nn.Sequential(blocks.ConvNorm(4, 6, bias=True), nn.BatchNorm2d(6))
    assert_merged(randomize(model), image(), convs=1)


def test_a_sync_batch_norm() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(blocks.ConvNorm())
    assert isinstance(model.bn, nn.SyncBatchNorm)
    assert_merged(randomize(model), image(), convs=1)


@pytest.mark.parametrize("keywords", [False, True])
def test_functional_conv_and_norm(keywords: bool) -> None:
    """F.conv2d and F.batch_norm, in positional and in keyword form."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            c, n = self.conv, self.bn
            if keywords:
                x = F.conv2d(input=x, weight=c.weight, bias=c.bias, padding="same")
                return F.batch_norm(
                    running_var=n.running_var,
                    running_mean=n.running_mean,
                    input=x,
                    bias=n.bias,
                    weight=n.weight,
                    training=False,
                    eps=0.01,
                )
            x = F.conv2d(x, c.weight, c.bias, (1, 2), 1, 1)
            return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, 0.01)

    assert_merged(randomize(Functional()), image(), convs=1)


def test_asserts_on_the_shape_are_no_users() -> None:
    """timm's norms assert ``x.ndim == 4`` on the convolution's output."""

    class Asserting(blocks.ConvNorm):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            torch._assert(x.ndim == 4, "expected 4D input")
            n = self.bn
            return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, n.eps)

    assert_merged(randomize(Asserting()), image(), convs=1)


# -------------------------------------------------------------------------------------------------- b) c) no norms
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_same_branches(kernel: int) -> None:
    after = assert_merged(randomize(blocks.SameBranches(kernel=kernel)), image(), convs=1)
    assert only_conv(after).weight.shape[2:] == (kernel, kernel)


def test_two_branches() -> None:
    assert_merged(randomize(blocks.TwoBranches()), image(), convs=1)


# ------------------------------------------------------------------------------------------------- d) torchvision's
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cout", [4, 6])
def test_torchvision_block(stride: int, cout: int) -> None:
    pytest.importorskip("torchvision")
    model = randomize(blocks.TorchvisionRepVGGBlock(4, cout, stride))
    assert_merged(model, image(), convs=1)


def test_torchvision_stages() -> None:
    pytest.importorskip("torchvision")
    model = randomize(blocks.TorchvisionRepVGG(widths=(4, 6, 6), depth=3))
    after = assert_merged(model, image(3, (17, 16)), convs=9)
    assert isinstance(after.stages, nn.Sequential)
    assert len(after.stages) == 3
    assert all(isinstance(block, blocks.TorchvisionRepVGGBlock) for stage in after.stages for block in stage)


# ---------------------------------------------------------------------------------------------- e) f) the original
@pytest.mark.parametrize("cout", [4, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_original_block(cout: int, stride: int, dilation: int, groups: int) -> None:
    """f) is where there are groups and the identity: channel i of the input is ``i % (C // groups)`` of its group."""
    model = randomize(blocks.OriginalRepVGGBlock(4, cout, stride, dilation, groups))
    after = assert_merged(model, image(), convs=1)
    conv = only_conv(after)
    assert conv.groups == groups, "merging must not make the groups coarser"
    assert conv.weight.shape == (cout, 4 // groups, 3, 3), "a dilated kernel stays one of three taps"


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_original_block_padding_mode(mode: str) -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4, padding_mode=mode))
    assert only_conv(assert_merged(model, image(), convs=1)).padding_mode == mode


def test_smallest_input() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4))
    assert_merged(model, image(size=(1, 1)), convs=1)


def test_a_network_of_original_blocks() -> None:
    model = nn.Sequential(
        blocks.OriginalRepVGGBlock(3, 8, stride=2),
        nn.Sequential(blocks.OriginalRepVGGBlock(8, 8), blocks.OriginalRepVGGBlock(8, 8, groups=4)),
        blocks.OriginalRepVGGBlock(8, 12, stride=2, groups=2),
    )
    assert_merged(randomize(model), image(3, (16, 16)), convs=4)


# ------------------------------------------------------------------------------------------------ h) norms by hand
def test_hand_norm_after_a_conv() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), blocks.HandNorm(6))
    assert_merged(randomize(model), image(), convs=1)


def test_hand_norm_as_an_identity_branch() -> None:
    assert_merged(randomize(blocks.HandNormBlock()), image(), convs=1)


# -------------------------------------------------------------------------------------------------------- spellings
@pytest.mark.parametrize("spelling", blocks.SPELLINGS)
def test_spelling(spelling: str) -> None:
    model = randomize(blocks.Spelled(blocks.SPELLINGS[spelling]))
    after = assert_merged(model, image(), convs=1)
    assert only_conv(after).weight.shape == (4, 4, 3, 3)


@pytest.mark.parametrize("order", blocks.OtherSource.ORDERS)
def test_another_source_in_the_sum(order: str) -> None:
    assert_merged(randomize(blocks.OtherSource(order)), image(), convs=1, adds=1)


def test_two_sources_in_the_sum() -> None:
    assert_merged(randomize(blocks.TwoSources()), (image(), image()), convs=2, adds=1)


def test_pass_throughs() -> None:
    assert_merged(randomize(blocks.WithPassThroughs()), image(), convs=1)


@pytest.mark.parametrize("scalar", [None, 0.3, -2])
def test_layer_scale(scalar: float | None) -> None:
    assert_merged(randomize(blocks.LayerScale(scalar=scalar)), image(), convs=1)


def test_per_channel_constants() -> None:
    assert_merged(randomize(blocks.PerChannel()), image(), convs=1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_rank(rank: int) -> None:
    assert_merged(randomize(blocks.AnyRank(rank)), image(size=(5, 4, 6)[:rank]), convs=1)


@pytest.mark.parametrize("policy", ["default", "macs", "kernels"])
def test_every_policy_merges_a_repvgg_block(policy: str) -> None:
    assert_merged(randomize(blocks.OriginalRepVGGBlock(4, 4)), image(), convs=1, policy=policy)


def test_kernels_policy_unites_dilations() -> None:
    """Dilations 2 and 3 meet on a 7x7 grid: more work, but one kernel; "macs" leaves it alone."""

    class Dilated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
            self.three = nn.Conv2d(4, 4, 3, padding=3, dilation=3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x) + self.three(x)

    assert_merged(randomize(Dilated()), image(), convs=1, policy="kernels")
    assert_merged(randomize(Dilated()), image(), convs=2, adds=1, policy="macs")


def test_example_inputs_are_accepted() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    after = fxrep.reparameterize(model, (image().double(),))
    assert relative_error(run(after, image(4).double()), run(after, image(4).double())) >= 0
    x = image().double()
    assert relative_error(run(after, x), run(model, x)) <= 1e-9


def test_a_source_behind_a_pass_through_in_another_module() -> None:
    """The block's own input is the Identity's output, not what went into the Identity."""

    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), Position()), nn.ReLU())
    assert_merged(randomize(model), image(), convs=1)
