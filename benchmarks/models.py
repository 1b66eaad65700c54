"""The networks that are measured, by name: timm's, torchvision's as `torchvision:NAME`, and the tutorials' own."""

import difflib

import torch
from torch import nn

from benchmarks.common import build, check_models, fail, randomise_norms

TUTORIAL = "tutorial_repvgg"  # two layers per stage, widths 64 to 512, the network that the RepVGG tutorials time
TORCHVISION = "torchvision:"


def check(names: list[str]) -> None:
    """End the program with one line if one of these networks does not exist."""
    check_models(name for name in names if name != TUTORIAL and not name.startswith(TORCHVISION))
    chosen = [name.removeprefix(TORCHVISION) for name in names if name.startswith(TORCHVISION)]
    if chosen:
        from torchvision.models import list_models

        for name in chosen:
            if name not in list_models():
                close = difflib.get_close_matches(name, list_models(), n=3)
                fail(f"torchvision has no model {name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))


def make(name: str) -> nn.Module:
    """The network in eval mode, untrained, with random norms whose statistics fit what they get."""
    torch.manual_seed(0)
    if name == TUTORIAL:
        from tests.blocks import TorchvisionRepVGG

        model = randomise_norms(TorchvisionRepVGG((64, 128, 256, 512), depth=2, classes=1000).eval())
    elif name.startswith(TORCHVISION):
        from torchvision.models import get_model

        model = randomise_norms(get_model(name.removeprefix(TORCHVISION), weights=None).eval())
    else:
        model = build(name)
    return fit_statistics(model)


@torch.no_grad()
def fit_statistics(model: nn.Module) -> nn.Module:
    """Let every batch norm measure its input, then shift it a little. With made-up statistics float16 overflows."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model(torch.randn(4, 3, 96, 96))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.2)).clamp_(min=1e-3)
            norm.running_mean.add_(0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt())
    return model
