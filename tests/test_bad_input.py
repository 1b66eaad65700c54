"""Input that cannot be merged: an error of a fitting type that says what to do, and the caller's model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.blocks import OriginalRepVGGBlock
from tests.helpers import assert_unchanged, randomize, run, snapshot

ENTRIES: list[Callable[[Any], Any]] = [
    fxrep.reparameterize,
    fxrep.explain,
    lambda model: fxrep.reparameterize(model, inplace=True),
]
entries = pytest.mark.parametrize("entry", ENTRIES, ids=["reparameterize", "explain", "inplace"])


def block() -> nn.Module:
    torch.manual_seed(0)
    return randomize(OriginalRepVGGBlock(4, 4))


@entries
def test_training_mode(entry: Callable[[Any], Any]) -> None:
    model = block().train()
    state = snapshot(model)
    with pytest.raises(ValueError, match=r"\.eval\(\)") as error:
        entry(model)
    assert "OriginalRepVGGBlock" in str(error.value)
    assert_unchanged(model, state)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    "thing",
    [None, 3, "repvgg_a0", torch.ones(2), torch.relu, OriginalRepVGGBlock, {"weight": torch.ones(1)}, [nn.ReLU()]],
)
@entries
def test_not_a_module(entry: Callable[[Any], Any], thing: object) -> None:
    with pytest.raises(TypeError, match=r"nn\.Module"):
        entry(thing)


@entries
def test_lazy_modules(entry: Callable[[Any], Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.LazyConv2d(4, 3)).eval()
    with pytest.raises(ValueError, match=r"(?i)lazy|uninitiali[sz]ed") as error:
        entry(model)
    assert "1." in str(error.value) or "2." in str(error.value), "names the parameter or the module"
    assert isinstance(model[1], nn.LazyBatchNorm2d)
    assert isinstance(model[2], nn.LazyConv2d)
    model(torch.randn(1, 3, 8, 8))  # and initialises as it would have


@entries
def test_meta_tensors(entry: Callable[[Any], Any]) -> None:
    model = OriginalRepVGGBlock(4, 4).eval().to("meta")
    with pytest.raises(ValueError, match="meta"):
        entry(model)
    assert all(p.is_meta for p in model.parameters())


@entries
def test_one_meta_buffer(entry: Callable[[Any], Any]) -> None:
    model = block()
    model.rbr_1x1.bn.running_var = torch.empty(4, device="meta")
    with pytest.raises(ValueError, match=r"rbr_1x1\.bn\.running_var"):
        entry(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiler", ["script", "trace"])
@entries
def test_torchscript(entry: Callable[[Any], Any], compiler: str) -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    model = torch.jit.script(plain) if compiler == "script" else torch.jit.trace(plain, torch.randn(1, 4, 8, 8))
    with pytest.raises(TypeError, match="TorchScript"):
        entry(model)


def test_torchscript_inside_a_model_is_left_alone() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.script = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
            self.block = OriginalRepVGGBlock(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.script(x))

    model = randomize(Mixed())
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(run(fxrep.reparameterize(model), x), run(model, x), rtol=1e-4, atol=1e-5)


def test_an_unknown_policy() -> None:
    model = block()
    state = snapshot(model)
    with pytest.raises(ValueError, match="fastest") as error:
        fxrep.reparameterize(model, policy="fastest")  # type: ignore[arg-type]
    assert all(name in str(error.value) for name in ("default", "macs", "kernels"))
    assert_unchanged(model, state)


@pytest.mark.parametrize("inputs", [(torch.ones(1, 7, 5, 5),), (torch.ones(1, 4, 5, 5), 3, 4)])
@pytest.mark.parametrize("inplace", [False, True])
def test_example_inputs_that_do_not_fit(inputs: tuple[Any, ...], inplace: bool) -> None:
    model = block()
    state, text = snapshot(model), str(model)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        fxrep.reparameterize(model, inputs, inplace=inplace)
    assert_unchanged(model, state)
    assert str(model) == text


class Untraceable(nn.Module):
    """Python control flow on values at the top, a block below."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OriginalRepVGGBlock(4, 4)
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        self.calls.append(1)
        return self.block(x)


def test_a_model_that_cannot_be_traced_as_a_whole() -> None:
    """Not an error: its parts are merged, and tracing leaves no traces on the caller's model."""
    model = randomize(Untraceable())
    after = fxrep.reparameterize(model)
    assert model.calls == []
    assert after.calls == []
    assert not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())
    for sign in (1, -1):
        x = sign * torch.rand(1, 4, 5, 5)
        torch.testing.assert_close(run(after, x), run(model, x), rtol=1e-4, atol=1e-5)


class Caching(nn.Module):
    """Keeps its last input; a trace would leave a Proxy there."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OriginalRepVGGBlock(4, 4)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        self.last = y
        return y


def test_tracing_leaves_no_traces() -> None:
    model = randomize(Caching())
    after = fxrep.reparameterize(model)
    assert model.last is None
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(run(after, x), run(model, x), rtol=1e-4, atol=1e-5)
    assert isinstance(model.last, Tensor)
    assert after.last is None or type(after.last) is Tensor
