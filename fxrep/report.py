"""What was merged, what was left alone, and why, in words that a user of the model can act on."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import fx, nn

from .analysis import effects
from .capture.tracer import builtin_type, is_number, join
from .capture.walk import count_parameters, first_paths
from .convmap import ConvMap
from .cover.regions import Analysis
from .plan import Merge, Plan

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
ADDS = {
    "add",
    "add_",
    "iadd",
    "sub",
    "isub",
    "sub_",
    "__add__",
    "__iadd__",
    "__sub__",
    "__isub__",
    "__radd__",
    "__rsub__",
}


KINDS = {"conv": "convolutions", "linear": "linear layers", "norm": "batch norms", "add": "adds"}


@dataclass(frozen=True)
class Merged:
    """One merge: ``name`` is the path of the new convolution; ``error`` is that of its proof, in float64."""

    name: str
    operators: dict[str, int]
    convolution: str
    error: float
    calls: int = 1


@dataclass(frozen=True)
class Kept:
    """An operator that is still there: ``kind`` is "conv", "linear", "norm" or "add"."""

    kind: str
    name: str
    reason: str


@dataclass
class Report:
    """``print`` it for a table; ``to_dict`` for machines.

    ``before`` and ``after`` count the operators of each kind in the traced program; ``opaque`` says, by path, which
    modules were not looked into and why.
    """

    model: str
    merged: list[Merged] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    parameters: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "parameters": list(self.parameters)}

    def __str__(self) -> str:
        lines = [f"fxrep: {self.model}", ""]
        table: list[tuple[str, ...]] = [("", "before", "after")]
        for kind, name in KINDS.items():
            if kind != "linear" or self.before.get(kind) != self.after.get(kind):
                table.append((name, str(self.before.get(kind, 0)), str(self.after.get(kind, 0))))
        table.append(("parameters", *(f"{n:,}" for n in self.parameters)))
        lines += _columns(table)
        if self.merged:
            lines += ["", f"merged ({len(self.merged)}):"]
            lines += _columns([(m.name, f"{_count(m.operators)} -> {m.convolution}") for m in self.merged], indent=2)
            worst = max(m.error for m in self.merged)
            lines.append(f"  each proved in float64; largest relative error {worst:.1e}")
        else:
            lines += ["", "nothing to merge"]
        left = [k for k in self.kept if k.kind not in ("conv", "linear")]
        if left:
            lines += ["", f"left alone ({len(left)}):"]
            lines += [f"  {k.name}: {k.reason}" for k in left]
        if self.opaque:
            lines += ["", f"not looked into ({len(self.opaque)}):"]
            lines += [f"  '{path}': {reason}" for path, reason in self.opaque.items()]
        return "\n".join(lines)


def make_report(plan: Plan) -> Report:
    """Read the report off a plan."""
    model = plan.model
    names = first_paths(model)
    count = count_parameters(model)
    report = Report(type(model).__name__, parameters=(count, count))
    report.opaque = {names.get(module, "") or type(module).__name__: reason for module, reason in plan.opaque.items()}
    report.merged = [_merged(merge) for merge in plan.merges]
    before: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    for merge in plan.merges:
        for placement in merge.placements:
            region = placement.region
            gone.subtract("conv" if conv.taps else "linear" for conv in region.convolutions)
            gone["add"] -= len(region.form.terms) - 1
    merged = {n: p.region.program for merge in plan.merges for p in merge.placements for n in p.region.nodes}
    gone.update(kind for node, program in merged.items() if (kind := _kind(program, node)))
    for analysis in plan.analyses:
        for node in analysis.program.nodes:
            kind = _kind(analysis.program, node)
            if kind and analysis.program.constant(node) is None:
                before[kind] += 1
                if node not in merged:
                    report.kept.append(Kept(kind, analysis.program.describe(node), _reason(analysis, node)))
    report.before = dict(before)
    report.after = {kind: count - gone[kind] for kind, count in before.items()}
    return report


def _columns(rows: list[tuple[str, ...]], indent: int = 0) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [" " * indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _count(operators: dict[str, int]) -> str:
    return " + ".join(f"{n} {kind}" for kind, n in operators.items())


def _merged(merge: Merge) -> Merged:
    placement = merge.first
    piece, region = placement.piece, placement.region
    if placement.in_place:
        name = join(piece.path, str(placement.site.target))
    else:
        owner = join(piece.path, piece.call_of[placement.site].path)
        name = join(owner, next(n for n in merge.names if n is not None))
    kinds = Counter(region.linear[n].kind for n in region.nodes if region.linear[n].kind)
    conv = next(m for m in merge.modules if m is not None)
    return Merged(name, dict(kinds), _describe(conv), region.error, len(merge.placements))


def _describe(conv: Any) -> str:
    if isinstance(conv, nn.Linear):
        return f"{conv.in_features} to {conv.out_features}"
    kernel = "x".join(map(str, conv.kernel_size))
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    stride = f", stride {'x'.join(map(str, conv.stride))}" if max(conv.stride) > 1 else ""
    transposed = ", transposed" if conv.transposed else ""
    return f"{conv.in_channels} to {conv.out_channels}, {kernel}{stride}{groups}{transposed}"


def _kind(program: Any, node: fx.Node) -> str | None:
    """What the report counts an operator as."""
    module = program.module(node)
    if module is not None:
        kind = builtin_type(module)
        if isinstance(module, NORMS):
            return "norm"
        if kind is not None and issubclass(kind, nn.Linear):
            return "linear"
        return "conv" if kind is not None and issubclass(kind, nn.modules.conv._ConvNd) else None
    if node.op not in ("call_function", "call_method"):
        return None
    name = effects.name_of(node)
    if name.strip("_").removeprefix("r") in ADDS or name in ADDS:
        return None if is_number(node) else "add"
    if "batch_norm" in name:
        return "norm"
    if name == "linear":
        return "linear"
    return "conv" if name.startswith("conv") and (name == "convolution" or name.endswith(("1d", "2d", "3d"))) else None


def _reason(analysis: Analysis, node: fx.Node) -> str:
    program = analysis.program
    if node in analysis.barriers:
        return analysis.barriers[node]
    if node in analysis.reasons:
        return analysis.reasons[node]
    linear, form = analysis.linear.get(node), analysis.form(node)
    if linear is None or form is None:
        return "it is not linear"
    if linear.convolves:
        return "nothing to merge it with"
    if form.notes:
        return "; ".join(form.notes)
    if len(form.terms) > 1:
        sources = " and ".join(program.describe(t.source) for t in form.terms[:3])
        return f"adds values of different origin: {sources}"
    term = form.terms[0]
    if isinstance(term.map, ConvMap):
        return "part of a merge that was left alone"
    for user in node.users:  # it might have gone into what reads it
        reads = analysis.linear.get(user)
        if reads is not None and reads.composes and user in analysis.reasons:
            return f"it cannot go into {program.describe(user)}: {analysis.reasons[user]}"
    linear_source = analysis.linear.get(term.source)
    if linear_source is not None and len(program.readers(term.source)) > 1:
        return f"its input, {program.describe(term.source)}, is used elsewhere too"
    return f"its input comes from {program.describe(term.source)}, not from a convolution"
