"""Input that cannot be rewritten, named before anything is touched."""

from __future__ import annotations

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from .walk import named_tensors


def check_model(model: object) -> nn.Module:
    """Return ``model`` if the pass can take it.

    Raises:
        TypeError: it is not an ``nn.Module``, or it is compiled TorchScript.
        ValueError: it is in training mode, has uninitialised lazy modules, or holds meta tensors.
    """
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
    for name, tensor in named_tensors(model):
        if is_lazy(tensor):
            raise ValueError(f"'{name}' is a lazy, uninitialised parameter; run the model once on an example input")
        if tensor.is_meta:
            raise ValueError(f"'{name}' is on the meta device and has no values; load the weights first")
    return model


def _describe(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
