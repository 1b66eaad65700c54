"""Read the report off a plan: what is merged, what stays and why, what both take, and the drawings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import fx, nn

from . import account
from .analysis import effects
from .analysis.forms import Form
from .analysis.program import Program
from .analysis.sizes import Sizes, shape_of, sizes_of
from .capture.exported import ExportedPiece, fake_value
from .capture.kinds import builtin_type, is_number
from .capture.observe import Observation
from .capture.walk import first_paths, join, tensors
from .convmap import ConvMap
from .cover.regions import Analysis
from .drawing import draw_after, draw_before
from .plan import Merge, Plan
from .report import Figures, Kept, Merged, Report

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


POOL = ("avgpool", "avg_pool")
PAD = {"pad", "constant_pad_nd", "reflection_pad", "replication_pad"}
MULTIPLY = {"mul", "multiply", "div", "divide", "true_divide", "truediv", "neg", "negative"}


def make_report(plan: Plan, observed: Observation | None = None) -> Report:
    """What ``plan`` does; with what was ``observed`` of the shapes, the figures are totals."""
    model = plan.model
    names = first_paths(model)
    report = Report(type(model).__name__)
    report.opaque = {names.get(module, "") or type(module).__name__: reason for module, reason in plan.opaque.items()}
    sizes = {a.program: sizes_of(a.program.piece, observed) for a in plan.analyses}
    places = _places(plan.analyses)
    convolutions = {p.region.root: _name(merge) for merge in plan.merges for p in merge.placements}
    report.merged = [_merged(merge, sizes, convolutions, places[merge.region.root]) for merge in plan.merges]
    merged = {n: p.region.program for merge in plan.merges for p in merge.placements for n in p.region.nodes}
    report.kept = [
        Kept(kind, a.program.describe(node), reason, _owner(a.program, node, kind), places[node])
        for a in plan.analyses
        for node, kind, reason in _left(a)
        if node not in merged
    ]
    report.before, report.after = _counts(plan, merged)
    report.total = _total(plan, sizes, merged)
    if all(sizes.values()):
        report.inputs = _inputs(plan.analyses, observed)
    return report


def _counted(program: Program) -> Iterator[tuple[fx.Node, str]]:
    """The operators that the report counts, with their kinds."""
    for node in program.operators:
        kind = _kind(program, node)
        if kind and program.constant(node) is None:
            yield node, kind


def _left(analysis: Analysis) -> Iterator[tuple[fx.Node, str, str]]:
    """The operators that the report lists where they are not merged, with their kinds, and why they are not.

    Those that it counts, and of the others what a rule or a proof has refused.
    """
    program = analysis.program
    for node in program.operators:
        if (kind := _kind(program, node)) is not None:
            if program.constant(node) is None:
                yield node, kind, _reason(analysis, node)
        elif node in analysis.barriers and node in analysis.reasons:
            yield node, _minor_kind(program, node) or "other", analysis.barriers[node]
        elif (minor := _minor_kind(program, node)) is not None and program.constant(node) is None:
            reason = analysis.barriers.get(node, analysis.reasons.get(node)) or _reader_refuses(analysis, node)
            if reason is not None:
                yield node, minor, reason


def _counts(plan: Plan, merged: dict[fx.Node, Program]) -> tuple[dict[str, int], dict[str, int]]:
    """How many operators of each kind there are before and after."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for analysis in plan.analyses:
        for node, kind in _counted(analysis.program):
            before[kind] += 1
            after[kind] += node not in merged
    for region in (placement.region for merge in plan.merges for placement in merge.placements):
        after.update("conv" if conv.taps else "linear" for conv in region.convolutions)
        after.update({"add": extra} if (extra := region.form.adds) else {})
    return dict(before), dict(after)


def _owner(program: Program, node: fx.Node, kind: str) -> str:
    """The path of the module whose code a node comes from."""
    path = program.path(program.piece.where(node))
    # what torch.export knows of a layer's operator is the layer
    return path.rpartition(".")[0] if program.piece.flat and kind in ("conv", "linear", "norm") else path


def _places(analyses: Iterable[Analysis]) -> dict[fx.Node, int]:
    nodes = (node for analysis in analyses for node in analysis.program.nodes)
    return {node: i for i, node in enumerate(nodes)}


def _inputs(analyses: list[Analysis], observed: Observation | None) -> list[tuple[int, ...]] | None:
    """The shapes that the sizes are for."""
    pieces = [a.program.piece for a in analyses]
    if pieces and isinstance(pieces[0], ExportedPiece):
        given = (fake_value(n) for n in pieces[0].graph.find_nodes(op="placeholder") if n.users)
        shapes = (shape_of(value) for value in given if value is not None)
        return [shape for shape in shapes if shape is not None]
    return observed.shapes() if observed is not None else None


def _name(merge: Merge) -> str:
    """The path of the convolution that a merge makes, of the first if there are several."""
    placement = merge.first
    piece = placement.piece
    if placement.in_place:
        return join(piece.path, str(placement.site.target))
    owner = join(piece.path, piece.call_of[placement.site].path)
    return join(owner, next(n for n in merge.names if n is not None))


