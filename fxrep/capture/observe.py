"""How many axes the values of a model have, seen on a run with example inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from .tracer import Piece, join
from .walk import walk


@dataclass
class Observation:
    """The numbers of axes of each module's first input and of its output, by path; -1 where calls differ."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def watch(self, model: nn.Module) -> None:
        """Record every call of a module of ``model`` from now on."""

        def hook(path: str) -> Any:
            def record(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if inputs:
                    _note(self.inputs, path, inputs[0])
                _note(self.outputs, path, output)

            return record

        for path, module in walk(model):
            module.register_forward_hook(hook(path))

    def ranks(self, piece: Piece) -> dict[fx.Node, int]:
        """The number of spatial axes of the values of ``piece`` that enter or leave a module."""
        found: dict[fx.Node, int] = {}

        def seen(node: Any, axes: int | None) -> None:
            if isinstance(node, fx.Node) and axes is not None and axes >= 2:
                found.setdefault(node, axes - 2)

        for call in piece.calls:
            path = join(piece.path, call.path)
            seen(call.args[0] if call.args else None, self.inputs.get(path))
            seen(call.output, self.outputs.get(path))
        for node in piece.graph.nodes:
            if node.op == "call_module":
                path = join(piece.path, str(node.target))
                seen(node.args[0] if node.args else None, self.inputs.get(path))
                seen(node, self.outputs.get(path))
        return found


def _note(axes: dict[str, int], path: str, value: Any) -> None:
    if isinstance(value, Tensor):
        axes[path] = value.dim() if axes.get(path, value.dim()) == value.dim() else -1
