"""Modules and tensors of a model with their paths, in one walk: several times as fast as ``named_parameters``.

Unlike torch's own walks, they come as lists, in the order of the model, and a module that holds one of those around it
ends the walk there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def walk(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module, each once, by its first path."""
    found = [("", root)]
    _walk("", root, {root}, found, once=True)
    return found


def walk_paths(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module, by every path to it."""
    found = [("", root)]
    _walk("", root, {root}, found, once=False)
    return found


def _walk(
    path: str, module: nn.Module, seen: set[nn.Module], found: list[tuple[str, nn.Module]], *, once: bool
) -> None:
    """Add what is in ``module`` to ``found``, but for those ``seen``: anywhere, or else only on the way here.

    Not a function inside the others: one that calls itself would leave a cycle to the collector each time.
    """
    for name, child in module._modules.items():
        if child is not None and child not in seen:
            below = f"{path}.{name}" if path else name
            found.append((below, child))
            if once or child._modules:
                seen.add(child)
            if child._modules:
                _walk(below, child, seen, found, once=once)
                if not once:
                    seen.remove(child)


def first_paths(root: nn.Module) -> dict[nn.Module, str]:
    """The first path of every module."""
    return {module: path for path, module in walk(root)}


def named_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every registered parameter and buffer, by every path to it."""
    for path, module in walk_paths(root):
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    yield f"{path}.{name}" if path else name, tensor


def tensors(root: nn.Module) -> Iterator[Tensor]:
    """Every registered parameter and buffer."""
    for module in modules_in(root):
        for own in (module._parameters, module._buffers):
            for tensor in own.values():
                if tensor is not None:
                    yield tensor


def parameters_of(root: nn.Module) -> list[nn.Parameter]:
    """A model's parameters, each once."""
    found = {id(p): p for module in modules_in(root) for p in module._parameters.values() if p is not None}
    return list(found.values())


def modules_in(root: nn.Module) -> list[nn.Module]:
    """A module and those in it: most have none."""
    return [module for _, module in walk(root)] if root._modules else [root]


def count_parameters(root: nn.Module) -> int:
    """How many numbers a model's parameters hold, each parameter once."""
    return sum(p.numel() for p in parameters_of(root))


def place_of(tensor: Tensor) -> int:
    """Where a tensor's content is; what has no such place, as a sparse one, is in none of another's."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return -id(tensor)


def bytes_of(tensor: Tensor) -> int:
    """How many bytes a tensor holds; of a sparse one, those of its values."""
    if tensor.layout is torch.strided:
        return tensor.nbytes
    values: Tensor = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    return values.nbytes


def find_tensor(root: nn.Module, path: str) -> Tensor | None:
    """The tensor at a dotted path, if there is one."""
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, Tensor) else None


def module_at(root: nn.Module, path: str) -> Any:
    """The module at a path, in a way that a trace does not take for its code's, and that no code of its own answers."""
    found: Any = root
    for name in path.split(".") if path else ():
        found = vars(found)["_modules"][name]
    return found


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
