"""What a random program is made of, as small immutable values; ``repr`` reads like the formula.

A ``Program`` is a sum of branches (convolutions, norms, identities) of one or several sources, spelled in some way, all
on one grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MODES = ("zeros", "reflect", "replicate", "circular")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
SOURCES = ("x", "y", "relu(x)", "sigmoid(y)")

# Steps that follow a convolution, an identity or a sum.
NORM_MODULES = ("bn", "bn(affine=False)", "bn(momentum=None)", "syncbn")
NORMS = (*NORM_MODULES, "F.batch_norm", "torch.batch_norm", "hand-written norm")
CONSTANTS = (
    "*2.5", "-0.5*", "*tensor", "/1.6", "neg", "+0.7", "0.3-", "*channels", "channels*", "/channels", "+channels",
    "-channels", "*layer_scale",
)  # fmt: skip
INPLACE_STEPS = (".mul_(2.5)", "*=channels", ".add_(channels)")
PASSING = ("identity", "dropout", "F.dropout")

# Spellings of a sum. Those of two operands; of any number; and those that write to the first operand.
BINARY = ("+", "add", "torch.add", "torch.add alpha", "-", "torch.sub alpha", ".sub")
INPLACE = ("+=", ".add_", ".add_ alpha", "-=")
LISTS = ("sum", "stack.sum", "torch.sum(stack)", "stack.mean")


class Immutable:
    """Copies of a model share its description."""

    def __deepcopy__(self, memo: Any) -> Immutable:
        return self

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what Hypothesis prints a failing example with
        printer.text(repr(self))


@dataclass(frozen=True)
class Conv(Immutable):
    """The arguments of an ``nn.Conv``; a number for each spatial axis."""

    cin: int
    cout: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int = 1
    mode: str = "zeros"
    bias: bool = True

    def build(self) -> nn.Module:
        module: nn.Module = CONV[len(self.kernel)](
            self.cin,
            self.cout,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
            self.mode,
        )
        return module

    @property
    def spans(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each axis."""
        if self.padding == "same":
            return tuple((n // 2, n - n // 2) for n in self.spans)
        if isinstance(self.padding, str):
            return ((0, 0),) * len(self.kernel)
        return tuple((p, p) for p in self.padding)

    @property
    def extents(self) -> tuple[int, ...]:
        """How much larger than the input, less one, the range of output positions is, before striding."""
        return tuple(sum(pad) - n for pad, n in zip(self.pads, self.spans, strict=True))

    @property
    def smallest(self) -> tuple[int, ...]:
        """The smallest input that torch accepts."""
        room = {"reflect": 1, "circular": 0}.get(self.mode)
        return tuple(
            max(1, 1 - e, *(p + room if room is not None and p else 1 for p in pad))
            for e, pad in zip(self.extents, self.pads, strict=True)
        )

    def __repr__(self) -> str:
        said = [f"{self.cin}->{self.cout}", "x".join(map(str, self.kernel)), f"padding={_short(self.padding)}"]
        said += [f"stride={_short(self.stride)}"] if set(self.stride) != {1} else []
        said += [f"dilation={_short(self.dilation)}"] if set(self.dilation) != {1} else []
        said += [f"groups={self.groups}"] if self.groups > 1 else []
        said += [self.mode] if self.mode != "zeros" else []
        said += ["no bias"] if not self.bias else []
        return f"conv({', '.join(said)})"


@dataclass(frozen=True)
class Branch(Immutable):
    """``steps(conv(source))``, or without a convolution ``steps(source)``."""

    source: str
    conv: Conv | None
    steps: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Whether the value is one of its own, that may be written to."""
        return self.conv is not None or any(step not in PASSING for step in self.steps)

    def __repr__(self) -> str:
        return " ".join(
            [f"{self.conv!r}({self.source})" if self.conv else self.source, *map("| {}".format, self.steps)]
        )


@dataclass(frozen=True)
class Leaf(Immutable):
    """The value of a branch, by its number; -1 is a literal 0."""

    branch: int

    def __repr__(self) -> str:
        return f"b{self.branch}" if self.branch >= 0 else "0"


@dataclass(frozen=True)
class Sum(Immutable):
    """``steps(operands added up in one spelling)``."""

    spelling: str
    operands: tuple[Leaf | Sum, ...]
    alpha: float = 1
    steps: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if len(self.spelling) <= 2:
            text = f"({self.operands[0]} {self.spelling} {self.operands[1]})"
        else:
            alpha = f" alpha={self.alpha}" if "alpha" in self.spelling else ""
            text = f"{self.spelling.removesuffix(' alpha')}({', '.join(map(repr, self.operands))}{alpha})"
        return " ".join([text, *map("| {}".format, self.steps)])


Tree = Leaf | Sum


@dataclass(frozen=True)
class Program(Immutable):
    """``tail(tree)`` over ``branches``, for inputs x and y of ``channels`` and ``size``."""

    rank: int
    channels: tuple[int, int]
    out_channels: int
    size: tuple[int, ...]
    branches: tuple[Branch, ...]
    tree: Tree
    tail: str = ""
    eager: bool = False
    dtype: str = "float64"
    seed: int = 0

    def __repr__(self) -> str:
        lines = [
            f"{self.rank}d, x and y of {self.channels[0]} and {self.channels[1]} channels and size {_short(self.size)}"
            f", {self.dtype}, seed {self.seed}{', all branches first' if self.eager else ''}",
            *(f"b{i} = {branch!r}" for i, branch in enumerate(self.branches)),
            f"return {self.tail}{self.tree!r}",
        ]
        return "\n  ".join(["Program", *lines])

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        x, y = (torch.randn(2, c, *self.size, generator=generator, dtype=torch.float64) for c in self.channels)
        return x.to(dtype), y.to(dtype)

    @property
    def out_size(self) -> tuple[int, ...]:
        conv = next(b.conv for b in self.branches if b.conv)
        return tuple(
            (h - 1 + e) // s + 1 for h, e, s in zip(self.size, conv.extents, conv.stride, strict=True)
        )  # fmt: skip


def _short(values: Any) -> str:
    return values if isinstance(values, str) else "x".join(map(str, values))


def nodes(tree: Tree, path: str = "") -> Iterator[tuple[str, Tree]]:
    """Every node of a tree with its path."""
    yield path, tree
    if isinstance(tree, Sum):
        for i, operand in enumerate(tree.operands):
            yield from nodes(operand, f"{path}{i}")


def leaves(tree: Tree) -> list[int]:
    """The branches that a tree adds up."""
    return [n.branch for _, n in nodes(tree) if isinstance(n, Leaf) and n.branch >= 0]
