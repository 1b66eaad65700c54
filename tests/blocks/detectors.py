"""Detectors: YOLOv6, v7, v9 and v10, PP-YOLOE, RT-DETR, DAMO-YOLO, and docTR's FAST."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks.parts import conv_norm
from tests.blocks.tutorials import OriginalRepVGGBlock


class ScaleLayer(nn.Module):
    """``x * weight`` per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, self.channels, 1, 1)


class LinearAddBlock(nn.Module):
    """``bn(s_3 conv_3 x + s_1 conv_1 x + s_0 x)``: constant scales instead of norms in the branches."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.scale_conv = ScaleLayer(cout)
        self.conv_1x1 = nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.scale_1x1 = ScaleLayer(cout)
        if cin == cout and stride == 1:
            self.scale_identity = ScaleLayer(cout)
        self.bn = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU()
        self.se = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
        if hasattr(self, "scale_identity"):
            out += self.scale_identity(x)
        return self.relu(self.se(self.bn(out)))


class BottleRep(nn.Module):
    """``rep(rep(x)) + alpha x`` with RepVGG blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = OriginalRepVGGBlock(channels, channels)
        self.conv2 = OriginalRepVGGBlock(channels, channels)
        self.shortcut = True
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.conv2(self.conv1(x))
        return outputs + self.alpha * x if self.shortcut else outputs


