"""The cover: which values stay, and which regions of the graph between them become one convolution.

A value that somebody outside the algebra reads must exist: it is a *root*. Everything else is interior, and exists only
if a root's form needs it. A root whose form holds the merged form of several operators makes a *region*: the root, and
the interior nodes that die with it.

Where an operator composes (a convolution of a convolution), there is a choice: look into the operand, or take it as a
value of its own. Both are carried along, as *candidates*, a few for each node, until a root takes the cheapest: a pair
that costs more composed than apart may be free once it is added to something larger.

The linear forms are computed in one pass in program order. A decision that turns out wrong later (a value that was
taken for interior and is read by somebody after all, a region that cannot be placed) becomes a *barrier*, a node that
is kept as it is, and the pass is repeated; in practice it runs once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from ..analysis import effects
from ..analysis.cost import Cost, Policy
from ..analysis.forms import ONE, Form, Scale, Term, atom, biases, price
from ..analysis.known import has_channels, has_type
from ..analysis.program import Program
from ..analysis.selection import Selection
from ..convmap import ConvMap, Illegal, Window
from ..operators import Linear, Operator, Stacked, Value, read
from .blocks import Blocks

CANDIDATES = 3
"""Forms that are kept for one node."""
COMBINATIONS = 16
"""Combinations of the operands' forms that are tried for one node."""
KEPT_NORM = "norms='keep' keeps a norm that is not in one of several branches that merge"
CHANNELWISE = ("norm", "scale", "add constant", "")
"""Kinds of operators that can be taken apart along the channels."""


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

    @property
    def rank(self) -> int:
        """How many axes it convolves along."""
        return len(self.convolutions[0].taps)

    @property
    def merges(self) -> bool:
        """Whether branches join in it."""
        return any(term.branches > 1 for term in self.form.terms)

    @property
    def composes(self) -> bool:
        """Whether something in it that reads more than one position is computed on the way."""
        inside = set(self.interior)
        readers = [linear for node in self.nodes if (linear := self.linear[node]).composes]
        return any(not linear.convolves or not inside.isdisjoint(linear.operands) for linear in readers)

    def is_inside(self, node: fx.Node) -> bool:
        """Whether an operator is in the code of the module that the root is in, or of one inside of it."""
        call_of = self.program.piece.call_of
        return call_of[node].inside(call_of[self.root])

    def operators(self, kind: str) -> int:
        """How many operators of a kind ("conv", "norm", "add", ...) the region has before the merge."""
        return sum(self.linear[node].kind == kind for node in self.nodes)


