"""A published design as the catalogue has it, and the counting of what runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.counting import BATCH_NORMS, CONVOLUTIONS, OpCounter
from tests.blocks.sources import Source
from tests.helpers import randomize

KINDS = {
    "conv": CONVOLUTIONS,
    "linear": {"linear", "matmul"},
    "norm": BATCH_NORMS,
    "mul": {"mul", "mul_", "div", "div_"},
    "pool": {"avg_pool2d"},
    "pad": {"pad"},
    "write": {"copy_", "fill_"},
}
KIND = {name: kind for kind, names in KINDS.items() for name in names}
ORDER = ("conv", "linear", "norm", "add", "mul", "pool", "pad", "write")

IMAGE = (2, 8, 9, 9)
TOKENS = (2, 6, 8)


def count(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """How often a call of ``model`` runs each kind of operator, as the dispatcher sees it; adds are those of tensors.

    In inference mode a linear layer and a pad arrive as what they are, not as what they are made of.
    """
    with torch.inference_mode(), OpCounter() as counter:
        model(*(x.clone() for x in inputs))
    found = Counter({"add": counter.counts.adds})
    for name, times in counter.operators.items():
        if name in KIND:
            found[KIND[name]] += times
    return {kind: found[kind] for kind in ORDER if found[kind]}


NO_MERGE: dict[str, int] = {}  # the authors publish none


def left(**kinds: int) -> dict[str, int]:
    """What runs, by kind."""
    return kinds


@dataclass(frozen=True)
class Design:
    """A published design.

    ``left`` is what runs when fxrep has merged it. Where its authors' merge leaves something else, ``authors`` is that,
    and where fxrep leaves more, ``note`` says why. ``example`` says that fxrep is given an example input, and ``since``
    which torch is known to trace it.
    """

    name: str
    source: Source
    algebra: str
    make: Callable[[], nn.Module]
    left: dict[str, int]
    note: str = ""
    authors: dict[str, int] | None = None
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    example: bool = False
    since: str = "2.5"

    def model(self) -> nn.Module:
        """The design with random statistics, in float64."""
        torch.manual_seed(0)
        return randomize(self.make()).double()

    def inputs(self) -> tuple[Tensor, ...]:
        """Random inputs for it."""
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes)

    @property
    def behind(self) -> bool:
        """Whether fxrep leaves more to run than the authors' merge."""
        return bool(self.authors) and sum(self.left.values()) > sum(self.authors.values())
