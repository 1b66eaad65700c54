"""The symbols that a model is run on: they record in-place operators as what they are."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

from .kinds import is_number

INPLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}


class InplaceMixin:
    """Records in-place operators as what they are."""

    tracer: Any

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("node", "tracer", "root", "attr", "_node", "_tensor"):
            raise TypeError(f"an attribute of a tensor, .{name}, is assigned")
        object.__setattr__(self, name, value)

    def __int__(self) -> int:
        return self.tracer.refuse(int)  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return self.tracer.refuse(float)  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_method", "__setitem__", (self, index, value), {})


def _record(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name.replace("__i", "__"))

    def inplace(self: Any, other: Any) -> Any:
        if is_number(self.node):  # a number is replaced, not changed
            return self.tracer.create_proxy("call_function", plain, (self, other), {})
        return self.tracer.create_proxy("call_method", name, (self, other), {})

    return inplace


for _name in INPLACE:
    setattr(InplaceMixin, _name, _record(_name))


class InplaceAttribute(InplaceMixin, Attribute):
    """``x.attr``, with in-place operators."""

    def __repr__(self) -> str:
        """In the message of an assertion, which alone is no reason to record it."""
        return f"{self.root}.{self.attr}"


class InplaceProxy(InplaceMixin, fx.Proxy):
    """A value of the traced program, with in-place operators."""

    def __getattr__(self, name: str) -> Any:
        if self.node.op == "placeholder" and not hasattr(
            Tensor, name
        ):  # so that hasattr() tells what holds at run time
            raise AttributeError(f"an input is taken for a tensor, which has no attribute '{name}'")
        return InplaceAttribute(self, name)


class TensorProxy(InplaceProxy):
    """A parameter or buffer: its shape is known while tracing, its values are not."""

    def __init__(self, tracer: Any, node: fx.Node, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self._tensor = tensor

    @property
    def shape(self) -> torch.Size:
        return self._tensor.shape

    @property
    def ndim(self) -> int:
        return self._tensor.ndim

    def size(self, dim: int | None = None) -> Any:
        return self._tensor.shape if dim is None else self._tensor.shape[dim]

    def dim(self) -> int:
        return self._tensor.dim()

    def numel(self) -> int:
        return self._tensor.numel()

    def __len__(self) -> int:
        return len(self._tensor)
