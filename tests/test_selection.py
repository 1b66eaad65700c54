"""Parts of a model by path, and norms that stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxrep
from tests.blocks import ConvNorm, OriginalRepVGGBlock
from tests.helpers import assert_merged, randomize, relative_error, run
from tests.test_composition import IMAGE, B, C, Made


def net() -> nn.Module:
    return randomize(nn.Sequential(*(OriginalRepVGGBlock(4, 4) for _ in range(3))))


@pytest.mark.parametrize(
    ("options", "convs"),
    [
        ({"only": "1"}, 5),
        ({"only": ["0", "2"]}, 4),
        ({"skip": "1"}, 4),
        ({"only": "[01]", "skip": "0"}, 5),
        ({"skip": lambda path: path == "2"}, 4),
        ({"only": lambda path: False}, 6),
    ],
)
def test_parts_by_path(options: dict[str, Any], convs: int) -> None:
    merged = assert_merged(net(), IMAGE, convs=convs, norms=(convs - 3) * 3, adds=(convs - 3) * 2, **options)
    left = [kept.reason for kept in fxrep.report(merged).kept if "leaves it out" in kept.reason]
    assert len(left) == (convs - 3) * 7


@pytest.mark.parametrize(
    ("options", "convs"),
    [
        ({"only": "neck"}, 4),
        ({"only": "layers.1"}, 4),
        ({"skip": "neck"}, 3),
        ({"skip": lambda path: path.startswith("neck.")}, 3),
    ],
)
def test_parts_by_their_second_path(options: dict[str, Any], convs: int) -> None:
    """Whichever of the two the forward uses."""
    blocks = nn.ModuleList(OriginalRepVGGBlock(4, 4) for _ in range(2))
    for body in (lambda m, x: m.neck(m.layers[0](x)), lambda m, x: m.layers[1](m.layers[0](x))):
        merged = fxrep.reparameterize(randomize(Made(body, layers=blocks, neck=blocks[1])), **options)
        assert len(fxrep.report(merged).merged) == 1
        where = "layers.0" if "skip" in options else "layers.1"
        assert isinstance(merged.get_submodule(where).merged, C)


def test_a_branch_that_is_left_out() -> None:
    model = Made(lambda m, x: m.a(x) + m.b(x) + m.c(x), **{name: ConvNorm(4, 4, 1) for name in "abc"})
    merged: Any = assert_merged(randomize(model), IMAGE, convs=2, norms=1, adds=1, skip="b.*")
    assert [type(module) for module in merged.b.children()] == [C, B]


def test_parts_of_an_exported_program() -> None:
    model = net().double()
    x = IMAGE.double()
    merged = fxrep.reparameterize(torch.export.export(model, (x,)), skip=["0", "1"])
    assert fxrep.report(merged).after["conv"] == 5
    assert relative_error(run(merged.module(), x), run(model, x)) < 1e-9
    assert fxrep.explain(model, only="0").after["conv"] == 5


def test_norms_that_stay_behind_the_sum() -> None:
    body = {"a": C(4, 4, 3, padding=1), "m": B(4), "b": C(4, 4, 1), "n": B(4), "o": B(4), "c": C(4, 4, 3), "p": B(4)}
    model = Made(lambda m, x: m.p(m.c(m.o(m.m(m.a(x)) + m.n(m.b(x)) + x).relu())), **body)
    double = randomize(model).double()
    merged = fxrep.reparameterize(double, norms="keep")
    x = IMAGE.double()
    assert relative_error(run(merged, x), run(double, x)) < 1e-9
    assert {k: v for k, v in fxrep.report(merged).after.items() if v} == {"conv": 2, "norm": 2}
    assert any("norms='keep'" in kept.reason for kept in fxrep.report(merged).kept)


def test_norms_of_a_residual_branch_stay() -> None:
    model = Made(lambda m, x: x + m.n(m.a(x.relu())), a=C(4, 4, 3, padding=1), n=B(4))
    double = randomize(model).double()
    assert fxrep.report(fxrep.reparameterize(double, norms="keep")).after == {"conv": 1, "norm": 1, "add": 1}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"only": "stage"}, ValueError, "only='stage' fits no module"),
        ({"skip": ["0", "7"]}, ValueError, "skip='7' fits no module"),
        ({"only": ""}, ValueError, "only='' fits no module"),
        ({"skip": [0]}, TypeError, "skip= takes paths"),
        ({"norms": "drop"}, ValueError, "unknown norms='drop'"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    for call in (fxrep.reparameterize, fxrep.explain):
        with pytest.raises(kind, match=words):
            call(net(), **options)
