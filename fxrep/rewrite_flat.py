"""Carry a plan out on a flat graph: convolutions as calls of functions, in the dialect of those that they replace."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from .analysis.fills import undo
from .capture.exported import Exported
from .capture.kinds import is_number
from .capture.scopes import Edits
from .operators.aten import TUPLES
from .plan import Merge, Plan

aten = torch.ops.aten
CONV: dict[str, dict[int, Any]] = {"torch": {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d},
        "aten": {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}}  # fmt: skip
TRANSPOSED: dict[str, dict[int, Any]] = {
    "torch": {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d},
    "aten": {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input},
}
ARITHMETIC = {"torch": (operator.mul, operator.add, operator.sub),
              "aten": (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor)}  # fmt: skip
SHAPES = ("val", "example_value", "tensor_meta")
META = ("nn_module_stack", "stack_trace")  # what a node of another operator may take over


def rewrite_flat(plan: Plan, program: Exported) -> None:
    """Apply ``plan`` to the graph of ``program``, which it was made for."""
    edits = plan.edits[program.piece]
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    replaced: dict[fx.Node, fx.Node] = {}
    for merge in sorted(plan.merges, key=lambda merge: order[merge.first.site]):
        site = merge.first.site
        summands = [(name, replaced.get(source, source), factor) for name, source, factor in edits.sites[site]]
        replaced[site] = _put(merge, summands, program)
        _pass_on(merge, replaced)
    _erase(program.graph, edits)
    for analysis in plan.analyses:
        undo(analysis.program.fills)
    program.graph.lint()


def _put(merge: Merge, summands: list[tuple[str | None, fx.Node, float]], program: Exported) -> fx.Node:
    """Let what reads the merge's last operator read the sum of its convolutions and multiples."""
    site = merge.first.site
    write, dialect = _Writer(program, site), _dialect(merge)
    times, plus, minus = ARITHMETIC["torch" if dialect == "torch" else "aten"]
    total: fx.Node | None = None
    joined = merge.region.form.joined
    if len(summands) == 1:
        write.known = site.meta.get(write.key)
    if joined:
        parts = zip(summands, merge.modules, strict=True)
        values = [write.convolution(x, name, conv, dialect) for (name, x, _), conv in parts if name and conv]
        total = write(torch.cat if dialect == "torch" else aten.cat.default, values, joined.dim)
        summands = []
    for (name, value, factor), module in zip(summands, merge.modules, strict=False):
        if name is not None and module is not None:
            value = write.convolution(value, name, module, dialect)
        elif factor not in (1, -1):
            value = write(times, value, factor)
        total = value if total is None else write(minus if factor == -1 else plus, total, value)
    assert total is not None
    total.meta = {k: v for k, v in site.meta.items() if k in (*META, *SHAPES)}
    site.replace_all_uses_with(total)
    program.graph.erase_node(site)
    if site in program.piece.kept or any(user.op == "output" for user in total.users):
        total.name = site.name  # signatures refer to it
    return total


def _pass_on(merge: Merge, replaced: dict[fx.Node, fx.Node]) -> None:
    """Let what reads an operator that was merged into another one read its operand."""
    for node, operand in merge.first.passing.items():
        while operand in merge.region.interior and not merge.region.linear[operand].kind and operand.target in TUPLES:
            (operand,) = merge.region.linear[operand].operands
        replaced[node] = replaced.get(operand, operand)
        node.replace_all_uses_with(replaced[node])
        if any(user.op == "output" for user in replaced[node].users):
            replaced[node].name = node.name  # signatures refer to it


class _Writer:
    """Makes nodes in front of ``site``, with fake values where the graph has those."""

    def __init__(self, program: Exported, site: fx.Node) -> None:
        self.program, self.site = program, site
        self.mode = program.mode
        self.key = "example_value" if "example_value" in site.meta else "val"
        self.known: Any = None  # the fake value of the convolution that is written, where that is known

    def __call__(self, target: Any, *args: Any, known: Any = None) -> fx.Node:
        with self.program.graph.inserting_before(self.site):
            node = self.program.graph.call_function(target, args)
        node.meta = {k: v for k, v in self.site.meta.items() if k in META}
        if known is not None:  # torch 2.5 takes the size of a batch for fixed when it runs some operators
            node.meta[self.key] = known
        elif self.mode is not None:
            given = fx.map_arg(args, lambda n: n.meta.get(self.key, n.meta.get("val")))
            shapes = self.mode.shape_env
            with self.mode, shapes.suppress_guards() if shapes is not None else contextlib.nullcontext():
                node.meta[self.key] = target(*given)
        return node

    def convolution(self, x: fx.Node, path: str, module: nn.Module, dialect: str) -> fx.Node:
        """``module``, an ``nn.Conv`` or ``nn.Linear`` whose weights become attributes at ``path``, called on ``x``."""
        conv: Any = module
        weight = self.program.add(f"{path}.weight", conv.weight)
        bias = None if conv.bias is None else self.program.add(f"{path}.bias", conv.bias)
        if isinstance(module, nn.Linear):
            return self(F.linear if dialect == "torch" else aten.linear.default, x, weight, bias, known=self.known)
        rank, padding = conv.weight.dim() - 2, conv.padding
        if conv.padding_mode != "zeros" or (padding == "same" and dialect == "core"):
            pads = list(conv._reversed_padding_repeated_twice)
            if conv.padding_mode == "zeros":
                x = self(aten.constant_pad_nd.default, x, pads, 0.0)
            else:
                x = self(aten.pad.default, x, pads, conv.padding_mode)
            padding = (0,) * rank
        stride, dilation, more = list(conv.stride), list(conv.dilation), list(conv.output_padding)
        if dialect == "core":
            return self(aten.convolution.default, x, weight, bias, stride, list(padding), dilation, conv.transposed,
                        more, conv.groups, known=self.known)  # fmt: skip
        if conv.transposed:
            target: Any = TRANSPOSED[dialect][rank]
            return self(target, x, weight, bias, stride, list(padding), more, conv.groups, dilation, known=self.known)
        target = CONV[dialect][rank]
        if padding == "same" and dialect == "aten":
            target = target.overloadpacket.padding
        elif padding != "same":
            padding = list(padding)
        return self(target, x, weight, bias, stride, padding, dilation, conv.groups, known=self.known)


def _dialect(merge: Merge) -> str:
    """How the convolutions that are replaced are called: as functions of ``torch``, ``aten``, or ``core`` ATen."""
    region = merge.region
    targets = [n.target for n in region.nodes]
    if aten.convolution.default in targets:
        return "core"
    overloads = any(isinstance(target, torch._ops.OpOverload) for target in targets)
    return "aten" if overloads else "torch"


def _erase(graph: fx.Graph, edits: Edits) -> None:
    """Erase what nothing reads any more, and the assertions on it."""
    sites = edits.sites.keys()
    idle = [n for n in edits.droppable if not n.users and n.op != "get_attr" and _reads_only(n, edits)]
    waiting = [
        n for n in reversed(graph.nodes) if n in edits.gone or n in idle or n in edits.droppable or n in edits.passing
    ]
    for node in waiting:
        if node in sites or node.users or node.op == "get_attr":
            continue
        if node in edits.gone or node in edits.passing or node in idle or is_number(node):
            graph.erase_node(node)


def _reads_only(node: fx.Node, edits: Edits) -> bool:
    """Whether an assertion is about what vanishes."""
    inputs = node.all_input_nodes
    return any(n in edits.gone or (n in edits.droppable and _reads_only(n, edits)) for n in inputs)
