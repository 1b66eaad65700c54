"""What a node of a trace gives, as far as that is known before it runs: a tensor, several, or it cannot be told."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from .kinds import builtin_type, is_number, why_opaque
from .walk import module_at

VALUES = (Tensor, fx.Proxy)  # a merged model may be traced, too
TENSOR = {Tensor, "Tensor", "torch.Tensor"}
PARTS = {"data", "real", "imag", "T", "H", "mT", "mH"}
"""The attributes of a tensor that are tensors, too."""
CASTS = {"float", "double", "half", "bfloat16", "int", "long", "short", "bool"}
ANYTHING = "fxrep: anything"
"""In the ``meta`` of an input that code which is not traced gives."""
SPLITS = {
    "chunk": ("parts", "chunks"),
    "split": ("parts", "split_size_or_sections", "split_size"),
    "split_with_sizes": ("parts", "split_sizes"),
}
"""What takes a value apart, and under which names it is told into how many parts, or into parts of which size."""
SINGLE, SEVERAL, UNKNOWN = "a tensor", "tensors", "cannot be told"


def call_as_is(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a method from a merged forward, which was made for one that gives a tensor."""
    result = method(*args, **kwargs)
    if not isinstance(result, VALUES):
        name = getattr(method, "__name__", "a method")
        raise TypeError(f"this module was merged by fxrep for a tensor from {name}(), not for {result!r}")
    return result


def gives_tensor(node: fx.Node, root: nn.Module) -> bool:
    """Whether what ``node`` gives is certainly one tensor; ``root`` is the module that is traced."""
    return _gives(node, root) == SINGLE


def _gives(node: fx.Node, root: nn.Module) -> str:
    if node.op == "placeholder":  # an input of the model is taken for a tensor
        return UNKNOWN if node.meta.get(ANYTHING) else SINGLE
    if node.op == "get_attr":
        return SINGLE
    if node.op == "call_module":
        return _called(module_at(root, str(node.target)), node, root)
    if node.target is operator.getitem:
        whole, index = node.args
        several = isinstance(whole, fx.Node) and _gives(whole, root)
        return SINGLE if several == SINGLE or (several == SEVERAL and isinstance(index, int)) else UNKNOWN
    if node.target is getattr:
        whole, name = node.args[:2]
        return SINGLE if name in PARTS and isinstance(whole, fx.Node) and _gives(whole, root) == SINGLE else UNKNOWN
    if node.op == "call_method":
        whole = node.args[0]
        known = isinstance(whole, fx.Node) and _gives(whole, root) == SINGLE
        return _by_schema(str(node.target)) if known and not node.kwargs.get("as_tuple") else UNKNOWN
    if node.kwargs.get("as_tuple"):
        return UNKNOWN
    return SINGLE if _combines_tensors(node, root) else _by_function(node.target)


def _combines_tensors(node: fx.Node, root: nn.Module) -> bool:
    """Whether an operator of Python's is given tensors and numbers, or what other operators make of such."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        n = waiting.pop()
        if getattr(n.target, "__module__", None) == "_operator" and n.target is not operator.getitem:
            if any(isinstance(argument, list | tuple | dict) for argument in n.args):
                return False
            waiting += [i for i in n.all_input_nodes if i not in seen and not is_number(i)]
            seen.update(n.all_input_nodes)
        elif n is node or _gives(n, root) != SINGLE:
            return False
    return bool(seen)


def _called(module: nn.Module, node: fx.Node, root: nn.Module) -> str:
    kind = builtin_type(module)
    if kind is None or "forward" in vars(module) or module._forward_hooks:
        return UNKNOWN
    if kind is nn.Identity or issubclass(kind, nn.modules.dropout._DropoutNd):
        given = node.args[0] if node.args else None
        return _gives(given, root) if isinstance(given, fx.Node) else UNKNOWN
    if _is_annotated(kind.forward) or getattr(module, "return_indices", None) is False:
        return SINGLE
    return UNKNOWN


@functools.lru_cache(maxsize=1024)
def _by_function(function: Callable[..., Any]) -> str:
    if function is call_as_is:
        return SINGLE
    if (getattr(function, "__module__", None) or "torch").split(".")[0] != "torch":
        return UNKNOWN
    if inspect.isfunction(function) and _is_annotated(function):
        return SINGLE
    return _by_schema(getattr(function, "__name__", ""))


def _is_annotated(function: Callable[..., Any]) -> bool:
    return inspect.signature(function).return_annotation in TENSOR


@functools.lru_cache(maxsize=1024)
def _by_schema(name: str) -> str:
    """By the schemas of the operator's overloads for tensors."""
    if name.startswith("__i") or name in CASTS:
        return SINGLE
    packet = getattr(torch.ops.aten, name, None)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()] if packet is not None else []
    returns = [
        [str(value.type) for value in schema.returns]
        for schema in schemas
        if any("Tensor" in str(argument.type) for argument in schema.arguments)
    ]
    if not returns or not {"Tensor", "List[Tensor]"}.issuperset(itertools.chain(*returns)):
        return UNKNOWN
    return SINGLE if all(types == ["Tensor"] for types in returns) else SEVERAL


def count_of(node: fx.Node, root: nn.Module) -> int | None:
    """How many parts a node gives that takes a value apart, as its arguments and the number of channels say."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op not in ("call_method", "call_function") or name not in SPLITS:
        return None
    given = dict(zip(("input", "parts", "dim"), node.args, strict=False)) | dict(node.kwargs)
    parts = next((given[word] for word in SPLITS[name] if word in given), None)
    if isinstance(parts, list | tuple):
        return len(parts)
    channels = _channels(given.get("input"), root) if given.get("dim") == 1 else None
    if channels is None or not isinstance(parts, int) or parts < 1:
        return None
    return math.ceil(channels / (math.ceil(channels / parts) if name == "chunk" else parts))


def _channels(node: Any, root: nn.Module) -> int | None:
    """How many channels a value has, as the convolution or the norm says that it comes from."""
    while isinstance(node, fx.Node) and node.op == "call_module" and node.args:
        module = module_at(root, str(node.target))
        kind = builtin_type(module) if why_opaque(module) is None else None
        if kind is None:
            return None
        if issubclass(kind, nn.modules.conv._ConvNd):
            return int(vars(module)["out_channels"])
        if issubclass(kind, nn.modules.batchnorm._BatchNorm):
            return int(vars(module)["num_features"])
        if kind.__module__ != nn.ReLU.__module__ or kind in (nn.GLU, nn.MultiheadAttention):
            return None
        node = node.args[0]
    return None
