"""Networks for phones: MobileOne, FastViT, RepViT, RepGhost, GhostNetV3, PP-LCNetV2, SHViT, iFormer, EfficientViM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks.parts import Residual, SqueezeExcite, conv_norm


class MobileOneBlock(nn.Module):
    """``bn x + bn(conv_1 x) + sum of bn(conv_k x)``, each branch optional, added in place to what may be 0."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        branches: int = 1,
        scale: bool = True,
        se: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.se = SqueezeExcite(cout) if se else nn.Identity()
        self.activation = nn.ReLU() if act else nn.Identity()
        self.num_conv_branches = branches
        self.rbr_skip = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        convs = [conv_norm(cin, cout, kernel, stride, groups=groups) for _ in range(branches)]
        self.rbr_conv = nn.ModuleList(convs) if branches else None
        self.rbr_scale = conv_norm(cin, cout, 1, stride, groups=groups) if kernel > 1 and scale else None

    def forward(self, x: Tensor) -> Tensor:
        identity_out = 0
        if self.rbr_skip is not None:
            identity_out = self.rbr_skip(x)
        scale_out = 0
        if self.rbr_scale is not None:
            scale_out = self.rbr_scale(x)
        out: Any = scale_out + identity_out
        if self.rbr_conv is not None:
            for ix in range(self.num_conv_branches):
                out += self.rbr_conv[ix](x)
        return self.activation(self.se(out))


class RepMixer(nn.Module):
    """``x + gamma (mixer(x) - norm(x))``, where the norm is a MobileOne block with nothing but its skip."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        bare = {"groups": channels, "act": False}
        self.norm = MobileOneBlock(channels, channels, kernel, branches=0, scale=False, **bare)  # type: ignore[arg-type]
        self.mixer = MobileOneBlock(channels, channels, kernel, **bare)  # type: ignore[arg-type]
        self.layer_scale = nn.Parameter(1e-5 * torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * (self.mixer(x) - self.norm(x))


def fastvit_stem(cin: int, cout: int) -> nn.Sequential:
    """A dense, a depthwise and a pointwise MobileOne block."""
    return nn.Sequential(
        MobileOneBlock(cin, cout, 3, stride=2),
        MobileOneBlock(cout, cout, 3, stride=2, groups=cout),
        MobileOneBlock(cout, cout, 1),
    )


class RepCPE(nn.Module):
    """``dw_7 x + x``: a position encoding."""

    def __init__(self, channels: int, shape: tuple[int, int] = (7, 7)) -> None:
        super().__init__()
        self.pe = nn.Conv2d(channels, channels, shape, 1, int(shape[0] // 2), bias=True, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.pe(x) + x


class RepVGGDW(nn.Module):
    """RepViT as published first: ``bn(dw_3 x) + bn(dw_1 x) + x``; and since: ``bn(bn(dw_3 x) + dw_1 x + x)``."""

    def __init__(self, channels: int, *, legacy: bool) -> None:
        super().__init__()
        self.conv = conv_norm(channels, channels, 3, groups=channels)
        if legacy:
            self.conv1: nn.Module = conv_norm(channels, channels, 1, groups=channels)
        else:
            self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.Identity() if legacy else nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn((self.conv(x) + self.conv1(x)) + x)


class RepViTBlock(nn.Module):
    """``y + pw(gelu(pw y))`` behind the token mixer and squeeze-and-excitation."""

    def __init__(self, channels: int, *, legacy: bool) -> None:
        super().__init__()
        self.token_mixer = nn.Sequential(RepVGGDW(channels, legacy=legacy), SqueezeExcite(channels))
        hidden = 2 * channels
        pointwise = (conv_norm(channels, hidden, 1), nn.GELU(), conv_norm(hidden, channels, 1))
        nn.init.zeros_(pointwise[2].bn.weight)
        self.channel_mixer = Residual(nn.Sequential(*pointwise))

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.token_mixer(x))


class RepGhostModule(nn.Module):
    """``relu(bn(dw_3 h) + bn h)`` of ``h = relu(bn(pw x))``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.primary_conv = conv_norm(cin, cout, 1)
        self.primary_conv.add_module("act", nn.ReLU(inplace=True))
        self.fusion_conv = nn.Sequential(nn.Identity())
        self.fusion_bn = nn.Sequential(nn.BatchNorm2d(cout))
        self.cheap_operation = conv_norm(cout, cout, 3, groups=cout)
        self.relu = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        for conv, bn in zip(self.fusion_conv, self.fusion_bn, strict=True):
            x2 = x2 + bn(conv(x1))
        return self.relu(x2)


