"""Convolutions of vision transformers: position encodings of CoaT, DaViT and Twins, queries of EfficientFormerV2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.blocks.parts import conv_norm


class CoaTPosEnc(nn.Module):
    """``dw_3 x + x`` on the image tokens, while the class token (or several) goes around it."""

    def __init__(self, channels: int, size: tuple[int, int], tokens: int = 1) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.size, self.tokens = size, tokens

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        prefix, image = x[:, : self.tokens], x[:, self.tokens :]
        feat = image.transpose(1, 2).view(batch, channels, *self.size)
        x = self.proj(feat) + feat
        x = x.flatten(2).transpose(1, 2)
        return torch.cat((prefix, x), dim=1)


class DaViTPosEnc(nn.Module):
    """``x + act(dw_3 x)``, where the activation is mostly the identity."""

    def __init__(self, channels: int, *, act: bool = False) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.act = nn.GELU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        feat = self.proj(x)
        return x + self.act(feat)


class TwinsPosConv(nn.Module):
    """``dw_3 x += x`` between two transposes."""

    def __init__(self, channels: int, size: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1, bias=True, groups=channels))
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        image = x.transpose(1, 2).view(batch, channels, *self.size)
        x = self.proj(image)
        if self.stride == 1:
            x += image
        return x.flatten(2).transpose(1, 2)


class LocalGlobalQuery(nn.Module):
    """``bn(pw(dw_3 x + avg_1 x))``, all with stride 2."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(1, 2, 0)
        self.local = nn.Sequential(nn.Conv2d(cin, cin, kernel_size=3, stride=2, padding=1, groups=cin))
        self.proj = conv_norm(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        local_q = self.local(x)
        pool_q = self.pool(x)
        return self.proj(local_q + pool_q)


class PoolingMixer(nn.Module):
    """``x + gamma (avg_3 x - x)``, the token mixer of the first version, with a pool that counts what is inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.layer_scale = nn.Parameter(1e-5 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale.unsqueeze(-1).unsqueeze(-1) * (self.pool(x) - x)
