"""Every way into a model of timm's: its features, what is on the way, its head; they are of the same modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import fxrep
from tests.helpers import randomize, relative_error
from tests.zoo.models import catalogue

WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "forward_features": lambda m, x: m.forward_features(x),
    "forward_head": lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True),
    "forward_intermediates": lambda m, x: m.forward_intermediates(x),
    "some of them": lambda m, x: m.forward_intermediates(x, indices=1, intermediates_only=True, norm=True),
}
SOME = (
    "repvgg_a0",
    "mobileone_s0",
    "mobilenetv3_small_050",
    "ghostnet_050",
    "efficientnet_b0",
    "fastvit_t8",
    "test_vit",
)


def smallest() -> list[str]:
    """Two of each family, up to 30 M parameters."""
    families: dict[str, list[str]] = {}
    for case in sorted(catalogue(), key=lambda case: case.parameters):
        if case.library == "timm" and case.parameters <= 30e6:
            families.setdefault(case.family, []).append(case.name)
    return [name for names in families.values() for name in names[:2] if name not in SOME]


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.long) for name in smallest())])
def test_ways_into_a_model(name: str) -> None:
    model: Any = randomize(timm.create_model(name)).double()
    x = torch.randn(1, *model.default_cfg["input_size"]).double()
    merged, compared = fxrep.reparameterize(model), list[str]()
    with torch.no_grad():
        for way, run in WAYS.items():
            try:
                expected = tree_leaves(run(model, x))
            except (AttributeError, TypeError, ValueError, AssertionError):
                continue  # it has no such way
            for after, before in zip(tree_leaves(run(merged, x)), expected, strict=True):
                assert relative_error(after, before) <= 1e-9, way
            compared.append(way)
    if name not in SOME and not compared:
        pytest.skip("forward is the only way in")
    assert compared
