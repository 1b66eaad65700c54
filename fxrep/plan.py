"""The plan for a whole model: regions, where they go, the modules' new graphs and the merged weights, all checked.

Every step may refuse a region (it cannot be placed, a value does not reach the module that would need it, the proof
fails). A refused region becomes a barrier, the analysis runs again, and the plan is whole when nobody refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, fx, nn
from torch.jit import ScriptModule

from .analysis import effects
from .analysis.cost import Policy
from .analysis.fills import in_place
from .analysis.program import Program
from .analysis.selection import Selection
from .capture.code import has_own_code, is_flag, mentions
from .capture.kinds import reads_metadata
from .capture.observe import Observation
from .capture.piece import Call, Piece
from .capture.scopes import Edits, Scope, build
from .capture.tracer import capture
from .capture.walk import first_paths, join, modules_in
from .capture.writes import written_storages
from .convmap import ConvMap, Illegal
from .cover.flat import flat_names, place_flat
from .cover.liveness import Liveness, dead_tensors
from .cover.placement import Placement, place
from .cover.regions import Analysis, Region
from .cover.usage import Usage
from .weights import build_modules, largest_weight
from .workspace import Workspace

# what code may ask for, or set by a function; what it enters is noted while it is traced
MODES = {
    "set_grad_enabled", "is_grad_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled",
    "is_inference_mode_enabled", "fork_rng", "manual_seed", "autograd", "backward",
}  # fmt: skip
# as generated code has them
MODES |= {"_enter_autocast", "_exit_autocast", "_set_grad_enabled", "_enter_inference_mode", "_exit_inference_mode"}


Built = dict[tuple[fx.Node, ...], tuple[list[nn.Module | None] | str, float]]
"""By the nodes of a region: its modules, or why there are none, and the error of the proof."""


@dataclass(eq=False)
class Merge:
    """One set of convolutions that replaces a region, or the same region in every call of a shared module.

    ``names`` are the new child modules of the site's module; a convolution done in place keeps its own path.
    """

    placements: list[Placement]
    names: list[str | None] = field(default_factory=list)
    modules: list[nn.Module | None] = field(default_factory=list)

    @property
    def first(self) -> Placement:
        return self.placements[0]

    @property
    def region(self) -> Region:
        return self.first.region


@dataclass
class Plan:
    """What ``rewrite`` is to do."""

    model: nn.Module
    pieces: list[Piece]
    opaque: dict[nn.Module, str]
    analyses: list[Analysis]
    usage: Usage
    merges: list[Merge] = field(default_factory=list)
    edits: dict[Piece, Edits] = field(default_factory=dict)
    scopes: dict[Call, tuple[Piece, Scope]] = field(default_factory=dict)
    removals: list[str] = field(default_factory=list)

    def replaced(self) -> list[str]:
        """Paths of the modules that others take the place of."""
        paths: list[str] = []
        for merge in self.merges:
            placement = merge.first
            nodes = placement.swapped + ([placement.site] if placement.in_place else [])
            paths += [join(placement.piece.path, str(n.target)) for n in nodes]
        return paths

    def dead_tensors(self) -> list[Tensor]:
        """The tensors that are not in the model any more once the plan is carried out."""
        return dead_tensors(self.model, (*self.removals, *self.replaced()))


def make_plan(
    model: nn.Module,
    original: nn.Module,
    policy: Policy,
    observed: Observation | None = None,
    progress: Callable[[int, int], None] | None = None,
    captured: tuple[list[Piece], dict[nn.Module, str]] | None = None,
    selection: Selection | None = None,
) -> Plan:
    """Plan the merges of ``model``, a structural copy of ``original`` that nobody else runs, or of what is captured."""
    pieces, opaque = captured or capture(model, original, observed.arguments if observed else None)
    chosen = selection or Selection()
    analyses = [Analysis(Program(piece, observed), policy, chosen, kept=set(piece.kept)) for piece in pieces]
    _tell_who_writes([analysis.program for analysis in analyses], opaque)
    names = first_paths(model)
    usage = Usage([analysis.program for analysis in analyses], {names[m]: m for m in opaque if m in names}, model)
    plan = Plan(model, pieces, opaque, analyses, usage)
    by_program = {analysis.program: analysis for analysis in analyses}
    built: Built = {}
    dirty = set(by_program)
    regions: dict[Program, list[Region]] = {}
    for analysis in analyses:
        reason = _why_not(analysis.program)
        if reason is not None:
            analysis.barriers = dict.fromkeys(analysis.program.nodes, reason)
            dirty.discard(analysis.program)
            regions[analysis.program] = []
    while True:
        regions |= {program: by_program[program].run() for program in dirty}
        refused = _arrange(plan, [r for analysis in analyses for r in regions[analysis.program]])
        narrowed = {region.program for region in refused if by_program[region.program].narrow(region)}
        if narrowed:  # of the others, some may have been refused only because of them
            dirty = narrowed
            continue
        if not refused:
            refused = _build(plan, built, progress)
        if not refused:
            break
        for region, reason in refused.items():
            by_program[region.program].refuse(region, reason)
        dirty = {region.program for region in refused}
    plan.removals = _removals(plan)
    return plan


def _tell_who_writes(programs: list[Program], opaque: Iterable[nn.Module]) -> None:
    """Let each program know what the others, and the code that is not traced, write to."""
    unseen = written_storages(opaque)
    for program in programs:
        program.written_elsewhere = unseen.union(*(other.written for other in programs if other is not program))


def _why_not(program: Program) -> str | None:
    """Why nothing in a program can be merged."""
    if program.keeps_state():
        return "the forward changes a tensor that it makes itself"
    if any(program.is_written(n) for n in program.nodes if n.op == "get_attr" and n.target in program.piece.asked):
        return "the forward writes to a parameter that a condition depends on"
    if any(effects.differentiates(node) for node in program.nodes):
        return "the forward differentiates"
    if any(effects.name_of(node) == "_enter_autocast" for node in program.nodes):
        return "the graph sets autocast"
    return None


def _removals(plan: Plan) -> list[str]:
    liveness = Liveness()
    for analysis in plan.analyses:
        liveness.add(analysis.program, plan.edits[analysis.program.piece], plan.scopes)
    rewritten = {join(piece.path, call.path): call.module for call, (piece, _) in plan.scopes.items()}
    usage = plan.usage
    return liveness.removals(rewritten, lambda path: usage.pinned(path) or bool(usage.ways_to(path)))


def _arrange(plan: Plan, regions: list[Region]) -> dict[Region, str]:
    """Place the regions and fold the modules' graphs; returns what is refused."""
    flat = [region for region in regions if region.program.piece.flat]
    groups, refused = place_flat(flat) if flat else place(regions, plan.usage)
    if refused:
        return refused
    plan.merges = [Merge(group) for group in groups]
    taken: dict[nn.Module, set[str]] = {}
    modules = [module for module in modules_in(plan.model) if not isinstance(module, ScriptModule)]
    if any(map(_answers, modules)):  # for the names of another one, it may be
        everywhere = {name for module in modules for name in module._modules}.union(*(p.taken for p in plan.pieces))
        taken = dict.fromkeys(modules, everywhere)
    known: dict[str, list[str | None]] = {}
    for merge in plan.merges:
        _name(merge, taken, known)
    plan.edits = {analysis.program.piece: _edits(analysis, plan.merges) for analysis in plan.analyses}
    plan.scopes = {}
    names: dict[type, tuple[set[str], set[str]]] = {}
    for call, merges in _changed_calls(plan.merges).items():
        piece, program = merges[0].first.piece, merges[0].region.program
        try:
            scope = build(piece, call, plan.edits[piece], program.nodes, program.position)
            for replaced in scope.replaced:
                _check_modes(replaced, names)
            plan.scopes[call] = piece, scope
        except Illegal as reason:
            refused |= {p.region: str(reason) for merge in merges for p in merge.placements}
    return refused