class RepConv(nn.Module):
    """YOLOv7: RepVGG with SiLU; where its output is concatenated or added, without the identity."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, identity: bool = True) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.rbr_identity = nn.BatchNorm2d(cin) if identity and cin == cout and stride == 1 else None
        self.rbr_dense = nn.Sequential(*conv_norm(cin, cout, 3, stride))
        self.rbr_1x1 = nn.Sequential(*conv_norm(cin, cout, 1, stride))

    def forward(self, inputs: Tensor) -> Tensor:
        if hasattr(self, "rbr_reparam"):
            return self.act(self.rbr_reparam(inputs))
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.act(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


class ImplicitHead(nn.Module):
    """YOLOv7: ``im * conv_1(ia + x)``, with a learned vector before and one behind the last convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.ia = nn.Parameter(0.02 * torch.randn(1, cin, 1, 1))
        self.m = nn.Conv2d(cin, cout, 1)
        self.im = nn.Parameter(1 + 0.02 * torch.randn(1, cout, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.im * self.m(self.ia + x)


class YoloConv(nn.Module):
    """A convolution, its norm, and an activation that may be the identity."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, *, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, 1, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=0.001, momentum=0.03)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class RepConvN(nn.Module):
    """YOLOv9: ``conv_3 x + conv_1 x`` without an identity."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.bn = None
        self.conv1 = YoloConv(cin, cout, 3, act=False)
        self.conv2 = YoloConv(cin, cout, 1, act=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        id_out = 0 if self.bn is None else self.bn(x)
        return self.act(self.conv1(x) + self.conv2(x) + id_out)


class RepNBottleneck(nn.Module):
    """YOLOv9: ``x + conv_3(rep x)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = RepConvN(channels, channels)
        self.cv2 = YoloConv(channels, channels, 3)
        self.add = True

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class RepVGGDW(nn.Module):
    """YOLOv10: ``silu(bn(dw_7 x) + bn(dw_3 x))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = YoloConv(channels, channels, 7, groups=channels, act=False)
        self.conv1 = YoloConv(channels, channels, 3, groups=channels, act=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) + self.conv1(x))


class ConvNormLayer(nn.Module):
    """A convolution, its norm, and an activation that may be the identity, under the names of RT-DETR."""

    def __init__(self, cin: int, cout: int, kernel: int, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, 1, padding=(kernel - 1) // 2, bias=False)
        self.norm = nn.BatchNorm2d(cout)
        self.act = nn.Identity() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class AlphaRepVggBlock(nn.Module):
    """PP-YOLOE: ``conv_3 x + alpha conv_1 x``, alpha a parameter of one element or None."""

    def __init__(self, cin: int, cout: int, *, alpha: bool = True) -> None:
        super().__init__()
        self.conv1 = ConvNormLayer(cin, cout, 3)
        self.conv2 = ConvNormLayer(cin, cout, 1)
        self.use_alpha = alpha
        self.alpha = nn.Parameter(torch.full((1,), 0.75)) if alpha else None

    def forward(self, x: Tensor) -> Tensor:
        if self.use_alpha:
            y = self.conv1(x) + self.alpha * self.conv2(x)
        else:
            y = self.conv1(x) + self.conv2(x)
        return F.silu(y)


class AskedAlphaRepVggBlock(AlphaRepVggBlock):
    """The same, where the parameter itself is asked for its truth."""

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha:
            y = self.conv1(x) + self.alpha * self.conv2(x)
        else:
            y = self.conv1(x) + self.conv2(x)
        return F.silu(y)


class RepVggBlock(nn.Module):
    """RT-DETR: ``conv_3 x + conv_1 x``, unless there is a merged one already."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormLayer(channels, channels, 3)
        self.conv2 = ConvNormLayer(channels, channels, 1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv"):
            y = self.conv(x)
        else:
            y = self.conv1(x) + self.conv2(x)
        return self.act(y)


class CSPRepLayer(nn.Module):
    """RT-DETR: RepVGG blocks beside a 1x1 convolution."""

    def __init__(self, cin: int, cout: int, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = ConvNormLayer(cin, cout, 1, nn.SiLU())
        self.conv2 = ConvNormLayer(cin, cout, 1, nn.SiLU())
        self.bottlenecks = nn.Sequential(*(RepVggBlock(cout) for _ in range(blocks)))
        self.conv3 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x_1 = self.bottlenecks(self.conv1(x))
        x_2 = self.conv2(x)
        return self.conv3(x_1 + x_2)


class Swish(nn.Module):
    """``x * sigmoid(x)``, written into ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(F.sigmoid(x))
        return x


class DamoRepConv(nn.Module):
    """DAMO-YOLO: RepVGG without the identity, before an activation in place."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.nonlinearity = Swish()
        self.rbr_identity = None
        self.rbr_dense = conv_norm(cin, cout, 3)
        self.rbr_1x1 = conv_norm(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.nonlinearity(self.rbr_dense(x) + self.rbr_1x1(x) + id_out)


class DamoBasicBlock(nn.Module):
    """DAMO-YOLO: ``x + act(bn(conv_3(rep x)))``, the block of its neck."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(hidden, channels, 3)
        self.conv1.add_module("act", Swish())
        self.conv2 = DamoRepConv(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(self.conv2(x))


class FASTConvLayer(nn.Module):
    """FAST: ``bn(conv_hxw x) + bn(conv_hx1 x) + bn(conv_1xw x) + bn x``, each branch or the integer 0."""

    def __init__(self, cin: int, cout: int, kernel: Any = 3, stride: int = 1) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.activation = nn.ReLU(inplace=True)
        self.conv, self.bn = conv_norm(cin, cout, (high, wide), stride)
        self.ver_conv, self.ver_bn = conv_norm(cin, cout, (high, 1), stride) if wide != 1 else (None, None)
        self.hor_conv, self.hor_bn = conv_norm(cin, cout, (1, wide), stride) if high != 1 else (None, None)
        self.rbr_identity = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        main = self.bn(self.conv(x))
        vertical: Any = 0
        if self.ver_conv is not None and self.ver_bn is not None:
            vertical = self.ver_bn(self.ver_conv(x))
        horizontal: Any = 0
        if self.hor_bn is not None and self.hor_conv is not None:
            horizontal = self.hor_bn(self.hor_conv(x))
        id_out = self.rbr_identity(x) if self.rbr_identity is not None and self.ver_bn is not None else 0
        return self.activation(main + vertical + horizontal + id_out)
