"""Where a region's convolution goes, so that every module keeps its own forward as far as possible.

A chain ``conv -> norm -> ...`` is done *in place*: the convolution's module takes the merged weights, the norms become
pass-throughs. No forward changes, so other ways into the model (``forward_features``) see the same modules. Where
branches join, the convolution replaces the *join*, in the module whose forward adds them up; what follows the join
passes through. If modules are shared in a way that forbids both, the convolution replaces the region's root.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from torch import fx, nn

from ..analysis import effects
from ..analysis.forms import Term
from ..capture.code import entry_points, forward_parameters, has_one_way, readers_in_forward, readers_of
from ..capture.piece import Call, Piece, iterate
from ..capture.walk import join, module_at
from ..convmap import ConvMap
from .regions import Region
from .usage import Usage

RESIZING = {"conv", "linear", "pad", "pool"}  # what they give has other sizes than what they are given


@dataclass(eq=False)
class Placement:
    """``site`` is computed by the region's convolutions, ``passing`` nodes hand their operand on, ``gone`` ones vanish.

    ``in_place``: the site is a convolution module, which takes the merged weights. ``swapped``: passing modules that an
    ``nn.Identity`` takes the place of; nobody else calls them or reads their weights. ``reads`` says what a term's
    convolution reads, by the term's key, if that is not its source but what an operator that stays makes of it.
    ``holder``: the child of the site's module that the convolutions are put into, if not that module itself.
    ``bent``: calls of code that may take another way between the operators than the one that was traced.
    """

    region: Region
    site: fx.Node
    passing: dict[fx.Node, fx.Node] = field(default_factory=dict)
    gone: list[fx.Node] = field(default_factory=list)
    in_place: bool = False
    swapped: list[fx.Node] = field(default_factory=list)
    reads: dict[object, fx.Node] = field(default_factory=dict)
    holder: str = ""
    bent: list[Call] = field(default_factory=list)

    @property
    def piece(self) -> Piece:
        return self.region.program.piece


def place(regions: list[Region], usage: Usage) -> tuple[list[list[Placement]], dict[Region, str]]:
    """Placements for the regions, those in the calls of one shared module together; and the regions that have none."""
    inside = Counter(n for region in regions for n in region.interior)
    waiting = {r: [p for p in _candidates(r) if inside[p.site] <= (p.site is not r.root)] for r in regions}
    refused = {region: "an operator that is in its way cannot stay" for region in regions if not waiting[region]}
    if refused:
        return [], refused
    while True:
        groups: dict[object, list[Placement]] = defaultdict(list)
        for candidates in waiting.values():
            groups[_signature(candidates[0], usage)].append(candidates[0])
        misfits = {p: _why_not(p, len(group), usage) for group in groups.values() for p in group}
        failed = {placement: reason for placement, reason in misfits.items() if reason is not None}
        if not failed:
            return list(groups.values()), refused
        for placement, reason in failed.items():
            candidates = waiting[placement.region]
            candidates.pop(0)
            if not candidates:
                del waiting[placement.region]
                refused[placement.region] = reason


def _candidates(region: Region) -> list[Placement]:
    found: list[Placement | None] = []
    chain = _chain(region)
    if chain is not None:
        found.append(Placement(region, chain[0], _passing(region, chain[1]), [], True))
    site, after = join_of(region)
    if chain is None:
        found.append(computed_at(region, site, after))
    if site is not region.root or chain is not None:
        found.append(computed_at(region, region.root, []))
    if chain is None and len(region.form.terms) == 1 and region.form.terms[0].through:
        found.append(computed_at(region, *join_of(region, convolves=True)))
    if chain is None and (first := first_of(region)) is not None:
        found.append(computed_at(region, *first))
    return [placement for placement in found if placement is not None and not _misleads(placement)]


def _misleads(placement: Placement) -> bool:
    """Whether code that asks for the size of a value in the region, in an assertion, would be told that of another.

    What is before the site hands on the source, and the site and what is behind it, the value of the region.
    """
    region, inside = placement.region, {*placement.region.nodes}
    position = region.program.position
    resizing = [position[n] for n in region.nodes if region.linear[n].kind in RESIZING or region.linear[n].crops]
    passed = (placement.site, *placement.passing)
    for node in passed if resizing else ():
        if node is region.root or all(n in inside or effects.reads_rank(n) for n in node.users):
            continue
        at, before = position[node], position[node] < position[placement.site]
        if any(there <= at if before else there > at for there in resizing):
            return True
    return False


def computed_at(region: Region, site: fx.Node, after: list[fx.Node]) -> Placement | None:
    """The placement with the convolutions at ``site`` and what is ``after`` it passing it on, if the shapes are right.

    Operators that the map commutes with (a mean over the image) stay, before the site or after it.
    """
    before = {n for n in region.interior if n is not site and n not in after}
    reads: dict[object, fx.Node] = {}
    for term in region.form.terms:
        through = [step.node for step in term.through if step.node not in after]
        reads |= {term.key: through[-1]} if through else {}
        late = [step for step in term.through if step.node in after and not step.behind]
        if late and any(region.linear[n].convolves for n in after):
            return None
    if site in reads.values() or len({*reads.values()}) < len(reads):
        return None
    if any(region.linear[n].like in before for n in after):  # undoes what is not done
        return None
    stay = [n for n in before if n in reads.values()]
    for n in stay:
        stay += [operand for operand in region.linear[n].operands if operand in before and operand not in stay]
    if any(region.linear[n].composes or len(region.linear[n].operands) > 1 for n in stay):
        return None
    dies = [n for n in region.interior if n in before and n not in stay]
    if any(map(effects.lays_out, dies)) and any(map(effects.needs_layout, region.program.nodes)):
        return None
    return Placement(region, site, _passing(region, [*stay, *after]), dies, reads=reads)


def _chain(region: Region) -> tuple[fx.Node, list[fx.Node]] | None:
    """The last convolution of a region that does not branch, if it is a module, and the other operators."""
    path, inside = [region.root], set(region.interior)
    while True:
        operands = region.linear[path[-1]].operands
        if len(operands) != 1 or _is_stack(operands[0]):
            return None
        if operands[0] not in inside:
            break
        path.append(operands[0])
    passed = [path.index(step.node) for step in region.form.terms[0].through if step.behind and step.node in path]
    below = path[max(passed, default=-1) + 1 :]  # what is convolved behind such an operator goes before it
    site = next((n for n in below if region.linear[n].convolves and n.op == "call_module"), None)
    return None if site is None else (site, [n for n in reversed(path) if n is not site])


def join_of(region: Region, *, convolves: bool = False) -> tuple[fx.Node, list[fx.Node]]:
    """The last node where branches meet, or also the last one that convolves, and the operators after it."""
    node = region.root
    after: list[fx.Node] = []
    inside = set(region.interior)
    while not (convolves and region.linear[node].convolves):
        linear = region.linear[node]
        follow = linear.operands[0] if len(linear.operands) == 1 else None
        if follow is None or follow not in inside or _is_stack(follow):
            break
        after.append(node)
        node = follow
    return node, after[::-1]


def first_of(region: Region) -> tuple[fx.Node, list[fx.Node]] | None:
    """The last node that convolves before the operators that a convolution goes through, and the operators after it."""
    passed = {step.node for term in region.form.terms for step in term.through if step.behind}
    node, after = region.root, list[fx.Node]()
    while passed or not region.linear[node].convolves:
        operands = region.linear[node].operands
        if len(operands) != 1 or operands[0] not in region.interior:
            return None
        after.append(node)
        passed.discard(node)
        (node,) = operands
    return node, after[::-1]


def _is_stack(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "stack"


def _passing(region: Region, nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The operators in ``nodes`` that hand their operand on; what is a pass-through already stays."""
    return {n: region.linear[n].operands[0] for n in nodes if region.linear[n].kind}


