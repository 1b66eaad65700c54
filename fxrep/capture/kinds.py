"""What a node or a module is: a number, one of torch.nn's own modules, one whose call does more than its forward."""

from __future__ import annotations

import functools
import inspect
import weakref
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.modules import module as module_call

from .libraries import home_of
from .walk import modules_in

CALL = ("forward", "_conv_forward", "_check_input_dim", "_output_padding")  # what a call of torch.nn's modules runs
# By what names functions and modules have what a norm updates where it normalises by its batch, and whether it does.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
NORMS = ("batch_norm", "instance_norm")  # in the names of those that may
TRAINS = ("training", "train", "use_input_stats")
UPDATES_NONE = ("no_training", "no_update", "functional", "backward")  # in the names of operators that never do
METADATA_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "requires_grad", "is_cuda", "layout", "is_sparse"}
METADATA_METHODS = {"size", "dim", "ndimension", "numel", "nelement", "is_contiguous", "stride", "is_floating_point"}


def reads_metadata(node: fx.Node) -> bool:
    """Whether a node looks at a tensor's shape, type or place only."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in METADATA_ATTRIBUTES
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket.__name__).startswith("sym_")  # sym_size, sym_numel, ...
    return node.op == "call_method" and node.target in METADATA_METHODS


def is_number(node: fx.Node) -> bool:
    """Whether a node computes a size or the like from tensors' shapes and types: ``h += 1`` makes a new number."""
    if reads_metadata(node):
        return True
    if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
        return False
    inputs = node.all_input_nodes
    computed = all(n.op in ("call_function", "call_method") for n in inputs)  # most nodes read something else, too
    return computed and bool(inputs) and all(map(is_number, inputs))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """What a function of torch's is called with, by the names that it has for it; empty if they are not known."""
    target: Any = node.target
    if isinstance(target, BuiltinFunctionType):  # torch.batch_norm
        target = getattr(torch.ops.aten, target.__name__, None)
    overload = getattr(target, "default", target)
    if isinstance(overload, OpOverload):
        defaults = {a.name: a.default_value for a in overload._schema.arguments}
    elif inspect.isfunction(overload):
        torchs = (overload.__module__ or "").startswith("torch.")
        defaults = _torchs_defaults(overload) if torchs else _defaults(overload)
    else:
        return {}
    return defaults | dict(zip(defaults, node.args, strict=False)) | dict(node.kwargs)


def _defaults(function: FunctionType) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


_torchs_defaults = functools.cache(_defaults)  # which nobody changes


def mode_of(given: dict[str, Any]) -> Any:
    """Whether what is called with these arguments is in training mode; None if it has no mode."""
    return next((given[name] for name in TRAINS if name in given), None)


def updated_tensors(module: nn.Module) -> list[Tensor]:
    """What a call of a module writes to.

    The running statistics of the norms in it that are in training mode, and tables of which the rows that are read are
    kept short.
    """
    found: list[Tensor] = []
    for m in modules_in(module):
        if getattr(m, "training", False) or _ignores_mode(m):  # a frozen script has no mode
            found += [t for name, t in m._buffers.items() if name in STATISTICS and t is not None]
        if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None:
            found.append(m.weight)
    return found


def _ignores_mode(module: nn.Module) -> bool:
    """An instance norm that was told not to use its statistics still updates them."""
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats


def is_builtin(module: nn.Module) -> bool:
    """Whether a module is one of torch.nn's own, or inherits from one without changing what a call does."""
    if isinstance(module, nn.Sequential):
        return False
    base = builtin_type(module)
    return home_of(type(module)).startswith(("torch.nn.", "torch.ao.")) or base is not None


def builtin_type(module: nn.Module) -> type[nn.Module] | None:
    """The torch.nn class that decides what a call of ``module`` does; None if somebody else's code does."""
    kind = type(module)
    if kind not in _BUILTIN:
        _BUILTIN[kind] = _builtin_base(kind)
    return _BUILTIN[kind]


_BUILTIN: weakref.WeakKeyDictionary[type[nn.Module], type[nn.Module] | None] = weakref.WeakKeyDictionary()


def _builtin_base(kind: type[nn.Module]) -> type[nn.Module] | None:
    for base in kind.__mro__:
        if home_of(base).startswith("torch.nn.modules."):
            same = all(getattr(kind, m, None) is getattr(base, m, None) for m in ("__call__", *CALL))
            plain = base is not nn.Module and not issubclass(base, nn.Sequential)
            return base if same and plain else None
    return None


def why_opaque(module: nn.Module) -> str | None:
    """Why a call of ``module`` may do something else than its forward says; None if it does not."""
    for attribute, name in (
        ("_forward_pre_hooks", "forward pre-hook"),
        ("_forward_hooks", "forward hook"),
        ("_backward_hooks", "backward hook"),
        ("_backward_pre_hooks", "backward pre-hook"),
    ):
        hooks = getattr(module, attribute, None)
        if hooks:
            return f"{name} {_hook_name(next(iter(hooks.values())))}"
    for hooks in (module_call._global_forward_pre_hooks, module_call._global_forward_hooks):
        if hooks:
            return f"the hook {_hook_name(next(iter(hooks.values())))} is on every module"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript"
    replaced = next((method for method in CALL if method in vars(module)), None)
    if replaced is not None:
        return f"its {replaced} is replaced on the instance"
    if isinstance(module, nn.Sequential) and home_of(type(module)).startswith("torch.nn.utils"):
        return "it is parametrized"
    return None


def _hook_name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__name__))


def forget_types() -> None:
    """Look at every class anew: somebody may have given one another forward since."""
    _BUILTIN.clear()
