"""Random programs for the property tests: a small immutable description, a module that runs it, and what to expect.

A ``Program`` is a sum of branches (convolutions, norms, identities) of one or several sources, spelled in some way. It
is drawn such that all branches are on one grid, so ``predict`` can say, knowing nothing of fxrep, how many
convolutions, norms and additions have to be left. ``Hazard`` puts one thing into it that makes a merge illegal or that
a careless pass gets wrong; those programs only have to be computed rightly. ``Model`` interprets either, with plain
Python loops over the description, so that it can be traced. ``repr`` reads like the formula.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

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


# ------------------------------------------------------------------------------------------------------ descriptions
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


# -------------------------------------------------------------------------------------------------------- prediction
def predict(program: Program) -> dict[str, int]:
    """How many convolutions, norms and additions of tensors have to be left, by the algebra alone.

    All branches of a source with a convolution among them become one convolution, and what scales them goes into it.
    An identity of a source that has no convolution stays as it is, its own norm too. A norm behind a sum goes into
    the convolutions, if all terms of the sum are convolutions.
    """
    used = [program.branches[i] for i in leaves(program.tree)]
    convolved = {b.source for b in used if b.conv}
    alone = [b for b in used if b.source not in convolved]
    kept = [step for b in alone for step in b.steps]
    merging = any(sum(b.source == source for b in used) > 1 for source in convolved)
    scaled = any(step not in PASSING for _, n in nodes(program.tree) if isinstance(n, Sum) for step in n.steps)
    adds = len(convolved) + len(alone) - 1
    if alone and isinstance(program.tree, Sum):
        kept += program.tree.steps
    if not merging and (alone or not scaled):  # then the sum itself is left as it is written
        adds = sum(_additions(n) for _, n in nodes(program.tree))
    return {
        "conv": len(convolved),
        "norm": sum(step in NORMS and step != "hand-written norm" for step in kept),
        "add": adds
        + sum({"hand-written norm": 2}.get(s, "channels" in s and s[:2] in ("+c", "-c", ".a")) for s in kept),
    }


def _additions(node: Tree) -> int:
    if isinstance(node, Leaf) or "stack" in node.spelling:
        return 0
    return sum(not (isinstance(n, Leaf) and n.branch < 0) for n in node.operands) - 1


# ------------------------------------------------------------------------------------------------------------ modules
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
            HAZARDS[hazard.kind].prepare(self, hazard, generator)

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
            out = HAZARDS[hazard.kind].at_end(self, hazard, run, out)
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
                    v = HAZARDS[hazard.kind].at_branch(self, hazard, run, v)
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


# ------------------------------------------------------------------------------------------------------------ hazards
@dataclass(frozen=True)
class Hazard(Immutable):
    """One thing that makes merging illegal, or dangerous: its ``kind``, ``how``, and the ``branch`` that it befalls."""

    kind: str
    how: str
    branch: int
    conv: Conv | None = None

    def __repr__(self) -> str:
        return f"Hazard({self.kind}: {self.how}, at b{self.branch}{f', {self.conv!r}' if self.conv else ''})"


class Kind:
    """A kind of hazard: the ways in which it is done, and its code at the three places where there is some."""

    hows: tuple[str, ...] = ("",)
    needs_conv = False

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        """Change the modules."""

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        """Change the value of the branch."""
        return v

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        """Change the sum."""
        return out


class NonLinear(Kind):
    hows = ("relu", "F.relu_", "nn.ReLU", "nn.ReLU inplace", ".relu_", "sigmoid", "abs", "clamp", "round", "float32",
            "softmax", "square", "unused relu_", "max_pool", "cumsum", "flip", "roll", "sort", "-mean")  # fmt: skip

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        if hazard.how.startswith("nn."):
            model.branches[hazard.branch].after = nn.ReLU(inplace=hazard.how == "nn.ReLU inplace")

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        if hazard.how == "unused relu_":
            F.relu(v, True)
        return {
            "relu": lambda: F.relu(v),
            "F.relu_": lambda: F.relu(v, inplace=True),
            ".relu_": lambda: v.relu_(),
            "sigmoid": lambda: v.sigmoid(),
            "abs": lambda: abs(v),
            "clamp": lambda: v.clamp(min=-0.1),
            "round": lambda: torch.round(v),
            "float32": lambda: v.float().double(),
            "softmax": lambda: v.softmax(1),
            "square": lambda: v * v,
            "max_pool": lambda: v.amax(-1, keepdim=True),
            "cumsum": lambda: v.cumsum(-1),
            "flip": lambda: v.flip(-1),
            "roll": lambda: torch.roll(v, 1, -1),
            "sort": lambda: v.sort(1)[0],
            "-mean": lambda: v - v.mean(-1, keepdim=True),
        }.get(hazard.how, lambda: v)()


class SecondUser(Kind):
    hows = ("output", "abs", "times the sum", "view", "shape", "mean", "added twice", "slice", "scaled", "saved")

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        if hazard.how == "shape":
            return v * v.shape[-1]
        extra = {
            "output": lambda: v,
            "abs": lambda: v.abs(),
            "view": lambda: v.view(2, -1),
            "mean": lambda: v.mean(),
            "slice": lambda: v[:, :1],
            "scaled": lambda: v * 2,
        }.get(hazard.how)
        if extra:
            run.extras.append(extra())
        run.saved.append(v)
        return v

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        if hazard.how == "times the sum":
            return out * run.saved[-1]
        if hazard.how == "saved":
            run.extras.append(run.saved[-1] * 3)
        return out + run.saved[-1] if hazard.how == "added twice" else out


def write(how: str, v: Any) -> None:
    """Write to ``v`` in place."""
    if how == "setitem":
        v[:, :1] = 0.25
    elif how == "setitem all":
        v[...] = 0.25
    elif how == "+=":
        v += 1
    elif how == "*= itself":
        v *= v
    elif how == "slice +=":
        v[:, -1:] += 1
    elif how == "select":
        v.select(1, 0).fill_(0.5)
    else:
        {
            "mul_": lambda: v.mul_(2),
            "relu_": lambda: v.relu_(),
            "torch.relu_": lambda: torch.relu_(v),
            "F.relu": lambda: F.relu(v, inplace=True),
            "F.hardtanh_": lambda: F.hardtanh_(v, -0.3, 0.3),
            "copy_": lambda: v.copy_(v * 2),
            "out=": lambda: torch.add(v, 1, out=v),
            "view": lambda: v.view(-1)[:1].mul_(3),
            "transpose": lambda: v.transpose(0, 1).mul_(2),
            "detach": lambda: v.detach().mul_(2),
            "contiguous": lambda: v.contiguous().mul_(2),
            "Identity": lambda: nn.functional.dropout(v, 0.5, False).mul_(2),
            "unbind": lambda: v.unbind(1)[0].zero_(),
            "chunk": lambda: v.chunk(2, 0)[1].neg_(),
            "clone": lambda: v.clone().mul_(2),
            "exp_": lambda: torch.exp_(v),
            "zero_": lambda: v.zero_(),
            "addcmul_": lambda: v.addcmul_(v, v),
            "where": lambda: v.masked_fill_(v < 0, 0.1),
            "__setitem__ mask": lambda: v.__setitem__(v > 0.5, 0.1),
        }[how]()


WRITES = ("setitem", "setitem all", "+=", "*= itself", "slice +=", "select", "mul_", "relu_", "torch.relu_", "F.relu",
          "F.hardtanh_", "copy_", "out=", "view", "transpose", "detach", "contiguous", "Identity", "unbind", "chunk",
          "clone", "exp_", "zero_", "addcmul_", "where", "__setitem__ mask")  # fmt: skip


class WriteSource(Kind):
    """The source is written to after a branch has read it."""

    hows = WRITES

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        write(hazard.how, run.sources[model.program.branches[hazard.branch].source])
        return v


class WriteBranch(Kind):
    """The value of a branch is written to before it is added."""

    hows = WRITES

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        write(hazard.how, v)
        return v


class WriteBranchLate(Kind):
    """The value of a branch is written to, and returned, after the sum."""

    hows = WRITES

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        run.saved.append(v)
        return v

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        write(hazard.how, run.saved[-1])
        run.extras.append(run.saved[-1])
        return out


class WriteSourceLate(Kind):
    """The source is written to after the sum."""

    hows = WRITES

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        write(hazard.how, run.sources[model.program.branches[hazard.branch].source])
        return out


class WriteOutput(Kind):
    """The sum is written to."""

    hows = WRITES

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        write(hazard.how, out)
        return out


class Alias(Kind):
    """A view of a branch, taken before the sum, is read or written to after it."""

    hows = ("read", "write", "read source", "write source", "read by iadd")

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        source = run.sources[model.program.branches[hazard.branch].source]
        run.saved.append((source if "source" in hazard.how else v).view(-1)[:2])
        return v

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        view = run.saved[-1]
        if hazard.how.startswith("write"):
            view += 1
        run.extras.append(view * 2)
        if hazard.how == "read by iadd":
            out += 1
            run.extras.append(view + 1)
        return out


class Shared(Kind):
    """A convolution, or a whole branch, is called again."""

    hows = ("conv, other norm", "conv, no norm", "conv, other input", "branch, same input", "branch, other input",
            "conv, output", "conv on the sum", "same weight, new conv", "norm, other input",
            "behind the sum")  # fmt: skip
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        program, conv = model.program, model.branches[hazard.branch].conv
        model.extra["other"] = Step("bn", program.out_channels, program.rank, generator).eval()
        if hazard.how == "same weight, new conv":
            model.extra["twin"] = copy.deepcopy(conv)
            model.extra["twin"].weight = conv.weight

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        branch, source = model.branches[hazard.branch], run.sources[model.program.branches[hazard.branch].source]
        if hazard.how == "conv, output":
            run.extras.append(branch.conv(source))
        elif hazard.how == "conv on the sum":
            run.extras.append(branch.conv(out))
        elif hazard.how == "norm, other input":
            return out + branch.steps(out)
        elif hazard.how == "behind the sum":
            for steps_behind in model.after.values():
                out = out + steps_behind(out.abs())
        elif hazard.how == "same weight, new conv":
            return out + model.extra["other"](model.extra["twin"](source))
        else:
            return (
                out
                + {
                    "conv, other norm": lambda: model.extra["other"](branch.conv(source)),
                    "conv, no norm": lambda: branch.conv(source),
                    "conv, other input": lambda: branch.conv(source.abs()),
                    "branch, same input": lambda: branch(source),
                    "branch, other input": lambda: branch(source * source),
                }[hazard.how]()
            )
        return out


def _triple(module: nn.Module, args: Any, output: Any) -> Any:
    return output * 3


def _write_output(module: nn.Module, args: Any, output: Any) -> None:
    output.mul_(2)


def _shift_input(module: nn.Module, args: Any) -> Any:
    return (args[0] + 1,)


class Hook(Kind):
    hows = tuple(f"{hook} on {where}" for hook in ("triple", "write", "pre") for where in ("conv", "branch", "steps"))
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        hook, where = hazard.how.split(" on ")
        module = model.branches[hazard.branch]
        module = module if where == "branch" else getattr(module, where)
        if hook == "pre":
            module.register_forward_pre_hook(_shift_input)
        else:
            module.register_forward_hook(_triple if hook == "triple" else _write_output)


class BadNorm(Kind):
    """A norm that is not affine, or whose statistics are broken."""

    hows = ("training", "training module", "no statistics", "nan mean", "inf variance", "negative variance",
            "nan weight", "zero variance", "huge scale")  # fmt: skip

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        program = model.program
        branch = program.branches[hazard.branch]
        step = Step("bn", branch.conv.cout if branch.conv else program.channels["y" in branch.source], program.rank,
                    generator).eval()  # fmt: skip
        norm: Any = step.norm
        if hazard.how == "no statistics":
            step.norm = NORM[program.rank](norm.num_features, track_running_stats=False).eval()
        elif hazard.how == "training":
            norm.train()
        elif hazard.how == "training module":
            step.train()
        else:
            with torch.no_grad():
                {
                    "nan mean": lambda: norm.running_mean[:1].fill_(math.nan),
                    "inf variance": lambda: norm.running_var[:1].fill_(math.inf),
                    "negative variance": lambda: norm.running_var[:1].fill_(-1.0),
                    "nan weight": lambda: norm.weight[:1].fill_(math.nan),
                    "zero variance": lambda: norm.running_var.zero_(),
                    "huge scale": lambda: norm.weight.fill_(1e30),
                }[hazard.how]()
        model.branches[hazard.branch].after = step


class Broadcast(Kind):
    hows = ("one + sum", "sum + one", "mean of channels", "mean of positions", "channel of the source", "one + source",
            "one item", "one + channels", "a source of another rank", "one | bn + sum", "first position")  # fmt: skip
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        conv = model.program.branches[hazard.branch].conv
        assert conv is not None
        model.extra["one"] = replace(conv, cout=1, groups=1).build()
        model.extra["bn"] = Step("bn", 1, model.program.rank, generator).eval()
        model.extra["c"] = Step("+channels", model.program.out_channels, model.program.rank, generator).eval()

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        source = run.sources[model.program.branches[hazard.branch].source]
        one = functools.partial(model.extra["one"], source)
        return {
            "one + sum": lambda: one() + out,
            "sum + one": lambda: out + one(),
            "one | bn + sum": lambda: model.extra["bn"](one()) + out,
            "mean of channels": lambda: out + out.mean(1, keepdim=True),
            "mean of positions": lambda: out + out.mean(-1, keepdim=True),
            "channel of the source": lambda: out + source[:, :1],
            "one + source": lambda: out + (one() + source),
            "one item": lambda: out + out[:1],
            "one + channels": lambda: model.extra["c"](one()) + out,
            "a source of another rank": lambda: out + source.mean(0),
            "first position": lambda: out + out[..., :1],
        }[hazard.how]()


class Constant(Kind):
    """A constant that is not one per channel."""

    hows = tuple(f"{how} {op}" for how in ("width", "height", "positions", "table", "batch", "axis", "channels last",
                                           "one wide", "counter", "written") for op in ("*", "+"))  # fmt: skip

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        program = model.program
        size, rank, channels = program.out_size, program.rank, program.out_channels
        shape = {
            "width": (size[-1],),
            "height": (size[-2], 1) if rank > 1 else (size[-1],),
            "positions": size,
            "table": (1, channels, *size),
            "batch": (2, *(1,) * (rank + 1)),
            "axis": (3, *(1,) * (rank + 2)),
            "channels last": (channels,),
            "one wide": (1,) * (rank + 3),
            "counter": (),
            "written": (1, channels, *(1,) * rank),
        }[hazard.how[:-2]]
        model.register_buffer("c", 1 + torch.rand(shape, generator=generator))

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        if hazard.how[:-2] in ("counter", "written"):
            model.c.add_(0.5)
        v = v * model.c if hazard.how.endswith("*") else v + model.c
        if hazard.how[:-2] == "written":
            model.c.mul_(1.1)
        return v


class OtherConv(Kind):
    """Another convolution is added whose stride, extent or padding mode differ, though the sizes fit."""

    hows = ("after", "first", "both")
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        assert hazard.conv is not None
        model.extra["another"] = hazard.conv.build()

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        source = run.sources[model.program.branches[hazard.branch].source]
        another = model.extra["another"]
        if hazard.how == "both":
            return another(source) + out + another(source)
        return out + another(source) if hazard.how == "after" else another(source) + out


class Before(Kind):
    """Something happens to the source on the way to one convolution."""

    hows = ("bn", "conv with bias", "conv", "*2.5", "+0.7", "flip", "relu_", "mul_", "identity", "dropout", "relu",
            "clone")  # fmt: skip
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        program = model.program
        channels, rank = program.channels["y" in program.branches[hazard.branch].source], program.rank
        before: nn.Module
        if hazard.how.startswith("conv"):
            before = CONV[rank](channels, channels, 1, bias="bias" in hazard.how)
        elif hazard.how in ("flip", "relu_", "mul_", "clone", "relu"):
            before = Do(hazard.how)
        else:
            before = Step(hazard.how, channels, rank, generator)
        model.branches[hazard.branch].before = before.eval()


class Do(nn.Module):
    """One method."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, v: Any) -> Any:
        return {"flip": lambda: v.flip(-1), "mul_": lambda: v.mul_(2)}.get(self.how, lambda: getattr(v, self.how)())()


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


