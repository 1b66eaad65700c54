"""One thing put into a program that makes a merge illegal, or that a careless pass gets wrong.

Programs with a hazard only have to be computed rightly.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.programs.description import (
    CONV,
    NORM,
    Conv,
    Immutable,
    Program,
)
from tests.programs.model import Model, Run, Step


@dataclass(frozen=True)
class Hazard(Immutable):
    """One thing that makes merging illegal, or dangerous: its ``kind``, ``how``, and the ``branch`` that it befalls."""

    kind: str
    how: str
    branch: int
    conv: Conv | None = None

    @property
    def does(self) -> Kind:
        return HAZARDS[self.kind]

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
