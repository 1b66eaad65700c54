"""What ``example_inputs`` add: the comparison of the whole, and the axes of values that no operator tells."""

from __future__ import annotations

import copy
from collections.abc import Callable
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


class Mixed(nn.Module):
    """Branches that compute in one type, and a result in another."""

    def __init__(self, give: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.register_buffer("table", torch.randn(4, 1, 1, dtype=torch.float64))
        self.give = give

    def both(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.give(self, x)


@pytest.mark.parametrize(
    ("give", "dtype"),
    [
        (lambda m, x: m.both(x).float(), torch.bfloat16),
        (lambda m, x: m.both(x) + m.table, torch.float32),
    ],
)
def test_outputs_of_a_wider_type_than_what_computes_them(
    give: Callable[[Any, Tensor], Tensor], dtype: torch.dtype
) -> None:
    """The whole was held to the precision of its outputs' type."""
    model = Mixed(give).eval()
    for conv in (model.a, model.b):
        conv.to(dtype)
    merged = fxrep.reparameterize(model, (torch.randn(2, 4, 6, 6, dtype=dtype),))
    assert fxrep.report(merged).merged
    assert fxrep.verify(model, merged, (torch.randn(2, 4, 6, 6, dtype=dtype),), tolerance=0.05).ok


def test_a_torchscript_module_takes_no_hooks_to_watch_it() -> None:
    scripted = torch.jit.script(nn.ReLU())
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), scripted).eval()
    assert fxrep.report(fxrep.reparameterize(model, (torch.randn(1, 4, 6, 6),))).merged


class Embedded(nn.Module):
    """A block of which an argument decides what comes between the branches and their norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.conv1 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(6, 4)

    def forward(self, x: Tensor, embedding: Tensor | None = None, mode: str = "plain", flip: bool = False) -> Tensor:
        y: Tensor = self.conv3(x) + self.conv1(x)
        if embedding is not None:
            y = y + self.linear(embedding)[:, :, None, None]
        y = self.norm(y) if mode == "plain" else self.norm(y.relu())
        return y.flip(-1) if flip else y


class Required(Embedded):
    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x, embedding)


IMAGE, EMBEDDING = torch.randn(2, 4, 7, 5, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
WAYS: dict[str, tuple[Any, ...]] = {
    "the defaults": (IMAGE,),
    "a tensor": (IMAGE, EMBEDDING),
    "None": (IMAGE, None),
    "a string": (IMAGE, None, "rectified"),
    "a flag": (IMAGE, EMBEDDING, "plain", True),
    "all": (IMAGE, EMBEDDING, "rectified", True),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_example_says_how_the_model_is_called(way: str) -> None:
    model = randomize(Embedded().double())
    result = fxrep.reparameterize(model, WAYS[way])
    assert len(fxrep.report(result).merged) == 1
    fxrep.verify(model, result, WAYS[way])
    for other in WAYS.values():
        expected = model(*other)
        try:
            assert torch.allclose(result(*other), expected)
        except ValueError as error:
            assert "merge it again" in str(error)  # noqa: PT017
            assert other is not WAYS[way]


@pytest.mark.parametrize("embedding", [EMBEDDING, None])
def test_an_argument_without_default_may_be_none(embedding: Tensor | None) -> None:
    model = randomize(Required().double())
    result = fxrep.reparameterize(model, (IMAGE, embedding))
    assert len(fxrep.report(result).merged) == 1
    assert torch.allclose(result(IMAGE, embedding), model(IMAGE, embedding))
    with pytest.raises(ValueError, match="merge it again"):
        result(IMAGE, EMBEDDING if embedding is None else None)


def test_none_is_handed_to_a_block() -> None:
    class Doubled(nn.Module):
        """Without an error of torch's where there is no mask."""

        def __init__(self) -> None:
            super().__init__()
            self.conv3, self.conv1 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
            y = self.conv3(x) + self.conv1(x)
            return y if mask is None else -y

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Doubled()

        def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = self.block(x, mask)
            return y.relu()

    model = randomize(Outer().double())
    result = fxrep.reparameterize(model)
    fxrep.verify(model, result, (IMAGE, EMBEDDING))
    with pytest.raises(ValueError, match="'mask' that is given"):
        result(IMAGE, None)
    fxrep.verify(model, fxrep.reparameterize(model, (IMAGE, None)), (IMAGE, None))


@pytest.mark.parametrize("way", WAYS)
def test_a_wrapper_hands_the_arguments_on(way: str) -> None:
    wrapped = randomize(nn.DataParallel(Embedded().double()))
    result = fxrep.reparameterize(wrapped, WAYS[way])
    fxrep.verify(wrapped, result, WAYS[way])
    asked = any(value is EMBEDDING for value in WAYS[way])  # whether it is None, and the wrapper does not say
    assert bool(fxrep.report(result).merged) == (not asked)