class Overridden(Kind):
    """A convolution that is not what its type says."""

    hows = ("subclass", "weight standardised", "plain subclass", "_conv_forward", "parametrization", "weight_norm",
            "instance forward", "frozen class")  # fmt: skip
    needs_conv = True

    def prepare(self, model: Model, hazard: Hazard, generator: torch.Generator) -> None:
        conv: Any = model.branches[hazard.branch].conv
        if hazard.how == "parametrization":
            nn.utils.parametrize.register_parametrization(conv, "weight", _Doubled())
        elif hazard.how == "weight_norm":
            nn.utils.parametrizations.weight_norm(conv)
            conv.parametrizations.weight.original0.data.mul_(1.7)
        elif hazard.how == "instance forward":
            conv.forward = functools.partial(_own_forward, conv.padding_mode)
        else:
            conv.__class__ = OVERRIDDEN[hazard.how, CONV[model.program.rank]]


def _own_forward(mode: str, x: Any) -> Any:
    return x[:, :1] * 2


def _overridden() -> dict[tuple[str, Any], Any]:
    classes: dict[tuple[str, Any], Any] = {}
    for base in CONV.values():

        class Subclass(base):  # type: ignore[misc, valid-type]
            def forward(self, x: Any) -> Any:
                return super().forward(x) * 2

        class Standardised(base):  # type: ignore[misc, valid-type]
            def forward(self, x: Any) -> Any:
                return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

        class ConvForward(base):  # type: ignore[misc, valid-type]
            def _conv_forward(self, x: Any, weight: Any, bias: Any) -> Any:
                return super()._conv_forward(x, weight * 2, bias)

        class Plain(base):  # type: ignore[misc, valid-type]
            pass

        class Called(base):  # type: ignore[misc, valid-type]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return super().__call__(*args, **kwargs) + 1

        kinds = {"subclass": Subclass, "weight standardised": Standardised, "_conv_forward": ConvForward}
        kinds |= {"plain subclass": Plain, "frozen class": Called}
        classes |= {(how, base): kind for how, kind in kinds.items()}
    return classes


