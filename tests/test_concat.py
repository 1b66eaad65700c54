"""Concatenations: stacked into one convolution of one source, or taken apart for the norm behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.helpers import assert_merged, randomize, relative_error, run
from tests.test_composition import IMAGE, TOKENS, B, C, L, Made, both, counted

X6 = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(4))

MERGED: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "two 1x1": (Made(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=C(4, 3, 1), b=C(4, 5, 1)), IMAGE, (1, 0, 0)),
    "norms, in another order": (
        Made(lambda m, x: torch.cat((m.n(m.b(x)), m.o(m.a(x))), dim=1), a=C(4, 3, 1), b=C(4, 5, 1), n=B(5), o=B(3)),
        IMAGE, (1, 0, 0)),
    "norm behind, one source": (
        Made(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 1)), a=C(4, 3, 3), b=C(4, 5, 3), n=B(8)), IMAGE, (1, 0, 0)),
    "different kernels": (
        Made(lambda m, x: torch.cat([m.a(x), m.b(x)], -3), a=C(4, 3, 3, padding=1), b=C(4, 3, 1)), IMAGE, (1, 0, 0)),
    "of a sum": (
        Made(lambda m, x: torch.cat([m.a(x) + m.b(x), m.c(x)], 1), a=C(4, 3, 1), b=C(4, 3, 1), c=C(4, 2, 1)),
        IMAGE, (1, 0, 0)),
    "norm and scale behind, two sources": (
        Made(both(lambda m, x: x.relu(), lambda m, h: m.n(torch.cat([m.a(h), m.b(h.sin())], 1)) * 2),
             a=C(4, 3, 1), b=C(4, 5, 3, padding=1), n=B(8)), IMAGE, (2, 0, 0)),
    "norm behind, in groups and strides": (
        Made(lambda m, x: m.n(torch.cat([m.a(x), m.b(x.relu()), m.a(x)], 1)),
             a=C(6, 6, 3, stride=2, padding=1, groups=6), b=C(6, 3, 1, stride=2, groups=3), n=B(15)),
        X6, (3, 0, 0)),
    "linear layers": (
        Made(lambda m, x: torch.cat([m.a(x), m.b(x)], -1), a=L(4, 3), b=L(4, 2)), TOKENS, (1, 0, 0)),
}  # fmt: skip

KEPT: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "of the source": (Made(lambda m, x: torch.cat([m.a(x), x], 1), a=C(4, 4, 1)), IMAGE, (1, 0, 0)),
    "two sources": (
        Made(lambda m, x: torch.cat([m.a(x), m.b(x.relu())], 1), a=C(4, 3, 1), b=C(4, 5, 1)), IMAGE, (2, 0, 0)),
    "along the batch": (
        Made(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)])), a=C(4, 3, 1), b=C(4, 3, 1), n=B(3)), IMAGE, (2, 1, 0)),
    "along the height": (
        Made(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 2)), a=C(4, 3, 1), b=C(4, 3, 1), n=B(3)), IMAGE, (2, 1, 0)),
    "too dear": (
        Made(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=C(64, 64, 3, padding=1, groups=64), b=C(64, 64, 1)),
        torch.randn(1, 64, 5, 5), (2, 0, 0)),
    "read before the norm": (
        Made(both(lambda m, x: torch.cat([m.a(x), m.b(x.relu())], 1), lambda m, h: m.n(h) * h.sigmoid()),
             a=C(4, 3, 1), b=C(4, 5, 1), n=B(8)), IMAGE, (2, 1, 0)),
    "padded conv behind": (
        Made(lambda m, x: m.c(torch.cat([m.a(x), m.b(x.relu())], 1)), a=C(4, 3, 1), b=C(4, 5, 1), c=C(8, 4, 1)),
        IMAGE, (3, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_is_merged(case: str) -> None:
    model, x, left = MERGED[case]
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert counted(merged, x) == left, fxrep.report(merged)


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    model, x, (convs, norms, adds) = KEPT[case]
    assert_merged(randomize(model), x, convs=convs, norms=norms, adds=adds)


def test_branches_beside_a_concatenation_still_merge() -> None:
    body = both(lambda m, x: torch.cat([m.a(x), m.b(x.relu())], 1), lambda m, h: m.c(h) + h + m.d(h))
    model = Made(body, a=C(4, 3, 1), b=C(4, 5, 1), c=C(8, 8, 1, bias=False), d=C(8, 8, 3, padding=1))
    assert_merged(randomize(model), IMAGE, convs=3)


def test_what_is_joined_is_not_computed_again_for_what_reads_it() -> None:
    """The cheap half of a ghost module reads the other one: composed, it would be a dense 3x3, no depthwise one."""
    body = both(lambda m, x: m.a(x), lambda m, h: torch.cat([h, m.n(m.b(h))], 1).relu())
    cheap = C(12, 12, 3, padding=1, groups=12, bias=False)
    model = Made(body, a=C(48, 12, 1, bias=False), b=cheap, n=B(12))
    merged = assert_merged(randomize(model), torch.randn(2, 48, 9, 9), convs=2)
    assert sum(p.numel() for p in merged.parameters()) == 48 * 12 + 9 * 12 + 12


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("case", ["two 1x1", "norm behind, one source", "norm and scale behind, two sources"])
def test_is_merged_in_an_exported_program(case: str, core: bool) -> None:
    model, x, left = MERGED[case]
    model, x = randomize(model).double(), x.double()
    program = torch.export.export(model, (x,))
    merged = fxrep.reparameterize(program.run_decompositions() if core else program)
    merged.validate()
    assert relative_error(run(merged.module(), x), run(model, x)) < 1e-9
    after = fxrep.report(merged).after
    assert (after["conv"], after.get("norm", 0), after.get("add", 0)) == left