def _touched(placement: Placement) -> list[fx.Node]:
    return [placement.site, *placement.passing]


def _module(piece: Piece, node: fx.Node) -> nn.Module:
    module: nn.Module = module_at(piece.root, str(node.target))
    return module


def _rewritten(placement: Placement) -> set[Call]:
    """The calls whose modules get another forward."""
    kept = {*placement.swapped, *([placement.site] if placement.in_place else [])}
    return {placement.piece.call_of[n] for n in _touched(placement) if n not in kept}.union(placement.bent)


def _around(placement: Placement) -> list[Call]:
    """The calls that the operators which are edited are in."""
    around: dict[Call, None] = {}
    for node in _touched(placement):
        call: Call | None = placement.piece.call_of[node]
        while call is not None and call not in around:
            around[call] = None
            call = call.parent
    return list(around)


def _is_bent(call: Call, placement: Placement) -> bool:
    """Whether the code of a module may do anything else with a value of the region than was traced.

    Such a forward is not kept: the one that takes its place says what it was merged for.
    """
    region, piece = placement.region, placement.piece
    position = region.program.position
    last = max(_touched(placement), key=position.__getitem__)  # what comes after it gets what it got
    before = [n for n in region.nodes if position[n] < position[last]]
    parts = {_part(piece, n, call) for n in (*before, last) if piece.call_of[n].inside(call)} - {call.path}
    ends = piece.call_of[last].inside(call)
    inner = parts - {_part(piece, last, call)} if ends else parts
    handed = not set(before).isdisjoint(iterate((call.args, call.kwargs)))
    if not inner and not handed:
        return False
    allowed = {str(_step(part, call)) for part in parts}
    if has_one_way(type(call.module), allowed):
        return False
    values = {str(_step(part, call)) for part in inner}
    if handed:
        given = zip(forward_parameters(call.module), call.args, strict=False)
        named = (name for name, v in (*given, *call.kwargs.items()) if not set(before).isdisjoint(iterate(v)))
        values.update(f"({name})" for name in named)
    allowed |= set() if ends else {"return"}
    return any(not readers_in_forward(type(call.module), value) <= allowed for value in values)


