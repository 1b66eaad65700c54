"""What ``example_inputs`` add: the comparison of the whole, and the axes of values that no operator tells."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.helpers import randomize


class Unranked(nn.Module):
    """A BatchNorm1d on a sum that could be (batch, channels) or (batch, channels, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(2))
        self.conv = nn.Conv1d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.view_as(x)
        return self.conv(self.norms[0](y) * 2.0) + self.norms[1](y.abs())


def test_ranks_are_seen_on_the_run() -> None:
    model, x = randomize(Unranked()), torch.randn(2, 6, 9)
    blind = [entry.reason for entry in fxrep.explain(model).kept if entry.kind == "norm"]
    seen = fxrep.report(fxrep.reparameterize(model, (x,))).kept
    assert any("rank of its input is not known" in reason for reason in blind)
    assert not any("rank" in entry.reason for entry in seen)


def test_outputs_are_compared_and_a_difference_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.randn(1, 3, 8, 8)
    before, text = copy.deepcopy(model.state_dict()), str(model)
    import fxrep.api

    rewrite = fxrep.api.rewrite

    def broken(plan: Any, target: nn.Module) -> None:
        rewrite(plan, target)
        with torch.no_grad():
            next(target.parameters()).mul_(1.5)

    monkeypatch.setattr(fxrep.api, "rewrite", broken)
    for inplace in (False, True):
        with pytest.raises(RuntimeError, match="outputs differ on example_inputs"):
            fxrep.reparameterize(model, (x,), inplace=inplace)
        assert str(model) == text
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_inputs_are_not_changed() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x.mul_(2)))

    x = torch.ones(1, 3, 5, 5)
    model = randomize(Writes())
    fxrep.verify(model, fxrep.reparameterize(model, (x,)), (x,))
    assert torch.equal(x, torch.ones(1, 3, 5, 5))


def test_a_tensor_is_not_a_tuple() -> None:
    with pytest.raises(TypeError, match="example_inputs is a tuple"):
        fxrep.reparameterize(nn.Conv2d(3, 4, 3).eval(), torch.ones(1, 3, 5, 5))  # type: ignore[arg-type]
