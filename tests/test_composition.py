"""Maps after maps: conv after conv, norm before conv, pads, pools, linear layers; exact at the border or not done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from fxrep.convmap import ConvMap, Illegal
from tests.counting import count_ops
from tests.helpers import assert_merged, randomize, relative_error, run

C, B, L, B1, S = nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.BatchNorm1d, nn.Sequential


class Made(nn.Module):
    """Modules by name, and what forward does with them."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **modules: Any) -> None:
        super().__init__()
        self.body = body
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def both(of: Callable[[Any, Tensor], Any], then: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    """A body that computes one value and uses it twice."""
    return lambda m, x: then(m, of(m, x))


IMAGE = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))

# name: model, input, and how many convolutions (or linear layers), norms and adds have to be left
MERGED: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "1x1 after 1x1": (nn.Sequential(C(4, 16, 1), B(16), C(16, 4, 1), B(4)), IMAGE, (1, 0, 0)),
    "norm before a conv": (nn.Sequential(B(4), C(4, 8, 3)), IMAGE, (1, 0, 0)),
    "1x1 without bias before 3x3": (nn.Sequential(C(4, 4, 1, bias=False), C(4, 4, 3, padding=1)), IMAGE, (1, 0, 0)),
    "padded, biased 1x1 before a 3x3": (nn.Sequential(C(4, 4, 1, padding=1), C(4, 4, 3)), IMAGE, (1, 0, 0)),
    "biased 1x1 before reflection": (
        nn.Sequential(C(4, 4, 1), C(4, 4, 3, padding=1, padding_mode="reflect")), IMAGE, (1, 0, 0)),
    "cheaper apart, free in the sum": (
        Made(lambda m, x: m.a(x) + m.c(m.b(x)), a=C(8, 8, 1), b=C(8, 2, 1), c=C(2, 8, 1)),
        torch.randn(2, 8, 5, 5), (1, 0, 0)),
    "1x1-norm-3x3 beside a 3x3": (
        Made(lambda m, x: m.a(x) + m.d(m.n(m.b(x))), a=C(4, 4, 3), b=C(4, 4, 1), n=B(4), d=C(4, 4, 3)),
        IMAGE, (1, 0, 0)),
    "1x1-norm-pool beside a 3x3": (
        Made(lambda m, x: m.a(x) + m.p(m.n(m.b(x))), a=C(4, 4, 3), b=C(4, 4, 1), n=B(4), p=nn.AvgPool2d(3, 1)),
        IMAGE, (1, 0, 0)),
    "a norm that two convs absorb": (
        Made(both(lambda m, x: m.n(x), lambda m, h: m.a(h).relu() * m.b(h).relu()), n=B(4), a=C(4, 4, 1), b=C(4, 4, 1)),
        IMAGE, (2, 0, 0)),
    "two convs of one that composes": (
        Made(both(lambda m, x: m.a(x), lambda m, h: m.b(h) + m.c(h)),
             a=C(4, 4, 1, bias=False), b=C(4, 4, 3, padding=1), c=C(4, 4, 1)),
        IMAGE, (1, 0, 0)),
    "a multiple before a conv": (
        Made(lambda m, x: m.a(x * 2.0) + m.b(x), a=C(4, 4, 3, padding=1), b=C(4, 4, 1)), IMAGE, (1, 0, 0)),
    "pad": (Made(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1))), a=C(4, 8, 3)), IMAGE, (1, 0, 0)),
    "pad module and norm": (nn.Sequential(nn.ZeroPad2d(2), C(4, 8, 5), B(8)), IMAGE, (1, 0, 0)),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(1), C(4, 8, 3)), IMAGE, (1, 0, 0)),
    "circular pad": (Made(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1), mode="circular")), a=C(4, 8, 3)), IMAGE, (1, 0, 0)),
    "pad before a padded conv": (
        Made(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1))), a=C(4, 8, 3, padding=1)), IMAGE, (1, 0, 0)),
    "crop": (
        Made(lambda m, x: m.a(F.pad(x, (-1, -1, -1, -1))) + m.b(x), a=C(4, 4, 1), b=C(4, 4, 3)), IMAGE, (1, 0, 0)),
    "slices": (
        Made(lambda m, x: m.a(x[:, :, 1:-1, 1:-1]) + m.b(x), a=C(4, 4, 1), b=C(4, 4, 3)), IMAGE, (1, 0, 0)),
    "slices behind a conv": (
        Made(lambda m, x: m.a(x)[..., 1:-1, 2:] + m.b(x)[:, :, 1:-1, :-2], a=C(4, 4, 1), b=C(4, 4, 1)),
        IMAGE, (1, 0, 0)),
    "slices with steps": (
        Made(lambda m, x: m.a(x[:, :, ::2, 1::2]) + m.b(x), a=C(4, 4, 1), b=C(4, 4, (1, 2), stride=2)),
        IMAGE, (1, 0, 0)),
    "norm, slice, conv": (Made(lambda m, x: m.a(m.n(x)[:, :, 1:]), n=B(4), a=C(4, 4, 3)), IMAGE, (1, 0, 0)),
    "depthwise and pool": (
        Made(lambda m, x: m.a(x) + F.avg_pool2d(x, 3, 1, 1), a=C(4, 4, 3, padding=1, groups=4)), IMAGE, (1, 0, 0)),
    "pool, identity and depthwise": (
        Made(lambda m, x: F.avg_pool2d(x, 3, 1, 1) + x + m.a(x), a=C(4, 4, 3, padding=1, groups=4)), IMAGE, (1, 0, 0)),
    "pool and depthwise, stride 2": (
        Made(lambda m, x: m.a(x) + F.avg_pool2d(x, 2, 2), a=C(4, 4, 2, stride=2, groups=4)), IMAGE, (1, 0, 0)),
    "a pool of another source, scaled": (
        Made(lambda m, x: m.a(x) + m.b(x) + F.avg_pool2d(x.relu(), 3, 1) * 0.5, a=C(4, 4, 3), b=C(4, 4, 3)),
        IMAGE, (1, 0, 1)),
    "flatten, norm, linear": (nn.Sequential(nn.Flatten(1), B1(324), L(324, 8)), IMAGE, (1, 0, 0)),
    "pool, flatten, linear, norm": (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), L(4, 8), B1(8)), IMAGE, (1, 0, 0)),
    "two heads": (
        Made(both(lambda m, x: x.flatten(1), lambda m, h: (m.a(m.n(h)) + m.b(m.o(h))) / 2),
             a=L(324, 5), b=L(324, 5), n=B1(324), o=B1(324)),
        IMAGE, (1, 0, 0)),
    "low-rank adapter": (
        Made(lambda m, x: m.w(x) + 0.5 * m.b(m.a(x)), w=L(4, 4), a=L(4, 2, bias=False), b=L(2, 4, bias=False)),
        TOKENS, (1, 0, 0)),
    "layer scale and residual": (
        Made(lambda m, x: x + m.w(x) * m.g, w=L(4, 4), g=nn.Parameter(torch.randn(4))), TOKENS, (1, 0, 0)),
    "linear, dropout, linear": (nn.Sequential(L(4, 24), nn.Dropout(), L(24, 4)), TOKENS, (1, 0, 0)),
    "F.linear": (
        Made(lambda m, x: F.linear(x, m.v) + F.linear(x, m.w, m.c), v=nn.Parameter(torch.randn(4, 4)),
             w=nn.Parameter(torch.randn(4, 4)), c=nn.Parameter(torch.randn(4))),
        TOKENS, (1, 0, 0)),
}  # fmt: skip

