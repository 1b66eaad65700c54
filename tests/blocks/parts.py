"""What most published blocks are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(cin: int, cout: int, kernel: Any, stride: int = 1, padding: Any = None, **options: Any) -> nn.Sequential:
    """A convolution that keeps the size, unless told otherwise, and its norm."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        padding = tuple(options.get("dilation", 1) * (side - 1) // 2 for side in sides)
    result = nn.Sequential()
    result.add_module("conv", nn.Conv2d(cin, cout, kernel, stride, padding, bias=False, **options))
    result.add_module("bn", nn.BatchNorm2d(cout))
    return result


class SqueezeExcite(nn.Module):
    """``x * sigmoid(up(relu(down(mean(x)))))``, with the mean as an average pool over the whole image."""

    def __init__(self, channels: int, hidden: int = 4) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        gate = F.avg_pool2d(x, kernel_size=x.size(3))
        gate = self.up(F.relu(self.down(gate))).sigmoid()
        return x * gate.view(-1, self.channels, 1, 1)


class Residual(nn.Module):
    """``x + m(x)``."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)
