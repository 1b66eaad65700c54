"""Modules that run a program, with plain Python loops over its description, so that they can be traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.programs.description import (
    LISTS,
    NORM,
    NORM_MODULES,
    Branch,
    Leaf,
    Program,
    Sum,
    Tree,
    nodes,
)

if TYPE_CHECKING:
    from tests.programs.hazards import Hazard


class Step(nn.Module):
    """One of ``NORMS``, ``CONSTANTS``, ``INPLACE_STEPS`` or ``PASSING`` with values of its own."""

    def __init__(self, kind: str, channels: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.kind = kind

        def uniform(*shape: int, low: float = 0.5, high: float = 2.0) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator)

        per_channel = (1, channels, *(1,) * rank)
        if kind in NORM_MODULES:
            options: dict[str, Any] = {"bn(affine=False)": {"affine": False}, "bn(momentum=None)": {"momentum": None}}
            make = nn.SyncBatchNorm if kind == "syncbn" else NORM[rank]
            self.norm = make(channels, **options.get(kind, {}))
            fill(self.norm, generator)
        elif kind in ("F.batch_norm", "torch.batch_norm", "hand-written norm"):
            shape = per_channel if kind == "hand-written norm" else (channels,)
            self.register_buffer("mean", uniform(*shape, low=-0.7, high=0.7))
            self.register_buffer("var", uniform(*shape))
            self.gamma = nn.Parameter(uniform(*shape))
            self.beta = nn.Parameter(uniform(*shape, low=-0.7, high=0.7))
        elif kind == "*tensor":
            self.register_buffer("c", uniform())
        elif kind == "*layer_scale":
            self.c = nn.Parameter(uniform(*per_channel[1:]))
        elif "channels" in kind:
            self.c = nn.Parameter(uniform(*per_channel))
        elif kind == "identity":
            self.inner = nn.Identity()
        elif kind == "dropout":
            self.inner = nn.Dropout(0.3)

    def forward(self, v: Any) -> Any:
        kind = self.kind
        if kind in NORM_MODULES:
            return self.norm(v)
        if kind == "F.batch_norm":
            return F.batch_norm(v, self.mean, self.var, weight=self.gamma, bias=self.beta, training=False, eps=1e-3)
        if kind == "torch.batch_norm":
            return torch.batch_norm(v, self.gamma, self.beta, self.mean, self.var, False, 0.1, 1e-3, False)
        if kind == "hand-written norm":
            return (v - self.mean) / torch.sqrt(self.var + 1e-3) * self.gamma + self.beta
        if kind in ("identity", "dropout"):
            return self.inner(v)
        if kind == "F.dropout":
            return F.dropout(v, 0.3, training=self.training)
        if kind in ("*=channels", ".mul_(2.5)", ".add_(channels)"):
            return self._write(v)
        return {
            "*2.5": lambda: v * 2.5,
            "-0.5*": lambda: -0.5 * v,
            "/1.6": lambda: v / 1.6,
            "neg": lambda: -v,
            "+0.7": lambda: v + 0.7,
            "0.3-": lambda: 0.3 - v,
            "*tensor": lambda: v * self.c,
            "*channels": lambda: v * self.c,
            "*layer_scale": lambda: v * self.c,
            "channels*": lambda: torch.mul(self.c, v),
            "/channels": lambda: v / self.c,
            "+channels": lambda: v + self.c,
            "-channels": lambda: torch.sub(v, self.c),
        }[kind]()

    def _write(self, v: Any) -> Any:
        if self.kind == "*=channels":
            v *= self.c
            return v
        return v.mul_(2.5) if self.kind == ".mul_(2.5)" else v.add_(self.c)


def fill(norm: Any, generator: torch.Generator) -> None:
    """Random statistics and affine parameters."""
    with torch.no_grad():
        if norm.running_mean is not None:
            norm.running_mean.copy_(torch.rand(norm.num_features, generator=generator) - 0.5)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        if norm.weight is not None:
            norm.weight.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.bias.copy_(torch.rand(norm.num_features, generator=generator) - 0.5)


def chain(steps: tuple[str, ...], channels: int, rank: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(*(Step(step, channels, rank, generator) for step in steps))


class BranchModule(nn.Module):
    """Runs a ``Branch``; ``before`` is only there for a hazard."""

    def __init__(self, branch: Branch, channels: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv = branch.conv.build() if branch.conv else None
        self.before: nn.Module | None = None
        self.after: nn.Module | None = None
        self.steps = chain(branch.steps, branch.conv.cout if branch.conv else channels, rank, generator)

    def forward(self, v: Any) -> Any:
        if self.before is not None:
            v = self.before(v)
        if self.conv is not None:
            v = self.conv(v)
        if self.after is not None:
            v = self.after(v)
        return self.steps(v)


@dataclass
class Run:
    """The values of one forward pass."""

    sources: dict[str, Any]
    values: dict[int, Any]
    extras: list[Any]
    saved: list[Any]


class Model(nn.Module):
    """Runs a ``Program`` with its ``hazards``; returns the sum, or with extra outputs a tuple."""

    def __init__(self, program: Program, hazards: tuple[Hazard, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(program.seed)
        self.program, self.hazards = program, hazards
        generator = torch.Generator().manual_seed(program.seed)
        self.branches = nn.ModuleList(
            BranchModule(b, program.channels["y" in b.source], program.rank, generator) for b in program.branches
        )
        self.after = nn.ModuleDict(
            {f"sum{path}": chain(n.steps, program.out_channels, program.rank, generator)
             for path, n in nodes(program.tree) if isinstance(n, Sum)}
        )  # fmt: skip
        self.extra = nn.ModuleDict()
        self.eval()
        for hazard in hazards:
            hazard.does.prepare(self, hazard, generator)

    def forward(self, x: Any, y: Any) -> Any:
        for hazard in self.hazards:
            if hazard.kind == "control flow" and x.sum() > 1e30:
                return x
        used = {b.source for b in self.program.branches}
        run = Run({"x": x, "y": y}, {}, [], [])
        if "relu(x)" in used:
            run.sources["relu(x)"] = F.relu(x)
        if "sigmoid(y)" in used:
            run.sources["sigmoid(y)"] = torch.sigmoid(y)
        if self.program.eager:
            for i in range(len(self.branches)):
                self._branch(run, i)
        out = self._value(run, self.program.tree, "")
        for hazard in self.hazards:
            out = hazard.does.at_end(self, hazard, run, out)
        if self.program.tail == "relu ":
            out = F.relu(out)
        elif self.program.tail == "relu_ ":
            out = F.relu(out, inplace=True)
        return (out, *run.extras) if run.extras else out

    def _branch(self, run: Run, i: int) -> Any:
        if i not in run.values:
            v = self.branches[i](run.sources[self.program.branches[i].source])
            for hazard in self.hazards:
                if hazard.branch == i:
                    v = hazard.does.at_branch(self, hazard, run, v)
            run.values[i] = v
        return run.values[i]

    def _value(self, run: Run, node: Tree, path: str) -> Any:
        if isinstance(node, Leaf):
            return self._branch(run, node.branch) if node.branch >= 0 else 0
        operands = [self._value(run, n, f"{path}{i}") for i, n in enumerate(node.operands)]
        return self.after[f"sum{path}"](add_up(node.spelling, operands, node.alpha))


def add_up(spelling: str, operands: list[Any], alpha: float = 1) -> Any:
    """The sum of ``operands`` in one of the spellings."""
    if spelling in LISTS:
        return {
            "sum": lambda: sum(operands),
            "stack.sum": lambda: torch.stack(operands).sum(0),
            "torch.sum(stack)": lambda: torch.sum(torch.stack(operands, dim=1), dim=1),
            "stack.mean": lambda: torch.stack(operands, 0).mean(dim=0),
        }[spelling]()
    a, b = operands
    if spelling == "+=":
        a += b
        return a
    if spelling == "-=":
        a -= b
        return a
    return {
        "+": lambda: a + b,
        "add": lambda: a.add(b),
        "torch.add": lambda: torch.add(input=a, other=b),
        "torch.add alpha": lambda: torch.add(a, b, alpha=alpha),
        "-": lambda: a - b,
        "torch.sub alpha": lambda: torch.sub(a, b, alpha=alpha),
        ".sub": lambda: a.sub(b),
        ".add_": lambda: a.add_(b),
        ".add_ alpha": lambda: a.add_(b, alpha=alpha),
    }[spelling]()
