"""Super-resolution: ECBSR, PlainUSR, SPAN, SESR. No norms; biases, and borders that are filled to suit them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
SOBEL_Y = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def pad_with(x: Tensor, value: Tensor) -> Tensor:
    """One pixel of ``value`` (a number per channel) around ``x``, written by slices."""
    border = value.view(1, -1, 1, 1)
    x = F.pad(x, (1, 1, 1, 1), "constant", 0)
    x[:, :, 0:1, :] = border
    x[:, :, -1:, :] = border
    x[:, :, :, 0:1] = border
    x[:, :, :, -1:] = border
    return x


class Expand(nn.Module):
    """A 1x1 and a 3x3 convolution, the parameters of which the module has without the modules."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 3)
        self.k0, self.b0, self.k1, self.b1 = first.weight, first.bias, second.weight, second.bias
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(input=x, weight=self.k0, bias=self.b0, stride=1)
        return F.conv2d(input=pad_with(y, self.b0), weight=self.k1, bias=self.b1, stride=1)

    def merged(self) -> tuple[Tensor, Tensor]:
        """The kernel and bias of the two as one, as a function of theirs."""
        device: Any = self.k0.get_device()
        if device < 0:
            device = None
        kernel = F.conv2d(input=self.k1, weight=self.k0.permute(1, 0, 2, 3))
        bias = torch.ones(1, self.hidden, 3, 3, device=device) * self.b0.view(1, -1, 1, 1)
        return kernel, F.conv2d(input=bias, weight=self.k1).view(-1) + self.b1


