"""The block designs that the tutorials and papers publish, and the ways people spell an addition, each as a module.

Written for these tests from the published descriptions. Every class takes a few sizes and needs nothing but torch,
except ``TorchvisionRepVGGBlock``, which is built from torchvision's ``Conv2dNormActivation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


# ----------------------------------------------------------------------------------------------------- tutorial forms
class ConvNorm(nn.Module):
    """a) and g): a convolution, with or without a bias, and its norm."""

    def __init__(self, cin: int = 4, cout: int = 6, kernel: int = 3, *, bias: bool = False, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, bias=bias, **options)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SameBranches(nn.Module):
    """b): ``conv3(x) + conv1(x) + x`` with padding="same", biases and no norms."""

    def __init__(self, channels: int = 4, kernel: int = 3) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, kernel, padding="same")
        self.conv1 = nn.Conv2d(channels, channels, 1, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(x) + self.conv1(x) + x


class TwoBranches(nn.Module):
    """c): two valid 3x3 convolutions, added."""

    def __init__(self, cin: int = 4, cout: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3)
        self.conv2 = nn.Conv2d(cin, cout, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + self.conv2(x)


class TorchvisionRepVGGBlock(nn.Module):
    """d): a RepVGG block from torchvision's parts, adding in place."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        from torchvision.ops import Conv2dNormActivation

        super().__init__()
        self.block = Conv2dNormActivation(cin, cout, 3, stride=stride, padding=1, activation_layer=None)
        self.shortcut = Conv2dNormActivation(cin, cout, 1, stride=stride, padding=0, activation_layer=None)
        self.identity = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        res = x
        x = self.block(x)
        x += self.shortcut(res)
        if self.identity is not None:
            x += self.identity(res)
        return self.act(x)


class TorchvisionRepVGG(nn.Module):
    """d): stages of such blocks, as ``nn.Sequential`` of ``nn.Sequential``, with a classifier."""

    def __init__(self, widths: Sequence[int] = (4, 6), depth: int = 2, classes: int = 5) -> None:
        super().__init__()
        stages, cin = [], 3
        for width in widths:
            blocks = [TorchvisionRepVGGBlock(cin, width, stride=2)]
            blocks += [TorchvisionRepVGGBlock(width, width) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            cin = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(x)).flatten(1))


class OriginalRepVGGBlock(nn.Module):
    """e) and f): the block as first published; the identity branch is the integer 0 where there is none."""

    def __init__(
        self, cin: int, cout: int, stride: int = 1, dilation: int = 1, groups: int = 1, padding_mode: str = "zeros"
    ) -> None:
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.rbr_identity = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        same = {"stride": stride, "groups": groups, "bias": False, "padding_mode": padding_mode}
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation, **same))
        self.rbr_dense.add_module("bn", nn.BatchNorm2d(cout))
        self.rbr_1x1 = nn.Sequential()
        self.rbr_1x1.add_module("conv", nn.Conv2d(cin, cout, 1, **same))
        self.rbr_1x1.add_module("bn", nn.BatchNorm2d(cout))

    def forward(self, inputs: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


class HandNorm(nn.Module):
    """h): a BatchNorm written by hand, with (1, C, 1, 1) tensors."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.gamma = nn.Parameter(torch.rand(shape) + 0.5)
        self.beta = nn.Parameter(torch.randn(shape))
        self.register_buffer("mean", torch.randn(shape))
        self.register_buffer("var", torch.rand(shape) + 0.5)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.sqrt(self.var + self.eps) * self.gamma + self.beta


class HandNormBlock(nn.Module):
    """h): a RepVGG block whose norms are written by hand."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = HandNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm1 = HandNorm(channels)
        self.identity = HandNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + self.norm1(self.conv1(x)) + self.identity(x))


