"""Input that cannot be rewritten, named before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .exported import is_exported, lifted_weight
from .kinds import NORMS, STATISTICS, arguments_of, mode_of
from .walk import named_tensors


def check_model(model: object) -> nn.Module | ExportedProgram:
    """Return ``model`` if the pass can take it.

    Raises:
        TypeError: it is neither an ``nn.Module`` nor an ``ExportedProgram``, or it is compiled TorchScript.
        ValueError: it is in training mode, has uninitialised lazy modules, or holds meta tensors, or a
            ``FakeTensorMode`` is on.
    """
    if any(isinstance(mode, FakeTensorMode) for mode in _get_current_dispatch_mode_stack()):
        raise ValueError("a FakeTensorMode is on, in which no weight has a value; call fxrep outside of it")
    if is_exported(model):
        return _check_exported(model)
    if not isinstance(model, nn.Module):
        hint = "; pass an instance, not the class" if isinstance(model, type) else ""
        raise TypeError(f"fxrep rewrites an nn.Module, not {_describe(model)}{hint}")
    if isinstance(model, ScriptModule):
        raise TypeError(
            f"'{model.original_name}' is TorchScript, which torch.fx cannot trace; pass the model it was made from"
        )
    if model.training:
        raise ValueError(
            f"'{type(model).__name__}' is in training mode, where a BatchNorm depends on its batch and cannot be "
            "merged; call model.eval() first"
        )
    _check_values(named_tensors(model))
    return model


def _check_exported(model: ExportedProgram | fx.GraphModule) -> nn.Module | ExportedProgram:
    """A graph says of every operator by itself whether it trains; whether the model did when it was exported counts."""
    modes = ((node, _trains(node, model)) for node in _dependent(model))  # a norm may also standardise a weight
    training = [(node, mode) for node, mode in modes if mode is not None]
    if training and all(mode for _, mode in training):
        raise ValueError(
            f"this {type(model).__name__} was made from a model in training mode: '{training[0][0].name}' depends on "
            "its batch or on chance and cannot be merged; call model.eval() and export it again"
        )
    _check_values(model.state_dict().items() if isinstance(model, nn.Module) else model.state_dict.items())
    return model


def _dependent(model: ExportedProgram | fx.GraphModule) -> list[fx.Node]:
    """The nodes whose values are computed from an input of the program that is not a weight."""
    found: dict[fx.Node, None] = {}
    weights = set[str]()
    if isinstance(model, ExportedProgram):
        specs = model.graph_signature.input_specs
        weights = {spec.arg.name for spec in specs if spec.kind is not InputKind.USER_INPUT}
    for node in model.graph.nodes:
        given = node.op == "placeholder" and node.name not in weights and lifted_weight(node) is None
        if given or not found.keys().isdisjoint(node.all_input_nodes):
            found[node] = None
    return list(found)


def _trains(node: fx.Node, owner: object) -> bool | None:
    """Whether a norm or dropout of a graph is in training mode; None for others, and for a norm without statistics.

    Such a norm normalises by its batch in either mode.
    """
    if node.op == "call_module" and isinstance(owner, nn.Module):
        module = owner.get_submodule(str(node.target))
        own = isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd)
        own = own and getattr(module, "running_mean", module) is not None
        return module.training if own else None
    if "no_training" in str(node.target):
        return False
    given = arguments_of(node)
    norm = any(name in str(node.target) for name in NORMS)
    if norm and all(given.get(statistic) is None for statistic in STATISTICS):
        return None
    mode = mode_of(given)
    return mode if isinstance(mode, bool) else None


def _check_values(named: Iterable[tuple[str, object]]) -> None:
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            continue
        if is_lazy(tensor):
            raise ValueError(f"'{name}' is a lazy, uninitialised parameter; run the model once on an example input")
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            raise ValueError(f"'{name}' is on the meta device and has no values; load the weights first")


def _describe(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
