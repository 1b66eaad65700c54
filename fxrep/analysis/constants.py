"""What a program computes from parameters, buffers and numbers alone: known by its shape, computed when it is needed.

Most constants are asked for what they are and never merged, and they can be as large as the model's weights.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..capture.clone import with_tensors
from ..deferred import Deferred
from ..workspace import Workspace
from . import effects

LARGE = 2**14
"""Elements of a parameter that is worth a workspace."""


def _widened(constant: Tensor) -> Tensor:
    return constant.double() if constant.is_floating_point() else constant


def _without_content(constant: Tensor) -> Tensor:
    """What computes with it computes shapes and types alone."""
    return constant if constant.is_meta else torch.empty_like(constant, device="meta")


def _inputs(node: fx.Node) -> list[fx.Node]:
    """What the content of a constant depends on."""
    operand = effects.moved(node)
    return node.all_input_nodes if operand is None else [operand]


class Constants(ABC):
    """The constants of a program, which says what its nodes call, read and write to."""

    def __init__(self) -> None:
        self._constants: dict[fx.Node, Tensor | None] = {}
        self._computed: set[fx.Node] = set()  # the constants that are known without their content
        self._untyped: set[fx.Node] = set()  # those of another type than the program has them in
        self._deferred: dict[fx.Node, Deferred] = {}
        self._workspace = Workspace()
        self._kept: dict[tuple[fx.Node, bool], Tensor] = {}

    @abstractmethod
    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""

    @abstractmethod
    def tensor(self, node: fx.Node) -> Tensor | None:
        """The parameter or buffer that a node reads."""

    @abstractmethod
    def is_written(self, node: fx.Node) -> bool:
        """Whether somebody writes to a node's value."""

    @abstractmethod
    def is_function(self, module: nn.Module) -> bool:
        """Whether a call of a module gives the same for the same input, with weights that stay what they are."""

    def constant(self, value: Any) -> Tensor | None:
        """``value`` as a tensor if it depends on parameters, buffers and numbers alone; None if not.

        A parameter comes back as it is. Whatever is computed from parameters comes back without content: whether it is
        a constant, and of which shape, is asked of every operator, and most are never merged.
        """
        if isinstance(value, fx.Node):
            if value not in self._constants:
                self._constants[value] = self._infer(value)
            return self._constants[value]
        if isinstance(value, bool | int | float):
            return torch.tensor(float(value), dtype=torch.float64)
        return value if isinstance(value, Tensor) else None

    def weight(self, value: Any) -> Tensor | Deferred | None:
        """A constant with its content: a parameter as it is; what is computed from parameters, in float64, when needed.

        It is as large as the model's weights.
        """
        constant = self.constant(value)
        if constant is None or value not in self._computed:
            return constant
        if value not in self._deferred:
            leaf = self.leaf(value)
            device = next(self._lasting(value)).device if leaf is None else leaf.device
            self._deferred[value] = Deferred(constant, device, functools.partial(self._compute, value))
        return self._deferred[value]

    def leaf(self, value: Any) -> Tensor | None:
        """The first floating-point parameter or buffer that a constant is computed from."""
        if not isinstance(value, fx.Node) or self.constant(value) is None:
            return None
        if value.op == "get_attr":
            tensor = self.tensor(value)
            return tensor if tensor is not None and tensor.is_floating_point() else None
        leaves = (self.leaf(argument) for argument in _inputs(value))
        return next((leaf for leaf in leaves if leaf is not None), None)

    def dtype(self, value: Any) -> torch.dtype | None:
        """The type of a constant as the program computes it, from parameters in their own types; None without any."""
        constant, leaf = self.constant(value), self.leaf(value)
        if constant is None or leaf is None:
            return None
        if value not in self._untyped:
            return constant.dtype
        known: dict[fx.Node, Any] = {}

        def on_meta(node: fx.Node) -> Any:
            if node not in known and (operand := effects.moved(node)) is not None:
                known[node] = on_meta(operand)
            elif node not in known:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), on_meta)
                function: Any = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
                tensor = self.tensor(node) if node.op == "get_attr" else None
                known[node] = function(*args, **kwargs) if tensor is None else torch.empty_like(tensor, device="meta")
            return known[node]

        try:
            return on_meta(value).dtype  # type: ignore[no-any-return]
        except Exception:  # a module, say, which has its own type
            return leaf.dtype

    def _infer(self, node: fx.Node) -> Tensor | None:
        """What ``constant`` says of a node, by the shapes of what it is computed from; by content where it must."""
        if node.op == "get_attr":
            tensor = self.tensor(node)
            return None if tensor is None or self.is_written(node) else tensor
        module = self.module(node)
        if module is not None and not self.is_function(module):
            return None
        inputs: dict[fx.Node, Tensor] = {}
        for n in _inputs(node):
            tensor = self.constant(n)
            if tensor is None:
                return None
            inputs[n] = tensor
        if not inputs or (module is None and not effects.is_deterministic(node)) or self.is_written(node):
            return None
        if effects.jumps(node) and effects.moved(node) is None:
            try:
                result = self._own(node, {})
            except Exception:
                return None
            return result if isinstance(result, Tensor) else None
        if not self._untyped.isdisjoint(inputs):
            self._untyped.add(node)
        try:
            result = self._infer_call(node, inputs)
            if isinstance(result, Tensor) and result.is_meta:
                self._computed.add(node)
        except Exception:  # it looks at the content
            try:
                result = self._call(node, {n: self._content(n, {}, []) for n in inputs})
            except Exception:
                return None
            self._untyped.add(node)
        if isinstance(result, bool | int | float):
            self._untyped.add(node)
            return torch.tensor(float(result), dtype=torch.float64)
        return result if isinstance(result, Tensor) else None

    def _infer_call(self, node: fx.Node, inputs: dict[fx.Node, Tensor]) -> Any:
        """What a node makes of constants without content."""
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and node.op != "call_module" and effects.name_of(node) in effects.POINTWISE:
            return _without_content(inputs[first])  # a batch norm of torch's without content takes a millisecond
        return self._call(node, {n: _without_content(tensor) for n, tensor in inputs.items()}, _without_content)

    def _compute(self, node: fx.Node) -> Tensor:
        """The content of a constant, in memory of its own."""
        known: dict[int, Tensor] = {}
        spare = [] if torch.is_grad_enabled() else [self._workspace]
        result: Tensor = self._call(node, {n: self._content(n, known, spare) for n in _inputs(node)})
        lasting = {tensor.untyped_storage().data_ptr() for tensor in (self._workspace.buffer, *self._lasting(node))}
        own = result.is_contiguous() and result.untyped_storage().data_ptr() not in lasting
        return result if own else result.clone()

    def _content(self, node: fx.Node, known: dict[int, Tensor], spare: list[Workspace]) -> Tensor:
        """The content of a constant, in float64; ``known`` are the parameters that were converted for the same result.

        What several operators read is computed once, with and without gradients. A large parameter is converted in a
        ``spare`` workspace.
        """
        if node not in self._computed:
            tensor = self._constants[node]
            assert tensor is not None
            if id(tensor) in known:
                return known[id(tensor)]
            narrow = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
            if spare and narrow and tensor.numel() >= LARGE:
                known[id(tensor)] = spare.pop().like(tensor, tensor.device).copy_(tensor)
            else:
                known[id(tensor)] = _widened(tensor)
            return known[id(tensor)]
        key = node, torch.is_grad_enabled()
        if key in self._kept:
            return self._kept[key]
        shared = len(node.users) > 1
        if shared:
            known, spare = {}, []  # which the result may be a view of
        result: Tensor = self._call(node, {n: self._content(n, known, spare) for n in _inputs(node)})
        if shared:
            self._kept[key] = result
        return result

    def _lasting(self, node: fx.Node) -> Iterator[Tensor]:
        """What a constant is computed from that outlives the computation."""
        for n in _inputs(node):
            known = self._constants[n] if n not in self._computed else self._kept.get((n, torch.is_grad_enabled()))
            if known is None:
                yield from self._lasting(n)
            else:
                yield known

    def _call(self, node: fx.Node, inputs: dict[fx.Node, Tensor], cast: Callable[[Tensor], Tensor] = _widened) -> Any:
        """What a node makes of constants, with a module's weights as ``cast`` makes them."""
        if (operand := effects.moved(node)) is not None:  # all of a region is computed in one place
            return inputs[operand]
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), inputs.__getitem__)
        module = self.module(node)
        function: Any = node.target
        if module is not None:
            function = with_tensors(module, cast).forward
        elif node.op == "call_method":
            function = getattr(Tensor, str(node.target))
        return function(*args, **kwargs)

    def _own(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        """A constant as the program itself computes it, in its own types: a step is where it has it."""
        if node not in known:
            inputs = {n: self._own(n, known) for n in _inputs(node)}
            known[node] = (
                self.tensor(node) if node.op == "get_attr" else self._call(node, inputs, lambda tensor: tensor)
            )
        return known[node]
