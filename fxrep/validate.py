"""Proof on the spot: a region before against the same region after, in float64, on random input.

The input is as small as it can be with every tap of every kernel inside the image at some position and outside at
another, so that borders count. Before runs the region's own operators, one by one; after runs the convolution modules
that were built, with their weights before the cast to the model's type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from .analysis.regions import Region
from .capture.tracer import builtin_type
from .convmap import Cast, ConvMap, correlate

TOLERANCE = 1e-9


def run_before(region: Region, double: Cast, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Random values for the sources, in the order of the form's terms, and what the region makes of them.

    ``double`` casts a weight to float64.
    """
    generator = torch.Generator().manual_seed(0)
    output = _output_size(region.convolutions)
    values: dict[fx.Node, Tensor] = {}
    for term in region.form.terms:
        channels, size = _source_shape(region, term.map, output)
        if term.source not in values:
            x = torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
            values[term.source] = x.to(device)
    expected = _Before(region, values, double).run()
    return [values[t.source] for t in region.form.terms], expected


def relative_error(expected: Tensor, found: Tensor) -> float:
    """The largest error of a channel relative to its norm; infinity if either is not finite or the shapes differ."""
    if expected.shape != found.shape or not bool(torch.isfinite(expected).all() & torch.isfinite(found).all()):
        return math.inf
    difference = (found - expected).movedim(1, 0).flatten(1).norm(dim=1)
    size = expected.movedim(1, 0).flatten(1).norm(dim=1)
    floor = 1e-3 * size.norm() / max(1, len(size)) ** 0.5  # a channel that cancels out has no norm of its own
    return float((difference / (size + floor + torch.finfo(torch.float64).tiny)).max())


def run_conv(conv: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``conv``, an ``nn.Conv``, computes with other weights, in float64."""
    kind: Any = conv
    padding = kind.padding
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(kind.dilation, kind.kernel_size, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    elif padding == "valid":
        pads = [(0, 0)] * len(kind.kernel_size)
    else:
        pads = [(p, p) for p in padding]
    return _convolve(x, weight, bias, kind.stride, pads, kind.dilation, kind.groups, kind.padding_mode)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    mode: str,
) -> Tensor:
    if any(p for pair in pads for p in pair):
        flat = [p for pair in reversed(pads) for p in pair]
        x = F.pad(x, flat, mode="constant" if mode == "zeros" else mode)
    y = correlate(x, weight, stride, dilation, groups, weight.shape[2:])
    return y if bias is None else y + bias.view(-1, *(1,) * (y.dim() - 2))


def _output_size(convolutions: Sequence[ConvMap]) -> tuple[int, ...]:
    """The smallest output of which some position has each tap inside the image."""
    sizes: list[int] = []
    for axis in range(len(convolutions[0].taps)):
        size = 2
        for conv in convolutions:
            taps, extent, stride = conv.taps[axis], conv.extent[axis], conv.stride[axis]
            reach = max(-taps.first, taps.last + extent, 0)
            size = max(size, -(-reach // stride) + 1, -(-(reach + extent) // stride) + 1)
        sizes.append(size)
    return tuple(sizes)


def _source_shape(region: Region, map: object, output: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    if isinstance(map, ConvMap):
        return map.in_channels, map.input_size(output)
    return region.convolutions[0].out_channels, output


class _Before:
    """Runs a region's own operators in float64."""

    def __init__(self, region: Region, values: dict[fx.Node, Tensor], double: Cast) -> None:
        self.region, self.values, self.double = region, dict(values), double

    def run(self) -> Tensor:
        for node in self.region.nodes:
            self.values[node] = self._evaluate(node)
        return self.values[self.region.root]

    def _evaluate(self, node: fx.Node) -> Any:
        module = self.region.program.module(node)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self._value)
        if module is not None:
            return self._call(module, args, kwargs)
        function: Any = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
        return function(*args, **kwargs)

    def _call(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        kind = builtin_type(module)
        if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            conv: Any = module
            bias = None if conv.bias is None else self.double(conv.bias)
            x = args[0] if args else kwargs["input"]
            return run_conv(conv, x, self.double(conv.weight), bias)
        tensors = {n: self.double(t) for n, t in (*module.named_parameters(), *module.named_buffers())}
        return functional_call(module, tensors, args, kwargs)

    def _value(self, node: fx.Node) -> Any:
        if node in self.values:
            return self.values[node]
        program = self.region.program
        if node.op == "get_attr":
            tensor = program.tensor(node)
            return None if tensor is None else self.double(tensor.detach())
        linear = self.region.linear.get(node)
        if linear is not None and len(linear.operands) == 1:  # a pass-through between a source and its reader
            return self._value(linear.operands[0])
        return program.constant(node)
