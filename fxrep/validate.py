"""Proof on the spot: a region before against the same region after, in float64, on random input.

The image is as small as it can be with every tap of every kernel inside it at some position and outside at another, so
that borders count; of the output, at most three positions along each axis are computed: the first, the middle and the
last, and all of them where one convolution reads another. Before runs the region's own operators, one by one; after
runs the convolution modules that were built, with their weights before the cast to the model's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .analysis.effects import name_of
from .analysis.forms import Term, Through
from .capture.clone import with_tensors
from .capture.kinds import builtin_type
from .convmap import ConvMap, correlate
from .cover.regions import Region
from .deferred import Cast
from .operators.aten import VIEWS, viewed
from .operators.conv import CONVOLUTIONS
from .operators.passing import CASTS
from .taps import Taps

TOLERANCE = 1e-9
NOISE = torch.randn(2**17, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
"""What most checks draw from: a megabyte."""

MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Check:
    """Random values for a region's sources, and what is computed from them.

    ``images`` are what convolutions read; ``samples``, what everything else reads: the values at the positions of the
    output that are computed.
    """

    def __init__(self, region: Region, device: torch.device) -> None:
        self.region = region
        convolutions = region.convolutions
        through = any(term.through for term in region.form.terms)
        whole = region.composes or through or any(map(self._is_transposed, region.nodes))  # every position is read
        self.unit = (1,) * len(convolutions[0].taps) if whole else _unit(convolutions)
        pooled = region.operators("pool") > 0
        output, self.every = _positions([_shrunk(conv, self.unit) for conv in convolutions], pooled)
        if whole:
            self.every = (1,) * len(output)
        sampled = tuple(-(-size // step) for size, step in zip(output, self.every, strict=True))
        self.noise = _Noise(device)

        ranks = region.program.ranks
        own = [term.source for term in region.form.terms if not term.through]
        lead = [2] * max((ranks.get(source, 0) for source in own), default=0) if not output else []

        def random(channels: int, size: Sequence[int]) -> Tensor:
            return self.noise.draw((1, *lead, channels, *size))

        self.images: dict[fx.Node, Tensor] = {}
        self.samples: dict[fx.Node, Tensor] = {}
        everywhere = (slice(None), slice(None), *(slice(None, None, step) for step in self.every))
        for term in sorted(region.form.terms, key=lambda term: len(term.through)):
            first = term.through[0] if term.through else None
            if first is not None and not (first.behind and output) and term.source not in self.images:
                channels = term.map.in_channels if isinstance(term.map, ConvMap) else convolutions[0].out_channels
                size = max(2, *term.map.input_size(output)) if isinstance(term.map, ConvMap) and output else 2
                axes = ranks[region.linear[first.node].operands[0]] + 2
                shape = (1, *[size] * (axes - 2 - first.rank), channels, *[size] * first.rank)
                self.images[term.source] = self.noise.draw(shape)
                self.samples[term.source] = self.images[term.source]
            elif isinstance(term.map, ConvMap) and term.source not in self.images:
                self.images[term.source] = random(term.map.in_channels, _shrunk(term.map, self.unit).input_size(output))
                self.samples[term.source] = self.images[term.source][everywhere]
        for term in region.form.terms:
            if term.source not in self.samples:
                self.samples[term.source] = random(convolutions[0].out_channels, sampled)

    def before(self, double: Cast) -> Tensor:
        """The region's output by its own operators; ``double`` casts a weight to float64."""
        self.values: dict[fx.Node, Any] = dict(self.samples)
        for node in self.region.nodes:
            self.values[node] = self._evaluate(node, double)
        result: Tensor = self.values[self.region.root]
        return result

    def read(self, term: Term, values: dict[fx.Node, Tensor]) -> Tensor:
        """The term's source, one of ``values``, behind what it goes through before it is convolved."""
        return self._pass([step for step in term.through if not step.behind], values[term.source])

    def hand_on(self, term: Term, value: Tensor) -> Tensor:
        """What a convolution gives, behind what it goes through after it."""
        return self._pass([step for step in term.through if step.behind], value)

    def _pass(self, steps: list[Through], value: Tensor) -> Tensor:
        for step in steps:
            (operand,) = self.region.linear[step.node].operands
            value = self._call(step.node, {operand: value}.__getitem__, _unchanged)
        return value

    @property
    def scale(self) -> float:
        """The largest norm of a channel, in the mean, of what ``before`` has come by."""
        tensors = [t for t in self.values.values() if isinstance(t, Tensor) and t.dim() > 1]
        return max((float(t.norm()) / max(1, t.shape[1]) ** 0.5 for t in tensors), default=0.0)

    def convolve(self, conv: nn.Module, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What ``conv``, an ``nn.Conv``, makes of an image with the given weights."""
        if isinstance(conv, nn.Linear):
            return F.linear(image, weight, bias)
        kind: Any = conv
        if isinstance(conv, nn.modules.conv._ConvTransposeNd):
            function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
            settings = kind.stride, kind.padding, kind.output_padding, kind.groups, kind.dilation
            result: Tensor = function(image, weight, bias, *settings)
            return result
        stride, padding, dilation = (_spread(v, weight.dim() - 2) for v in (kind.stride, kind.padding, kind.dilation))
        return self._convolve(image, weight, bias, stride, padding, dilation, kind.groups, kind.padding_mode)

    def _evaluate(self, node: fx.Node, double: Cast) -> Any:
        region = self.region
        module: Any = region.program.module(node)

        def value(n: fx.Node) -> Any:
            constant = n in self.samples and n not in region.linear[node].operands  # a source is a constant to others
            return self._constant(n, double) if constant else self._value(n, double)

        if module is not None and builtin_type(module) in MODULES:
            bias = None if module.bias is None else double(module.bias)
            return self.convolve(module, self._image(node), double(module.weight), bias)
        names = CONVOLUTIONS.get(node.target, "").split() if node.op == "call_function" else []
        if names and not self._is_transposed(node):
            given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
            weight = value(given["weight"])
            bias = None if given.get("bias") is None else value(given["bias"])
            rank = weight.dim() - 2
            stride, padding, dilation = (
                _spread(given.get(name, default), rank)
                for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
            )
            image = self._image(node)
            return self._convolve(image, weight, bias, stride, padding, dilation, given.get("groups", 1), "zeros")
        if node in region.program.fills:
            fill = region.program.fills[node]
            written = value(fill.value) if isinstance(fill.value, fx.Node) else fill.value
            return fill.run(node, value(fill.base), written)
        if node.target in CASTS:  # between values that have one type
            (operand,) = region.linear[node].operands
            return value(operand)
        return self._call(node, value, double)

    def _is_transposed(self, node: fx.Node) -> bool:
        module = self.region.program.module(node)
        arguments = CONVOLUTIONS.get(node.target, "").split() if node.op == "call_function" else []
        flag = arguments.index("transposed") if "transposed" in arguments else len(node.args)
        said = node.args[flag] if flag < len(node.args) else node.kwargs.get("transposed", False)
        return isinstance(module, nn.modules.conv._ConvTransposeNd) or "conv_transpose" in name_of(node) or said is True

    def _call(self, node: fx.Node, value: Callable[[fx.Node], Any], double: Cast) -> Any:
        module, linear = self.region.program.module(node), self.region.linear[node]
        if node.target in VIEWS:
            return viewed(node, value(linear.operands[0]), None if linear.like is None else self.values[linear.like])
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), value)
        if module is not None:
            return with_tensors(module, double).forward(*args, **kwargs)
        function: Any = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
        return function(*args, **kwargs)

    def _image(self, node: fx.Node) -> Tensor:
        """What a convolution reads: a source, through what passes it on, or what the region computes from it."""
        (operand,) = self.region.linear[node].operands
        while operand not in self.images:
            if operand in self.values:
                computed: Tensor = self.values[operand]
                return computed
            (operand,) = self.region.linear[operand].operands
        return self.images[operand]

    def _value(self, node: fx.Node, double: Cast) -> Any:
        if node in self.values:
            value = self.values[node]
            return value.clone() if node in self.samples else value  # an in-place operator must not write to a source
        if node.op == "get_attr" or self.region.program.weight(node) is not None:
            return self._constant(node, double)
        (operand,) = self.region.linear[node].operands  # passes a source on
        return self._value(operand, double)

    def _constant(self, node: fx.Node, double: Cast) -> Tensor | None:
        program = self.region.program
        tensor = program.tensor(node) if node.op == "get_attr" else program.weight(node)
        return None if tensor is None else double(tensor)

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int] | str,
        dilation: Sequence[int],
        groups: int,
        mode: str,
    ) -> Tensor:
        counts = weight.shape[2:]
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, counts, strict=True)]
            pads = [(total // 2, total - total // 2) for total in totals]
        else:
            pads = [(0, 0)] * len(counts) if isinstance(padding, str) else [(p, p) for p in padding]
        same = len(self.unit) == len(counts)  # or it is a 1x1 convolution among linear layers
        units, every = (self.unit, self.every) if same else ((1,) * len(counts),) * 2
        pads = [(low // unit, high // unit) for (low, high), unit in zip(pads, units, strict=True)]
        dilation = [max(1, d // unit) for d, unit in zip(dilation, units, strict=True)]
        if any(p for pair in pads for p in pair):
            flat = [p for pair in reversed(pads) for p in pair]
            x = F.pad(x, flat, mode="constant" if mode == "zeros" else mode)
        steps = [s * step for s, step in zip(stride, every, strict=True)]
        y = correlate(x, weight, steps, dilation, groups, counts)
        return y if bias is None else y + bias.view(-1, *(1,) * len(counts))


def _unchanged(weight: Tensor) -> Tensor:
    return weight


class _Noise:
    """Normally distributed numbers, the same for every check: drawing them takes longer than copying them."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.drawn = device, 0

    def draw(self, shape: Sequence[int]) -> Tensor:
        first, self.drawn = self.drawn, self.drawn + math.prod(shape)
        if self.drawn <= NOISE.numel():
            return NOISE[first : self.drawn].view(*shape).to(self.device, copy=True)
        generator = torch.Generator().manual_seed(first)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.device)


