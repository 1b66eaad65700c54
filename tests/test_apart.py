"""Methods that keep something for the next call, which a trace calls as they are: an attention's cached bias."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep.capture import capture
from fxrep.capture.results import call_as_is
from tests.counting import count_ops
from tests.helpers import TOLERANCE, assert_merged, randomize, relative_error, run

X = torch.randn(2, 6, 8, dtype=torch.float64)


class LinearNorm(nn.Module):
    """What comes out has the rank of what goes in, which its own code does not tell."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(channels, channels, bias=False), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = LinearNorm(), LinearNorm()
        self.biases = nn.Parameter(torch.randn(6))
        self.register_buffer("places", torch.arange(36).remainder(6).reshape(6, 6), persistent=False)
        self.cache: dict[str, Any] = {}

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self.cache = {}
        return super()._apply(fn, *args, **kwargs)

    def get_bias(self, device: torch.device) -> Tensor:
        key = str(device)
        if key not in self.cache:
            self.cache[key] = self.biases[self.places]
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        x = self.qkv(x)
        scores = x @ x.transpose(1, 2) + self.get_bias(x.device)
        return self.proj((scores.softmax(-1) @ x).reshape(batch, length, channels))


class Net(nn.Module):
    """The rank of what follows the attention is known only if the attention is looked into."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.conv, self.attention, self.last = nn.Conv1d(6, 6, 1), attention, LinearNorm()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(x + self.attention(x))


def net(attention: type[nn.Module] = Attention) -> nn.Module:
    torch.manual_seed(0)
    return randomize(Net(attention())).double()


def opaque(model: nn.Module) -> dict[str, str]:
    """What is opaque in ``model``, by path."""
    names = {module: path for path, module in model.named_modules()}
    return {names[module]: why for module, why in capture(model)[1].items()}


def check(model: nn.Module, x: Tensor = X, calls: int = 3) -> nn.Module:
    """The merged model agrees call by call, whether or not the model has run before."""
    for ran in (False, True):
        before, original = copy.deepcopy(model), copy.deepcopy(model)
        if ran:
            run(before, x), run(original, x)
        after = fxrep.reparameterize(before)
        for _ in range(calls):
            assert relative_error(run(after, x), run(original, x)) <= TOLERANCE, fxrep.report(after)
    return after


def test_norms_around_a_cached_bias_are_merged() -> None:
    after = assert_merged(net(), X, convs=1, adds=2)
    assert not opaque(net())
    assert list(after.attention.cache) == ["cpu"]
    assert "biases" in after.attention.state_dict()


def test_a_cache_that_is_filled_before() -> None:
    model = net()
    expected = run(model, X)
    after = assert_merged(model, X, convs=1, adds=2)
    assert relative_error(run(after, X), expected) <= TOLERANCE
    check(net())


def test_nothing_of_the_trace_is_left_behind() -> None:
    for ran in (False, True):
        model = net()
        if ran:
            run(model, X)
        held = dict(model.attention.cache)
        after = fxrep.reparameterize(model)
        assert model.attention.cache.keys() == held.keys() == after.attention.cache.keys()
        assert all(model.attention.cache[key] is value for key, value in held.items())
        assert all(type(value) is Tensor for value in after.attention.cache.values())


def test_the_merged_model_is_cast_copied_and_pickled() -> None:
    model = net()
    after = fxrep.reparameterize(model)
    run(after, X)
    stored = io.BytesIO()
    torch.save(after, stored)
    stored.seek(0)
    again = [copy.deepcopy(after), pickle.loads(pickle.dumps(after)), torch.load(stored, weights_only=False)]
    for each in (*again, fxrep.reparameterize(after)):
        assert relative_error(run(each, X), run(model, X)) <= TOLERANCE
    assert run(copy.deepcopy(after).float(), X.float()).dtype == torch.float32
    exported = torch.export.export(net().attention, (X,))
    assert relative_error(run(exported.module(), X), run(model.attention, X)) <= TOLERANCE
    trained = copy.deepcopy(after)
    with torch.no_grad():
        trained.attention.biases.mul_(2), model.attention.biases.mul_(2)
    trained.attention.cache, model.attention.cache = {}, {}
    assert relative_error(run(trained, X), run(model, X)) <= TOLERANCE


class Branches(Attention):
    """Its own forward is rewritten, and holds the call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(6, 6, 3, padding=1), nn.Conv1d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2) + self.get_bias(x.device)
        y = scores.softmax(-1) @ x
        return self.a(y) + self.b(y)


def test_a_rewritten_forward_calls_the_method() -> None:
    after = assert_merged(net(Branches), X, convs=2, adds=2)
    assert " = self.get_bias\n" in type(after.attention)._fxrep_forward.code
    for each in (after, copy.deepcopy(after), pickle.loads(pickle.dumps(after)), fxrep.reparameterize(after)):
        assert relative_error(run(each, X), run(net(Branches), X)) <= TOLERANCE
    exported = torch.export.export(after, (X,)).module()
    assert relative_error(run(exported, X), run(after, X)) <= TOLERANCE
    check(net(Branches))
    after.attention.get_bias = lambda device: None
    with pytest.raises(TypeError, match="merged by fxrep for a tensor from"):
        run(after, X)


