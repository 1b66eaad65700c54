"""Large depthwise kernels with small or dilated ones beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks.parts import conv_norm


class ReparamLargeKernelConv(nn.Module):
    """``bn(dw_K x) + bn(dw_k x)``, added in place."""

    def __init__(self, channels: int, kernel: int = 13, small: int | None = 5) -> None:
        super().__init__()
        self.lkb_origin = conv_norm(channels, channels, kernel, groups=channels)
        if small is not None:
            self.small_conv = conv_norm(channels, channels, small, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lkb_origin(x)
        if hasattr(self, "small_conv"):
            out += self.small_conv(x)
        return out


class RepLKBlock(nn.Module):
    """``x + pw2(relu(large(relu(pw1(bn x)))))``, each convolution with its norm."""

    def __init__(self, channels: int, kernel: int = 13) -> None:
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(channels)
        self.pw1 = conv_norm(channels, channels, 1)
        self.pw1.add_module("nonlinear", nn.ReLU())
        self.large_kernel = ReparamLargeKernelConv(channels, kernel)
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = conv_norm(channels, channels, 1)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.pw1(self.prelkb_bn(x))
        out = self.lk_nonlinear(self.large_kernel(out))
        return x + self.drop_path(self.pw2(out))


class DilatedReparamBlock(nn.Module):
    """``bn(dw_K x) + sum of bn(dw_(k, dilation r) x)``."""

    BRANCHES = {13: ((5, 7, 3, 3, 3), (1, 2, 3, 4, 5)), 7: ((5, 3, 3), (1, 2, 3))}

    def __init__(self, channels: int, kernel: int = 13) -> None:
        super().__init__()
        self.lk_origin = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.origin_bn = nn.BatchNorm2d(channels)
        self.kernel_sizes, self.dilates = self.BRANCHES[kernel]
        for k, r in zip(self.kernel_sizes, self.dilates, strict=True):
            conv, bn = conv_norm(channels, channels, k, dilation=r, groups=channels)
            setattr(self, f"dil_conv_k{k}_{r}", conv)
            setattr(self, f"dil_bn_k{k}_{r}", bn)

    def forward(self, x: Tensor) -> Tensor:
        out = self.origin_bn(self.lk_origin(x))
        for k, r in zip(self.kernel_sizes, self.dilates, strict=True):
            conv = getattr(self, f"dil_conv_k{k}_{r}")
            bn = getattr(self, f"dil_bn_k{k}_{r}")
            out = out + bn(conv(x))
        return out


class ToNHWC(nn.Module):
    """Channels last, as an axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ToNCHW(nn.Module):
    """Channels first again."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global response normalization on channels that are the last axis, with a shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        size = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        return (self.gamma * size + 1) * x + self.beta


class MeanSqueezeExcite(nn.Module):
    """Squeeze-and-excitation with an adaptive pool."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)
        self.nonlinear = nn.ReLU(inplace=True)
        self.channels = channels

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(inputs, output_size=(1, 1))
        x = torch.sigmoid(self.up(self.nonlinear(self.down(x))))
        return inputs * x.view(-1, self.channels, 1, 1)


class UniRepLKNetBlock(nn.Module):
    """``x + gamma bn(permute(linear(grn(gelu(linear(permute(se(bn(dilated x))))))))``."""

    def __init__(self, channels: int, kernel: int = 7) -> None:
        super().__init__()
        self.dwconv = DilatedReparamBlock(channels, kernel)
        self.norm = nn.BatchNorm2d(channels)
        self.se = MeanSqueezeExcite(channels, channels // 4)
        self.pwconv1 = nn.Sequential(ToNHWC(), nn.Linear(channels, 4 * channels))
        self.act = nn.Sequential(nn.GELU(), GRN(4 * channels))
        linear = nn.Linear(4 * channels, channels, bias=False)
        self.pwconv2 = nn.Sequential(linear, ToNCHW(), nn.BatchNorm2d(channels))
        self.gamma = nn.Parameter(1e-6 * torch.ones(channels))
        self.drop_path = nn.Identity()

    def residual(self, x: Tensor) -> Tensor:
        y = self.se(self.norm(self.dwconv(x)))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma.view(1, -1, 1, 1) * y
        return self.drop_path(y)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)
