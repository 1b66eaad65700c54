"""TorchScript after the merge, for runtimes that still want it: scripted, traced, frozen, saved and loaded.

Run: python examples/torchscript.py
"""

import tempfile
from pathlib import Path

import timm
import torch
from torch import nn

import fxrep

model = timm.create_model("repvgg_a0")
for module in model.modules():  # stands in for training: the norms take on the statistics of a batch
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0
with torch.no_grad():
    model.train()(torch.randn(8, 3, 64, 64))
model.eval()
x = torch.randn(1, 3, 64, 64)

deploy = fxrep.reparameterize(model)

scripted = torch.jit.script(deploy)
traced = torch.jit.trace(deploy, x)
path = Path(tempfile.mkdtemp()) / "deploy.ts"
torch.jit.freeze(scripted).save(path)

print("scripted:", fxrep.verify(model, scripted, (x,)))
print("traced:", fxrep.verify(model, traced, (x,)))
print(f"{path.name}:", fxrep.verify(model, torch.jit.load(path), (torch.randn(3, 3, 96, 96),)))
