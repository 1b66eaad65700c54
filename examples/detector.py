"""A torchvision detector whose backbone is built of RepVGG blocks.

A detector cannot be traced as one graph: it loops over images and boxes in Python. What can be traced is merged, and
the detector stays a detector.

Run: python examples/detector.py
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

import fxrep


class RepVGGBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout))
        self.conv1 = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.identity = nn.BatchNorm2d(cout) if cin == cout and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(x) + self.conv1(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return y.relu()


class Backbone(nn.Sequential):
    out_channels = 64  # torchvision reads it


widths = [3, 16, 32, 64]
blocks = [[RepVGGBlock(a, b, 2), RepVGGBlock(b, b, 1)] for a, b in pairwise(widths)]
model = FCOS(
    Backbone(*(block for pair in blocks for block in pair)),
    num_classes=3,
    anchor_generator=AnchorGenerator(sizes=((32,),), aspect_ratios=((1.0,),)),
    min_size=128,
    max_size=128,
    score_thresh=0.0,
)
with torch.no_grad():
    for _ in range(3):  # stands in for training: gives the norms statistics
        model.backbone.train()(torch.randn(4, 3, 64, 64))
model.eval()

deploy = fxrep.reparameterize(model)

report = fxrep.report(deploy)
print(f"{type(deploy).__name__}: {len(report.merged)} merges in {[m.name for m in report.merged]}")
print("batch norms:", report.before["norm"], "->", report.after["norm"])
image = torch.rand(3, 100, 120)
with torch.no_grad():
    (before,), (after,) = model([image]), deploy([image])
print(f"{len(before['boxes'])} boxes, largest difference {(before['boxes'] - after['boxes']).abs().max():.1e} pixels")