def _check_modes(call: Call, names: dict[type, tuple[set[str], set[str]]]) -> None:
    """Raise ``Illegal`` if the code of a call looks at, or sets, a mode of torch's that its graph would not.

    ``names`` are those that the code of a class is known to mention. A flag or a part of the module may be called like
    a mode.
    """
    module = call.module
    if has_own_code(module):
        own, other = mentions(module)
    else:
        if type(module) not in names:
            names[type(module)] = mentions(module)
        own, other = names[type(module)]
    flags = {name for name in MODES & own if is_flag(module, name)}
    modes = (MODES & (other | (own - flags))) | call.modes
    if modes:
        raise Illegal(f"forward of '{call.path or 'the model'}' uses {min(modes)}, which its graph would not")


def _changed_calls(merges: list[Merge]) -> dict[Call, list[Merge]]:
    """The calls whose modules need a forward of their own, and because of whom."""
    changed: dict[Call, list[Merge]] = {}
    for merge in merges:
        placement = merge.first
        if placement.piece.flat:
            continue
        nodes = [n for n in placement.passing if n not in placement.swapped]
        if not placement.in_place:
            nodes.append(placement.site)
        for call in dict.fromkeys((*(placement.piece.call_of[n] for n in nodes), *placement.bent)):
            changed.setdefault(call, []).append(merge)
    return changed