OVERRIDDEN = _overridden()


class WeightElsewhere(Kind):
    """A weight of a branch is read by somebody else."""

    hows = ("conv.weight", "conv.bias", "weight twice", "weight returned", "norm elsewhere")
    needs_conv = True

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        conv: Any = model.branches[hazard.branch].conv
        if hazard.how == "conv.weight":
            return out + conv.weight.sum()
        if hazard.how == "conv.bias" and conv.bias is not None:
            return out * conv.bias.view(1, -1, *(1,) * model.program.rank)
        if hazard.how == "weight twice":
            return out * conv.weight.mean() + conv.weight.abs().mean()
        if hazard.how == "weight returned":
            run.extras.append(conv.weight * 1)
        return out


class WrongStack(Kind):
    """Stacks that are summed over another axis, and other sums that are none."""

    hows = ("stack 1, sum 0", "stack 0, sum 1", "sum over both", "stack -1, sum -1", "keepdim", "sum all", "cat",
            "stack 0, sum -1", "stack -1, sum 1", "einsum", "unused", "out=", "permute", "stack once")  # fmt: skip

    def at_branch(self, model: Model, hazard: Hazard, run: Run, v: Any) -> Any:
        run.saved.append(v)
        return v

    def at_end(self, model: Model, hazard: Hazard, run: Run, out: Any) -> Any:
        v = run.saved[-1]
        if hazard.how == "unused":
            v + out
            return out
        return {
            "stack 1, sum 0": lambda: torch.stack([out, v], 1).sum(0),
            "stack 0, sum 1": lambda: torch.stack([out, v]).sum(1),
            "sum over both": lambda: torch.stack([out, v]).sum((0, 1)),
            "stack -1, sum -1": lambda: torch.stack([out, v], -1).sum(-1),
            "keepdim": lambda: torch.stack([out, v]).sum(0, keepdim=True),
            "sum all": lambda: torch.stack([out, v]).sum(),
            "cat": lambda: torch.cat([out, v], 1),
            "stack 0, sum -1": lambda: torch.stack([out, v], 0).sum(-1),
            "stack -1, sum 1": lambda: torch.stack([out, v], -1).sum(1),
            "einsum": lambda: torch.einsum("nc...,nc...->nc...", out, v),
            "out=": lambda: torch.add(out, v, out=v),
            "permute": lambda: out + v.transpose(0, 1).contiguous().view_as(v),
            "stack once": lambda: torch.stack([out]).sum(0),
        }[hazard.how]()