# -------------------------------------------------------------------------------------------- spellings of an addition
class Spelled(nn.Module):
    """Two branches ``a`` (3x3) and ``b`` (1x1) with norms; ``join(a(x), b(x), x)`` says how they are added."""

    def __init__(self, join: Callable[[Tensor, Tensor, Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        self.a = ConvNorm(channels, channels, 3, padding=1)
        self.b = ConvNorm(channels, channels, 1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.a(x), self.b(x), x)


def _iadd(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    a += b
    a += x
    return a


def _isub(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    a -= b
    return a


def _alias(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    alias = a
    a += b
    return alias  # the same tensor: it has the sum too


def _loop(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    out: Any = 0
    for branch in (a, b, x):
        out += branch
    return out  # type: ignore[no-any-return]


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "a + b": lambda a, b, x: a + b,
    "a + b + x": lambda a, b, x: a + b + x,
    "x + (b + a)": lambda a, b, x: x + (b + a),
    "(x + a) + (b + x)": lambda a, b, x: (x + a) + (b + x),
    "a - b": lambda a, b, x: a - b,
    "x - (a - b)": lambda a, b, x: x - (a - b),
    "-a + b": lambda a, b, x: -a + b,
    "torch.add": lambda a, b, x: torch.add(a, b),
    "torch.add alpha": lambda a, b, x: torch.add(a, b, alpha=0.5),
    "torch.sub alpha": lambda a, b, x: torch.sub(a, b, alpha=2),
    "Tensor.add alpha": lambda a, b, x: a.add(b, alpha=3),
    "torch.add by keyword": lambda a, b, x: torch.add(input=a, other=b, alpha=-1.5),
    "add_": lambda a, b, x: a.add_(b),
    "add_ alpha": lambda a, b, x: a.add_(b, alpha=0.25).add_(x),
    "sub_": lambda a, b, x: a.sub_(b),
    "+=": _iadd,
    "-=": _isub,
    "+= through an alias": _alias,
    "out = 0; out += branch": _loop,
    "sum list": lambda a, b, x: sum([a, b, x]),  # type: ignore[arg-type, return-value]
    "sum generator": lambda a, b, x: sum(t for t in (a, b)),  # type: ignore[return-value]
    "sum with a start": lambda a, b, x: sum([a, b], x),
    "stack sum": lambda a, b, x: torch.stack([a, b, x]).sum(0),
    "stack sum by keyword": lambda a, b, x: torch.stack([a, b, x], dim=0).sum(dim=0),
    "stack torch.sum": lambda a, b, x: torch.sum(torch.stack((a, b, x), 0), 0),
    "stack dim 1": lambda a, b, x: torch.stack([a, b], dim=1).sum(dim=1),
    "0 + a + b": lambda a, b, x: 0 + a + b,
    "a + 0.0 + b + 0": lambda a, b, x: a + 0.0 + b + 0,
    "scaled": lambda a, b, x: 0.5 * a + b / 3 - x * 2,
    "shifted": lambda a, b, x: (a + 1) + (2 - b),
    "multiplied after": lambda a, b, x: (a + b) * 0.1,
    "contiguous": lambda a, b, x: (a.contiguous() + b).contiguous() + x,
}


class OtherSource(nn.Module):
    """``a(h) + x + b(h)`` in one of its associations: one convolution of h, and one addition of x."""

    ORDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "(a + x) + b": lambda a, x, b: (a + x) + b,
        "a + (x + b)": lambda a, x, b: a + (x + b),
        "x + (a + b)": lambda a, x, b: x + (a + b),
        "(b + x) + a": lambda a, x, b: (b + x) + a,
        "sum": lambda a, x, b: sum([a, x, b]),  # type: ignore[arg-type, return-value]
    }

    def __init__(self, order: str = "(a + x) + b", channels: int = 4) -> None:
        super().__init__()
        self.a = ConvNorm(channels, channels, 3, padding=1)
        self.b = ConvNorm(channels, channels, 1)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x)
        return self.ORDERS[self.order](self.a(h), x, self.b(h))


class TwoSources(nn.Module):
    """``a(x) + b(y) + c(x) + d(y) + y``: two convolutions and one addition."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.a = ConvNorm(channels, channels, 3, padding=1)
        self.b = ConvNorm(channels, channels, 3, padding=1)
        self.c = ConvNorm(channels, channels, 1)
        self.d = ConvNorm(channels, channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.b(y) + self.c(x) + self.d(y) + y


# ------------------------------------------------------------------------------------------ things that do nothing here
class DropPath(nn.Module):
    """Stochastic depth as most code bases have it: the input itself in eval mode."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        keep = 1 - self.p
        return x * x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(keep) / keep


class WithPassThroughs(nn.Module):
    """Branches through Identity, Dropout and DropPath."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.a = nn.Sequential(ConvNorm(channels, channels, 3, padding=1), nn.Dropout(0.2), nn.Identity())
        self.b = nn.Sequential(nn.Identity(), ConvNorm(channels, channels, 1), nn.Dropout2d(0.2))
        self.drop = DropPath()
        self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        b = F.dropout(self.b(x), 0.1, self.training)
        return self.drop(self.a(x)) + b + self.skip(x)


class LayerScale(nn.Module):
    """``x + gamma * branch(x)``, gamma per channel as a parameter, or a scalar."""

    def __init__(self, channels: int = 4, *, scalar: float | None = None) -> None:
        super().__init__()
        self.branch = ConvNorm(channels, channels, 3, padding=1)
        self.gamma = nn.Parameter(torch.rand(channels) + 0.1)
        self.scalar = scalar

    def forward(self, x: Tensor) -> Tensor:
        if self.scalar is not None:
            return x + self.scalar * self.branch(x)
        return x + self.branch(x) * self.gamma.reshape(1, -1, 1, 1)


class PerChannel(nn.Module):
    """Constants of shape (C, 1, 1), (1, C, 1, 1) and () in both branches, and a shift."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.a = ConvNorm(channels, channels, 3, padding=1)
        self.b = ConvNorm(channels, channels, 1)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.register_buffer("whole", torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) * self.scale + self.shift) / self.whole + self.b(x) * self.whole - self.scale


# ------------------------------------------------------------------------------------------------------------ rank 1, 3
class AnyRank(nn.Module):
    """A RepVGG block in 1d, 2d or 3d."""

    def __init__(self, rank: int, channels: int = 4) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
        self.dense = nn.Sequential(conv(channels, channels, 3, padding=1, bias=False), norm(channels))
        self.point = nn.Sequential(conv(channels, channels, 1, bias=False), norm(channels))
        self.identity = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))
