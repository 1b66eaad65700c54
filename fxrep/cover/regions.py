"""The cover: which values stay, and which regions of the graph between them become one convolution.

A value that somebody outside the algebra reads must exist: it is a *root*. Everything else is interior, and exists only
if a root's form needs it. A root whose form holds the merged form of several operators makes a *region*: the root, and
the interior nodes that die with it.

The linear forms are computed in one pass in program order. A decision that turns out wrong later (a value that was
taken for interior and is read by somebody after all, a region that cannot be placed) becomes a *barrier*, a node that
is kept as it is, and the pass is repeated; in practice it runs once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import fx

from ..analysis import effects
from ..analysis.cost import Policy
from ..analysis.forms import ONE, Form, Term, atom, place_shift
from ..analysis.program import Program
from ..capture.tracer import is_number
from ..convmap import ConvMap, Illegal
from ..operators import Linear, Operator, Stacked, read


@dataclass(eq=False)
class Region:
    """``root`` is to be computed as ``form``; ``interior`` (in program order) dies."""

    program: Program
    root: fx.Node
    form: Form
    interior: list[fx.Node]
    linear: dict[fx.Node, Linear]
    dtype: torch.dtype = torch.float32
    error: float = float("nan")

    @property
    def nodes(self) -> list[fx.Node]:
        return [*self.interior, self.root]

    @property
    def convolutions(self) -> list[ConvMap]:
        return [term.map for term in self.form.terms if isinstance(term.map, ConvMap)]

    def operators(self, kind: str) -> int:
        """How many operators of a kind ("conv", "norm", "add", ...) the region has before the merge."""
        return sum(self.linear[node].kind == kind for node in self.nodes)


@dataclass
class Analysis:
    """Linear forms and regions of one program; ``reasons`` says why a node was not looked into."""

    program: Program
    policy: Policy
    barriers: dict[fx.Node, str] = field(default_factory=dict)
    kept: set[fx.Node] = field(default_factory=set)
    linear: dict[fx.Node, Linear] = field(default_factory=dict)
    forms: dict[fx.Node, Form | Stacked] = field(default_factory=dict)
    required: set[fx.Node] = field(default_factory=set)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    regions: dict[fx.Node, Region] = field(default_factory=dict)

    def run(self) -> list[Region]:
        """Find the regions, repeating until no barrier is added."""
        while True:
            self._read_operators()
            self._find_required()
            self.forms.clear()
            self.regions.clear()
            for node in self.program.nodes:
                self._visit(node)
            found = {r.root: r for r in self.regions.values()}
            late = {n for region in found.values() for n in region.interior if not self._dies(n, region)}
            if not late - self.kept:
                return sorted(found.values(), key=lambda r: self.program.position[r.root])
            self.kept |= late

    def refuse(self, region: Region, reason: str) -> None:
        """Do not merge this region on the next ``run``."""
        self.barriers[region.root] = reason

    # ----------------------------------------------------------------------------------------------- before the forms
    def _read_operators(self) -> None:
        if self.linear or self.reasons:
            for node, reason in self.barriers.items():
                if node in self.linear and self.linear[node].kind != "conv":
                    del self.linear[node]
                    self.reasons[node] = reason
            return
        for node in self.program.nodes:
            if node.op in ("placeholder", "get_attr", "output") or is_number(node):
                continue
            if self.program.constant(node) is not None:
                continue
            try:
                self.linear[node] = read(Operator(node, self.program, self.policy))
            except Illegal as reason:
                self.reasons[node] = str(reason)
            except Exception as error:  # a rule that trips over an unusual call must not stop the pass
                self.reasons[node] = f"it is called in a way that fxrep does not know: {error}"

    def _find_required(self) -> None:
        """Values read by an operator that does not absorb them, or by two roots that would each compute them anew."""
        self.required = set()
        roots: dict[fx.Node, set[fx.Node]] = {}
        convolves: set[fx.Node] = set()
        for node in self.program.nodes:
            linear = self.linear.get(node)
            if linear and (linear.kind == "conv" or any(n in convolves for n in linear.operands)):
                convolves.add(node)
        for node in reversed(self.program.nodes):
            readers = [user for user in node.users if not effects.only_asserts(user)]
            reached: set[fx.Node] = set()
            hard = not readers or node in self.barriers or node in self.kept
            for user in readers:
                linear = self.linear.get(user)
                if linear is None or not linear.absorbs or node not in linear.operands:
                    hard = True
                    break
                reached |= roots[user]
            if hard or (len(reached) > 1 and node in convolves):
                self.required.add(node)
                reached = {node}
            roots[node] = reached

    # -------------------------------------------------------------------------------------------------------- forms
    def _visit(self, node: fx.Node) -> None:
        linear = self.linear.get(node)
        if linear is None:  # its form is the value itself
            return
        form: Form | Stacked
        try:
            form = linear.combine(*(self._operand(n, node, linear) for n in linear.operands))
        except Illegal as reason:
            self.reasons[node] = str(reason)
            form = atom(node, self.program.ranks.get(node))
            for operand in linear.operands:
                self._require(operand)
        self.forms[node] = form.named(node) if isinstance(form, Form) else form
        if node in self.required:
            self._finish(node)

    def _operand(self, operand: fx.Node, reader: fx.Node, linear: Linear) -> Form | Stacked:
        """The form of ``operand`` as ``reader`` sees it."""
        writer = self.program.written_between(operand, operand, reader)
        if writer is not None and writer is not reader:
            raise Illegal(f"{self.program.describe(writer)} may write to its input before it is read")
        form = self.forms.get(operand)
        if form is None:
            return atom(operand, self.program.ranks.get(operand))
        if isinstance(form, Form) and form.source is not None:
            return form
        if operand in self.required or not linear.absorbs:
            self._require(operand)
            return atom(operand, form.rank if isinstance(form, Form) else None)
        return form

    def _require(self, node: fx.Node) -> None:
        if node not in self.required:
            self.required.add(node)
            if node in self.forms:
                self._finish(node)

    def _finish(self, root: fx.Node) -> None:
        """Decide what becomes of a value that must exist."""
        form, linear = self.forms[root], self.linear.get(root)
        if linear is None or isinstance(form, Stacked):
            form = Form(())
        values: dict[fx.Node, Form] = {}
        if len(form.terms) > 1:  # what nothing was merged into is a value of its own
            for term in form.terms:
                inner = self.forms.get(term.at) if term.at is not None else None
                if term.at is None or term.branches > 1 or term.is_source or not isinstance(inner, Form):
                    continue
                if term.times is ONE or not _folds(term):  # a convolution takes a factor in at no cost
                    values[term.at] = inner
            form = form.separated(values)
        interior = self._interior(root, {t.source for t in form.terms})
        if any(isinstance(t.map, ConvMap) for t in form.terms) and self._saves(form, [*interior, root]):
            for node in values:
                self._require(node)
            self._make_region(root, form, interior)
        elif linear is not None and linear.absorbs:
            for operand in linear.operands:
                self._require(operand)

    def _saves(self, form: Form, nodes: list[fx.Node]) -> bool:
        """Whether computing ``form`` from its sources takes fewer operators or convolutions than ``nodes``."""
        operators = convolutions = 0
        for node in nodes:
            linear = self.linear.get(node)
            if linear is not None and linear.kind:
                values = [self.forms.get(operand) for operand in linear.operands]
                operators += max([len(v.forms) - 1 for v in values if isinstance(v, Stacked)], default=1)
                convolutions += linear.kind == "conv"
        after = sum(isinstance(term.map, ConvMap) for term in form.terms)
        return form.operators < operators or (form.operators == operators and after < convolutions)

    # -------------------------------------------------------------------------------------------------------- regions
    def _make_region(self, root: fx.Node, form: Form, interior: list[fx.Node]) -> None:
        terms = sorted(form.terms, key=lambda term: not isinstance(term.map, ConvMap))
        form = replace(form, terms=tuple(terms))
        region = Region(self.program, root, form, interior, self.linear)
        try:
            self._check(region)
        except Illegal as reason:
            self.barriers.setdefault(root, str(reason))
            self.reasons[root] = str(reason)
            self._split(root)
            return
        self.regions[root] = region

    def _split(self, root: fx.Node) -> None:
        """The region at ``root`` is illegal: let its operands be values of their own."""
        linear = self.linear[root]
        if linear.absorbs:
            for operand in linear.operands:
                self._require(operand)

    def _interior(self, root: fx.Node, sources: set[fx.Node]) -> list[fx.Node]:
        found: set[fx.Node] = set()
        waiting = [root]
        while waiting:
            linear = self.linear.get(waiting.pop())
            if linear is None or not linear.absorbs:
                continue
            for operand in linear.operands:
                inside = operand in self.linear and operand not in sources and operand not in self.required
                if inside and operand not in found:
                    found.add(operand)
                    waiting.append(operand)
        return sorted(found, key=self.program.position.__getitem__)

    def _dies(self, node: fx.Node, region: Region) -> bool:
        inside = {*region.interior, region.root}
        return all(user in inside or effects.only_asserts(user) for user in node.users)

    def _check(self, region: Region) -> None:
        """Raise ``Illegal`` if the region cannot become what its form says."""
        program, form = region.program, region.form
        place_shift(form)
        for term in form.terms:
            if isinstance(term.map, ConvMap):
                term.map.layout()
            elif term.map.value.dim():
                raise Illegal("one of the values that are added is scaled by channel and comes from elsewhere")
        dtypes = {d for node in region.nodes for d in region.linear[node].dtypes}
        if len(dtypes) != 1:
            raise Illegal(f"its parts compute in different types: {', '.join(sorted(map(str, dtypes)))}")
        region.dtype = dtypes.pop()
        places: dict[fx.Node, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for term in form.terms:
            if isinstance(term.map, ConvMap):
                place = (term.map.stride, term.map.extent)
                if places.setdefault(term.source, place) != place:
                    raise Illegal("convolutions of one input whose outputs differ in size are added")
        for term in form.terms:
            stride, extent = places.get(term.source, ((), ()))
            if not isinstance(term.map, ConvMap) and (set(stride) - {1} or any(extent)):
                raise Illegal("a convolution's input is added to its output, which has another size")
        inside = {*region.nodes}
        own_values = (t.source for t in form.terms if t.source in self.linear and inside.issuperset(t.source.users))
        dies = {*region.interior, *own_values}
        own: set[fx.Node] = set()
        for node in region.nodes:
            for target in effects.may_write(node, program.module(node)):
                own.add(node)
                earlier = [n for n in program.aliases(target) if program.position[n] < program.position[node]]
                for n in sorted(earlier, key=program.position.__getitem__, reverse=True):
                    if n.op not in ("placeholder", "get_attr") and n.users and dies.issuperset(n.users):
                        dies.add(n)  # only such a value is computed from it
                outside = next((n for n in earlier if n not in dies), None)
                if outside is not None:
                    raise Illegal(
                        f"{program.describe(node)} writes in place to {program.describe(outside)}, "
                        "which lives on outside the merge"
                    )
        for term in form.terms:
            writer = program.written_between(term.source, term.source, region.root)
            while writer is not None and writer in own:
                writer = program.written_between(term.source, writer, region.root)
            if writer is not None:
                raise Illegal(
                    f"{program.describe(writer)} may write to {program.describe(term.source)} before the merge is done"
                )


def _folds(term: Term) -> bool:
    """Whether a factor on the term costs nothing or one multiplication by a number."""
    return isinstance(term.map, ConvMap) or term.map.value.dim() == 0
