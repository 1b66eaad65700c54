"""Weights that are computed in forward, and an activation that training turns into the identity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OREPA(nn.Module):
    """``bn(conv(x, W))`` with a kernel ``W`` that is the sum of six, each times a vector per channel."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, expand: int = 4) -> None:
        super().__init__()
        self.cin, self.kernel = cin, kernel

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / math.sqrt(math.prod(shape[1:])))

        self.origin = weight(cout, cin, kernel, kernel)
        self.avg_conv, self.pfir_conv = weight(cout, cin, 1, 1), weight(cout, cin, 1, 1)
        self.register_buffer("avg_avg", torch.ones(kernel, kernel).mul(1.0 / kernel / kernel))
        self.register_buffer("prior", self.frequencies(cout, kernel))
        self.point = weight(cout, cin, 1, 1)
        self.idconv1 = nn.Parameter(torch.zeros(cin, cin, 1, 1))
        self.register_buffer("id_tensor", torch.eye(cin).reshape(cin, cin, 1, 1))
        self.conv2 = weight(cout, cin, kernel, kernel)
        self.gconv_dw = weight(cin * expand, 1, kernel, kernel)
        self.gconv_pw = weight(cout, cin * expand, 1, 1)
        self.vector = nn.Parameter(torch.rand(6, cout) + 0.5)
        self.bn = nn.BatchNorm2d(cout)
        self.nonlinear = nn.ReLU()

    @staticmethod
    def frequencies(channels: int, kernel: int) -> Tensor:
        prior, half = torch.zeros(channels, kernel, kernel), channels / 2
        for i in range(channels):
            wave = [math.cos(math.pi * (t + 0.5) * (i + 1 - (0 if i < half else half)) / kernel) for t in range(kernel)]
            row = torch.tensor(wave)
            prior[i] = (row[:, None] if i < half else row[None, :]).expand(kernel, kernel)
        return prior

    def weight_gen(self) -> Tensor:
        def scaled(weight: Tensor, i: int) -> Tensor:
            return torch.einsum("oihw,o->oihw", weight, self.vector[i, :])

        origin = scaled(self.origin, 0)
        avg = scaled(torch.einsum("oi,hw->oihw", self.avg_conv.squeeze(3).squeeze(2), self.avg_avg), 1)
        pfir = scaled(torch.einsum("oi,ohw->oihw", self.pfir_conv.squeeze(3).squeeze(2), self.prior), 2)
        first = (self.idconv1 + self.id_tensor).squeeze(3).squeeze(2)
        chain = scaled(torch.einsum("ti,othw->oihw", first, self.conv2), 3)
        point = scaled(F.pad(self.point, [self.kernel // 2] * 4), 4)
        multiplier = self.gconv_dw.view(self.cin, -1, 1, self.kernel, self.kernel)
        mixed = self.gconv_pw.squeeze().view(len(self.point), self.cin, -1)
        separable = torch.einsum("gtihw,ogt->ogihw", multiplier, mixed).reshape(self.origin.shape)
        return origin + avg + point + chain + pfir + scaled(separable, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight_gen(), bias=None, stride=1, padding=self.kernel // 2)
        return self.nonlinear(self.bn(out))


class OREPALargeConv(nn.Module):
    """``bn(conv(x, W))`` with a kernel that is a chain of 3x3 kernels, composed by convolving one with the next."""

    def __init__(self, cin: int, cout: int, layers: int = 3) -> None:
        super().__init__()
        self.layers = layers
        for i in range(layers):
            shape = (cout, cin if i == 0 else cout, 3, 3)
            setattr(self, f"weight{i}", nn.Parameter(torch.randn(shape) / math.sqrt(9 * cout)))
        self.bn = nn.BatchNorm2d(cout)

    def weight_gen(self) -> Tensor:
        weight = self.weight0.transpose(0, 1)
        for i in range(self.layers - 1):
            weight = F.conv2d(weight, getattr(self, f"weight{i + 1}"), padding=2)
        return weight.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.weight_gen(), padding=self.layers))


class ScaledStdConv2d(nn.Conv2d):
    """NFNet: a convolution whose kernel is standardised for each output, by the function that normalises batches."""

    def __init__(self, cin: int, cout: int, kernel: int = 3) -> None:
        super().__init__(cin, cout, kernel, padding=kernel // 2)
        self.gain = nn.Parameter(torch.rand(cout, 1, 1, 1) + 0.5)
        self.scale = 1.7 / math.sqrt(self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        flat, gain = self.weight.reshape(1, self.out_channels, -1), (self.gain * self.scale).view(-1)
        flat = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, flat.reshape_as(self.weight), self.bias, self.stride, self.padding)


class SeriesActivation(nn.ReLU):
    """VanillaNet's activation: ``bn(dw(relu x))``, in a class that is a ReLU and has a kernel of its own."""

    def __init__(self, channels: int, number: int = 3) -> None:
        super().__init__()
        self.channels, self.number = channels, number
        self.weight = nn.Parameter(torch.randn(channels, 1, 2 * number + 1, 2 * number + 1))
        self.bn = nn.BatchNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        padding = (self.number * 2 + 1) // 2
        return self.bn(F.conv2d(x, self.weight, padding=padding, groups=self.channels))


class VanillaBlock(nn.Module):
    """``act(pool(bn(conv_1(leaky(bn(conv_1 x))))))``, whose leaky ReLU has the slope 1 once it is trained."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.act_learn = 1
        self.conv1 = nn.Sequential(nn.Conv2d(cin, cin, 1), nn.BatchNorm2d(cin, eps=1e-6))
        self.conv2 = nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout, eps=1e-6))
        self.pool = nn.MaxPool2d(2)
        self.act = SeriesActivation(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.leaky_relu(x, self.act_learn)
        x = self.conv2(x)
        return self.act(self.pool(x))