class Plain(Kind):
    """Kinds with code elsewhere: "control flow" in ``Model``, "alias inputs" and "twice" in ``build``."""


HAZARDS: dict[str, Kind] = {
    "not linear": NonLinear(),
    "second user": SecondUser(),
    "source written between": WriteSource(),
    "branch written": WriteBranch(),
    "branch written after the sum": WriteBranchLate(),
    "source written after the sum": WriteSourceLate(),
    "sum written": WriteOutput(),
    "alias": Alias(),
    "shared": Shared(),
    "hook": Hook(),
    "norm": BadNorm(),
    "broadcast": Broadcast(),
    "constant": Constant(),
    "other conv": OtherConv(),
    "before the conv": Before(),
    "overridden": Overridden(),
    "weight elsewhere": WeightElsewhere(),
    "stack": WrongStack(),
    "control flow": Plain(),
    "alias inputs": Plain(),
    "twice": Plain(),
}


class Twice(nn.Module):
    """Calls one model two times."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any, y: Any) -> Any:
        return self.inner(x, y), self.inner(x * 2, y)


def build(program: Program, hazards: tuple[Hazard, ...] = ()) -> nn.Module:
    """The module, in eval mode as a whole and in float64."""
    model: nn.Module = Model(program, hazards)
    if any(h.kind == "twice" for h in hazards):
        model = Twice(model)
        model.training = False
    return model.double()


# --------------------------------------------------------------------------------------------------------- strategies
@functools.lru_cache(None)
def _axis_choices(extent: int, longest: int) -> tuple[tuple[int, int, int], ...]:
    """Every (kernel, dilation, padding) with the same padding on both sides and this extent."""
    found = [
        (k, d, (extent + d * (k - 1)) // 2)
        for k in range(1, longest + 1)
        for d in (1, 2, 3)
        if (extent + d * (k - 1)) % 2 == 0 and extent + d * (k - 1) >= 0 and d * (k - 1) <= 2 * longest
    ]
    return tuple(sorted(found, key=lambda c: c[1:] == (1, 0)))


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def convs(draw: st.DrawFn, cin: int, cout: int, extents: tuple[int, ...], stride: tuple[int, ...], mode: str) -> Conv:
    """A convolution on a given grid."""
    rank = len(extents)
    longest = {1: 7, 2: 5, 3: 3}[rank]
    groups = draw(st.sampled_from(_divisors(math.gcd(cin, cout))))
    bias = draw(st.booleans())
    padding: tuple[int, ...] | str
    if not any(extents) and set(stride) == {1} and draw(st.integers(0, 2)) == 0:
        kernel = tuple(draw(st.integers(1, longest)) for _ in range(rank))
        dilation = tuple(draw(st.sampled_from((1, 1, 2))) for _ in range(rank))
        padding = "same"
    else:
        axes = [draw(st.sampled_from(_axis_choices(e, longest))) for e in extents]
        kernel, dilation, padding = (tuple(c[i] for c in axes) for i in range(3))
        if not any(padding) and draw(st.booleans()):
            padding = "valid"
    conv = Conv(cin, cout, kernel, stride, padding, dilation, groups, mode, bias)
    if mode == "zeros" and not any(map(any, conv.pads)) and draw(st.integers(0, 4)) == 0:
        conv = replace(conv, mode=draw(st.sampled_from(MODES)))  # one that never reads outside does not care
    return conv


@st.composite
def steps(draw: st.DrawFn, fresh: bool, most: int = 2) -> tuple[str, ...]:
    """What follows a convolution, an identity or a sum; in place only where the value is its own."""
    chosen: list[str] = []
    for _ in range(draw(st.integers(0, most))):
        family = draw(st.sampled_from((NORMS, NORMS, CONSTANTS, PASSING, INPLACE_STEPS if fresh else NORMS)))
        chosen.append(draw(st.sampled_from(family)))
        fresh = fresh or chosen[-1] not in PASSING
    return tuple(chosen)


@st.composite
def trees(draw: st.DrawFn, branches: tuple[Branch, ...]) -> Tree:
    """The branches in some order, added up pair by pair or in lists."""
    waiting: list[Tree] = [Leaf(i) for i in draw(st.permutations(range(len(branches))))]
    if draw(st.integers(0, 3)) == 0:
        waiting.insert(draw(st.integers(0, len(waiting))), Leaf(-1))
    while len(waiting) > 1:
        at = draw(st.integers(0, len(waiting) - 2))
        first, second = waiting[at : at + 2]
        spellings = BINARY if first != Leaf(-1) else ("+", "-")
        if isinstance(first, Sum) or (first.branch >= 0 and branches[first.branch].fresh):
            spellings += INPLACE
        if second == Leaf(-1):
            spellings = tuple(s for s in spellings if s in ("+", "-", "+=", "-=", "torch.add alpha"))
        spelling = draw(st.sampled_from((*spellings, *LISTS)))
        count = draw(st.integers(2, len(waiting) - at)) if spelling in LISTS else 2
        operands = tuple(waiting[at : at + count])
        if "stack" in spelling and Leaf(-1) in operands:
            spelling = "sum"
        alpha = draw(st.sampled_from((2, 1, -0.5, 0.25))) if "alpha" in spelling else 1
        total = Sum(spelling, operands, alpha)
        last = count == len(waiting)
        if (last or _convolved(total, branches)) and draw(st.integers(0, 2 if last else 7)) == 0:
            total = replace(total, steps=draw(steps(fresh=True)))
        waiting[at : at + count] = [total]
    return waiting[0]


def _convolved(tree: Tree, branches: tuple[Branch, ...]) -> bool:
    """Whether each source of a sum has a convolution in it, so that a norm behind the sum goes into those."""
    used = [branches[i] for i in leaves(tree)]
    return {b.source for b in used} == {b.source for b in used if b.conv}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A sum of branches on one grid."""
    rank = draw(st.sampled_from((2, 2, 1, 3)))
    most = 6 if rank < 3 else 4
    out = draw(st.integers(1, most))
    channels = (
        draw(st.one_of(st.just(out), st.integers(1, most))),
        draw(st.one_of(st.just(out), st.integers(1, most))),
    )
    plain = draw(st.booleans())  # stride 1 and as large as the input, so that identities fit
    stride = tuple(1 if plain else draw(st.sampled_from((2, 1, 3))) for _ in range(rank))
    extents = tuple(0 if plain else draw(st.integers(-2, 2)) for _ in range(rank))
    several = draw(st.integers(0, 2)) == 0
    sources = draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3, unique=True)) if several else ["x"]
    modes = {source: draw(st.sampled_from(("zeros", *MODES))) for source in sources}
    count = draw(st.integers(1, 4 if rank < 3 else 3))
    branches: list[Branch] = []
    for i in range(count):
        source = draw(st.sampled_from(sources))
        cin = channels["y" in source]
        fits = plain and cin == out and i > 0
        if fits and draw(st.integers(0, 2)) == 0:
            branches.append(Branch(source, None, draw(steps(fresh=False))))
        else:
            conv = draw(convs(cin, out, extents, stride, modes[source]))
            branches.append(Branch(source, conv, draw(steps(fresh=True))))
    used = _one_identity_each(branches)
    smallest = [max(n) for n in zip(*(b.conv.smallest for b in used if b.conv), strict=True)]
    size = tuple(n + draw(st.integers(0, 3)) for n in smallest)
    tail, dtype = draw(st.sampled_from(("", "relu ", "relu_ "))), draw(st.sampled_from(("float64", *DTYPES)))
    return Program(
        rank, channels, out, size, used, draw(trees(used)), tail, draw(st.booleans()), dtype, draw(st.integers(0, 3))
    )


