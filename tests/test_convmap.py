"""ConvMap against PyTorch's own convolutions in float64: single maps, sums, scales, identities and layouts.

The reference pads first and convolves then, so that it can be asked for what ``nn.Conv`` cannot do: a padding that
differs between the two sides, or a negative one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fxrep.convmap import ConvMap, Illegal
from fxrep.taps import Taps
from tests.helpers import relative_error

CONVS = (F.conv1d, F.conv2d, F.conv3d)
MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Spec:
    """A convolution in the words of ``nn.Conv``, but with (before, after) paddings."""

    cin: int
    cout: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mode: str
    seed: int = 0

    @property
    def weight(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.cout, self.cin // self.groups, *self.kernel)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    @property
    def map(self) -> ConvMap:
        return ConvMap.conv(
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            mode=self.mode,
        )

    def reference(self, x: Tensor) -> Tensor:
        flat = [n for pair in reversed(self.padding) for n in pair]
        if any(flat):
            x = F.pad(x, flat, mode="constant" if self.mode == "zeros" else self.mode)
        conv = CONVS[len(self.kernel) - 1]
        return conv(x, self.weight, None, self.stride, 0, self.dilation, self.groups)

    def smallest(self, axis: int) -> int:
        """The smallest input size along ``axis`` that PyTorch takes."""
        before, after = self.padding[axis]
        need = self.dilation[axis] * (self.kernel[axis] - 1) + 1 - before - after
        reach = {"zeros": 1, "replicate": 1, "circular": max(before, after), "reflect": max(before, after) + 1}
        return max(need, reach[self.mode], 1 - min(before, 0) - min(after, 0))

    def input(self, extra: Sequence[int]) -> Tensor:
        sizes = [self.smallest(axis) + more for axis, more in zip(range(len(self.kernel)), extra, strict=False)]
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(2, self.cin, *sizes, generator=generator, dtype=torch.float64)


def spec(rank: int = 2, **changes: Any) -> Spec:
    """A plain 3-tap convolution with padding 1 and 4 channels, with ``changes``; numbers stand for every axis."""
    plain: dict[str, Any] = {"cin": 4, "cout": 4, "groups": 1, "mode": "zeros", "seed": 0}
    plain |= {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1} | changes
    for key in ("kernel", "stride", "dilation"):
        if isinstance(plain[key], int):
            plain[key] = (plain[key],) * rank
    if isinstance(plain["padding"], int):
        plain["padding"] = (plain["padding"],) * rank
    plain["padding"] = tuple((p, p) if isinstance(p, int) else p for p in plain["padding"])
    return Spec(**plain)


@st.composite
def specs(draw: st.DrawFn, rank: int | None = None, low: int = -1) -> Spec:
    """Any convolution of rank 1 to 3, with paddings from ``low`` up."""
    rank = rank or draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    return Spec(
        cin=groups * draw(st.integers(1, 3)),
        cout=groups * draw(st.integers(1, 3)),
        groups=groups,
        kernel=tuple(draw(st.integers(1, 4)) for _ in range(rank)),
        stride=tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        padding=tuple((draw(st.integers(low, 3)), draw(st.integers(low, 3))) for _ in range(rank)),
        dilation=tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        mode=draw(st.sampled_from(MODES)),
        seed=draw(st.integers(0, 1000)),
    )


@st.composite
def compatible(draw: st.DrawFn) -> list[Spec]:
    """Two to four convolutions of one value that add up: same stride, extent, channels and mode."""
    first = draw(specs())
    family = [first]
    common = math.gcd(first.cin, first.cout)
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([g for g in range(1, common + 1) if common % g == 0]))
        kernel, dilation, padding = [], [], []
        for axis in range(len(first.kernel)):
            k, d = draw(st.integers(1, 4)), draw(st.integers(1, 3))
            span = first.dilation[axis] * (first.kernel[axis] - 1)
            total = sum(first.padding[axis]) - span + d * (k - 1)  # the extent decides the sum of the two paddings
            before = draw(st.integers(min(-1, total), max(3, total)))
            kernel.append(k), dilation.append(d), padding.append((before, total - before))
        family.append(
            replace(
                first,
                groups=groups,
                kernel=tuple(kernel),
                dilation=tuple(dilation),
                padding=tuple(padding),
                seed=first.seed + len(family),
            )
        )
    return family


extras = st.lists(st.integers(0, 4), min_size=3, max_size=3)


def as_module(mapping: ConvMap) -> nn.Module:
    """The plain ``nn.Conv`` that ``layout`` describes, with the map's weight in it."""
    taps, padding = mapping.layout()
    conv = MODULES[len(taps) - 1](
        mapping.in_channels,
        mapping.out_channels,
        tuple(t.count for t in taps),
        stride=mapping.stride,
        padding=padding,
        dilation=tuple(t.step for t in taps),
        groups=mapping.groups,
        bias=False,
        padding_mode=mapping.mode or "zeros",
        dtype=torch.float64,
    )
    with torch.no_grad():
        conv.weight.copy_(mapping.weight(taps))
    return conv.requires_grad_(False)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert relative_error(actual, expected) <= 1e-12