def _part(piece: Piece, node: fx.Node, call: Call) -> str:
    """The path of the module that the code of ``call`` calls to compute a node; its own for its own operators."""
    inner = piece.call_of[node]
    if inner is call:
        return _path(piece, node)
    while inner.parent is not None and inner.parent is not call:
        inner = inner.parent
    return inner.path


def _signature(placement: Placement, usage: Usage) -> object:
    piece = placement.piece
    key = frozenset((usage.key(piece, n), n is placement.site) for n in _touched(placement))
    gone = frozenset(usage.key(piece, n) for n in placement.gone)
    return key, gone, placement.in_place, tuple(map(_becomes, placement.region.form.terms))


def _becomes(term: Term) -> object:
    """What a term becomes, but for its weights: what two calls of one module are given may differ in its aliases."""
    map = term.map
    if not isinstance(map, ConvMap):
        return type(map)
    return map.in_channels, map.out_channels, map.groups, map.taps, map.stride, map.extent, map.mode, map.up


def _why_not(placement: Placement, twins: int, usage: Usage) -> str | None:
    """Why the edits do not fit all that uses the modules that they change."""
    if not _fits(placement, twins, usage):
        return "a module in it is also called in another way"
    piece = placement.piece
    if not placement.in_place and _is_the_callers(placement):
        return "it writes in place to a value of its caller's, who may go on with that"
    if not placement.in_place and piece.call_of[placement.site].module in usage.walked:
        return "other code goes through the modules where the merged one would be"
    if usage.looked and any(_module(piece, n) in usage.looked for n in placement.swapped):
        return "other code looks at a module that an identity would take the place of"
    callers = {piece.call_of[n] for n in placement.swapped} - _rewritten(placement)
    if any(usage.asks_for_types(call.module) for call in callers):
        return "the code that calls it asks for a class, and an identity would take its place"
    changed = _changed(placement)
    if any(_is_run_alone(call, placement, usage) for call in changed):
        return "another method calls a part of it on its own"
    if not usage.unseen:
        return None
    if any(usage.touches(join(piece.path, str(n.target))) for n in placement.region.nodes if n.op == "call_module"):
        return "code that cannot be traced mentions a module in it, which it may look at or change"
    if any(usage.called(join(piece.path, call.path)) for call in changed):
        return "code that cannot be traced may call a part of it on its own"
    if any(usage.run_by_class(call.module) for call in _rewritten(placement)):
        return "code that cannot be traced runs the forward of a class that would have another"
    if any(usage.told_apart(join(piece.path, call.path)) for call in _rewritten(placement)):
        return "code that cannot be traced asks for the class of a module whose forward would change"
    site, owner = placement.site, piece.call_of[placement.site]
    if not placement.in_place and usage.listed(join(piece.path, owner.path), owner.module):
        path, inner = join(piece.path, str(site.target)), _step(str(site.target), owner) or ""
        stays = site.op == "call_module" and join(owner.path, inner) == site.target and usage.pinned(path)
        if not stays or usage.listed(path, _module(piece, site)):
            return "code that cannot be traced goes through the modules where the merged one would be"
        placement.holder = inner  # the last norm of a Sequential
    return None


def _changed(placement: Placement) -> list[Call]:
    """The calls whose modules would give something else than before: a value on the way, or what belongs to one."""
    region, call_of = placement.region, placement.piece.call_of
    around, interior = _around(placement), {*region.interior}
    own = {call: all(call_of[n].inside(call) for n in region.nodes) for call in around}
    return [call for call in around if not own[call] or not interior.isdisjoint(iterate(call.output))]