def _name(merge: Merge, taken: dict[nn.Module, set[str]], known: dict[str, list[str | None]]) -> None:
    placement = merge.first
    if placement.in_place:
        merge.names = [None]
        return
    owner = placement.piece.call_of[placement.site].module
    used = taken.setdefault(owner, set(placement.piece.taken))
    if placement.piece.flat:
        merge.names = flat_names(placement, used, known)
        return
    for term in merge.region.form.terms:
        name = None
        if isinstance(term.map, ConvMap):
            names = (f"merged_{i}" if i else "merged" for i in range(len(used) + 1_000))
            name = next(n for n in names if n not in used and not _has(owner, n))
            used.add(name)
            name = join(placement.holder, name)
        merge.names.append(name)


def _answers(module: nn.Module) -> bool:
    """Whether code of its own looks attributes of a module up."""
    own = (getattr(type(module), name) is not getattr(nn.Module, name) for name in ("__getattr__", "__getattribute__"))
    return any(own)


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module or its class has an attribute, but for what code of its own gives for names that it has not."""
    spaces = (vars(module), module._modules, module._parameters, module._buffers, *map(vars, type(module).__mro__))
    return any(name in space for space in spaces)


def _edits(analysis: Analysis, merges: list[Merge]) -> Edits:
    program, edits = analysis.program, Edits()
    call_of = program.piece.call_of
    edits.droppable = program.assertions | {n for n in program.nodes if n.op == "get_attr" and not n.users}
    for merge in merges:
        for placement in merge.placements:
            if placement.piece is not program.piece:
                continue
            edits.passing |= placement.passing
            edits.gone |= dict.fromkeys(placement.gone, call_of[placement.site])
            if not placement.in_place:
                joined = placement.region.form.joined
                edits.joined |= {placement.site: joined.dim} if joined else {}
                edits.sites[placement.site] = [
                    (
                        name,
                        placement.reads.get(term.key, term.source),
                        1.0 if isinstance(term.map, ConvMap) else float(term.factor),
                    )
                    for name, term in zip(merge.names, placement.region.form.terms, strict=True)
                ]
    for node, fill in program.fills.items():
        if in_place(node):
            edits.versions[node] = fill.base
        if node in edits.gone or node in edits.sites:
            edits.gone |= dict.fromkeys(fill.views, call_of[node])
    names: dict[fx.Node, fx.Node] = {}
    for node in analysis.candidates:
        form = analysis.form(node)
        source = form.source if form is not None else None
        if source is not None and source is not node and not program.is_copy_to_write(node, source):
            edits.aliases.setdefault(source, []).append(node)
            names[node] = source
    recomputed = {*edits.gone, *edits.sites}
    needed = {source for summands in edits.sites.values() for _, source, _ in summands}
    for node in reversed(program.nodes):
        if node in edits.gone or node in needed or not node.users or node.op == "placeholder":
            continue
        linear = analysis.linear.get(node)
        if linear is not None and not linear.kind:
            unread = all(user in recomputed for user in node.users)
        elif node.op == "get_attr" or reads_metadata(node) or program.constant(node) is not None:
            unread = all(user in recomputed or edits.passing.get(user, node) is not node for user in node.users)
        else:
            continue
        if unread:
            edits.gone[node] = None
            recomputed.add(node)
            if node in names:  # a block may end in it: what is handed on is what it passes on
                edits.aliases.setdefault(node, []).append(names[node])
    return edits


def _build(
    plan: Plan,
    built: Built,
    progress: Callable[[int, int], None] | None,
) -> dict[Region, str]:
    """Compute and prove every merge that was not built before; returns what is refused.

    The largest first: then the workspace is as large as it gets at once.
    """
    refused: dict[Region, str] = {}
    workspace = Workspace()
    for i, merge in enumerate(sorted(plan.merges, key=lambda merge: -largest_weight(merge.region).numel())):
        if progress is not None:
            progress(i, len(plan.merges))
        key = tuple(merge.region.nodes)
        if key not in built:
            made = build_modules(merge.region, workspace)
            built[key] = made, merge.region.error
        result, merge.region.error = built[key]
        if isinstance(result, str):
            refused |= {placement.region: result for placement in merge.placements}
        else:
            merge.modules = result
    return refused