class Edge(nn.Module):
    """A 1x1 convolution and a fixed filter for edges, scaled per channel."""

    def __init__(self, channels: int, mask: tuple[tuple[float, ...], ...]) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 1)
        self.k0, self.b0, self.channels = conv.weight, conv.bias, channels
        self.scale = nn.Parameter(torch.randn(channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.randn(channels))
        self.mask = nn.Parameter(torch.tensor(mask).repeat(channels, 1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = pad_with(F.conv2d(input=x, weight=self.k0, bias=self.b0, stride=1), self.b0)
        return F.conv2d(input=y, weight=self.scale * self.mask, bias=self.bias, stride=1, groups=self.channels)

    def merged(self) -> tuple[Tensor, Tensor]:
        """The kernel and bias of the two as one, as a function of theirs."""
        device: Any = self.k0.get_device()
        if device < 0:
            device = None
        scaled = self.scale * self.mask
        dense = torch.zeros((self.channels, self.channels, 3, 3), device=device, dtype=self.k0.dtype)
        for i in range(self.channels):
            dense[i, i, :, :] = scaled[i, 0, :, :]
        kernel = F.conv2d(input=dense, weight=self.k0.permute(1, 0, 2, 3))
        bias = torch.ones(1, self.channels, 3, 3, device=device) * self.b0.view(1, -1, 1, 1)
        return kernel, F.conv2d(input=bias, weight=dense).view(-1) + self.bias


class ECB(nn.Module):
    """``conv_3 x + conv_3(pad(conv_1 x)) + three edge filters of pad(conv_1 x) + x``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1x1_3x3 = Expand(channels, 2 * channels)
        self.conv1x1_sbx = Edge(channels, SOBEL_X)
        self.conv1x1_sby = Edge(channels, SOBEL_Y)
        self.conv1x1_lpl = Edge(channels, LAPLACIAN)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3x3(x) + self.conv1x1_3x3(x)
        y = y + self.conv1x1_sbx(x) + self.conv1x1_sby(x) + self.conv1x1_lpl(x)
        y += x
        return self.act(y)


class EvaluatedECB(ECB):
    """The same in eval mode: the kernels are merged in every forward, on the device that the parameters are on."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, bias = self.conv3x3.weight, self.conv3x3.bias
        for branch in (self.conv1x1_3x3, self.conv1x1_sbx, self.conv1x1_sby, self.conv1x1_lpl):
            k, b = branch.merged()
            kernel, bias = kernel + k, bias + b
        identity = torch.zeros(self.channels, self.channels, 3, 3)
        for i in range(self.channels):
            identity[i, i, 1, 1] = 1.0
        return self.act(F.conv2d(input=x, weight=kernel + identity, bias=bias, stride=1, padding=1))


class ASR(nn.Module):
    """``x * gate``, where the gate is computed from a parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tensor = nn.Parameter(0.1 * torch.ones(1, channels, 1, 1))
        squeeze, excite = nn.Linear(channels, channels // 4, bias=False), nn.Linear(channels // 4, channels, bias=False)
        self.se = nn.Sequential(nn.Flatten(1), squeeze, nn.SiLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.tensor).unsqueeze(-1).unsqueeze(-1) * x


class RepMBConv(nn.Module):
    """``conv_1(gate conv_3(pad(h)) + h) + x`` of ``h = conv_1 x``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand_conv = nn.Conv2d(channels, 2 * channels, 1)
        self.fea_conv = nn.Conv2d(2 * channels, 2 * channels, 3)
        self.reduce_conv = nn.Conv2d(2 * channels, channels, 1)
        self.se = ASR(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.expand_conv(x)
        out_identity = out
        out = self.fea_conv(pad_with(out, self.expand_conv.bias))
        out = self.se(out) + out_identity
        return self.reduce_conv(out) + x


class Conv3XC(nn.Module):
    """``conv_1(conv_3(conv_1(pad x))) + conv_1 x``."""

    def __init__(self, cin: int, cout: int, gain: int = 2) -> None:
        super().__init__()
        self.sk = nn.Conv2d(cin, cout, 1)
        first, second = nn.Conv2d(cin, cin * gain, 1), nn.Conv2d(cin * gain, cout * gain, 3)
        self.conv = nn.Sequential(first, second, nn.Conv2d(cout * gain, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        x_pad = F.pad(x, (1, 1, 1, 1), "constant", 0)
        return F.leaky_relu(self.conv(x_pad) + self.sk(x), negative_slope=0.05)


class EvaluatedConv3XC(Conv3XC):
    """The same in eval mode: every forward computes the merged weights and puts them into a convolution of its own."""

    def __init__(self, cin: int, cout: int, gain: int = 2) -> None:
        super().__init__(cin, cout, gain)
        self.eval_conv = nn.Conv2d(cin, cout, 3, padding=1)

    def update_params(self) -> None:
        w1, b1 = self.conv[0].weight.data.clone().detach(), self.conv[0].bias.data.clone().detach()
        w2, b2 = self.conv[1].weight.data.clone().detach(), self.conv[1].bias.data.clone().detach()
        w3, b3 = self.conv[2].weight.data.clone().detach(), self.conv[2].bias.data.clone().detach()
        w = torch.einsum("omhw,mi->oihw", w2, w1[:, :, 0, 0])
        b = (w2 * b1.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b2
        weight = torch.einsum("om,mihw->oihw", w3[:, :, 0, 0], w)
        bias = (w3 * b.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b3
        self.eval_conv.weight.data = weight + F.pad(self.sk.weight.data, [1, 1, 1, 1])
        self.eval_conv.bias.data = bias + self.sk.bias.data

    def forward(self, x: Tensor) -> Tensor:
        self.update_params()
        return F.leaky_relu(self.eval_conv(x), negative_slope=0.05)


class CollapsibleLinearBlock(nn.Module):
    """``conv_1(conv_k x) + x``, the 1x1 convolution from many channels."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, hidden: int = 32) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(cin, hidden, kernel, padding="same"), nn.Conv2d(hidden, cout, 1))
        self.act = nn.PReLU(cout)
        self.residual = cin == cout

    def forward(self, x: Tensor) -> Tensor:
        features = self.block(x)
        return self.act(features + x if self.residual else features)


class CollapsedLinearBlock(nn.Module):
    """The same, collapsed in every forward by sending an impulse through the two convolutions."""

    def __init__(self, channels: int, kernel: int = 3, hidden: int = 32) -> None:
        super().__init__()
        wide = nn.Conv2d(channels, hidden, kernel, bias=False)
        self.collapse = nn.Sequential(wide, nn.Conv2d(hidden, channels, 1, bias=False))
        delta = torch.eye(channels).reshape(channels, channels, 1, 1)
        self.register_buffer("delta", F.pad(delta, [kernel - 1] * 4))
        self.register_buffer("residual", F.pad(delta, [kernel // 2] * 4))
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.collapse(self.delta).flip(2, 3).permute(1, 0, 2, 3)
        return F.conv2d(x, weight + self.residual, self.bias, padding="same")