def _is_run_alone(call: Call, placement: Placement, usage: Usage) -> bool:
    """Whether a method of a module farther out runs the module of ``call`` without the rest of what is edited.

    Of the module around it, ``_fits`` looks at the methods.
    """
    piece = placement.piece
    paths = [join(piece.path, _path(piece, n)) for n in _touched(placement)]
    ways, items = usage.ways_to(join(piece.path, call.path)), usage.items_on(join(piece.path, call.path))
    if any(not all(way in usage.ways_to(path) for path in paths) for way in ways):
        return True
    return any(not all(f"{path}.".startswith(f"{item}.") for path in paths) for item in items)


def _is_the_callers(placement: Placement) -> bool:
    """Whether what the site computes anew replaces a value that was handed to its module and written to there."""
    program, call_of = placement.region.program, placement.piece.call_of
    here = call_of[placement.site]
    written = (t for n in placement.region.nodes for t in program.targets.get(n, ()))
    owners = (call_of[min(program.aliases(t), key=program.position.__getitem__)] for t in written)
    return any(owner is not here and here.inside(owner) for owner in owners)


def _fits(placement: Placement, twins: int, usage: Usage) -> bool:
    """Whether the edits hold for every call of the modules that they change: each has its twin."""
    piece = placement.piece
    leaves = [n for n in placement.passing if n.op == "call_module"]
    placement.swapped = [n for n in leaves if usage.replaceable(piece, n, twins)]
    in_place = [placement.site] if placement.in_place else []
    if not all(usage.replaceable(piece, n, twins) for n in in_place):
        return False
    call: Call | None = piece.call_of[placement.site]
    while call is not None:
        if placement.in_place and not _whole(call, placement):
            return False
        functions = [n for n in placement.passing if n not in leaves and piece.call_of[n] is call]
        if placement.in_place and functions and _is_entered(call, placement.site):
            return False
        if not placement.in_place:
            around = _step(piece.call_of[placement.site].path, call)
            placement.swapped = [n for n in placement.swapped if not _on_its_own(str(n.target), around, call)]
        call = call.parent
    rewritten = _rewritten(placement)
    placement.bent = [each for each in _around(placement) if each not in rewritten and _is_bent(each, placement)]
    rewritten.update(placement.bent)
    return all(usage.times[call.module] == twins and not _is_missed(call, placement) for call in rewritten)


def _whole(call: Call, placement: Placement) -> bool:
    """Whether each way into the module of ``call`` runs all that is edited or none, and leaves their biases alone.

    All means one after the other: nothing but the next gets what one gives, unless it is the last.
    """
    if "bias" in call.absent:  # code that asks for the bias of a convolution would see the merged one
        return False
    kind: type = type(call.module)
    modules = {_step(str(n.target), call) for n in _touched(placement) if n.op == "call_module"}
    ways = [names.issuperset(modules) for names in entry_points(kind) if not names.isdisjoint(modules)]
    if not all(ways):
        return False
    steps = {step for n in _touched(placement) if (step := _step(_path(placement.piece, n), call)) is not None}
    inner = steps - {_step(_path(placement.piece, placement.region.root), call)} if ways else ()
    return all(readers_of(kind, step) <= steps for step in inner)


def _path(piece: Piece, node: fx.Node) -> str:
    """The module that a node calls, or the one in whose code it is."""
    return str(node.target) if node.op == "call_module" else piece.where(node)


def _is_entered(call: Call, node: fx.Node) -> bool:
    """Whether code of the module of ``call`` that stays, other than forward, mentions the child that ``node`` is in."""
    return any(_step(str(node.target), call) in names for names in entry_points(type(call.module)))


def _is_missed(call: Call, placement: Placement) -> bool:
    """Whether some way into a module around runs that of ``call``, whose forward changes, without what is merged."""
    piece, outer = placement.piece, call.parent
    site = _path(piece, placement.site) if placement.in_place else piece.call_of[placement.site].path
    while outer is not None:
        if _on_its_own(call.path, _step(site, outer), outer):
            return True
        outer = outer.parent
    return False


def _on_its_own(path: str, around: str | None, call: Call) -> bool:
    """Whether some way into the module of ``call`` runs what is at ``path`` without what is merged, in ``around``."""
    step = _step(path, call)
    ways = (names for names in entry_points(type(call.module)) if step != around and step in names)
    return any(around not in names for names in ways)


def _step(path: str, call: Call) -> str | None:
    """The child of the module of ``call`` that ``path`` is in; None if it is the module itself, or outside of it."""
    if call.path and not path.startswith(f"{call.path}."):
        return None
    return path[len(call.path) :].strip(".").split(".")[0] or None
