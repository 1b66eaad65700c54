"""The networks that are measured, by name: timm's, torchvision's as `torchvision:NAME`, and the tutorials' own."""

import difflib
import importlib.util

import torch
from torch import nn

from benchmarks.common import build, check_models, fail, randomise_norms, require

TUTORIAL = "tutorial_repvgg"  # two layers per stage, widths 64 to 512, the network that the RepVGG tutorials time
TORCHVISION = "torchvision:"


def known(name: str) -> bool:
    """Whether the versions that are installed here have this network."""
    if importlib.util.find_spec("torchvision") is None and (name == TUTORIAL or name.startswith(TORCHVISION)):
        return False
    if name.startswith(TORCHVISION):
        from torchvision.models import list_models

        return name.removeprefix(TORCHVISION) in list_models()
    from timm import is_model

    return name == TUTORIAL or is_model(name)


def check(names: list[str]) -> None:
    """End the program with one line if one of these networks does not exist."""
    for name in names:
        if known(name):
            continue
        if not name.startswith(TORCHVISION) and name != TUTORIAL:
            check_models([name])
        require("torchvision")
        from torchvision.models import list_models

        close = difflib.get_close_matches(name.removeprefix(TORCHVISION), list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        fail(f"torchvision has no model {name.removeprefix(TORCHVISION)!r}{hint}")


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
    if not norms:
        return model
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
