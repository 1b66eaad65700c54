"""Transposed convolutions: the map against torch, what goes into them, sums; in modules and exported programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from fxrep.convmap import ConvMap, Illegal
from tests.helpers import assert_merged, randomize, relative_error, run
from tests.test_composition import IMAGE, B, C, Made, both

T = nn.ConvTranspose2d
KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
X6 = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(3))


@st.composite
def transposed(draw: st.DrawFn, rank: int, cin: int, cout: int, like: Any = None) -> Any:
    """Any transposed convolution; one with the output size of ``like``, where there is one."""
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if cin % g == 0 and cout % g == 0]))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    kernel, dilation, padding = each(1, 2, 3, 4), each(1, 1, 2), each(0, 0, 1, 2)
    stride = each(1, 2, 2, 3) if like is None else like.stride
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    return KINDS[rank](cin, cout, kernel, stride, padding, more, groups, False, dilation).double()


def as_map(conv: Any) -> ConvMap:
    return ConvMap.transposed(conv.weight.detach(), stride=conv.stride, padding=conv.padding, groups=conv.groups,
                              output_padding=conv.output_padding, dilation=conv.dilation)  # fmt: skip


def out(conv: Any, x: Tensor) -> Tensor | None:
    try:
        return conv(x).detach()
    except RuntimeError:  # nothing is left of the image
        return None


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_map_is_what_torch_computes(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2, 3]))
    conv = data.draw(transposed(rank, 6, data.draw(st.sampled_from([3, 6]))))
    x = torch.randn(1, 6, *(data.draw(st.integers(3, 5)) for _ in range(rank))).double()
    expected = out(conv, x)
    if expected is not None and expected.numel():
        assert relative_error(as_map(conv)(x), expected) < 1e-12


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_sums_are_exact_or_refused(data: st.DataObject) -> None:
    a = data.draw(transposed(1, 6, 6))
    b = data.draw(transposed(1, 6, 6, like=a))
    x = torch.randn(1, 6, 5).double()
    first, second = out(a, x), out(b, x)
    if first is None or second is None or first.shape != second.shape or not first.numel():
        return
    model = Made(lambda m, x: m.a(x) + m.b(x), a=a, b=b)
    merged = fxrep.reparameterize(model.eval(), policy="kernels")
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    total = as_map(a) + as_map(b)
    assert relative_error(total(x), first + second) < 1e-12


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_composition_is_exact_or_refused(data: st.DataObject) -> None:
    inner = data.draw(transposed(1, 6, 6))
    outer: Any = nn.Conv1d(6, 6, data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([1, 2])),
                           data.draw(st.sampled_from([0, 1])), bias=False).double()  # fmt: skip
    second = ConvMap.conv(outer.weight.detach(), stride=outer.stride, padding=[(p, p) for p in outer.padding],
                          dilation=outer.dilation, groups=1)  # fmt: skip
    first, before, after = as_map(inner), inner, outer
    if data.draw(st.booleans()):
        first, second, before, after = second, first, outer, inner
    x = torch.randn(1, 6, 5).double()
    try:
        expected = after(before(x)).detach()
        found = first.then(second)(x)
    except (RuntimeError, Illegal):
        return
    assert relative_error(found, expected) < 1e-12


MERGED: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "norm behind": (nn.Sequential(T(4, 6, 3, 2, 1, 1), B(6)), IMAGE, (1, 0, 0)),
    "norm behind, in groups": (nn.Sequential(T(6, 9, 3, 2, 1, 1, groups=3), B(9)), X6, (1, 0, 0)),
    "depthwise, with a dilation": (nn.Sequential(T(6, 6, 3, 2, groups=6, dilation=2), B(6)), X6, (1, 0, 0)),
    "scale before": (
        Made(lambda m, x: m.a(x * m.g), a=T(6, 4, 2, 2), g=nn.Parameter(torch.randn(6, 1, 1))), X6, (1, 0, 0)),
    "1x1 before, without a bias": (nn.Sequential(C(4, 4, 1, bias=False), T(4, 4, 2, 2)), IMAGE, (1, 0, 0)),
    "1x1 behind": (nn.Sequential(T(4, 8, 2, 2), C(8, 4, 1)), IMAGE, (1, 0, 0)),
    "sum of two kernels": (
        Made(both(lambda m, x: x.relu(), lambda m, h: m.n(m.a(h)) + m.b(h)),
             a=T(4, 4, 4, 2, 1), n=B(4), b=T(4, 4, 2, 2)),
        IMAGE, (1, 0, 0)),
    "sum in different groups": (
        Made(lambda m, x: m.a(x) - m.b(x), a=T(6, 6, 3, 2, 1, 1), b=T(6, 6, 3, 2, 1, 1, groups=2)), X6, (1, 0, 0)),
    "a stride of one is a convolution": (
        Made(lambda m, x: m.a(x) + m.b(x) + x, a=T(4, 4, 3, 1, 1), b=C(4, 4, 1)), IMAGE, (1, 0, 0)),
    "larger than its input, with a stride of one": (
        nn.Sequential(T(4, 2, 2, 1, 0, 1, dilation=2), B(2)), IMAGE[..., :1, :1], (1, 0, 0)),
    "function": (
        Made(lambda m, x: m.n(F.conv_transpose2d(x, m.w, None, 2, 1, 1, 2)),
             n=B(6), w=nn.Parameter(torch.randn(4, 3, 3, 3))),
        IMAGE, (1, 0, 0)),
    "along one axis": (
        nn.Sequential(nn.ConvTranspose1d(4, 5, 5, 3, 1, 2), nn.BatchNorm1d(5)), IMAGE[:, :, 0], (1, 0, 0)),
    "along three axes": (
        nn.Sequential(nn.ConvTranspose3d(4, 5, (1, 2, 3), (1, 2, 2)), nn.BatchNorm3d(5)),
        IMAGE[:, :, None, :4, :4], (1, 0, 0)),
}  # fmt: skip

KEPT: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "norm before": (nn.Sequential(B(4), T(4, 6, 3, 2)), IMAGE, (1, 1, 0)),
    "3x3 before": (nn.Sequential(C(4, 4, 3, bias=False), T(4, 4, 2, 2)), IMAGE, (2, 0, 0)),
    "strides that differ": (
        Made(lambda m, x: m.a(x) + m.b(x)[:, :, :9, :9], a=T(4, 4, 1), b=T(4, 4, 1, 2)), IMAGE, (2, 0, 1)),
    "steps over what is spread out": (nn.Sequential(T(4, 4, 2, 2), C(4, 4, 2, 2)), IMAGE, (2, 0, 0)),
    "bias and a padded conv behind": (nn.Sequential(T(4, 4, 2, 2), C(4, 4, 3, padding=1)), IMAGE, (2, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_is_merged(case: str) -> None:
    model, x, (convs, norms, adds) = MERGED[case]
    assert_merged(randomize(model), x, convs=convs, norms=norms, adds=adds, policy="kernels")


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    model, x, (convs, norms, adds) = KEPT[case]
    assert_merged(randomize(model), x, convs=convs, norms=norms, adds=adds, policy="kernels")


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("case", ["norm behind, in groups", "sum of two kernels", "along one axis"])
def test_is_merged_in_an_exported_program(case: str, core: bool) -> None:
    model, x, left = MERGED[case]
    model, x = randomize(model).double(), x.double()
    program = torch.export.export(model, (x,))
    merged = fxrep.reparameterize(program.run_decompositions() if core else program)
    merged.validate()
    assert relative_error(run(merged.module(), x), run(model, x)) < 1e-9
    after = fxrep.report(merged).after
    assert (after["conv"], after.get("norm", 0), after.get("add", 0)) == left
