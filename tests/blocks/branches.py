"""Branches of different shape and depth: ACNet, the Diverse Branch Block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks.parts import conv_norm


class ACBlock(nn.Module):
    """``bn(conv_kxk x) + bn(conv_kx1 x) + bn(conv_1xk x)``; with less padding than the kernel reaches, the asymmetric
    branches read a cropped input."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, padding: int = 1, **options: Any) -> None:
        super().__init__()
        inner = padding - kernel // 2
        self.crop = max(-inner, 0)
        self.square = conv_norm(cin, cout, kernel, padding=padding, **options)
        self.ver = conv_norm(cin, cout, (kernel, 1), padding=(padding, max(inner, 0)), **options)
        self.hor = conv_norm(cin, cout, (1, kernel), padding=(max(inner, 0), padding), **options)

    def forward(self, x: Tensor) -> Tensor:
        square = self.square(x)
        if self.crop > 0:
            ver_input = x[:, :, :, self.crop : -self.crop]
            hor_input = x[:, :, self.crop : -self.crop, :]
        else:
            ver_input, hor_input = x, x
        return square + self.ver(ver_input) + self.hor(hor_input)


class BNAndPad(nn.Module):
    """A norm, and around its output a border of what it makes of zeros."""

    def __init__(self, pixels: int, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        out, n = self.bn(x), self.pixels
        if n > 0:
            std = torch.sqrt(self.bn.running_var + self.bn.eps)
            value = self.bn.bias.detach() - self.bn.running_mean * self.bn.weight.detach() / std
            out = F.pad(out, [n] * 4)
            value = value.view(1, -1, 1, 1)
            out[:, :, 0:n, :] = value
            out[:, :, -n:, :] = value
            out[:, :, :, 0:n] = value
            out[:, :, :, -n:] = value
        return out


class IdentityBasedConv1x1(nn.Conv2d):
    """A 1x1 convolution that learns the difference to the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)
        self.id_tensor = torch.eye(channels).reshape(channels, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight + self.id_tensor.to(self.weight.device)  # as it is published
        return F.conv2d(x, kernel, None, stride=1, padding=0, dilation=self.dilation, groups=self.groups)


class DiverseBranchBlock(nn.Module):
    """``bn(conv_k x) + bn(conv_1 x) + bn(avg(pad(bn(conv_1 x)))) + bn(conv_k(pad(bn(conv_1 x))))``, added in place."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.dbb_origin = conv_norm(cin, cout, kernel, stride, groups=groups)
        self.dbb_avg = nn.Sequential()
        depthwise = groups == cout
        if not depthwise:
            self.dbb_avg.add_module("conv", nn.Conv2d(cin, cout, 1, groups=groups, bias=False))
            self.dbb_avg.add_module("bn", BNAndPad(padding, cout))
            self.dbb_1x1 = conv_norm(cin, cout, 1, stride, groups=groups)
        self.dbb_avg.add_module("avg", nn.AvgPool2d(kernel, stride, padding if depthwise else 0))
        self.dbb_avg.add_module("avgbn", nn.BatchNorm2d(cout))
        self.dbb_1x1_kxk = nn.Sequential()
        inner = 2 * cin if depthwise else cin
        first = nn.Conv2d(cin, inner, 1, groups=groups, bias=False) if depthwise else IdentityBasedConv1x1(cin)
        self.dbb_1x1_kxk.add_module("conv1", first)
        self.dbb_1x1_kxk.add_module("bn1", BNAndPad(padding, inner))
        self.dbb_1x1_kxk.add_module("conv2", nn.Conv2d(inner, cout, kernel, stride, groups=groups, bias=False))
        self.dbb_1x1_kxk.add_module("bn2", nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dbb_origin(x)
        if hasattr(self, "dbb_1x1"):
            out += self.dbb_1x1(x)
        out += self.dbb_avg(x)
        out += self.dbb_1x1_kxk(x)
        return F.relu(out)