class GhostModuleV3(nn.Module):
    """``cat(h, g)`` of ``h = relu(sum of 3 bn(pw x))`` and ``g = relu(bn(dw_1 h) + bn h + sum of 3 bn(dw_3 h))``; the
    first module of a block multiplies it by a gate that is computed from a smaller image."""

    def __init__(self, cin: int, cout: int, *, gated: bool = False) -> None:
        super().__init__()
        half = cout // 2
        self.out_channels = cout
        self.primary_rpr_conv = nn.ModuleList(conv_norm(cin, half, 1) for _ in range(3))
        self.primary_activation = nn.ReLU(inplace=True)
        self.cheap_rpr_skip = nn.BatchNorm2d(half)
        self.cheap_rpr_conv = nn.ModuleList(conv_norm(half, half, 3, groups=half) for _ in range(3))
        self.cheap_rpr_scale = conv_norm(half, half, 1, groups=half)
        self.cheap_activation = nn.ReLU(inplace=True)
        if gated:
            self.short_conv = nn.Sequential(
                *conv_norm(cin, cout, 1),
                *conv_norm(cout, cout, (1, 5), groups=cout),
                *conv_norm(cout, cout, (5, 1), groups=cout),
            )

    def forward(self, x: Tensor) -> Tensor:
        x1: Any = 0
        for conv in self.primary_rpr_conv:
            x1 += conv(x)
        x1 = self.primary_activation(x1)
        x2 = self.cheap_rpr_scale(x1) + self.cheap_rpr_skip(x1)
        for conv in self.cheap_rpr_conv:
            x2 += conv(x1)
        x2 = self.cheap_activation(x2)
        out = torch.cat([x1, x2], dim=1)
        if not hasattr(self, "short_conv"):
            return out
        res = torch.sigmoid(self.short_conv(F.avg_pool2d(x, kernel_size=2, stride=2)))
        size = (out.shape[-2], out.shape[-1])
        return out[:, : self.out_channels, :, :] * F.interpolate(res, size=size, mode="nearest")


class RepDepthwiseSeparable(nn.Module):
    """``x + pw_up(relu(pw_down(relu(sum of bn(dw_5 x), bn(dw_3 x), bn(dw_1 x)))))``."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        sizes = range(kernel, 0, -2)
        self.dw_conv_list = nn.ModuleList(conv_norm(channels, channels, k, groups=channels) for k in sizes)
        self.act = nn.ReLU(inplace=True)
        down, up = conv_norm(channels, channels // 2, 1), conv_norm(channels // 2, channels, 1)
        self.pw_conv = nn.Sequential(down, nn.ReLU(inplace=True), up, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        out = self.dw_conv_list[0](x)
        for i, conv in enumerate(self.dw_conv_list):
            if i > 0:
                out = out + conv(x)
        return self.pw_conv(self.act(out)) + shortcut


def residual_depthwise(channels: int, kernel: int = 3) -> Residual:
    """``x + bn(dw x)``, of which the norm starts at zero."""
    body = conv_norm(channels, channels, kernel, groups=channels)
    nn.init.zeros_(body.bn.weight)
    return Residual(body)


class GatedDepthwise(nn.Module):
    """``x + a (bn(dw x) - x)`` with a gate ``a`` per channel, the first of the four of a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = conv_norm(channels, channels, 3, groups=channels)
        nn.init.zeros_(self.dwconv.bn.weight)
        self.alpha = nn.Parameter(1e-4 * torch.ones(4, channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.alpha).view(4, -1, 1, 1)
        return (1 - alpha[0]) * x + alpha[0] * self.dwconv(x)
