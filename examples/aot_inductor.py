"""AOTInductor after the merge: a package of compiled code that runs without Python's model code.

Run: python examples/aot_inductor.py

Needs a C++ compiler. The batch size stays open.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package, aoti_load_package

import fxrep


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(x) + self.conv1(x) + x).relu()


model = nn.Sequential(Block(8), Block(8))
with torch.no_grad():
    for _ in range(3):  # stands in for training: gives the norms statistics
        model.train()(torch.randn(4, 8, 16, 16))
model.eval()

deploy = fxrep.reparameterize(model)

path = str(Path(tempfile.mkdtemp()) / "deploy.pt2")
with torch.no_grad():
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(deploy, (torch.randn(4, 8, 16, 16),), dynamic_shapes=({0: batch},))
    aoti_compile_and_package(program, package_path=path)

packaged = aoti_load_package(path)
x = torch.randn(6, 8, 16, 16)
difference = (packaged(x) - model(x)).abs().max().item()
print(f"{Path(path).name}: outputs differ by at most {difference:.1e}")