def relative_error(expected: Tensor, found: Tensor, rank: int, scale: float = 0.0) -> float:
    """The largest error of a channel relative to its norm; infinity if either is not finite or the shapes differ.

    There are ``rank`` axes after the channels'.
    ``scale`` is the size of what a channel is computed from: where it cancels out, rounding is as large as that makes
    it.
    """
    if expected.shape != found.shape:
        return math.inf
    expected, found = (t.movedim(-1 - rank, 1) for t in (expected, found))
    axes = (0, *range(2, expected.dim()))
    difference = torch.linalg.vector_norm(found - expected, dim=axes)
    size = torch.linalg.vector_norm(expected, dim=axes)
    whole = float(torch.linalg.vector_norm(size))
    floor = 1e-3 * whole / max(1, len(size)) ** 0.5  # a channel that cancels out has no norm of its own
    floor = max(floor, 1e-5 * scale)
    error = float((difference / (size + (floor + torch.finfo(torch.float64).tiny))).max())
    return error if math.isfinite(error) and math.isfinite(whole) else math.inf


def _unit(convolutions: Sequence[ConvMap]) -> tuple[int, ...]:
    """The distance that all taps and sizes are multiples of: what lies in between never meets, and may be left out."""
    units = []
    for axis in range(len(convolutions[0].taps)):
        unit = 0
        for conv in convolutions:
            taps = conv.taps[axis]
            lone = conv.stride[axis] > 1 or conv.mode not in (None, "zeros")
            unit = math.gcd(unit, taps.first, taps.last, conv.extent[axis], taps.step if taps.count > 1 else 0, lone)
        units.append(max(1, unit))
    return tuple(units)


