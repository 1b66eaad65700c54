"""A segmentation model around a timm MobileOne encoder: the encoder and the decoder are merged in one go.

Run: python examples/segmentation.py
"""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep


class Segmenter(nn.Module):
    """Upsamples the deepest feature map step by step and adds the ones that it meets on the way."""

    def __init__(self, encoder: str = "mobileone_s0", classes: int = 5, width: int = 32) -> None:
        super().__init__()
        self.encoder = timm.create_model(encoder, features_only=True, pretrained=False)
        channels = self.encoder.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = [lateral(f) for lateral, f in zip(self.lateral, self.encoder(image), strict=True)]
        x = features.pop()
        for feature in reversed(features):
            x = feature + F.interpolate(x, size=feature.shape[2:], mode="nearest")
        logits = self.head(self.smooth(x))
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear")


model = Segmenter()
for module in model.modules():  # stands in for training: the norms take on the statistics of a batch
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0
with torch.no_grad():
    model.train()(torch.randn(8, 3, 64, 64))
model.eval()

deploy = fxrep.reparameterize(model)

report = fxrep.report(deploy)
print(f"{type(deploy).__name__}: {len(report.merged)} merges, {report.before} -> {report.after}")
for item in report.kept:
    if item.kind != "conv":
        print(f"  left alone: {item.name}: {item.reason}")
for size in (64, 96):
    print(f"{size} pixels:", fxrep.verify(model, deploy, (torch.randn(1, 3, size, size),)))