def _one_identity_each(branches: list[Branch]) -> tuple[Branch, ...]:
    """Of a source without a convolution only one identity: how two of them are best computed has several answers."""
    convolved = {b.source for b in branches if b.conv}
    found: list[Branch] = []
    for branch in branches:
        if branch.source in convolved or branch.source not in {b.source for b in found}:
            found.append(branch)
    return tuple(found)


@st.composite
def hazards(draw: st.DrawFn, program: Program) -> Hazard:
    """One hazard somewhere in ``program``."""
    name = draw(st.sampled_from(sorted(HAZARDS)))
    kind = HAZARDS[name]
    convolved = [i for i, b in enumerate(program.branches) if b.conv]
    branch = draw(st.sampled_from(convolved if kind.needs_conv else range(len(program.branches))))
    how = draw(st.sampled_from(kind.hows))
    return Hazard(name, how, branch, draw(_other_conv(program, branch)) if name == "other conv" else None)


@st.composite
def _other_conv(draw: st.DrawFn, program: Program, branch: int) -> Conv:
    """A convolution with other parameters than the branch's, and the same size of output (or 1) for this input."""
    conv = program.branches[branch].conv
    assert conv is not None
    stride, extents = list(conv.stride), list(conv.extents)
    keep = draw(st.booleans())  # the stride, where another extent gives the same size
    for axis, (h, o) in enumerate(zip(program.size, program.out_size, strict=True)):
        choices = [
            (s, e)
            for s in ((conv.stride[axis],) if keep else (1, 2, 3))
            for e in range(-3, 4)
            if h - 1 + e >= 0 and (h - 1 + e) // s + 1 in (o, 1) and _axis_choices(e, 3)
        ]
        choices.sort(key=lambda c: (c == (conv.stride[axis], conv.extents[axis]), (h - 1 + c[1]) // c[0] + 1 != o))
        stride[axis], extents[axis] = draw(st.sampled_from(choices))
    mode = draw(st.sampled_from((conv.mode, conv.mode, conv.mode, *MODES)))
    return draw(convs(conv.cin, draw(st.sampled_from((conv.cout, conv.cout, 1))), tuple(extents), tuple(stride), mode))


@st.composite
def dangerous(draw: st.DrawFn) -> tuple[Program, tuple[Hazard, ...]]:
    """A program with a hazard, sometimes with two."""
    program = replace(draw(programs()), dtype="float64")
    found = [draw(hazards(program)) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))]
    return program, tuple({h.kind: h for h in found}.values())