def _shrunk(conv: ConvMap, unit: tuple[int, ...]) -> ConvMap:
    """The same with only each ``unit``-th position."""
    if set(unit) <= {1}:
        return conv
    taps = (Taps(t.first // u, max(1, t.step // u), t.count) for t, u in zip(conv.taps, unit, strict=True))
    return replace(conv, taps=tuple(taps), extent=tuple(e // u for e, u in zip(conv.extent, unit, strict=True)))


def _positions(convolutions: Sequence[ConvMap], pooled: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size of the output of which some position has each tap inside the image, and the step between samples.

    Where it is ``pooled``, the image is no smaller than the kernel: torch's pools in three dimensions refuse it padded.
    """
    sizes: list[int] = []
    for axis in range(len(convolutions[0].taps)):
        size = 2
        for conv in convolutions:
            taps, extent, stride = conv.taps[axis], conv.extent[axis], conv.stride[axis]
            reach = max(-taps.first, taps.last + extent, 0)
            size = max(size, -(-reach // stride) + 1, -(-(reach + extent) // stride) + 1)
            size = max(size, (taps.last - taps.first) // stride + 2) if pooled else size
        size = size if size < 4 else size + 1 - size % 2
        grids = [(conv.up[axis], conv.extent[axis]) for conv in convolutions if conv.up]
        size += next(i for i in range(size + 1) if all((size + i - 1 - e) % up == 0 for up, e in grids))
        sizes.append(size)
    return tuple(sizes), tuple(1 if size < 4 else size // 2 for size in sizes)


def _spread(value: Any, rank: int) -> Any:
    if isinstance(value, str):
        return value
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * rank if len(values) == 1 else values