# ------------------------------------------------------------------------------------------------------------- Taps
def union(a: Taps, b: Taps) -> set[int]:
    return set(positions(a)) | set(positions(b))


def positions(taps: Taps) -> list[int]:
    return [taps.first + taps.step * i for i in range(taps.count)]


@st.composite
def some_taps(draw: st.DrawFn) -> Taps:
    count = draw(st.integers(1, 5))
    return Taps(draw(st.integers(-8, 8)), draw(st.integers(1, 4)) if count > 1 else 1, count)


@given(some_taps(), some_taps())
def test_union_of_taps_is_the_smallest_grid_that_holds_both(a: Taps, b: Taps) -> None:
    both = a | b
    whole = positions(both)
    assert union(a, b) <= set(whole)
    assert (whole[0], whole[-1]) == (min(union(a, b)), max(union(a, b))), "no tap beyond the outermost ones"
    for step in range(both.step + 1, whole[-1] - whole[0] + 1):  # no coarser grid would do
        assert not union(a, b) <= set(range(whole[0], whole[-1] + 1, step))
    for taps in (a, b):
        assert whole[taps.within(both)] == positions(taps)
    assert both == b | a


@given(some_taps(), some_taps(), some_taps())
def test_union_of_taps_is_associative_and_idempotent(a: Taps, b: Taps, c: Taps) -> None:
    assert (a | b) | c == a | (b | c)
    assert a | a == a


