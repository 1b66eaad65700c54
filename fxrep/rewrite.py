"""Carry a plan out on a model of the same structure: new modules in, new forwards, dead ones out."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from .capture.forward import Forward, install
from .capture.scopes import Scope
from .capture.tracer import builtin_type, join
from .capture.walk import tensors
from .plan import Merge, Plan


def rewrite(plan: Plan, target: nn.Module) -> None:
    """Apply ``plan`` to ``target``, which has the structure of the model that was planned on."""
    modules = {full: target.get_submodule(full) for full in _paths(plan)}
    for merge in plan.merges:
        _put_modules(merge, modules, target)
    for call, (piece, scope) in plan.scopes.items():
        _put_forward(modules[join(piece.path, call.path)], scope)
    for path in plan.removals:
        _remove(target, path)
    for call, (piece, scope) in plan.scopes.items():
        path = join(piece.path, call.path)
        if path and scope.passes_on(modules[path]) and not _has_weights(modules[path]):
            _replace(target, path, nn.Identity().eval())


def _paths(plan: Plan) -> set[str]:
    """The paths of the modules that get new children or a new forward."""
    paths = {join(piece.path, call.path) for call, (piece, _) in plan.scopes.items()}
    for merge in plan.merges:
        placement = merge.first
        paths.add(join(placement.piece.path, placement.piece.call_of[placement.site].path))
    return paths


def _put_modules(merge: Merge, modules: dict[str, nn.Module], target: nn.Module) -> None:
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
    for node in placement.swapped:
        _replace(target, join(piece.path, str(node.target)), nn.Identity().eval())


def _replace(target: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    children = target.get_submodule(parent)._modules
    for key, value in _extras(children[name]).items():
        setattr(module, key, value)
    children[name] = module


def _extras(module: nn.Module | None) -> dict[str, object]:
    """What the user hung on a module of torch's own: a detector's ``m.i`` and ``m.f``, say."""
    kind = builtin_type(module) if module is not None else None
    if module is None or kind is None:
        return {}
    make: Any = kind
    usual = vars(make(1, 1, 1) if issubclass(kind, nn.modules.conv._ConvNd) else make(1))
    return {k: v for k, v in vars(module).items() if k not in usual and not k.startswith("_")}


def _put_forward(module: nn.Module, scope: Scope) -> None:
    for name, tensor in scope.constants.items():
        module.register_buffer(name, tensor, persistent=False)
    if isinstance(module, fx.GraphModule):
        module.graph = scope.graph
    else:
        install(module, Forward.of(scope.graph, scope.guards))


def _remove(target: nn.Module, path: str) -> None:
    """Take the child, parameter or buffer at ``path`` out; in a list the others keep their places."""
    owner_path, _, name = path.rpartition(".")
    owner = target.get_submodule(owner_path)
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