@dataclass
class Analysis:
    """Linear forms and regions of one program; ``reasons`` says why a node was not looked into."""

    program: Program
    policy: Policy
    selection: Selection = field(default_factory=Selection)
    barriers: dict[fx.Node, str] = field(default_factory=dict)
    kept: set[fx.Node] = field(default_factory=set)
    linear: dict[fx.Node, Linear] = field(default_factory=dict)
    candidates: dict[fx.Node, list[Value]] = field(default_factory=dict)
    prices: dict[fx.Node, Cost] = field(default_factory=dict)
    required: set[fx.Node] = field(default_factory=set)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    regions: dict[fx.Node, Region] = field(default_factory=dict)

    def run(self) -> list[Region]:
        """Find the regions, repeating until no barrier is added."""
        while True:
            self._read_operators()
            self._find_required()
            for per_run in (self.candidates, self.prices, self.regions):
                per_run.clear()
            for node in self.linear:  # in program order
                self._visit(node)
            late = self._kept_after_all() - self.kept
            if not late:
                return sorted(self.regions.values(), key=lambda r: self.program.position[r.root])
            self.kept |= late

    def refuse(self, region: Region, reason: str) -> None:
        """Do not merge this region on the next ``run``."""
        self.barriers[region.root] = reason

    def narrow(self, region: Region) -> bool:
        """Keep, on the next ``run``, what the module of a region's root is handed of its interior.

        What is in that module may be merged on its own. Returns False if nothing of the region is outside.
        """
        own = {n for n in region.nodes if region.is_inside(n)}
        read = {operand for n in own for operand in self.linear[n].operands}
        handed = read.intersection(region.interior) - own - self.kept
        self.kept |= handed
        return bool(handed)

    # ----------------------------------------------------------------------------------------------- before the forms
    def _read_operators(self) -> None:
        if self.linear or self.reasons:
            for node, reason in self.barriers.items():
                if node in self.linear and not self.linear[node].convolves:
                    del self.linear[node]
                    self.reasons[node] = reason
            return
        for node in self.program.operators:
            if self.program.constant(node) is not None:
                continue
            left = self.selection.reason(self.program.place(node)) if self.selection.restricts else None
            if left is not None:
                self.reasons[node] = left
                continue
            try:
                self.linear[node] = read(Operator(node, self.program, self.policy))
            except Illegal as illegal:
                self.reasons[node] = str(illegal)
        if self.selection.norms == "keep":
            for node in [n for n, linear in self.linear.items() if linear.kind == "norm" and not self._is_summed(n)]:
                del self.linear[node]
                self.reasons[node] = KEPT_NORM

    def _is_summed(self, node: fx.Node) -> bool:
        """Whether a sum reads a value, at most through scales."""
        readers = [(user, self.linear[user].kind) for user in node.users if user in self.linear]
        return any(kind == "add" or (kind in ("", "scale") and self._is_summed(user)) for user, kind in readers)

    def _find_required(self) -> None:
        """Values read by an operator that does not absorb them, or by two roots that would each compute them anew."""
        self.required = set()
        roots: dict[fx.Node, set[fx.Node]] = {}
        convolves: set[fx.Node] = set()
        for node, known in self.linear.items():
            if known.convolves or any(n in convolves for n in known.operands):
                convolves.add(node)
        for node in reversed(self.program.operators):
            readers = self._readers(node)
            reached: set[fx.Node] = set()
            hard = not readers or node in self.barriers or node in self.kept
            for user in readers:
                linear = self.linear.get(user)
                if linear is None or user in self.barriers or node not in (*linear.operands, linear.like):
                    hard = True
                    break
                reached |= roots[user]
            if hard or (len(reached) > 1 and node in convolves):
                self.required.add(node)
                reached = {node}
            roots[node] = reached

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """Who needs the value of a node: not those that look at the sizes of a norm's, which are those of its input."""
        readers, linear = self.program.readers(node), self.linear.get(node)
        if linear is None or linear.kind not in ("norm", ""):
            return readers
        return [user for user in readers if not effects.reads_shape(user)]

    # --------------------------------------------------------------------------------------------------------- forms
    def form(self, node: fx.Node) -> Form | None:
        """The cheapest form of a node that is looked into."""
        return next((f for f in self.candidates.get(node, ()) if isinstance(f, Form)), None)

    def _visit(self, node: fx.Node) -> None:
        linear = self.linear[node]
        found: list[Value] = []
        refused: list[str] = []
        try:
            choices = [self._choices(n, node, linear) for n in linear.operands]
        except Illegal as reason:
            choices, refused = [[]], [str(reason)]
        for operands in itertools.islice(itertools.product(*choices), COMBINATIONS):
            try:
                form = linear.of(*operands)
            except Illegal as reason:
                refused.append(str(reason))
                continue
            found.append(form.named(node) if isinstance(form, Form) else form)
        if refused:
            self.reasons[node] = refused[0]
        if not found:
            found = [self._over_operand(node, linear) if all(choices) else atom(node)]
            for operand in linear.operands:
                self._require(operand)
        if linear.composes and len(found) == 1:  # there is no other choice than to have the operand
            for term in found[0].terms if isinstance(found[0], Form) else ():
                if term.source in linear.operands:
                    self._require(term.source)
        self._keep(node, found)
        if node in self.required:
            self._finish(node)

    def _over_operand(self, node: fx.Node, linear: Linear) -> Value:
        """The form of a node over its operand, of which no form fits: one that reads the node may still take it in."""
        if len(linear.operands) == 1 and node not in self.barriers:
            with contextlib.suppress(Illegal):
                form = linear.of(atom(linear.operands[0]))
                return form.named(node) if isinstance(form, Form) else form
        return atom(node)

    def _keep(self, node: fx.Node, found: list[Value]) -> None:
        """Keep the cheapest candidates of a node, cheapest first; of two alike, the one that reaches further back."""
        if len(found) == 1 or not all(isinstance(form, Form) for form in found):
            self.candidates[node] = found  # what is stacked has a price when it is summed
            return
        costs = {id(form): self.policy(price(form, self._price)) for form in found if isinstance(form, Form)}
        self.candidates[node] = sorted(found, key=lambda form: costs[id(form)])[:CANDIDATES]

    def _price(self, source: fx.Node) -> Cost:
        """What it takes to have ``source``, if nobody else needs it."""
        if source in self.required or source not in self.candidates:
            return Cost()
        if source not in self.prices:
            form = self.form(source)
            itself = form is None or any(term.source is source for term in form.terms)
            self.prices[source] = Cost() if form is None or itself else price(form, self._price)
        return self.prices[source]

    def _choices(self, operand: fx.Node, reader: fx.Node, linear: Linear) -> list[Value]:
        """The forms of ``operand`` as ``reader`` may see it."""
        writer = self.program.written_between(operand, operand, reader)
        if writer is not None and writer is not reader:
            raise Illegal(f"{self.program.describe(writer)} may write to its input before it is read")
        if linear.composes and self.program.constant(operand) is not None:
            raise Illegal("its input is computed from constants alone")
        form = self.form(operand)
        if form is not None and form.source is not None:
            return [form]
        if operand not in self.candidates or operand in self.required or reader in self.barriers:
            return [atom(operand)]
        if form is not None and form.joined and linear.kind not in CHANNELWISE:
            self._require(operand)
            return [atom(operand)]
        readers = (self.linear.get(user) for user in operand.users)
        if any(reads is not None and reads.composes for reads in readers):  # it may become a value of its own
            return [*self.candidates[operand], atom(operand)]
        return self.candidates[operand]

    def _require(self, node: fx.Node) -> None:
        if node not in self.required:
            self.required.add(node)
            if node in self.candidates:
                self._finish(node)

    def _finish(self, root: fx.Node) -> None:
        """Decide what becomes of a value that must exist: the cheapest way to compute it that is legal."""
        linear = self.linear.get(root)
        if linear is None:
            return
        illegal: str | None = None
        for form in self.candidates[root] if root not in self.barriers else ():
            if not isinstance(form, Form):
                break
            form = self._separate(form, self._form_over)
            sources = {t.source for t in form.terms}
            interior = self._interior(root, sources)
            if any(self._sees_through(node, sources) for node in sources):
                try:
                    form = self._over(sources, [*interior, root])
                except Illegal:
                    break  # a source has to be computed anyway, and what does without it costs more
                interior = self._interior(root, {t.source for t in form.terms})
            if not any(isinstance(t.map, ConvMap) for t in form.terms) or not self._saves(form, [*interior, root]):
                break
            terms = sorted(form.terms, key=lambda term: not isinstance(term.map, ConvMap))
            region = Region(self.program, root, replace(form, terms=tuple(terms)), interior, self.linear)
            try:
                if self.selection.norms == "keep" and region.operators("norm") and not region.merges:
                    raise Illegal(KEPT_NORM)
                self._check(region)
            except Illegal as reason:
                illegal = illegal or str(reason)
                continue
            for term in form.terms:
                self._require(term.source)
            self.regions[root] = region
            return
        if illegal is not None:
            self.barriers.setdefault(root, illegal)
            self.reasons[root] = illegal
        for operand in linear.operands:
            self._require(operand)

    def _form_over(self, node: fx.Node, term: Term) -> Form | None:
        """The form of a node, of which ``term`` is the value, over that term's source: it may have others."""
        forms = (form for form in self.candidates.get(node, ()) if isinstance(form, Form))
        return next((form for form in forms if form.terms[0].key == term.key), None)

    def _separate(self, form: Form, of: Callable[[fx.Node, Term], Form | None]) -> Form:
        """The form over what nothing was merged into, which is then a value; ``of`` gives the form of each."""
        values: dict[fx.Node, Form] = {}
        if len(form.terms) > 1 and not form.joined:
            for term in form.terms:
                inner = of(term.at, term) if term.at is not None else None
                kept = any(step.behind for step in term.through)  # an operator stays between it and the sum
                if term.at is None or (term.branches > 1 and not kept) or term.is_source or inner is None:
                    continue
                if term.times is ONE or not _folds(term):  # a convolution takes a factor in at no cost
                    values[term.at] = inner
        return form.separated(values)

    def _saves(self, form: Form, nodes: list[fx.Node]) -> bool:
        """Whether computing ``form`` from its sources takes fewer operators or convolutions than ``nodes``.

        Weights that are computed in each call count as an operator.
        """
        operators = convolutions = 0
        for node in nodes:
            linear = self.linear.get(node)
            if linear is not None and linear.kind:
                values = [v for operand in linear.operands for v in self.candidates.get(operand, ())]
                operators += max([len(v.forms) - 1 for v in values if isinstance(v, Stacked)], default=1)
                convolutions += linear.convolves
                operators += any(self._computes(n) for n in node.all_input_nodes if n not in linear.operands)
        after = sum(isinstance(term.map, ConvMap) for term in form.terms)
        return form.operators < operators or (form.operators == operators and after < convolutions)

    def _computes(self, constant: fx.Node) -> bool:
        """Whether a constant is computed in each call, from parameters."""
        return constant.op != "get_attr" and self.program.leaf(constant) is not None

    # -------------------------------------------------------------------------------------------------------- regions
    def _interior(self, root: fx.Node, sources: set[fx.Node]) -> list[fx.Node]:
        found: set[fx.Node] = set()
        waiting = [root]
        while waiting:
            linear = self.linear[waiting.pop()]
            for operand in linear.operands:
                if operand not in self.linear or operand in sources or operand in found:
                    continue
                form = self.form(operand)
                name = linear.composes or not self.linear[operand].kind
                if name and form is not None and form.source in sources:
                    continue  # another name of the source, for others to read as well, or for a child to hand out
                found.add(operand)
                waiting.append(operand)
        return sorted(found, key=self.program.position.__getitem__)

    def _sees_through(self, node: fx.Node, sources: set[fx.Node]) -> bool:
        """Whether some form of a node is over another of ``sources``."""
        forms = (form for form in self.candidates.get(node, ()) if isinstance(form, Form))
        return any(term.source in sources - {node} for form in forms for term in form.terms)

    def _over(self, sources: set[fx.Node], nodes: list[fx.Node]) -> Form:
        """The form of the last of ``nodes`` over ``sources``, none of which is seen through."""
        known: dict[fx.Node, Value] = {}
        for node in nodes:
            operands: list[Value] = []
            for operand in self.linear[node].operands:
                form = self.form(operand)
                name = form.source if form is not None and form.source in sources else None
                operands.append(known[operand] if operand in known else atom(name or operand))
            value = self.linear[node].of(*operands)
            known[node] = value.named(node) if isinstance(value, Form) else value
        forms = {node: value for node, value in known.items() if isinstance(value, Form)}
        return self._separate(forms[nodes[-1]], lambda node, _: forms.get(node))

    def _kept_after_all(self) -> set[fx.Node]:
        """Nodes that were taken for interior, and whose value something outside of all regions needs."""
        inside = {n for region in self.regions.values() for n in region.nodes}
        interior = {n for region in self.regions.values() for n in region.interior}
        return {n for n in interior if n in self.required or not inside.issuperset(self._readers(n))}

    @functools.cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self.program, self.linear)

    def _check_blocks(self, region: Region) -> None:
        """Raise ``Illegal`` if the region would change what a module gives that people call on their own."""
        convolves = [n for n in region.nodes if self.linear[n].convolves]
        composed = ((n, inner) for n in convolves for inner in self._composed_with(n, region))
        if self._blocks.divide(region.nodes, composed):
            raise Illegal("what two blocks do is not composed: each may be called on its own")

    def _check_crops(self, region: Region) -> None:
        """Raise ``Illegal`` if a crop may leave nothing of an image: that is a value, which no convolution gives.

        Where a convolution or a pool reads what is left, or has a value of the same size, it would have refused, too.
        Of a convolution's own value, a crop is taken to leave something.
        """
        stays = {step.node for term in region.form.terms for step in term.through}
        solid: set[fx.Node] = set()  # values of which something is left, or else a convolution raised an error
        for node in region.nodes:
            linear = self.linear[node]
            if linear.kind in ("conv", "pool") or not solid.isdisjoint(linear.operands):
                solid.add(node)
        for node in reversed(region.nodes):
            linear = self.linear[node]
            if linear.crops and node not in solid:
                what = region.program.describe(node)
                raise Illegal(f"{what} may leave nothing of an image, which a convolution in its place would refuse")
            if node not in stays and (node in solid or linear.kind in ("conv", "pool")):
                solid.update(linear.operands)

    def _composed_with(self, reader: fx.Node, region: Region) -> list[fx.Node]:
        """The convolutions of a region that ``reader``, another one, reads with no other one between."""
        inside, found, waiting = set(region.interior), dict[fx.Node, None](), [reader]
        while waiting:
            for operand in inside.intersection(self.linear[waiting.pop()].operands) - found.keys():
                if self.linear[operand].convolves:
                    found[operand] = None
                else:
                    waiting.append(operand)
        return list(found)

    def _check_source(self, region: Region, term: Term, conv: ConvMap) -> None:
        """Raise ``Illegal`` if a convolution asks for more of its source than what reads it now."""
        source, rank = term.source, term.through[0].rank if term.through else len(conv.taps)
        inside, waiting, constants = {*region.nodes}, [source], []
        while waiting:
            for reader in inside.intersection(waiting.pop().users):
                linear = self.linear[reader]
                if linear.convolves or linear.kind == "norm":
                    return  # asks for the same
                if linear.kind in ("scale", "add constant"):
                    constants.append(linear)
                else:
                    waiting.append(reader)
        wider = any(linear.dtypes for linear in constants) and conv.in_channels > 1
        if constants and not has_type(self.program, source, region.dtype):
            raise Illegal(f"the type of {self.program.describe(source)} is not known: pass example_inputs")
        if wider and not has_channels(self.program, source, conv.in_channels, rank):
            raise Illegal(f"the channels of {self.program.describe(source)} are not known: pass example_inputs")

    def _check(self, region: Region) -> None:
        """Raise ``Illegal`` if the region cannot become what its form says."""
        program, form = region.program, region.form
        biases(form)
        for term in form.terms:
            if isinstance(term.map, ConvMap):
                term.map.layout()
            elif isinstance(term.map, Window) or term.map.value.dim():
                raise Illegal("one of the values that are added is not a plain multiple of what it comes from")
        dtypes = {d for node in region.nodes for d in region.linear[node].dtypes}
        if not dtypes:
            raise Illegal("no convolution is among its parts")
        if len(dtypes) > 1:
            raise Illegal(f"its parts compute in different types: {', '.join(sorted(map(str, dtypes)))}")
        region.dtype = dtypes.pop()
        for term in form.terms:
            if isinstance(term.map, ConvMap):
                self._check_source(region, term, term.map)
        places: dict[object, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for term in form.terms:
            if isinstance(term.map, ConvMap):
                place = (term.map.up or term.map.stride, term.map.extent)
                if places.setdefault(term.key, place) != place and not form.joined:
                    raise Illegal("convolutions of one input whose outputs differ in size are added")
        for term in form.terms:
            stride, extent = places.get(term.key, ((), ()))
            if not isinstance(term.map, ConvMap) and (set(stride) - {1} or any(extent)):
                raise Illegal("a convolution's input is added to its output, which has another size")
        self._check_blocks(region)
        if region.composes:
            self._check_crops(region)
        inside = {*region.nodes}
        own_values = (t.source for t in form.terms if t.source in self.linear and inside.issuperset(t.source.users))
        views = (view for n in region.nodes if n in program.fills for view in program.fills[n].views)
        dies = {*region.interior, *own_values, *views}
        own: set[fx.Node] = set()
        for node in region.nodes:
            for target in program.targets.get(node, ()):
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
        if program.layout_decides(region.root):
            raise Illegal(f"{program.describe(region.root)} is written to beside what may be a copy of it")
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
    return isinstance(term.map, ConvMap) or (isinstance(term.map, Scale) and term.map.value.dim() == 0)