# ---------------------------------------------------------------------------------------------------------- one map
@settings(deadline=None, max_examples=150)
@given(specs(), extras)
def test_structure_of_a_convolution(one: Spec, extra: list[int]) -> None:
    """The taps and the extent say the output size, ``floor((H - 1 + e) / s) + 1``, and ``input_size`` inverts it."""
    mapping, x = one.map, one.input(extra)
    out = one.reference(x).shape[2:]
    found = tuple((h - 1 + e) // s + 1 for h, e, s in zip(x.shape[2:], mapping.extent, mapping.stride, strict=True))
    assert found == tuple(out)
    sizes = mapping.input_size(out)
    assert all(small <= h < small + s for small, h, s in zip(sizes, x.shape[2:], mapping.stride, strict=True))
    assert (mapping.in_channels, mapping.out_channels, mapping.groups) == (one.cin, one.cout, one.groups)
    assert torch.equal(mapping.weight(), one.weight)
    if all(before == after >= 0 for before, after in one.padding):  # else zero taps are added
        assert mapping.macs == one.weight.numel()


def negative_and_mode(one: Spec) -> bool:
    """PyTorch's non-zero padding modes with a negative padding: F.pad does not take every such mix."""
    return one.mode != "zeros" and any(n < 0 for pair in one.padding for n in pair)


@settings(deadline=None, max_examples=200)
@given(specs(), extras)
def test_a_convolution_as_a_map(one: Spec, extra: list[int]) -> None:
    assume(not negative_and_mode(one))
    x = one.input(extra)
    mapping = one.map
    try:
        mapping.layout()
    except Illegal:
        uneven = any(before != after for before, after in one.padding)
        assert uneven, "refused for no reason"
        assert one.mode != "zeros", "refused for no reason"
        return
    assert_same(mapping(x), one.reference(x))
    assert_same(as_module(mapping)(x), one.reference(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding(rank: int, mode: str, kernel: int, dilation: int) -> None:
    """What ``nn.Conv(padding="same")`` computes: the odd one goes behind."""
    total = dilation * (kernel - 1)
    one = spec(rank, kernel=kernel, dilation=dilation, mode=mode, padding=((total // 2, total - total // 2),) * rank)
    module = MODULES[rank - 1](4, 4, kernel, padding="same", dilation=dilation, padding_mode=mode, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(one.weight)
        x = torch.randn(2, 4, *(9 + axis for axis in range(rank)), dtype=torch.float64)
        expected = module(x)
        assert_same(one.map(x), expected)
        merged = as_module(one.map)
        assert_same(merged(x), expected)
        assert merged.weight.shape == module.weight.shape, "no zero taps are needed"


def test_a_same_even_kernel_and_the_identity() -> None:
    """The identity sits at tap ``(K - 1) // 2`` of an even "same" kernel, and the sum stays "same"."""
    one = spec(kernel=4, padding=((1, 2), (1, 2)), cin=3, cout=3)
    total = one.map + ConvMap.diagonal(torch.tensor(1.0), 3, 2)
    assert total.layout() == ((Taps(-1, 1, 4),) * 2, "same")
    expected = one.weight.clone()
    expected[range(3), range(3), 1, 1] += 1
    assert torch.equal(total.weight(), expected)


@pytest.mark.parametrize(
    ("padding", "kernel"),
    [((-1, -1), 1), ((0, -2), 3), ((-1, 2), 3), ((3, 0), 2), ((2, -1), 5), ((-2, -1), 1), ((1, 2), 2)],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_uneven_and_negative_padding_becomes_a_plain_convolution(
    padding: tuple[int, int], kernel: int, stride: int
) -> None:
    one = spec(kernel=(kernel, 3), padding=(padding, (1, 1)), stride=stride, cin=2, cout=3)
    x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    assert_same(as_module(one.map)(x), one.reference(x))


def test_a_symmetric_convolution_keeps_its_layout() -> None:
    one = spec(kernel=(3, 5), padding=(2, 4), dilation=2, stride=(1, 2), groups=2)
    assert one.map.layout() == ((Taps(-2, 2, 3), Taps(-4, 2, 5)), (2, 4))


def test_uneven_padding_in_another_mode_is_refused() -> None:
    one = spec(1, kernel=2, padding=((1, 0),), mode="reflect")
    with pytest.raises(Illegal, match="reflect"):
        one.map.layout()


# ---------------------------------------------------------------------------------------------------------- algebra
@settings(deadline=None, max_examples=300)
@given(compatible(), extras)
def test_the_sum_of_maps_is_the_sum_of_outputs(family: list[Spec], extra: list[int]) -> None:
    assume(not any(negative_and_mode(one) for one in family))
    sizes = [max(one.smallest(axis) for one in family) for axis in range(len(family[0].kernel))]
    x = torch.randn(2, family[0].cin, *(s + e for s, e in zip(sizes, extra, strict=False)), dtype=torch.float64)
    expected = sum(one.reference(x) for one in family)
    total = family[0].map
    for one in family[1:]:
        total = total + one.map
    assert total.groups == math.gcd(*(one.groups for one in family))
    try:
        module = as_module(total)
    except Illegal:
        assert family[0].mode != "zeros", "refused for no reason"
        return
    # Normed by the summands: a sum may cancel.
    size = max(one.reference(x).norm().item() for one in family) + 1e-30
    assert (total(x) - expected).norm().item() <= 1e-12 * size
    assert (module(x) - expected).norm().item() <= 1e-12 * size


@settings(deadline=None, max_examples=100)
@given(compatible())
def test_the_order_of_a_sum_does_not_matter(family: list[Spec]) -> None:
    forward, backward = family[0].map, family[-1].map
    for one in family[1:]:
        forward = forward + one.map
    for one in reversed(family[:-1]):
        backward = backward + one.map
    assert (forward.groups, forward.taps, forward.mode) == (backward.groups, backward.taps, backward.mode)
    torch.testing.assert_close(forward.weight(), backward.weight(), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(specs(low=0), extras, st.booleans())
def test_scaled(one: Spec, extra: list[int], per_channel: bool) -> None:
    one = replace(one, mode="zeros")
    x = one.input(extra)
    factor = torch.randn(one.cout if per_channel else (), dtype=torch.float64)
    expected = one.reference(x) * (factor.view(-1, *(1,) * len(one.kernel)) if per_channel else factor)
    assert_same(one.map.scaled(factor)(x), expected)
    twice = one.map.scaled(factor).scaled(torch.tensor(2.0)) + one.map
    assert_same(as_module(twice)(x), 2 * expected + one.reference(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_grouped_convolution_plus_a_diagonal(rank: int, groups: int, per_channel: bool) -> None:
    one = spec(rank, cin=6, cout=6, groups=groups)
    factor = torch.randn(6 if per_channel else (), dtype=torch.float64)
    x = torch.randn(2, 6, *(5,) * rank, dtype=torch.float64)
    total = one.map + ConvMap.diagonal(factor, 6, rank)
    assert total.groups == groups
    assert total.layout() == one.map.layout()
    expected = one.reference(x) + x * (factor.view(-1, *(1,) * rank) if per_channel else factor)
    assert_same(total(x), expected)
    assert_same(as_module(total)(x), expected)


def test_depthwise_with_a_multiplier_and_a_dense_map() -> None:
    depthwise, dense = spec(cin=3, cout=6, groups=3), spec(cin=3, cout=6, kernel=1, padding=0, seed=1)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    total = depthwise.map + dense.map
    assert total.groups == 1
    assert_same(as_module(total)(x), depthwise.reference(x) + dense.reference(x))


def test_groups_without_a_common_divisor() -> None:
    two, three = spec(cin=6, cout=6, groups=2), spec(cin=6, cout=6, groups=3, seed=1)
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)
    total = two.map + three.map
    assert total.groups == 1
    assert_same(as_module(total)(x), two.reference(x) + three.reference(x))


def test_asymmetric_kernels_unite() -> None:
    """1x3 + 3x1 + 1x1 + identity is one 3x3."""
    row, column = spec(kernel=(1, 3), padding=(0, 1)), spec(kernel=(3, 1), padding=(1, 0), seed=1)
    point, x = spec(kernel=1, padding=0, seed=2), torch.randn(1, 4, 4, 5, dtype=torch.float64)
    total = row.map + column.map + point.map + ConvMap.diagonal(torch.tensor(1.0), 4, 2)
    assert total.layout() == ((Taps(-1, 1, 3),) * 2, (1, 1))
    assert total.macs == 4 * 4 * 9
    assert_same(as_module(total)(x), row.reference(x) + column.reference(x) + point.reference(x) + x)


def test_a_map_whose_taps_stay_inside_takes_any_mode() -> None:
    reflected, inside = spec(mode="reflect"), spec(kernel=1, padding=0, mode="zeros", seed=1)
    x = torch.randn(1, 4, 4, 5, dtype=torch.float64)
    total = inside.map + reflected.map
    assert (inside.map.mode, total.mode) == (None, "reflect")
    assert_same(as_module(total)(x), reflected.reference(x) + inside.reference(x))


def test_weights_are_float64_and_the_callers_are_left_alone() -> None:
    weight = torch.randn(4, 4, 3, 3)
    kept = weight.clone()
    one = ConvMap.conv(weight, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    total = one.scaled(torch.tensor(3.0)) + ConvMap.diagonal(torch.ones(4), 4, 2)
    assert total.weight().dtype == torch.float64
    assert torch.equal(weight, kept)
    double = weight.double()
    lone = ConvMap.conv(double, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    lone.weight().zero_()
    (lone + ConvMap.diagonal(torch.ones(4), 4, 2)).weight()
    assert torch.equal(double, kept.double()), "a weight handed out is a copy"


def test_a_linear_layer_is_a_map_of_rank_zero() -> None:
    weight = torch.randn(3, 3, dtype=torch.float64)
    linear = ConvMap.conv(weight, stride=(), padding=(), dilation=(), groups=1)
    total = linear.scaled(torch.tensor(2.0)) + ConvMap.diagonal(torch.ones(3), 3, 0)
    assert torch.equal(total.weight(), 2 * weight + torch.eye(3, dtype=torch.float64))
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_same(total(x), x @ total.weight().T)


# --------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 2}, r"strides differ: 1x1 and 2x2"),
        ({"padding": 0}, r"output extents differ: 0x0 and -2x-2"),
        ({"kernel": 1}, r"output extents differ: 0x0 and 2x2"),
        ({"cin": 6}, r"input channels differ: 4 and 6"),
        ({"cout": 6}, r"output channels differ: 4 and 6"),
        ({"cout": 1}, r"output channels differ: 4 and 1"),
        ({"mode": "reflect"}, r"padding modes differ at the border: zeros and reflect"),
        ({"rank": 1}, r"spatial ranks differ: 2 and 1"),
    ],
)
def test_refusals_say_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Illegal, match=message):
        spec().map + spec(**changes).map


def test_a_diagonal_does_not_fit_a_strided_or_valid_convolution() -> None:
    identity = ConvMap.diagonal(torch.tensor(1.0), 4, 2)
    with pytest.raises(Illegal, match="strides differ"):
        spec(stride=2).map + identity
    with pytest.raises(Illegal, match="extents differ"):
        spec(padding=0).map + identity


def test_a_scale_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(Illegal, match="3 channels does not fit 4"):
        spec().map.scaled(torch.ones(3))


@settings(deadline=None, max_examples=100)
@given(specs(rank=2, low=0), specs(rank=2, low=0))
def test_any_two_maps_add_up_rightly_or_not_at_all(a: Spec, b: Spec) -> None:
    try:
        module = as_module(a.map + b.map)
    except Illegal:
        return
    sizes = [max(a.smallest(axis), b.smallest(axis)) + 3 for axis in range(2)]
    x = torch.randn(1, a.cin, *sizes, dtype=torch.float64)
    assert_same(module(x), a.reference(x) + b.reference(x))
