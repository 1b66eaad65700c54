"""ConvMap: the affine, shift-invariant maps that one convolution computes, and their algebra.

Along each spatial axis a convolution with stride ``s`` is a set of *taps*::

    y[o] = sum_t W[t] x[s o + t],      t = first, first + step, ..., last

where ``first = -padding_before`` and ``step`` is the dilation. Its *extent* ``e = padding_after - last`` fixes the size
of the output, ``floor((H - 1 + e) / s) + 1``. Two maps of one value add up to one map exactly if stride and extent
agree (their outputs then lie on the same grid), and the sum is the union of the taps. A transposed convolution is the
same on ``x`` spread out, with ``up - 1`` zeros between its elements: ``y[o] = sum_t W[t] x_up[o + t]``. Biases are kept
outside, by the linear form that holds the map: see ``fxrep.analysis.forms``.

This file knows tensors only; it knows no graph. Structure (taps, groups, channels) is computed at once, weights are
computed when somebody asks for them, in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .deferred import Cast, Deferred, Weight
from .taps import Taps

LARGEST = 2**24
"""Elements of a composed kernel, above which it must not be larger than those that it is composed of."""


class Illegal(Exception):
    """An operation that has no exact result as one convolution; the message says why, for the report."""


@dataclass(frozen=True)
class Part:
    """One summand of a map's kernel: ``diag(scale) @ weight``, placed at its own taps in its own grouping.

    ``weight`` has shape (out, in / groups, *counts) and any dtype; ``scale`` has shape (out,) or () in float64.
    """

    weight: Weight
    groups: int
    taps: tuple[Taps, ...]
    scale: Tensor

    @property
    def tensors(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def size(self) -> int:
        """Elements of the kernel over the part's own taps, in its own grouping."""
        return self.weight.numel()

    def kernel(self, take: Cast) -> Tensor:
        """The part's kernel in float64; ``take`` gives a float64 copy of a weight that may be written to."""
        return _scaled(take(self.weight), self.scale)


