"""Carry a plan out on a model of the same structure: new modules in, new forwards, dead ones out."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import Tensor, fx, nn

from .capture.forward import Forward, install
from .capture.scopes import Scope
from .capture.tracer import Call, Piece, join
from .plan import Merge, Plan


def rewrite(plan: Plan, target: nn.Module) -> list[Tensor]:
    """Apply ``plan`` to ``target``, which has the structure of the model that was planned on.

    Returns the tensors that were made, which nobody else owns.
    """
    modules = {full: target.get_submodule(full) for full in _paths(plan)}
    removals = list(_removals(plan))
    made: list[Tensor] = []
    for merge in plan.merges:
        made += _put_modules(merge, modules, target)
    for call, (piece, scope) in plan.scopes.items():
        _put_forward(modules[join(piece.path, call.path)], scope)
    for owner_path, name in removals:
        _remove(target, owner_path, name)
    return made


def _paths(plan: Plan) -> set[str]:
    """The paths of the modules that get new children or a new forward."""
    paths = {join(piece.path, call.path) for call, (piece, _) in plan.scopes.items()}
    for merge in plan.merges:
        placement = merge.first
        paths.add(join(placement.piece.path, placement.piece.call_of[placement.site].path))
    return paths


def _put_modules(merge: Merge, modules: dict[str, nn.Module], target: nn.Module) -> Iterator[Tensor]:
    placement = merge.first
    piece = placement.piece
    convs = [m for m in merge.modules if m is not None]
    if placement.in_place:
        (conv,) = convs
        _replace(target, join(piece.path, str(placement.site.target)), conv)
    else:
        owner = modules[join(piece.path, piece.call_of[placement.site].path)]
        for name, conv_or_none in zip(merge.names, merge.modules, strict=True):
            if name is not None and conv_or_none is not None:
                owner.add_module(name, conv_or_none)
    for node in placement.passing:
        if node.op == "call_module":
            _replace(target, join(piece.path, str(node.target)), nn.Identity().eval())
    for conv in convs:
        yield from conv.parameters()


def _replace(target: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    target.get_submodule(parent)._modules[name] = module


def _put_forward(module: nn.Module, scope: Scope) -> None:
    for name, tensor in scope.constants.items():
        module.register_buffer(name, tensor, persistent=False)
    if isinstance(module, fx.GraphModule):
        module.graph = scope.graph
    else:
        install(module, Forward.of(scope.graph, scope.guards))


# ------------------------------------------------------------------------------------------------------- what is dead
def _removals(plan: Plan) -> Iterator[tuple[str, str]]:
    """(path of owner, name) of children and parameters that nothing computes with any more."""
    live, dead_modules, dead_tensors = _liveness(plan)
    changed = {call.module: join(piece.path, call.path) for call, (piece, _) in plan.scopes.items()}
    removed: set[str] = set()
    for module, path in sorted(dead_modules.items(), key=lambda item: item[1].count(".")):
        inside = any(path.startswith(f"{outer}.") for outer in removed)
        if inside or any(inner in live for inner in module.modules()):
            continue
        owner = next((m for m, p in changed.items() if path.startswith(f"{p}." if p else "")), None)
        if owner is not None and not _entered_elsewhere(owner, path.removeprefix(changed[owner]).strip(".")):
            removed.add(path)
            parent, _, name = path.rpartition(".")
            yield parent, name
    for path in dead_tensors:
        parent, _, name = path.rpartition(".")
        yield parent, name


def _liveness(plan: Plan) -> tuple[set[nn.Module], dict[nn.Module, str], list[str]]:
    """Modules that still run; modules, by path, that ran and do not any more; paths of tensors likewise."""
    live: set[nn.Module] = set()
    dead: dict[nn.Module, str] = {}
    live_tensors: set[int] = set()
    tensors: dict[int, str] = {}
    for analysis in plan.analyses:
        program, piece = analysis.program, analysis.program.piece
        edits = plan.edits[piece]
        dead_calls = _dead_calls(piece, edits.gone.keys() | edits.droppable, edits.gone.keys(), program.position)
        for call in piece.calls:
            if call in dead_calls:
                dead[call.module] = join(piece.path, call.path)
            else:
                live.add(call.module)
        for node in program.nodes:
            gone = node in edits.gone
            dropped = node in edits.passing and piece.call_of[node] in plan.scopes
            module = program.module(node)
            if module is not None:
                if gone or dropped or node in edits.sites:
                    dead[module] = join(piece.path, str(node.target))
                else:
                    live.add(module)
            tensor = program.tensor(node) if node.op == "get_attr" else None
            if tensor is not None:
                if gone:
                    tensors[id(tensor)] = join(piece.path, str(node.target))
                else:
                    live_tensors.add(id(tensor))
    inside_dead = tuple(f"{path}." for module, path in dead.items() if module not in live)
    paths = [p for key, p in tensors.items() if key not in live_tensors and not p.startswith(inside_dead or ("\0",))]
    return live, dead, paths


def _dead_calls(piece: Piece, idle: set[fx.Node], gone: object, position: dict[fx.Node, int]) -> set[Call]:
    """Calls of which nothing is computed any more."""
    nodes = list(position)
    dead: set[Call] = set()
    for call in piece.calls:
        inside = nodes[slice(*piece.span(call, position))]
        if call.parent in dead or (any(n in gone for n in inside) and all(n in idle for n in inside)):  # type: ignore[operator]
            dead.add(call)
    return dead


def _entered_elsewhere(owner: nn.Module, path: str) -> bool:
    """Whether a method that ``forward`` calls, another way into the model, names the child at ``path``."""
    name = path.split(".")[0]
    cls, seen = type(owner), set[str]()
    waiting = [*_names(getattr(cls, "forward", None))]
    while waiting:
        method = waiting.pop()
        function = getattr(cls, method, None)
        if method in seen or not isinstance(function, FunctionType) or hasattr(nn.Module, method):
            continue
        seen.add(method)
        names = _names(function)
        if name in names:
            return True
        waiting += names
    return False


def _names(function: object) -> set[str]:
    """The attribute names that a function's code mentions."""
    code = getattr(function, "__code__", None)
    found: set[str] = set()
    waiting = [code] if isinstance(code, CodeType) else []
    while waiting:
        code = waiting.pop()
        found |= set(code.co_names)
        waiting += [c for c in code.co_consts if isinstance(c, CodeType)]
    return found


def _remove(target: nn.Module, owner_path: str, name: str) -> None:
    owner = target.get_submodule(owner_path)
    if name in owner._parameters:
        owner._parameters[name] = None
    elif name in owner._buffers:
        owner._buffers[name] = None
        if name == "running_mean" and isinstance(owner, nn.modules.batchnorm._NormBase):
            owner.num_batches_tracked = None
    elif name in owner._modules:
        if isinstance(owner, nn.Sequential | nn.ModuleList):
            owner._modules[name] = nn.Identity().eval()  # the others keep their places
            if all(type(m) is nn.Identity for m in owner.children()) and owner_path and _unused(owner):
                parent, _, own = owner_path.rpartition(".")
                _remove(target, parent, own)
        else:
            del owner._modules[name]


def _unused(owner: nn.Module) -> bool:
    return isinstance(owner, nn.ModuleList)