def _merged(merge: Merge, sizes: dict[Program, Sizes | None], names: dict[fx.Node, str], place: int) -> Merged:
    region = merge.region
    kinds = Counter(region.linear[n].kind for n in region.nodes if region.linear[n].kind)
    conv = next(m for m in merge.modules if m is not None)
    before, after, positions = _figures(merge, sizes)
    return Merged(
        names[region.root],
        dict(kinds),
        _describe(conv),
        region.error,
        len(merge.placements),
        before,
        after,
        positions,
        (draw_before(region), draw_after(region, merge.modules, names)),
        place,
    )


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
    if name in ("linear", "addmm", "mm"):
        return "linear"
    return "conv" if name.startswith("conv") and (name == "convolution" or name.endswith(("1d", "2d", "3d"))) else None


def _minor_kind(program: Program, node: fx.Node) -> str | None:
    """What the report calls an average pool, a pad, a write to its border or a multiplication; it counts none."""
    module = program.module(node)
    if module is not None:
        kind = builtin_type(module)
        name = kind.__name__.lower() if kind is not None else ""
        return "pool" if name.startswith(POOL) else "pad" if name[:-2].endswith("pad") else None
    if node.op not in ("call_function", "call_method") or is_number(node):
        return None
    if node in program.fills:
        return "write"
    name = effects.name_of(node).strip("_")
    if name.startswith(POOL):
        return "pool"
    if name in PAD or name[:-2] in PAD:
        return "pad"
    return "scale" if name in MULTIPLY or name[1:] in MULTIPLY else None


def _reader_refuses(analysis: Analysis, node: fx.Node) -> str | None:
    """Why an operator cannot go into what reads it."""
    for user in node.users:
        reads = analysis.linear.get(user)
        if reads is not None and reads.composes and user in analysis.reasons:
            return f"it cannot go into {analysis.program.describe(user)}: {analysis.reasons[user]}"
    return None


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
        if (apart := _read_apart(analysis, node, form)) is not None:
            return apart
        sources = " and ".join(program.describe(t.source) for t in form.terms[:3])
        return f"adds values of different origin: {sources}"
    term = form.terms[0]
    if isinstance(term.map, ConvMap):
        return "part of a merge that was left alone"
    if (refused := _reader_refuses(analysis, node)) is not None:
        return refused
    linear_source = analysis.linear.get(term.source)
    if linear_source is not None and len(program.readers(term.source)) > 1:
        return f"its input, {program.describe(term.source)}, is used elsewhere too"
    if _kind(program, term.source) in ("conv", "linear"):
        why = analysis.barriers.get(term.source, analysis.reasons.get(term.source, "its value is needed as it is"))
        return f"it cannot go into {program.describe(term.source)}: {why}"
    return f"its input comes from {program.describe(term.source)}, not from a convolution"


def _read_apart(analysis: Analysis, node: fx.Node, form: Form) -> str | None:
    """Who else reads one of the summands, which would have the origin of the others if it were looked into."""
    program, origins = analysis.program, {term.source for term in form.terms}
    for source in origins:
        inner = analysis.form(source)
        if inner is None or origins.isdisjoint({term.source for term in inner.terms} - {source}):
            continue
        for user in program.readers(source):
            read = analysis.form(user)
            if user is not node and (read is None or any(term.source is user for term in read.terms)):
                view = node in program.targets and user in program.aliases(source)
                through = "through a view, which this writes to" if view else "too"
                return f"its input, {program.describe(source)}, is read by {program.describe(user)} {through}"
    return None


# ---------------------------------------------------------------------------------------------------------- the figures
def _figures(merge: Merge, sizes: dict[Program, Sizes | None]) -> tuple[Figures, Figures, int | None]:
    """What a merge takes before and after, and how many positions its output has in one call of the model."""
    regions = [placement.region for placement in merge.placements]
    known = [sizes[region.program] or {} for region in regions]
    pairs = list(zip(regions, known, strict=True))
    before = account.add_up(account.before(*pair) for pair in pairs) if all(known) else None
    after = account.add_up(account.after(*pair) for pair in pairs) if all(known) else None
    channels, positions = account.channels_of(merge.region), None
    if before is None or after is None:
        one = account.sizes_for_one(merge.region)
        before, after = account.before(merge.region, one), account.after(merge.region, one)
    else:
        positions = sum(found[region.root].elements // channels for region, found in pairs)
    assert before is not None
    assert after is not None
    made = sum(t.numel() for module in merge.modules if module is not None for t in tensors(module))
    read = sum(p.numel() for p in account.parameters(regions))
    return replace(before, parameters=read), replace(after, parameters=made), positions


def _total(plan: Plan, sizes: dict[Program, Sizes | None], merged: dict[fx.Node, Program]) -> tuple[Figures, Figures]:
    """All operators that fxrep reads, before and after."""
    before, after = Figures(), Figures()
    unknown = Figures(None, 0, None, 1)
    for analysis in plan.analyses:
        program, known = analysis.program, sizes[analysis.program]
        for node in program.operators:
            linear = analysis.linear.get(node)
            if program.constant(node) is not None or not (linear.kind if linear else _kind(program, node)):
                continue
            found = account.operator(program, node, linear, known or {}) or unknown
            before = account.plus(before, found)
            if node not in merged:
                after = account.plus(after, found)
    for merge in plan.merges:
        for region in (placement.region for placement in merge.placements):
            made = account.after(region, sizes[region.program] or {})
            after = account.plus(after, made or replace(unknown, kernels=account.kernels_after(region)))
    return before, after
