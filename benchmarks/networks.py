"""A model, what each pass makes of it, and its output in float64 to compare with."""

import copy
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import models, modes, peers
from benchmarks.peers import AS_IS

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SEVERAL = 8


class Network:
    """The variants of a model on the CPU in float32, and copies of them for a case."""

    def __init__(self, name: str, image_size: int) -> None:
        self.variants, self.failed = peers.variants(models.make(name))
        self.image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))

    @cached_property
    def reference(self) -> Tensor:
        """The first image's output in float64."""
        with torch.no_grad():
            return copy.deepcopy(self.variants[AS_IS]).double()(self.image.double())

    @cached_property
    def several(self) -> tuple[Tensor, Tensor]:
        """Some images, and their outputs in float64."""
        generator = torch.Generator().manual_seed(2)
        images = torch.randn(SEVERAL, *self.image.shape[1:], generator=generator)
        with torch.no_grad():
            return images, copy.deepcopy(self.variants[AS_IS]).double()(images.double())

    def worst_error(self, variant: str, case: dict[str, Any]) -> float:
        """The largest error of a variant on several images, each over the largest value that it should give.

        On a single image, that of a network which amplifies rounding says little.
        """
        images, expected = self.several
        output = self.placed(variant, case)(images.to(case["device"])).detach().double().cpu()
        return ((output - expected).abs().flatten(1).amax(1) / expected.abs().flatten(1).amax(1)).max().item()

    def error(self, output: Tensor) -> float:
        """The largest difference of the first image's output, over the largest value."""
        difference = output[:1].detach().double().cpu() - self.reference
        return (difference.abs().max() / self.reference.abs().max()).item()

    def placed(self, variant: str, case: dict[str, Any]) -> nn.Module:
        """A variant in the type, the memory format and on the device of a case."""
        model = self.variants[variant]
        if (case["device"], case["dtype"], case["format"]) == ("cpu", "float32", "contiguous"):
            return model
        layout = LAYOUTS[case["format"]]
        return copy.deepcopy(model).to(case["device"], getattr(torch, case["dtype"])).to(memory_format=layout)

    def input(self, case: dict[str, Any]) -> Tensor:
        """As many images as the case has, the first one always the same."""
        more = torch.randn(case["batch"] - 1, *self.image.shape[1:], generator=torch.Generator().manual_seed(1))
        x = torch.cat([self.image, more]).to(case["device"], getattr(torch, case["dtype"]))
        return x.contiguous(memory_format=LAYOUTS[case["format"]])


@dataclass
class Networks:
    """The networks built last, by name. Building and merging one takes seconds, and keeping one takes memory."""

    image_size: int
    slots: int
    kept: OrderedDict[str, Network] = field(default_factory=OrderedDict)

    def __getitem__(self, name: str) -> Network:
        if name not in self.kept:
            while len(self.kept) >= self.slots:
                self.kept.popitem(last=False)
            modes.onnx_bytes.cache_clear()
            self.kept[name] = Network(name, self.image_size)
        return self.kept[name]
