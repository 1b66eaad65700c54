"""A block of your own, which no library knows: nothing to register, nothing to write.

Run: python examples/own_block.py
"""

import torch
from torch import Tensor, nn

import fxrep


def conv_norm(channels: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, kernel, padding="same", dilation=dilation, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class CrossBlock(nn.Module):
    """A depthwise 5x5 beside a row, a column, a dilated 3x3, and the input on a learned scale per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.square = conv_norm(channels, (5, 5))
        self.row, self.column = conv_norm(channels, (1, 5)), conv_norm(channels, (5, 1))
        self.dilated = conv_norm(channels, (3, 3), dilation=2)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.square(x)
        y += self.gain * (self.row(x) + self.column(x))
        y = y - self.dilated(x) / 2
        return torch.nn.functional.gelu(y + self.gamma * x)


model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), CrossBlock(16), CrossBlock(16))
with torch.no_grad():
    for _ in range(3):  # stands in for training: gives the norms statistics
        model.train()(torch.randn(4, 3, 32, 32))
model.eval()

deploy = fxrep.reparameterize(model)

print(deploy)
print(fxrep.report(deploy))
print(fxrep.verify(model, deploy, (torch.randn(1, 3, 32, 32),)))
