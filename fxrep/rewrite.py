"""Carry a plan out on a model of the same structure: new modules in, new forwards, dead ones out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import fx, nn

from .capture.forward import Forward, install
from .capture.piece import Call, Piece
from .capture.scopes import Scope
from .capture.walk import join, module_at, tensors, walk
from .plan import Merge, Plan

Places = dict[nn.Module, list[tuple[nn.Module, str]]]


def rewrite(plan: Plan, target: nn.Module) -> None:
    """Apply ``plan`` to ``target``, which has the structure of the model that was planned on."""
    modules = {full: module_at(target, full) for full in _paths(plan)}
    places = places_of(target)
    for merge in plan.merges:
        _put_modules(merge, modules, target, places)
    for path in plan.removals:
        _remove(target, path)
    for call, (piece, scope) in plan.scopes.items():
        path = join(piece.path, call.path)
        module = modules[path]
        if path and scope.passes_on(module) and not _has_weights(module) and not _is_called_by_name(piece, call):
            replace(target, path, nn.Identity().eval(), places)
        else:
            _put_forward(module, scope)


def _is_called_by_name(piece: Piece, call: Call) -> bool:
    """Whether somebody passes an argument of a module by its name, which an identity does not have."""
    return any(each.kwargs for each in piece.calls if each.module is call.module)


def _paths(plan: Plan) -> set[str]:
    """The paths of the modules that get new children or a new forward."""
    paths = {join(piece.path, call.path) for call, (piece, _) in plan.scopes.items()}
    for merge in plan.merges:
        placement = merge.first
        paths.add(join(placement.piece.path, placement.piece.call_of[placement.site].path))
    return paths


def _put_modules(merge: Merge, modules: dict[str, nn.Module], target: nn.Module, places: Places) -> None:
    placement = merge.first
    piece = placement.piece
    convs = [m for m in merge.modules if m is not None]
    if placement.in_place:
        (conv,) = convs
        replace(target, join(piece.path, str(placement.site.target)), conv, places)
    else:
        owner = modules[join(piece.path, piece.call_of[placement.site].path)]
        for name, conv_or_none in zip(merge.names, merge.modules, strict=True):
            if name is not None and conv_or_none is not None:
                module_at(owner, placement.holder)._modules[name.rpartition(".")[2]] = conv_or_none
    for node in placement.swapped:
        replace(target, join(piece.path, str(node.target)), nn.Identity().eval(), places)


def places_of(target: nn.Module) -> Places:
    """Where each module is held: by whom, and under which names."""
    places: Places = defaultdict(list)
    for _, parent in walk(target):
        for name, child in parent._modules.items():
            if child is not None:
                places[child].append((parent, name))
    return places


def replace(target: nn.Module, path: str, module: nn.Module, places: Places) -> None:
    """Let ``module`` take the place of the one at ``path``, under all of its names."""
    old = module_at(target, path)
    for key, value in _extras(old, module).items():
        setattr(module, key, value)
    for parent, name in places[old]:
        if parent._modules.get(name) is old:  # it may have been taken out
            parent._modules[name] = module
    places[module] = places[old]


def _extras(old: nn.Module, new: nn.Module) -> dict[str, object]:
    """What code may read off a module besides its weights: its settings, and a detector's ``m.i`` and ``m.f``."""
    return {k: v for k, v in vars(old).items() if not k.startswith("_") and k not in vars(new)}


def _put_forward(module: nn.Module, scope: Scope) -> None:
    for name, tensor in scope.constants.items():
        module._buffers[name] = tensor  # its class may have a register_buffer or a __setattr__ of its own
        vars(module)["_non_persistent_buffers_set"] = {*module._non_persistent_buffers_set, name}
    if isinstance(module, fx.GraphModule):
        module.graph = scope.graph
    else:
        reads = _still_there(module, scope.reads())
        install(module, Forward.of(scope.graph, scope.guards, reads, scope.tensors, scope.present))


def _still_there(module: nn.Module, reads: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Those of the values that code read off modules in ``module`` which somebody could still read, or change."""
    kept = {}
    for (path, name), value in reads.items():
        try:
            found = getattr(module_at(module, path), name)
        except (AttributeError, KeyError):
            continue
        if found is value or (type(found) is type(value) and found == value):
            kept[path, name] = value
    return kept


def _remove(target: nn.Module, path: str) -> None:
    """Take the child, parameter or buffer at ``path`` out; in a list the others keep their places."""
    owner_path, _, name = path.rpartition(".")
    owner = module_at(target, owner_path)
    if name in owner._parameters:
        owner._parameters[name] = None
    elif name in owner._buffers:
        owner._buffers[name] = None
        if name == "running_mean" and isinstance(owner, nn.modules.batchnorm._NormBase):
            owner.num_batches_tracked = None
    elif isinstance(owner, nn.Sequential | nn.ModuleList):
        owner._modules[name] = nn.Identity().eval()
    elif name in owner._modules:
        del owner._modules[name]


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in tensors(module))