# What must stay, and a part of the reason that the report gives
KEPT: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int], str]] = {
    "biased 1x1 before a padded conv": (
        nn.Sequential(C(4, 4, 1), C(4, 4, 3, padding=1)), IMAGE, (2, 0, 0), "has a bias"),
    "norm before a padded conv": (nn.Sequential(B(4), C(4, 8, 3, padding=1)), IMAGE, (1, 1, 0), "cannot go"),
    "padded conv after a 3x3": (
        nn.Sequential(C(4, 4, 3, padding=1, bias=False), C(4, 4, 3, padding=1)), IMAGE, (2, 0, 0), "beyond the border"),
    "depthwise before 1x1": (
        nn.Sequential(C(16, 16, 3, groups=16), C(16, 16, 1)), torch.randn(1, 16, 5, 5), (2, 0, 0), "nothing to"),
    "a pool that counts what is inside": (
        Made(lambda m, x: m.a(x) + F.avg_pool2d(x, 3, 1, 1, False, False), a=C(4, 4, 3, padding=1, groups=4)),
        IMAGE, (1, 0, 1), "different origin"),
    "a pad with ones": (Made(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1), value=1.0)), a=C(4, 8, 3)), IMAGE, (1, 0, 0), ""),
    "a slice whose cut depends on the size": (
        Made(lambda m, x: m.a(x[:, :, :7, :7]) + m.b(x), a=C(4, 4, 1), b=C(4, 4, 3)),
        IMAGE, (2, 0, 1), "different origin"),
    "a slice of the channels": (
        Made(lambda m, x: m.a(x[:, 1:-1]) + m.b(x), a=C(2, 4, 1), b=C(4, 4, 1)), IMAGE, (2, 0, 1), "different origin"),
    "a padded conv of a slice": (
        Made(lambda m, x: m.a(x[:, :, 1:-1, 1:-1]) + m.b(x), a=C(4, 4, 3, padding=1), b=C(4, 4, 3)),
        IMAGE, (2, 0, 1), "different origin"),
    "a norm over tokens": (nn.Sequential(L(4, 5), B1(5)), TOKENS, (1, 1, 0), "another axis"),
    "a scale along the tokens": (
        Made(lambda m, x: m.w(x * m.c) + m.v(x), w=L(4, 4), v=L(4, 4), c=nn.Parameter(torch.randn(4, 1))),
        torch.randn(2, 4, 4), (2, 0, 1), ""),
    "a conv and a linear layer": (
        Made(lambda m, x: m.w(x) + m.a(x), w=L(9, 9), a=C(4, 4, 1)), IMAGE, (2, 0, 1), "spatial axes"),
    "two blocks that may be called on their own": (
        nn.Sequential(*(Made(lambda m, x: m.a(x) + m.b(x), a=C(4, 4, 3), b=C(4, 4, 3)) for _ in range(2))),
        IMAGE, (2, 0, 0), ""),
}  # fmt: skip


