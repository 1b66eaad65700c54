"""Code that a forward comes by in other ways than by calling a method: what it does there counts as well."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, autocast, fx, is_tensor, nn

import fxrep
from tests import questions
from tests.helpers import randomize, relative_error

COUNT = {"calls": 0}


class Branches(nn.Module):
    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.held = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), held

    def branches(self, x: Tensor) -> Any:
        return self.a(x) + self.b(x)


def image() -> Tensor:
    return torch.randn(2, 4, 5, 5).double()


# --------------------------------------------------------------------------------------- what is asked there
def _imported_inside(m: Any, x: Tensor) -> Any:
    from tests.questions import twice

    return twice(x)


ASKED: dict[str, tuple[Any, Callable[[Any, Tensor], Any]]] = {
    "is_tensor by its own name": (None, lambda m, x: x * 2 if is_tensor(x) else x),
    "an object": (questions.Twice(), lambda m, x: m.held(x)),
    "a partial": (functools.partial(questions.twice), lambda m, x: m.held(x)),
    "a static method": (None, lambda m, x: questions.Twice.fixed(x)),
    "a cache": (None, lambda m, x: questions.cached(x)),
    "an import inside": (None, _imported_inside),
    "a table": ({"twice": questions.twice}, lambda m, x: m.held["twice"](x)),
}


@pytest.mark.parametrize("case", ASKED)
def test_questions_in_other_files(case: str) -> None:
    class Asks(Branches):
        def forward(self, x: Tensor) -> Any:
            return self.branches(ask(self, x))

    held, ask = ASKED[case]
    model, x = randomize(Asks(held)).double().eval(), image()
    assert relative_error(fxrep.reparameterize(model)(x), model(x)) <= 1e-9


# --------------------------------------------------------------------------------------- what is counted there
def counted(x: Any) -> Any:
    COUNT["calls"] += 1
    return x * COUNT["calls"]


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        return counted(x)

    def own(self, x: Any) -> Any:
        self.calls += 1
        return x * self.calls

    def elsewhere(self, x: Any) -> Any:
        return counted(x)

    def goes_on(self, x: Any) -> Any:
        return self.elsewhere(x)

    @staticmethod
    def fixed(x: Any) -> Any:
        return counted(x)


def step(table: Any, x: Any) -> Any:
    table["calls"] += 1
    return x * table["calls"]


class Overridden(Branches):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        Overridden.calls += 1
        return self.branches(x) * Overridden.calls


class Overrides(Overridden):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class OverriddenCounts(Branches):
    def forward(self, x: Tensor) -> Any:
        return counted(self.branches(x))


class OverridesCounts(OverriddenCounts):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class OverridesByName(Overridden):
    def forward(self, x: Tensor) -> Any:
        return Overridden.forward(self, x)


class ByProperty(Branches):
    @property
    def factor(self) -> Any:
        return counted(1)

    def forward(self, x: Tensor) -> Any:
        return self.branches(x) * self.factor


class ByStaticMethod(Branches):
    def forward(self, x: Tensor) -> Any:
        return Counted.fixed(self.branches(x))


class Holds(Branches):
    def forward(self, x: Tensor) -> Any:
        return self.held(self.branches(x))


class ByMadeName(Branches):
    call: Callable[[Any, str], Any]

    def call_last(self, x: Any) -> Any:
        return counted(x)

    def forward(self, x: Tensor) -> Any:
        return self.call(self.branches(x), "last")


class ByFormatted(ByMadeName):
    def call(self, x: Any, name: str) -> Any:
        return getattr(self, f"call_{name}")(x)


class ByJoined(ByMadeName):
    def call(self, x: Any, name: str) -> Any:
        return getattr(self, "call_" + name)(x)


class ByPercent(ByMadeName):
    def call(self, x: Any, name: str) -> Any:
        return getattr(self, "call_%s" % name)(x)  # noqa: UP031


class ByFormat(ByMadeName):
    def call(self, x: Any, name: str) -> Any:
        return getattr(self, "call_{}".format(name))(x)  # noqa: UP032


class Wraps:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, x: Any) -> Any:
        return self.function(x)


COUNTING: dict[str, Callable[[], Branches]] = {
    "an overridden forward": Overrides,
    "an overridden forward that counts elsewhere": OverridesCounts,
    "an overridden forward by its class": OverridesByName,
    "a property": ByProperty,
    "a static method": ByStaticMethod,
    "a function": lambda: Holds(counted),
    "a name by an f-string": ByFormatted,
    "a name by +": ByJoined,
    "a name by %": ByPercent,
    "a name by format": ByFormat,
    "what an object holds": lambda: Holds(Wraps(counted)),
    "an object": lambda: Holds(Counted()),
    "a method": lambda: Holds(Counted().own),
    "a method that counts elsewhere": lambda: Holds(Counted().elsewhere),
    "a method that goes on": lambda: Holds(Counted().goes_on),
    "a partial": lambda: Holds(functools.partial(step, {"calls": 0})),
    "a dictionary of Python's own": lambda: Holds(functools.partial(step, UserDict(calls=0))),
}


@pytest.mark.parametrize("case", COUNTING)
def test_calls_that_are_counted_there(case: str) -> None:
    COUNT["calls"] = Overridden.calls = 0
    model, x = randomize(COUNTING[case]()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    for calls in (1, 2, 3):  # neither did the trace count
        assert relative_error(merged(x), calls * model.branches(x)) <= 1e-9


KEPT: list[Any] = []


def test_no_symbol_stays_behind() -> None:
    model = randomize(Holds(lambda x: (KEPT.append(x), x)[1])).double().eval()
    fxrep.reparameterize(model)
    assert not KEPT


# --------------------------------------------------------------------------------------- modes that are entered there
def test_a_symbol_that_another_tool_left() -> None:
    class Keeps(Branches):
        def forward(self, x: Tensor) -> Any:
            KEPT.append(x)
            return self.branches(x) * len(KEPT)

    graph = fx.Graph()
    KEPT[:] = [fx.Proxy(graph.placeholder("x"))]
    try:
        model, x = randomize(Keeps()).double().eval(), image()
        assert relative_error(fxrep.reparameterize(model)(x), 2 * model.branches(x)) <= 1e-9
    finally:
        KEPT.clear()


class Narrow:
    """A context of the user's."""

    def __enter__(self) -> None:
        self.context = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


