"""torch.compile after the merge: less to compile, and less to run.

torch.compile folds no branches by itself: what is merged before is what it does not have to generate code for.

Run: python examples/torch_compile.py
"""

import time

import torch
from torch import Tensor, nn

import fxrep


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(x) + self.conv1(x) + self.identity(x)).relu()


model = nn.Sequential(Block(16), Block(16))
with torch.no_grad():
    for _ in range(3):  # stands in for training: gives the norms statistics
        model.train()(torch.randn(4, 16, 32, 32))
model.eval()
x = torch.randn(4, 16, 32, 32)

deploy = fxrep.reparameterize(model)
compiled = torch.compile(deploy, fullgraph=True)

start = time.perf_counter()
with torch.no_grad():
    compiled(x)
print(f"compiled in {time.perf_counter() - start:.1f} s")
print(fxrep.verify(model, compiled, (x,)))