def counted(model: nn.Module, x: Tensor) -> tuple[int, int, int]:
    """Convolutions that run and linear layers, norms and adds."""
    counts = count_ops(model, x.clone())
    return counts["conv"] + fxrep.report(model).after.get("linear", 0), counts["norm"], counts["add"]


@pytest.mark.parametrize("policy", ["default", "kernels"])
@pytest.mark.parametrize("case", MERGED)
def test_is_one(case: str, policy: Any) -> None:
    model, x, left = MERGED[case]
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(model, policy=policy)
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert counted(merged, x) == left, fxrep.report(merged)
    assert all(entry.error <= 1e-9 for entry in fxrep.report(merged).merged)


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    model, x, left, reason = KEPT[case]
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(model, (x,))
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert counted(merged, x) == left, fxrep.report(merged)
    assert not reason or any(reason in kept.reason for kept in fxrep.report(merged).kept), fxrep.report(merged).kept


PARTS: dict[str, tuple[nn.Module, nn.Module, Tensor, tuple[int, int, int]]] = {
    "an encoder and a decoder": (S(L(9, 8), nn.ReLU(), L(8, 7)), S(L(7, 8), nn.ReLU()), IMAGE, (3, 0, 0)),
    "a backbone and its classifier": (S(C(4, 4, 3), nn.ReLU(), C(4, 6, 1)), C(6, 2, 1), IMAGE, (3, 0, 0)),
    "a stem and a block": (C(4, 4, 1), S(C(4, 4, 1), nn.ReLU()), IMAGE, (2, 0, 0)),
    "inverted residuals": (
        S(S(C(4, 6, 1), nn.ReLU(), C(6, 4, 1), B(4))), S(S(C(4, 6, 1), nn.ReLU())), IMAGE, (3, 0, 0)),
    "a norm at the start of a head": (
        S(C(4, 4, 3), nn.ReLU(), C(4, 4, 1)), S(B(4), nn.ReLU(), C(4, 2, 1)), IMAGE, (3, 1, 0)),
    "a norm at the end of a backbone": (S(C(4, 4, 3), nn.ReLU(), B(4)), C(4, 2, 1), IMAGE, (2, 1, 0)),
    "a scale at the end of a stage": (
        S(C(4, 4, 3), nn.ReLU(), Made(lambda m, x: x * m.s, s=nn.Parameter(torch.randn(4, 1, 1)))),
        S(C(4, 4, 1), nn.ReLU(), C(4, 2, 1)), IMAGE, (3, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("policy", ["default", "kernels"])
def test_parts_that_may_be_called_on_their_own(case: str, policy: Any) -> None:
    first, second, x, left = PARTS[case]
    model, x = randomize(S(first, second)).double(), x.double()
    merged: Any = fxrep.reparameterize(model, policy=policy)
    assert counted(merged, x) == left, fxrep.report(merged)
    part = run(model[0], x)
    assert relative_error(run(merged[0], x), part) < 1e-9
    assert relative_error(run(merged[1], part), run(model[1], part)) < 1e-9


def test_wrappers_of_one_convolution_are_composed() -> None:
    model = S(C(4, 4, 1), S(S(C(4, 4, 1), B(4))), S(C(4, 4, 3), B(4)))
    assert_merged(randomize(model), IMAGE, convs=1)


def test_a_norm_of_a_module_with_an_activation() -> None:
    first = Made(lambda m, x: m.c(x.relu()), c=C(4, 4, 1))
    assert_merged(randomize(S(first, S(B(4), nn.ReLU()), C(4, 4, 1))), IMAGE, convs=2)


def test_a_norm_that_only_one_of_two_convs_can_absorb() -> None:
    body = both(lambda m, x: m.n(x), lambda m, h: m.a(h).relu() + m.b(h).relu()[..., :9, :9])
    model = Made(body, n=B(4), a=C(4, 4, 1), b=C(4, 4, 3, padding=1))
    assert_merged(randomize(model), IMAGE, convs=2, norms=1, adds=1)


def test_the_axis_of_a_norm_is_known_from_an_example() -> None:
    model, x = randomize(nn.Sequential(L(4, 8), B1(8))).double(), torch.randn(3, 4).double()
    assert counted(fxrep.reparameterize(model), x) == (1, 1, 0)
    merged = fxrep.reparameterize(model, (x,))
    assert counted(merged, x) == (1, 0, 0)
    assert relative_error(run(merged, x), run(model, x)) < 1e-9


def test_settings_of_a_module_that_is_composed_away_can_still_be_read() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        assert m.a.kernel_size == (1, 1)
        assert m.n.num_features == 4
        return m.b(m.n(m.a(x)))

    model = Made(body, a=C(4, 4, 1), n=B(4), b=C(4, 4, 3))
    assert_merged(randomize(model), IMAGE, convs=1)


@st.composite
def convs(draw: st.DrawFn, rank: int, cin: int, cout: int) -> nn.Module:
    """Any convolution from ``cin`` to ``cout`` channels without a bias."""
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if cin % g == 0 and cout % g == 0]))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[rank]
    module: nn.Module = kind(cin, cout, each(1, 1, 2, 3), stride=each(1, 1, 2), padding=each(0, 0, 1, 2),
                             dilation=each(1, 2), groups=groups, bias=False, padding_mode=mode)  # fmt: skip
    return module.double()