narrow = autocast

CONTEXTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "another name": (None, lambda m: narrow("cpu", torch.bfloat16)),
    "held": (torch.autocast("cpu", torch.bfloat16), lambda m: m.held),
    "held to be made": (functools.partial(torch.autocast, "cpu", torch.bfloat16), lambda m: m.held()),
    "a context of its own": (None, lambda m: Narrow()),
}


@pytest.mark.parametrize("case", CONTEXTS)
def test_modes_under_other_names(case: str) -> None:
    class Enters(Branches):
        def forward(self, x: Tensor) -> Any:
            y = self.branches(x)
            flat = y.float()[0, 0]
            with enter(self):
                return torch.mm(flat, flat.t())

    held, enter = CONTEXTS[case]
    model = randomize(Enters(held)).double().eval()
    assert fxrep.reparameterize(model)(image()).dtype is torch.bfloat16


# --------------------------------------------------------------------------------------- methods that go on elsewhere
class Features(Branches):
    def features(self, x: Tensor) -> Any:
        return self.a(x) + self.b(x) * 2

    def forward(self, x: Tensor) -> Any:
        return self.a(x) + self.b(x)


class BySuper(Features):
    def features(self, x: Tensor) -> Any:
        return super().features(x).relu()


class ByPrivateMethod(Features):
    def _features(self, x: Tensor) -> Any:
        return self.a(x) + self.b(x) * 2

    def features(self, x: Tensor) -> Any:
        return self._features(x)


def features_of(model: Any, x: Tensor) -> Any:
    return model.a(x) + model.b(x) * 2


class ByHelper(Features):
    def features(self, x: Tensor) -> Any:
        return features_of(self, x)


@pytest.mark.parametrize("kind", [Features, BySuper, ByPrivateMethod, ByHelper])
def test_another_method_goes_on_to_the_branches(kind: type[Features]) -> None:
    model, x = randomize(kind()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert relative_error(merged.features(x), model.features(x)) <= 1e-9
    assert relative_error(merged(x), model(x)) <= 1e-9


class AsksByHeld(Branches):
    def forward(self, x: Tensor) -> Any:
        return self.branches(x) * (self.held() if self.held is not None else 1.0)


def test_one_of_a_class_holds_code_that_asks_for_a_mode() -> None:
    """What another of its class is known to mention is not all that it may do."""
    model = nn.Sequential(AsksByHeld(), AsksByHeld(lambda: 2.0 if torch.is_grad_enabled() else 3.0))
    randomize(model).double().eval()
    merged, x = fxrep.reparameterize(model), image()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert relative_error(merged(x), model(x)) <= 1e-9


class Part(nn.Module):
    """Another method goes on to the convolution without its norm, by a private one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def _stem(self, x: Tensor) -> Any:
        return self.conv(x)

    def features(self, x: Tensor) -> Any:
        return self._stem(x)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


def test_another_method_goes_on_to_a_part() -> None:
    model, x = randomize(Part()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    assert relative_error(merged.features(x), model.features(x)) <= 1e-9
    assert relative_error(merged(x), model(x)) <= 1e-9


class HoldsMode(Branches):
    """What it holds is called as in torch, and is it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_grad_enabled = torch.is_grad_enabled

    def forward(self, x: Tensor) -> Any:
        return self.branches(x) * (2.0 if self.is_grad_enabled() else 3.0)


def test_a_held_function_that_asks_for_a_mode() -> None:
    model, x = randomize(HoldsMode()).double().eval(), image()
    merged = fxrep.reparameterize(model)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert relative_error(merged(x), model(x)) <= 1e-9
