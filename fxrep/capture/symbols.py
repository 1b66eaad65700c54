"""The symbols that a model is run on: they record in-place operators as what they are."""

from __future__ import annotations

import operator
import sys
from abc import abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute

from .bytecode import asks_for_class
from .kinds import METADATA_ATTRIBUTES, is_number, reads_metadata
from .results import count_of, gives_tensor

METADATA_TYPES: dict[str, type] = {
    "shape": torch.Size, "size": torch.Size, "stride": tuple, "dtype": torch.dtype, "device": torch.device, "ndim": int,
    "layout": torch.layout, "requires_grad": bool, "is_cuda": bool, "is_sparse": bool, "is_contiguous": bool,
    "is_floating_point": bool,
}  # fmt: skip

MESSAGES = {"_assert", "print", "warn", "warning", "info", "debug", "log"}
"""What takes a text to show it."""
INPLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}


class InplaceMixin:
    """Records in-place operators as what they are."""

    tracer: Any

    @abstractmethod
    def kind(self) -> type:
        """The class of the value that there will be; where that is not known, the code that asks is not traced."""

    @abstractmethod
    def _is_metadata(self) -> bool:
        """Whether this is a size, a type or the like."""

    @abstractmethod
    def _text(self) -> str: ...

    def _result(self: Any) -> type:
        return Tensor if gives_tensor(self.node, self.tracer.root) else self.tracer.refuse(type)

    def _number(self: Any) -> type:
        known = number_type(self.node) if reads_tensors(self.node, self.tracer.root) else None
        return known or self.tracer.refuse(type)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("node", "tracer", "root", "attr", "_node", "_tensor"):
            raise TypeError(f"an attribute of a tensor, .{name}, is assigned")
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        """A tensor is a key by its identity, a size or a type by its value."""
        if self._is_metadata() and not self.tracer.trying:
            self.tracer.refuse(hash)
        return object.__hash__(self)

    def __repr__(self) -> str:
        """In the message of an assertion, which alone is no reason to stop; elsewhere it may be compared."""
        frame = sys._getframe(1)
        while frame.f_code.co_name in ("__repr__", "__str__", "__format__") and frame.f_back is not None:
            frame = frame.f_back
        home = str(frame.f_globals.get("__name__")).split(".")[0]
        if home not in ("torch", "fxrep") and not self.tracer.trying and MESSAGES.isdisjoint(frame.f_code.co_names):
            self.tracer.refuse(str)
        return self._text()

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __int__(self) -> int:
        return self.tracer.refuse(int)  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return self.tracer.refuse(float)  # type: ignore[no-any-return]

    def __len__(self: Any) -> int:
        count = count_of(self.node, self.tracer.root)
        return self.tracer.refuse(int) if count is None else count

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

    @property
    def __class__(self) -> Any:
        if _is_asked(sys._getframe(1)):
            self.tracer.refuse(type)
        return METADATA_TYPES.get(self.attr, type(self))

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("the class of a value is assigned")

    def __getattr__(self, name: str) -> Any:
        return InplaceAttribute(self, name)

    def kind(self) -> type:
        return self._number() if self.attr in METADATA_TYPES else self._result()

    def _is_metadata(self) -> bool:
        return self.attr in METADATA_ATTRIBUTES or isinstance(self.root, Attribute)

    def _text(self) -> str:
        return f"{self.root._text()}.{self.attr}"


class InplaceProxy(InplaceMixin, fx.Proxy):
    """A value of the traced program, with in-place operators."""

    @property
    def __class__(self) -> Any:
        """Of a number, what ``isinstance`` asks for. Of a tensor, torch's own C code would take it for one."""
        if _is_asked(sys._getframe(1)):
            self.tracer.refuse(type)
        return (number_type(self.node) if is_number(self.node) else None) or type(self)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("the class of a value is assigned")

    def kind(self) -> type:
        return self._number() if is_number(self.node) else self._result()

    def _is_metadata(self) -> bool:
        return is_number(self.node)

    def _text(self) -> str:
        return f"Proxy({self.node.name})"

    def __getattr__(self, name: str) -> Any:
        if self.node.op == "placeholder" and not hasattr(
            Tensor, name
        ):  # so that hasattr() tells what holds at run time
            raise AttributeError(f"an input is taken for a tensor, which has no attribute '{name}'")
        return InplaceAttribute(self, name)


InplaceProxy.__name__ = "Tensor"  # what code asks for in x.__class__.__name__


class TensorProxy(InplaceProxy):
    """A parameter or buffer: its shape is known while tracing, its values are not."""

    def __init__(self, tracer: Any, node: fx.Node, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self._tensor = tensor

    def kind(self) -> type:
        return type(self._tensor)

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


def _is_asked(frame: FrameType | None) -> bool:
    """Whether code asks for a class by ``match`` or ``x.__class__``, which no function of its own answers."""
    while frame is not None and frame.f_code.co_name == "__instancecheck__":
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__")).split(".")[0] in ("torch", "fxrep"):
        return False
    return asks_for_class(frame.f_code, frame.f_lasti)


ARITHMETIC = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.pos}
COMPARISONS = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}


def number_type(node: fx.Node) -> type | None:
    """The type of what a node computes from sizes and the like; None where that is not plain to see."""
    if reads_metadata(node):
        name = node.args[1] if node.target is getattr else node.target
        if name in ("size", "stride") and len(node.args) + len(node.kwargs) > 1:
            return int
        return METADATA_TYPES.get(str(name), int)
    if node.target in COMPARISONS:
        return bool
    read = [number_type(a) if isinstance(a, fx.Node) else type(a) for a in node.args]
    if node.target is operator.getitem and read[0] in (torch.Size, tuple):
        return {slice: read[0], int: int}.get(read[1])  # type: ignore[arg-type]
    if node.kwargs or not {int, float}.issuperset(read):
        return None
    if node.target is operator.truediv:
        return float
    if node.target in ARITHMETIC or (node.target in (max, min) and len(set(read)) == 1):
        return float if float in read else int
    return None


def reads_tensors(node: fx.Node, root: nn.Module) -> bool:
    """Whether what a number is computed from is read off what are certainly tensors."""
    if reads_metadata(node):
        return all(gives_tensor(n, root) for n in node.all_input_nodes)
    return all(reads_tensors(n, root) for n in node.all_input_nodes)