def as_map(conv: Any) -> ConvMap:
    padding = [(p, p) for p in conv.padding]
    return ConvMap.conv(conv.weight.detach(), stride=conv.stride, padding=padding, dilation=conv.dilation,
                        groups=conv.groups, mode=conv.padding_mode)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_composition_is_exact_or_refused(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2]))
    a, b, c = (data.draw(st.sampled_from([1, 2, 4, 6])) for _ in range(3))
    inner, outer = data.draw(convs(rank, a, b)), data.draw(convs(rank, b, c))
    x = torch.randn(1, a, *(data.draw(st.sampled_from([7, 9, 10])) for _ in range(rank))).double()
    try:
        expected = outer(inner(x)).detach()
    except RuntimeError:  # it pads by more than there is
        return
    try:
        composed = as_map(inner).then(as_map(outer))
        found = composed(x)
    except Illegal:
        return
    assert relative_error(found, expected) < 1e-12


def test_a_chain_in_a_child_beside_another_branch() -> None:
    """The chain is composed inside its own module, and what it is added to is not composed with it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3))
            self.beside = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.chain(x) + self.beside(x)

    assert_merged(randomize(Block()), torch.randn(2, 4, 9, 8), convs=1)


def test_blocks_that_follow_each_other_stay_apart() -> None:
    """Somebody may call either on its own."""
    block = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)) for _ in range(2)]
    after = assert_merged(randomize(nn.Sequential(*block)), torch.randn(2, 4, 9, 8), convs=2)
    assert len(after) == 2
