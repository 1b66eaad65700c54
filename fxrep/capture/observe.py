"""The shapes of the values of a model, seen on a run with example inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .piece import Piece
from .walk import first_paths, join, walk, walk_paths


@dataclass(frozen=True)
class Seen:
    """A call of a module: what went in and what came out, with tensors on the meta device: shapes without content."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass
class Observation:
    """The numbers of axes of each module's first input and of its output, by path; -1 where calls differ.

    ``calls`` are all calls of each module, by its first path; ``names``, the first path for every path.
    """

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    calls: dict[str, list[Seen]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def watch(self, model: nn.Module) -> None:
        """Record every call of a module of ``model`` from now on."""

        def hook(path: str) -> Any:
            def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                if args:
                    _note(self.inputs, path, args[0])
                _note(self.outputs, path, output)
                seen = Seen(*tree_map_only(Tensor, on_meta, (args, kwargs, output)))
                self.calls.setdefault(path, []).append(seen)

            return record

        for path, module in walk(model):
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                module.register_forward_hook(hook(path), with_kwargs=True)
        first = first_paths(model)
        self.names = {path: first[module] for path, module in walk_paths(model)}

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the tensors that the model was called with."""
        leaves = [leaf for call in self.seen("") for leaf in tree_leaves((call.args, call.kwargs))]
        return [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]

    def types(self) -> set[torch.dtype]:
        """The types of all tensors that entered and left modules."""
        leaves = tree_leaves([(call.args, call.kwargs, call.output) for calls in self.calls.values() for call in calls])
        return {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}

    def seen(self, path: str) -> list[Seen]:
        """The calls of the module at any path to it."""
        return self.calls.get(self.names[path], []) if path in self.names else []

    def arguments(self, path: str) -> tuple[Any, ...]:
        """The positional arguments of the only call of the module at a path, tensors without content."""
        calls = self.seen(path)
        return calls[0].args if len(calls) == 1 else ()

    def values(self, piece: Piece) -> dict[fx.Node, Tensor]:
        """What entered and left the modules of ``piece``, where all calls had the same shapes and types."""
        found: dict[fx.Node, Tensor] = {}

        def note(node: Any, values: list[Any]) -> None:
            alike = {(v.shape, v.dtype) if isinstance(v, Tensor) else None for v in values}
            if isinstance(node, fx.Node) and len(alike) == 1 and isinstance(values[0], Tensor):
                found.setdefault(node, values[0])

        for node, path, args in self._modules(piece):
            calls = self.seen(path)
            note(args[0] if args else None, [call.args[0] if call.args else None for call in calls])
            note(node, [call.output for call in calls])
        return found

    def _modules(self, piece: Piece) -> Iterator[tuple[Any, str, tuple[Any, ...]]]:
        """What each call of a module gives, the module's path, and what it is given."""
        for call in piece.calls:
            yield call.output, join(piece.path, call.path), call.args
        for node in piece.graph.nodes:
            if node.op == "call_module":
                yield node, join(piece.path, str(node.target)), node.args

    def ranks(self, piece: Piece) -> dict[fx.Node, int]:
        """The number of spatial axes of the values of ``piece`` that enter or leave a module."""
        found: dict[fx.Node, int] = {}

        def seen(node: Any, axes: int | None) -> None:
            if isinstance(node, fx.Node) and axes is not None and axes >= 2:
                found.setdefault(node, axes - 2)

        for node, path, args in self._modules(piece):
            seen(args[0] if args else None, self.inputs.get(path))
            seen(node, self.outputs.get(path))
        return found


def on_meta(tensor: Tensor) -> Any:
    """A tensor of the same shape and type without content; ``NotImplemented`` for what is not a plain array."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return NotImplemented
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _note(axes: dict[str, int], path: str, value: Any) -> None:
    if isinstance(value, Tensor):
        axes[path] = value.dim() if axes.get(path, value.dim()) == value.dim() else -1