# ----------------------------------------------------------------------------------------- what must not be kept apart
class Variant(Branches):
    """A convolution and branches around a method that does more than to look something up."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device)
        return self.a(x) + self.b(x) + bias.mean()


class AssignsWhatForwardReads(Variant):
    factor = 1.0

    def get_bias(self, device: torch.device) -> Tensor:
        self.cache[str(device)] = self.biases[self.places]
        self.factor = self.factor + 1
        return self.cache[str(device)]

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device)
        return (self.a(x) + self.b(x)) * self.factor + bias.mean()


class CountsCalls(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["calls"] = self.cache["calls"] + 1 if "calls" in self.cache else 1
        return self.biases * self.cache["calls"]

    def forward(self, x: Tensor) -> Tensor:
        first = self.get_bias(x.device).mean()
        y = self.a(x) + self.b(x)
        return y * first + self.get_bias(x.device).mean()


class SharesTheCache(CountsCalls):
    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device).mean()
        return (self.a(x) + self.b(x)) * self.cache["calls"] + bias


class SharesTheCacheByAnotherName(CountsCalls):
    def __init__(self) -> None:
        super().__init__()
        self.other = self.cache

    _apply = nn.Module._apply

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device).mean()
        return (self.a(x) + self.b(x)) * self.other["calls"] + bias


class WritesToAWeight(Variant):
    """The weight is that of a convolution that would be merged."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = self.b.weight

    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases
        self.kernel.mul_(2)
        return self.cache["bias"]


class WritesToItsArgument(Variant):
    def get_bias(self, x: Tensor) -> Tensor:
        self.cache["last"] = x.mul_(2)
        return self.cache["last"]

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return a + self.get_bias(x) + self.b(x)


class ReturnsItsArgument(Variant):
    def get_bias(self, x: Tensor) -> Tensor:
        self.cache["last"] = x
        return x

    def forward(self, x: Tensor) -> Tensor:
        a, y = self.a(x), self.get_bias(x)
        y.mul_(2)
        return a + self.b(x)


class GivesOneTensorTwice(Variant):
    """The sum of the branches reads the tensor on both sides of a write to it by its other name."""

    def get_bias(self, device: torch.device) -> Tensor:
        key = str(device)
        if key not in self.cache:
            self.cache[key] = self.biases[self.places].repeat(2, 1, 1) * 1.0
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.get_bias(x.device), self.get_bias(x.device)
        a = self.a(second)
        first.mul_(0.5)
        return (a + self.b(second)).mean() + x


class WritesToWhatItGave(GivesOneTensorTwice):
    def get_bias(self, device: torch.device) -> Tensor:
        key = str(device)
        if key not in self.cache:
            self.cache[key] = self.biases[self.places].repeat(2, 1, 1) * 1.0
        self.cache[key].mul_(0.5)
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        first = self.get_bias(x.device)
        a = self.a(first)
        second = self.get_bias(x.device)
        return (a + self.b(first)).mean() + x + second.mean()


class DrawsNumbers(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases + torch.rand(6, dtype=torch.float64)
        return self.cache["bias"]


class GivesNone(Variant):
    """For what it has not seen before."""

    def get_bias(self, device: torch.device) -> Tensor | None:
        if "bias" in self.cache:
            self.cache[str(device)] = self.biases * 1
            return self.cache["bias"]
        self.cache["bias"] = self.biases
        return None

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device)
        return self.a(x) + self.b(x) if bias is None else self.b(x) + bias.mean()


class GivesWhatItGets(GivesNone):
    def get_bias(self, device: torch.device) -> Any:
        bias = self.cache.get("bias")
        self.cache["bias"] = self.biases * 1
        return bias


class KeepsNone(GivesNone):
    """From the second call on."""

    _apply = nn.Module._apply

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.cache["bias"] = torch.ones(6, dtype=torch.float64)

    def get_bias(self, device: torch.device) -> Any:
        bias = self.cache["bias"]
        self.cache["bias"] = self.table
        return bias


class GivesANumber(Variant):
    def get_bias(self, device: torch.device) -> Any:
        self.cache["calls"] = self.cache["calls"] + 1 if "calls" in self.cache else 1
        return self.cache["calls"]

    def forward(self, x: Tensor) -> Tensor:
        calls = self.get_bias(x.device)
        return self.a(x) + self.b(x) if isinstance(calls, Tensor) else self.b(x) * calls


