"""A fine-tuned timm model, from its training checkpoint to a file that runs without timm and without fxrep.

Run: python examples/timm_checkpoint.py
"""

import tempfile
from pathlib import Path

import timm
import torch
from torch import nn

import fxrep

folder = Path(tempfile.mkdtemp())

# Stands in for your training script: the norms take on the statistics of a batch, and a checkpoint is saved as usual.
model = timm.create_model("repvgg_a0", num_classes=10)
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0
with torch.no_grad():
    model.train()(torch.randn(8, 3, 64, 64))
torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "best.pth")

# Your deployment script. The checkpoint belongs to the model as it was trained: load first, merge then.
model = timm.create_model("repvgg_a0", num_classes=10)
model.load_state_dict(torch.load(folder / "best.pth", weights_only=True)["state_dict"])
deploy = fxrep.reparameterize(model.eval())

report = fxrep.report(deploy)
print(f"{len(report.merged)} merges: {report.before} -> {report.after}")
print("parameters: {:,} -> {:,}".format(*report.parameters))

x = torch.randn(2, 3, 64, 64)
print(fxrep.verify(model, deploy, (x,)))

program = torch.export.export(deploy, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
torch.export.save(program, folder / "deploy.pt2")

# In production: neither timm nor fxrep is needed to run the file.
loaded = torch.export.load(folder / "deploy.pt2").module()
print("deploy.pt2:", fxrep.verify(model, loaded, (torch.randn(5, 3, 64, 64),)))