@dataclass(frozen=True)
class Composition:
    """One summand of a map's kernel: ``diag(scale) @ (outer after inner)``."""

    inner: ConvMap
    outer: ConvMap
    groups: int
    taps: tuple[Taps, ...]
    scale: Tensor

    @property
    def tensors(self) -> tuple[Weight, ...]:
        return self.inner.tensors + self.outer.tensors

    @property
    def size(self) -> int:
        counts = math.prod(t.count for t in self.taps)
        return self.outer.out_channels * (self.inner.in_channels // self.groups) * counts

    def kernel(self, take: Cast) -> Tensor:
        """``W[o, i, s t2 + t1] = sum_m W2[o, m, t2] W1[m, i, t1]``."""
        g, inner, outer = self.groups, self.inner, self.outer
        if inner.is_channelwise:
            first = inner.weight(take=take).reshape(g, 1, inner.out_channels // g, 1, -1)
            second = outer.weight(take=take).reshape(g, outer.out_channels // g, inner.out_channels // g, -1, 1)
            first = first.to(second.device)
            product = second.mul_(first) if first.shape[-1] == 1 else second * first
        elif outer.is_channelwise:
            first = inner.weight(take=take).reshape(g, inner.out_channels // g, inner.in_channels // g, 1, -1)
            second = outer.weight(take=take).reshape(g, outer.out_channels // g, 1, -1, 1)
            second = second.to(first.device)
            product = first.mul_(second) if second.shape[-2] == 1 else second * first
        else:
            first = replace(inner, groups=g).weight(take=take)
            second = replace(outer, groups=g).weight(take=take).to(first.device)
            first = first.reshape(g, inner.out_channels // g, inner.in_channels // g, -1)
            second = second.reshape(g, outer.out_channels // g, inner.out_channels // g, -1)
            product = torch.einsum("gomt,gmis->goits", second, first)
        shape = (outer.out_channels, inner.in_channels // g, *(t.count for t in self.taps))
        if 1 in (math.prod(t.count for t in inner.taps), math.prod(t.count for t in outer.taps)):
            return _scaled(product.reshape(shape), self.scale)  # each pair of taps has a place of its own, in order
        kernel = torch.zeros(*shape[:2], math.prod(shape[2:]), dtype=torch.float64, device=product.device)
        kernel.index_add_(2, self._places().to(kernel.device), product.reshape(*shape[:2], -1))
        return _scaled(kernel.reshape(shape), self.scale)

    def _places(self) -> Tensor:
        """Where in the kernel each pair of a tap of ``outer`` and a tap of ``inner`` ends up."""
        index = torch.zeros(1, 1, dtype=torch.long)
        for t1, t2, s, whole in zip(self.inner.taps, self.outer.taps, self.inner.stride, self.taps, strict=True):
            place = s * torch.tensor(t2.positions)[:, None] + torch.tensor(t1.positions)
            place = (place - whole.first) // whole.step
            index = index[:, None, :, None] * whole.count + place[None, :, None, :]
            index = index.flatten(2, 3).flatten(0, 1)
        return index.flatten()


@dataclass(frozen=True)
class Stack:
    """One summand of a map's kernel: ``diag(scale)`` times the kernels of ``maps``, one above the other."""

    maps: tuple[ConvMap, ...]
    groups: int
    taps: tuple[Taps, ...]
    scale: Tensor

    @property
    def tensors(self) -> tuple[Weight, ...]:
        return tuple(tensor for map in self.maps for tensor in map.tensors)

    @property
    def size(self) -> int:
        first = self.maps[0]
        return sum(map.out_channels for map in self.maps) * first.in_channels * math.prod(t.count for t in self.taps)

    def kernel(self, take: Cast) -> Tensor:
        """``W[o, i, t]``, the rows of the first map first."""
        rows = [replace(map, groups=self.groups).weight(self.taps, take) for map in self.maps]
        return _scaled(torch.cat([row.to(rows[0].device) for row in rows]), self.scale)


@dataclass(frozen=True)
class ConvMap:
    """A convolution without bias from ``in_channels`` to ``out_channels``; ``len(taps)`` is its spatial rank.

    ``mode`` is the padding mode that the taps which can leave the image agree on; None if none can leave it. ``up``
    says, for each axis, by how much the input is spread out; empty if it is not.
    """

    in_channels: int
    out_channels: int
    groups: int
    taps: tuple[Taps, ...]
    stride: tuple[int, ...]
    extent: tuple[int, ...]
    mode: str | None
    parts: tuple[Part | Composition | Stack, ...]
    up: tuple[int, ...] = ()

    # ------------------------------------------------------------------------------------------------- constructors
    @classmethod
    def conv(
        cls,
        weight: Weight,
        *,
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
        mode: str = "zeros",
    ) -> ConvMap:
        """The map of ``conv(x, weight, ...)``; ``padding`` holds (before, after) for each axis."""
        counts = weight.shape[2:]
        taps = tuple(
            Taps(-before, d if k > 1 else 1, k) for (before, _), d, k in zip(padding, dilation, counts, strict=True)
        )
        extent = tuple(after - t.last for (_, after), t in zip(padding, taps, strict=True))
        scale = torch.ones((), dtype=torch.float64, device=weight.device)
        leaves = any(t.first < 0 or t.last > -e for t, e in zip(taps, extent, strict=True))
        return cls(
            weight.shape[1] * groups,
            weight.shape[0],
            groups,
            taps,
            tuple(stride),
            extent,
            mode if leaves else None,
            (Part(weight, groups, taps, scale),),
        )

    @classmethod
    def transposed(
        cls,
        weight: Tensor,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> ConvMap:
        """The map of ``conv_transpose(x, weight, ...)``, whose weight has shape (in, out / groups, *counts).

        Element ``k`` of the kernel takes ``x[i]`` to ``y[s i + d k - p]``: it is the tap ``p - d k``.
        """
        axes = [*zip(stride, padding, output_padding, dilation, weight.shape[2:], strict=True)]
        taps = tuple(Taps(p - d * (k - 1), d if k > 1 else 1, k) for _, p, _, d, k in axes)
        extent = tuple(d * (k - 1) - 2 * p + more for _, p, more, d, k in axes)
        scale = torch.ones((), dtype=torch.float64, device=weight.device)
        part = Part(_flipped(weight, groups), groups, taps, scale)
        out_channels, up = weight.shape[1] * groups, tuple(stride) if max(stride, default=1) > 1 else ()
        leaves = up or any(t.first < 0 or t.last > -e for t, e in zip(taps, extent, strict=True))
        mode = "zeros" if leaves else None
        return cls(weight.shape[0], out_channels, groups, taps, (1,) * len(taps), extent, mode, (part,), up)

    @classmethod
    def diagonal(cls, factor: Tensor, channels: int, rank: int) -> ConvMap:
        """``x * factor`` for a ``factor`` of shape () or (channels,): one tap at 0, in the finest grouping."""
        if factor.dim() and len(factor) != channels:
            raise Illegal(f"a scale for {len(factor)} channels does not fit {channels} channels")
        origin = (Taps(0, 1, 1),) * rank
        weight = torch.ones(channels, 1, *(1,) * rank, dtype=torch.float64, device=factor.device)
        part = Part(weight, channels, origin, factor.to(torch.float64))
        return cls(channels, channels, channels, origin, (1,) * rank, (0,) * rank, None, (part,))

    # ------------------------------------------------------------------------------------------------------ algebra
    def __add__(self, other: ConvMap) -> ConvMap:
        """``(A + B) x = A x + B x``: unite the taps, take the gcd of the groups."""
        self._check_same_grid(other)
        taps = tuple(a | b for a, b in zip(self.taps, other.taps, strict=True))
        return replace(
            self,
            groups=math.gcd(self.groups, other.groups),
            taps=taps,
            mode=self.mode or other.mode,
            parts=self.parts + other.parts,
        )

    def _check_same_grid(self, other: ConvMap) -> None:
        for what, mine, its in (
            ("spatial ranks", len(self.taps), len(other.taps)),
            ("strides", self.stride, other.stride),
            ("strides of transposed convolutions", self.up or (1,), other.up or (1,)),
            ("output extents", self.extent, other.extent),
            ("input channels", self.in_channels, other.in_channels),
            ("output channels", self.out_channels, other.out_channels),
        ):
            if mine != its:
                raise Illegal(f"{what} differ: {_say(mine)} and {_say(its)}")
        if self.mode and other.mode and self.mode != other.mode:
            raise Illegal(f"padding modes differ at the border: {self.mode} and {other.mode}")

    @classmethod
    def stacked(cls, maps: Sequence[ConvMap]) -> ConvMap:
        """``x -> (A x, B x, ...)``: one kernel above the other, over the union of the taps, in one group."""
        first = maps[0]
        for other in maps[1:]:
            first._check_same_grid(replace(other, out_channels=first.out_channels))
        taps = tuple(functools.reduce(Taps.__or__, axis) for axis in zip(*(map.taps for map in maps), strict=True))
        part = Stack(tuple(maps), 1, taps, torch.ones((), dtype=torch.float64))
        if part.size > max(LARGEST, *(p.size for map in maps for p in map.parts)):
            raise Illegal(f"the kernel of all of them together would have {part.size:,} elements")
        mode = next((map.mode for map in maps if map.mode), None)
        return replace(first, out_channels=sum(map.out_channels for map in maps), groups=1, taps=taps, mode=mode,
                       parts=(part,))  # fmt: skip

    def then(self, outer: ConvMap) -> ConvMap:
        """``outer after self``: taps ``s t2 + t1``, strides multiply, the grouping is the finest that both keep.

        Exact if along each axis ``outer`` never reads beyond the border of what this map gives, or this map looks at
        one position alone: then it makes no difference whether it is applied before the padding or after. Zeros are
        also right where this map, beyond its border, would give zeros.
        """
        if self.out_channels != outer.in_channels:
            raise Illegal(f"{self.out_channels} channels are read as {outer.in_channels}")
        if len(self.taps) != len(outer.taps):
            raise Illegal(f"spatial ranks differ: {len(self.taps)} and {len(outer.taps)}")
        if outer.up and not self.is_pointwise:
            raise Illegal("a transposed convolution spreads out what the first one gives")
        if self.up and set(outer.stride) != {1}:
            raise Illegal("it takes steps over what a transposed convolution gives")
        vanishes = outer.mode in (None, "zeros") and self.vanishes_outside
        if not vanishes and any(not self._is_pointwise_along(axis) for axis in outer._leaves):
            raise Illegal("the second of two convolutions reads beyond the border of what the first one gives")
        if self.mode and outer.mode and self.mode != outer.mode:
            raise Illegal(f"padding modes differ at the border: {self.mode} and {outer.mode}")
        axes = [*zip(self.taps, outer.taps, self.stride, self.extent, outer.extent, strict=True)]
        taps = tuple(t1.then(t2, s) for t1, t2, s, _, _ in axes)
        extent = tuple(e1 + s * e2 for _, _, s, e1, e2 in axes)
        groups = math.gcd(self.groups, outer.groups)
        part = Composition(self, outer, groups, taps, torch.ones((), dtype=torch.float64))
        if part.size > max(LARGEST, *(p.size for p in (*self.parts, *outer.parts))):
            raise Illegal(f"the kernel of the two together would have {part.size:,} elements")
        composed = ConvMap(
            self.in_channels,
            outer.out_channels,
            groups,
            taps,
            tuple(a * b for a, b in zip(self.stride, outer.stride, strict=True)),
            extent,
            self.mode or outer.mode,
            (part,),
            self.up or outer.up,
        )
        return composed if composed._leaves else replace(composed, mode=None)

    def scaled(self, factor: Tensor) -> ConvMap:
        """``diag(factor) A``, with ``factor`` of shape () or (out_channels,)."""
        if factor.dim() and len(factor) != self.out_channels:
            raise Illegal(f"a scale for {len(factor)} channels does not fit {self.out_channels} output channels")
        return replace(self, parts=tuple(replace(p, scale=p.scale * factor.to(p.scale.device)) for p in self.parts))

    # ------------------------------------------------------------------------------------------------------- weights
    def weight(self, taps: tuple[Taps, ...] | None = None, take: Cast | None = None) -> Tensor:
        """The dense kernel in float64, (out, in / groups, *counts), over ``taps`` (by default the map's own).

        ``take`` gives a float64 copy of a part's weight that may be written to.
        """
        take = take or _copy
        taps = taps or self.taps
        shape = (self.out_channels, self.in_channels // self.groups, *(t.count for t in taps))
        rest = sorted(self.parts, key=lambda part: part.size, reverse=True)
        if rest[0].groups == self.groups and rest[0].taps == taps:
            kernel = rest.pop(0).kernel(take)
        else:
            kernel = torch.zeros(shape, dtype=torch.float64, device=rest[0].tensors[0].device)
        for part in rest:
            place = tuple(mine.within(whole) for mine, whole in zip(part.taps, taps, strict=True))
            index: Any = (Ellipsis, *place)
            target = _blocks(kernel, self.groups, part.groups)[index]
            values = torch.unflatten(part.kernel(take), 0, (self.groups, part.groups // self.groups, -1))
            target += values.to(kernel.device)
        return kernel

    def layout(self) -> tuple[tuple[Taps, ...], tuple[int, ...] | str]:
        """Taps and ``padding`` argument of the ``nn.Conv`` that computes this map.

        ``nn.Conv`` pads both sides alike (or "same"), and never by a negative amount: where the map does not, zero
        taps are added until it does. The padding of ``nn.ConvTranspose``, which has no "same", is its largest tap.
        """
        if self.up:
            return self._transposed_layout()[0], tuple(t.last for t in self._transposed_layout()[0])
        taps = tuple(
            t if t.first <= 0 and t.last >= -e else t | Taps(min(t.first, 0), 1, 1) | Taps(max(t.last, -e), 1, 1)
            for t, e in zip(self.taps, self.extent, strict=True)
        )
        before = tuple(-t.first for t in taps)
        after = tuple(t.last + e for t, e in zip(taps, self.extent, strict=True))
        if before == after:
            return taps, before
        spans = [t.last - t.first for t in taps]
        if set(self.stride) == {1} and before == tuple(n // 2 for n in spans) and not any(self.extent):
            return taps, "same"
        if self.mode not in (None, "zeros"):
            raise Illegal(f"{self.mode} padding that differs between the two sides has no plain convolution")
        pads = tuple(map(max, before, after))
        grown = (t | Taps(-p, 1, 1) | Taps(p - e, 1, 1) for t, p, e in zip(taps, pads, self.extent, strict=True))
        return tuple(grown), pads

    def _transposed_layout(self) -> tuple[tuple[Taps, ...], tuple[int, ...]]:
        """Taps and ``output_padding`` of the ``nn.ConvTranspose`` that computes this map."""
        if set(self.stride) != {1}:
            raise Illegal("a transposed convolution that takes steps has no plain convolution")
        taps, more = [], []
        for t, e, up in zip(self.taps, self.extent, self.up, strict=True):
            t |= Taps(max(t.last, 0), 1, 1)
            t |= Taps(max(t.last, t.last - (e + t.first + t.last)), 1, 1)
            t |= Taps(min(t.first, max(up, t.step) - 1 - e - t.last), 1, 1)
            taps.append(t)
            more.append(e + t.first + t.last)
            if not 0 <= more[-1] < max(up, t.step):
                raise Illegal("a transposed convolution of this size has no plain convolution")
        return tuple(taps), tuple(more)

    def as_transposed(self, kernel: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """``kernel``, over the taps of ``layout``, as ``nn.ConvTranspose`` has it, and the arguments besides."""
        _, more = self._transposed_layout()
        back = torch.unflatten(kernel, 0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        return back.flip(tuple(range(2, back.dim()))), {"stride": self.up, "output_padding": more}

    @property
    def tensors(self) -> tuple[Weight, ...]:
        """The weights that the kernel is computed from."""
        return tuple(tensor for part in self.parts for tensor in part.tensors)

    @property
    def is_channelwise(self) -> bool:
        """Whether each channel is computed from the same channel alone."""
        return self.groups == self.in_channels == self.out_channels

    @property
    def is_pointwise(self) -> bool:
        """Whether each position is computed from the same position alone."""
        return all(map(self._is_pointwise_along, range(len(self.taps))))

    def _is_pointwise_along(self, axis: int) -> bool:
        here = self.taps[axis] == Taps(0, 1, 1) and not self.up
        return here and self.stride[axis] == 1 and self.extent[axis] == 0

    def along(self, rank: int) -> ConvMap:
        """The matrix of a single 1x1 convolution or linear layer, at each position of ``rank`` spatial axes."""
        ones, origin = (1,) * rank, (Taps(0, 1, 1),) * rank
        (part,) = self.parts
        assert isinstance(part, Part)
        part = replace(part, weight=part.weight.reshape(*part.weight.shape[:2], *ones), taps=origin)
        return replace(self, taps=origin, stride=ones, extent=(0,) * rank, parts=(part,))

    @property
    def _leaves(self) -> list[int]:
        """The axes along which a tap is outside of the image for some position of the output."""
        axes = enumerate(zip(self.taps, self.extent, strict=True))
        return [axis for axis, (t, e) in axes if t.first < 0 or t.last > -e or self.up]

    @property
    def vanishes_outside(self) -> bool:
        """Whether beyond the positions of the output every tap is outside of the image."""
        inside = all(t.last <= 0 and t.first >= -e for t, e in zip(self.taps, self.extent, strict=True))
        return inside and set(self.stride) <= {1} and not self.up

    # ---------------------------------------------------------------------------------------------------------- cost
    @property
    def macs(self) -> int:
        """Multiply-accumulates per output position, with the zero taps that a symmetric padding takes."""
        macs = self.out_channels * (self.in_channels // self.groups) * math.prod(t.count for t in self._run_taps)
        return -(-macs // math.prod(self.up))

    @functools.cached_property
    def _run_taps(self) -> tuple[Taps, ...]:
        try:
            return self.layout()[0]
        except Illegal:
            return self.taps

    @property
    def traffic(self) -> int:
        """Elements read and written per output position (activations, not weights)."""
        return -(-self.in_channels * math.prod(self.stride) // math.prod(self.up)) + self.out_channels

    def input_size(self, output: Sequence[int]) -> tuple[int, ...]:
        """The smallest input whose output has the spatial size ``output``."""
        spread = ((o - 1) * s + 1 - e for o, s, e in zip(output, self.stride, self.extent, strict=True))
        return tuple(-(-(n - 1) // up) + 1 for n, up in zip(spread, self.up or (1,) * len(output), strict=True))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to ``x`` of shape (batch, in, *spatial) in float64: the definition, for tests and docs."""
        taps, padding = (self.taps, self.stride) if self.up else self.layout()
        if self.up:
            spread = x.new_zeros(*x.shape[:2], *((n - 1) * up + 1 for n, up in zip(x.shape[2:], self.up, strict=True)))
            every: Any = (Ellipsis, *(slice(None, None, up) for up in self.up))
            spread[every] = x
            x = spread
        counts, dilation = [t.count for t in taps], [t.step for t in taps]
        pads = [(-t.first, t.last + e) for t, e in zip(taps, self.extent, strict=True)]
        assert padding == "same" or self.up or all(before == after for before, after in pads)
        flat = [n for pair in reversed(pads) for n in pair]
        x = F.pad(x.double(), flat, mode="constant" if self.mode in (None, "zeros") else self.mode or "")
        return correlate(x, self.weight(taps), self.stride, dilation, self.groups, counts)


@dataclass(frozen=True)
class Window:
    """The same small kernel for each channel, of however many there are: a pad, a crop, an average pool.

    ``kernel`` has shape (*counts) and is float64; the rest is as in ``ConvMap``.
    """

    kernel: Tensor
    taps: tuple[Taps, ...]
    stride: tuple[int, ...]
    extent: tuple[int, ...]
    mode: str | None

    @classmethod
    def of(cls, kernel: Tensor, stride: Sequence[int], padding: Sequence[tuple[int, int]], mode: str) -> Window:
        """The window that ``conv(x, kernel, stride)`` is for a single channel; ``padding`` may be negative."""
        conv = ConvMap.conv(
            kernel[None, None], stride=stride, padding=padding, dilation=[1] * kernel.dim(), groups=1, mode=mode
        )
        return cls(kernel, conv.taps, conv.stride, conv.extent, conv.mode)

    def on(self, channels: int, device: torch.device | None = None) -> ConvMap:
        """The map for so many channels."""
        weight = self.kernel.to(device or self.kernel.device).expand(channels, 1, *self.kernel.shape)
        part = Part(weight, channels, self.taps, torch.ones((), dtype=torch.float64, device=weight.device))
        return ConvMap(channels, channels, channels, self.taps, self.stride, self.extent, self.mode, (part,))

    def then(self, outer: Window) -> Window:
        """``outer after self``."""
        both = self.on(1).then(outer.on(1))
        return Window(both.weight()[0, 0], both.taps, both.stride, both.extent, both.mode)


def correlate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    counts: Sequence[int],
) -> Tensor:
    """Unpadded grouped cross-correlation as one sliding window and one contraction, for any spatial rank.

    PyTorch runs a float64 convolution one group at a time; this takes all groups at once. The few positions are the
    rows of the product, not its columns: a matrix product with few columns takes two to three times as long.
    """
    for axis, (s, d, k) in enumerate(zip(stride, dilation, counts, strict=True)):
        window = x.unfold(2 + axis, d * (k - 1) + 1, s)
        x = window[..., ::d] if d > 1 else window
    batch, channels, spatial = x.shape[0], weight.shape[0], x.shape[2 : 2 + len(counts)]
    positions = math.prod(spatial)
    columns = x.reshape(batch, groups, -1, positions, math.prod(counts)).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
    kernels = weight.reshape(groups, channels // groups, -1)
    y = columns @ kernels.transpose(1, 2)  # (positions of all images, out / groups) for each group
    y = y.view(groups, batch, positions, -1).permute(1, 0, 3, 2)
    return y.contiguous().view(batch, channels, *spatial)


def _blocks(kernel: Tensor, coarse: int, fine: int) -> Tensor:
    """A writable view of ``kernel`` (grouping ``coarse``) as the blocks of the finer grouping ``fine``.

    Shape (coarse, fine / coarse, out / fine, in / fine, *counts).
    """
    ratio = fine // coarse
    split = torch.unflatten(torch.unflatten(kernel, 0, (coarse, ratio, -1)), 3, (ratio, -1))
    return split.diagonal(dim1=1, dim2=3).movedim(-1, 1)


def _flipped(weight: Tensor, groups: int) -> Tensor:
    """The weight of a transposed convolution as that of a convolution: (out, in / groups, *counts), backwards."""
    weight = torch.unflatten(weight, 0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flip(tuple(range(2, weight.dim())))


def _copy(weight: Weight) -> Tensor:
    if isinstance(weight, Deferred):
        return weight.compute().double()
    return weight.to(torch.float64, copy=True)


def _scaled(kernel: Tensor, scale: Tensor) -> Tensor:
    """``diag(scale) kernel``, in place."""
    if not scale.dim() and not scale.requires_grad and scale.device.type == "cpu" and scale.item() == 1:
        return kernel  # a pass over a large kernel for nothing
    return kernel.mul_(scale.view(-1, *(1,) * (kernel.dim() - 1)) if scale.dim() else scale)


def _say(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