class CallsAModule(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.b.weight.sum()
        self.b.weight.mul_(0.5)
        return self.cache["bias"]


class ChangesTheModule(Variant):
    """By a method of every module."""

    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases[self.places]
        self.apply(_halve)
        return self.cache["bias"]


def _halve(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d):
        module.weight.mul_(0.5)


class HandsItselfOn(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases[self.places]
        return _scaled(self)


def _scaled(module: nn.Module) -> Any:
    module.b.weight.mul_(0.5)
    return module.cache["bias"]


STATE = {"factor": 1.0}


class HasAStateElsewhere(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases[self.places]
        STATE["factor"] = STATE["factor"] * 2
        return self.cache["bias"]

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_bias(x.device)
        return (self.a(x) + self.b(x)) * STATE["factor"] + bias.mean()


LEVEL = 1.0


class ForwardChangesAGlobal(Variant):
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases * LEVEL
        return self.cache["bias"]

    def forward(self, x: Tensor) -> Tensor:
        global LEVEL
        LEVEL = 2.0
        return self.a(x) + self.b(x) + self.get_bias(x.device).mean()


class RunsItsBase(Variant):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.get_bias(x.device).mean()


class ForwardClearsIt(CountsCalls):
    def forward(self, x: Tensor) -> Tensor:
        self.cache.clear()
        return (self.a(x) + self.b(x)) + self.get_bias(x.device).mean()


class HasDefaults(Variant):
    def get_bias(self, device: torch.device, kept: dict[str, Any] = {}) -> Tensor:  # noqa: B006
        kept["calls"] = self.cache["calls"] = kept["calls"] + 1 if "calls" in kept else 1
        return self.biases * kept["calls"]


class IsWrapped(Variant):
    @functools.lru_cache  # noqa: B019
    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases[self.places]
        return self.cache["bias"]


class ReadsAnything(Variant):
    def __getattr__(self, name: str) -> Any:
        return super().__getattr__("cache" if name == "shelf" else name)

    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.biases[self.places]
        return self.cache["bias"]


class HasAProperty(Variant):
    """Its value is kept by the instance, and made anew where it is not."""

    @functools.cached_property
    def table(self) -> Tensor:
        return self.b.weight.sum() * self.biases

    def get_bias(self, device: torch.device) -> Tensor:
        self.cache["bias"] = self.table * 1
        return self.cache["bias"]


REFUSED = [
    HasAProperty, RunsItsBase, GivesWhatItGets, ForwardChangesAGlobal,
    AssignsWhatForwardReads, SharesTheCache, SharesTheCacheByAnotherName, WritesToAWeight, WritesToItsArgument,
    ReturnsItsArgument, DrawsNumbers, GivesNone, KeepsNone, GivesANumber, CallsAModule, ChangesTheModule, HandsItselfOn,
    HasAStateElsewhere, ForwardClearsIt, HasDefaults, IsWrapped, ReadsAnything,
]  # fmt: skip
TAKEN = [CountsCalls, GivesOneTensorTwice, WritesToWhatItGave]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_in_doubt_the_module_is_not_looked_into(case: type[nn.Module]) -> None:
    if case not in (DrawsNumbers, HasDefaults, HasAStateElsewhere):  # which have a state that all models share
        check(net(case))
    model = net(case)
    assert "attention" in opaque(model)
    for _ in range(2):
        pieces, _ = capture(copy.deepcopy(model))
        assert not any(node.target is call_as_is for piece in pieces for node in piece.graph.nodes)
        run(model, X)


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.__name__)
def test_what_changes_from_call_to_call(case: type[nn.Module]) -> None:
    assert "attention" not in opaque(net(case))
    check(net(case))


def test_what_other_code_reads() -> None:
    """The module around it reads the table that the method could write to."""

    class Outer(nn.Module):
        def __init__(self, get: Callable[[Any], Any]) -> None:
            super().__init__()
            self.inner, self.get, self.norm = Branches(), get, nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.inner(x) * self.get(self.inner))

    for get in (lambda inner: inner.biases.mean(), lambda inner: 1.0 if len(inner.cache) < 2 else 2.0):
        model = randomize(Outer(get)).double()
        assert "what .get_bias() keeps for the next call is read by other code" in opaque(model)["inner"]
        check(model)


def test_the_method_of_an_instance_and_of_a_subclass() -> None:
    model = net()
    model.attention.get_bias = lambda device: torch.ones(6, 6, dtype=torch.float64)
    check(model)

    class Own(Attention):
        def get_bias(self, device: torch.device) -> Tensor:
            return super().get_bias(device) * 2

    assert "attention" in opaque(net(Own))
    check(net(Own))


def test_called_from_outside() -> None:
    model = net()
    after = fxrep.reparameterize(model)
    device = torch.device("cpu")
    assert torch.equal(after.attention.get_bias(device), model.attention.get_bias(device))


@pytest.mark.parametrize("name", ["levit_128s", "efficientformerv2_s0", "levit_conv_128s"])
def test_models_of_timm_without_an_example(name: str) -> None:
    timm = pytest.importorskip("timm")
    model = randomize(timm.create_model(name)).double()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    after = fxrep.reparameterize(model)
    counts = count_ops(after, x)
    assert counts["norm"] == 0
    assert not fxrep.report(after).opaque
    assert relative_error(run(after, x), run(model, x)) <= TOLERANCE
