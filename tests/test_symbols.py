"""What code may ask of a value beside computing with it: its class, its identity, its hash, its text.

While a model is traced there are symbols in the place of values. They give the answer of any tensor, or none, and then
the code is left as it is.
"""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests import questions
from tests.helpers import randomize, relative_error, run

TABLE = {5: 2.0, 6: 3.0}
TYPES = {torch.float32: 2.0, torch.float64: 3.0}
TEXTS = {"torch.float64": 2.0, "5": 3.0, "cpu": 4.0}


class Branches(nn.Module):
    def __init__(self, factor: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.register_buffer("table_5", torch.full((1,), 3.0))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return y * self.factor(self, x, y)


def checked(x: Tensor) -> float:
    torch._assert(x.shape[1] == 4, f"{x.shape} on {x.device}")
    return 2.0


def yes(answer: bool) -> float:
    return 2.0 if answer else 1.0


# The class of a value is known, so that these are merged.
CLASSES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "is_tensor": lambda m, x, y: yes(torch.is_tensor(x)),
    "is_tensor of a value": lambda m, x, y: yes(torch.is_tensor(y)),
    "is_tensor of a weight": lambda m, x, y: yes(torch.is_tensor(m.a.weight)),
    "type is": lambda m, x, y: yes(type(x) is Tensor),
    "type in": lambda m, x, y: yes(type(y) in (Tensor, nn.Parameter)),
    "issubclass": lambda m, x, y: yes(issubclass(type(x), Tensor)),
    "the name of the type": lambda m, x, y: yes(type(x).__name__ == "Tensor"),
    "a parameter": lambda m, x, y: yes(isinstance(m.a.weight, nn.Parameter)),
    "a buffer": lambda m, x, y: yes(isinstance(m.table_5, nn.Parameter)),
    "no parameter": lambda m, x, y: yes(isinstance(x, nn.Parameter)),
    "a size": lambda m, x, y: yes(isinstance(x.shape[2], int)),
    "a quotient of sizes": lambda m, x, y: yes(isinstance(x.shape[2] / 2, float)),
    "a shape": lambda m, x, y: yes(isinstance(x.shape, torch.Size) and isinstance(x.size(), tuple)),
    "a part of a shape": lambda m, x, y: yes(isinstance(x.shape[2:], torch.Size)),
    "a dtype": lambda m, x, y: yes(isinstance(x.dtype, torch.dtype)),
    "a comparison": lambda m, x, y: yes(isinstance(x.dtype == torch.float64, bool)),
    "the name of the class": lambda m, x, y: yes(y.__class__.__name__ == "Tensor"),
    "a stride": lambda m, x, y: yes(isinstance(x.stride(1), int) and isinstance(x.stride(), tuple)),
    "a device": lambda m, x, y: yes(isinstance(x.device, torch.device)),
    "in another file": lambda m, x, y: yes(questions.is_tensor(y)),
    "type in another file": lambda m, x, y: yes(questions.is_exactly_tensor(y)),
    "of a result": lambda m, x, y: yes(isinstance(torch.cat([y, y]).mean(1), Tensor)),
    "of a part": lambda m, x, y: yes(isinstance(y.chunk(2, 1)[0], Tensor) and isinstance(y.max(1)[0], Tensor)),
    "of its data": lambda m, x, y: yes(isinstance(y.data, Tensor)),
    "callable": lambda m, x, y: yes(callable(y)),
    "hasattr": lambda m, x, y: yes(hasattr(y, "mean") and not hasattr(y, "keys")),
    "getattr with a default": lambda m, x, y: getattr(y, "factor", 3.0),
    "a text in an assertion": lambda m, x, y: checked(x),
}

# What depends on the value that there will be is left alone.
VALUES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "elements of a type": lambda m, x, y: yes(isinstance(x, torch.DoubleTensor)),  # type: ignore[arg-type]
    "tensors that are found": lambda m, x, y: yes(isinstance(y.nonzero(as_tuple=True), tuple)),
    "a longer shape": lambda m, x, y: yes(isinstance(x.shape + (1,), int)),  # noqa: RUF005
    "a number of sizes": lambda m, x, y: yes(isinstance([1] * x.dim(), int)),
    "a reciprocal": lambda m, x, y: yes(isinstance(x.dim() ** -1, int)),
    "a gradient": lambda m, x, y: yes(x.grad is None),
    "match": lambda m, x, y: yes(questions.is_matched(y)),
    "singledispatch": lambda m, x, y: yes(questions.is_dispatched(y)),
    "builtins.isinstance": lambda m, x, y: yes(builtins.isinstance(y, Tensor)),
    "__class__": lambda m, x, y: yes(y.__class__ is Tensor),
    "__class__ ==": lambda m, x, y: yes(y.__class__ == Tensor),
    "item()": lambda m, x, y: yes(isinstance(y.mean().item(), float)),
    "tolist()": lambda m, x, y: yes(isinstance(y.mean((0, 2, 3)).tolist(), list)),
    "a maximum and its places": lambda m, x, y: yes(
        isinstance(F.max_pool2d(y, 2, return_indices=True), tuple)
        and isinstance(nn.MaxPool2d(2, return_indices=True)(y), tuple)
    ),
    "several": lambda m, x, y: yes(isinstance(y.chunk(2, 1), tuple)),
    "a tensor made of it": lambda m, x, y: torch.tensor(x.detach()).mean(),  # torch's C code took the symbol for one
    "a tensor made of a size": lambda m, x, y: torch.tensor(x.shape[2]),
    "a tensor made of a shape": lambda m, x, y: torch.tensor(x.shape).sum(),
    "a size made of sizes": lambda m, x, y: len(torch.Size(x.shape)),
    "dict.get of a size": lambda m, x, y: TABLE.get(x.shape[-1], 1.0),
    "a size in a set": lambda m, x, y: yes(x.shape[-1] in {5, 6}),
    "a number of axes in a set": lambda m, x, y: yes(x.ndim in {4}),
    "a dtype as a key": lambda m, x, y: TYPES.get(x.dtype, 1.0),
    "a set of dtypes": lambda m, x, y: len({x.dtype, y.dtype}),
    "a kind of device in a set": lambda m, x, y: yes(x.device.type in {"cpu"}),
    "str": lambda m, x, y: yes(str(x.dtype) == "torch.float64"),
    "repr": lambda m, x, y: TEXTS.get(repr(x.shape[-1]), 1.0),
    "an f-string": lambda m, x, y: TEXTS.get(f"{x.dtype}", 1.0),
    "%s": lambda m, x, y: TEXTS.get("%s" % x.shape[-1], 1.0),  # noqa: UP031
    "format": lambda m, x, y: TEXTS.get("{}".format(x.shape[-1]), 1.0),  # noqa: UP032
    "join": lambda m, x, y: TEXTS.get("".join(map(str, x.shape[2:3])), 1.0),
    "an attribute by the size": lambda m, x, y: getattr(m, f"table_{x.shape[-1]}", 1.0),
    "is a dtype": lambda m, x, y: yes(x.dtype is torch.float64),
    "is not a dtype": lambda m, x, y: yes(x.dtype is not y.dtype),
    "is False": lambda m, x, y: yes(x.requires_grad is False),
    "a comparison is True": lambda m, x, y: yes((x.shape[0] == 2) is True),
    "is a layout": lambda m, x, y: yes(x.layout is torch.strided),
}


@pytest.mark.parametrize("case", [*CLASSES, *VALUES])
def test_the_same_answer(case: str) -> None:
    model = randomize(Branches((CLASSES | VALUES)[case])).double().eval()
    merged = fxrep.reparameterize(model)
    assert bool(fxrep.report(merged).merged) == (case in CLASSES)
    for size in (5, 6):
        x = torch.randn(2, 4, size, size).double()
        assert relative_error(run(merged, x), run(model, x)) <= 1e-9


@dataclasses.dataclass
class Record:
    value: Any
    aux: Any = None


class Untraced(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 1e9:
            return x
        y = self.conv(x)
        results: dict[str, Any] = {
            "tensor": y,
            "tuple": (y, None),
            "list": [y],
            "dict": {"a": y},
            "number": 2.0,
            "none": None,
        }
        results["array"] = np.ones(3)
        return {**results, "nested": {"a": (y,)}, "object": SimpleNamespace(data=(y,), shape=[1]), "record": Record(y)}[
            self.kind
        ]


class Around(nn.Module):
    """Merges, and asks what a module that cannot be traced gives."""

    def __init__(self, kind: str, ask: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.untraced = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), Untraced(kind)
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return y * self.ask(self.untraced(y), y)


class Within(nn.Module):
    """As ``Around``, where another module is handed the result and asks."""

    def __init__(self, kind: str, ask: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.untraced, self.asking = Untraced(kind), Asking(ask)

    def forward(self, x: Tensor) -> Tensor:
        return self.asking(self.untraced(x.clone()), x)


class Asking(nn.Module):
    def __init__(self, ask: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.ask = ask

    def forward(self, found: Any, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return y * self.ask(found, y)


class Optional(Asking):
    def forward(self, found: Any, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return y if found is None else y * 3.0


RESULTS: dict[str, tuple[str, Callable[[Any, Tensor], Any]]] = {
    "a tensor": ("tensor", lambda found, y: yes(isinstance(found, Tensor))),
    "a tuple": ("tuple", lambda found, y: yes(isinstance(found, tuple))),
    "a list": ("list", lambda found, y: yes(isinstance(found, list | tuple))),
    "a dictionary": ("dict", lambda found, y: yes(isinstance(found, dict))),
    "a number": ("number", lambda found, y: yes(isinstance(found, float))),
    "its type": ("tuple", lambda found, y: yes(type(found) is tuple)),
    "an item": ("dict", lambda found, y: yes(hasattr(found, "values") and isinstance(found["a"], Tensor))),
    "an item that is a tuple": ("nested", lambda found, y: yes(isinstance(found["a"], tuple))),
    "an item of an item": ("nested", lambda found, y: yes(isinstance(found["a"][0], tuple))),
    "what a method gives": ("dict", lambda found, y: yes(isinstance(found.copy(), dict))),
    "what a method of an array gives": ("array", lambda found, y: yes(isinstance(found.mean(), Tensor))),
    "a longer list": ("list", lambda found, y: yes(isinstance(found + [y], list))),  # noqa: RUF005
    "a shape": ("object", lambda found, y: yes(isinstance(found.shape, torch.Size))),
    "a field that is none": ("record", lambda found, y: yes(found.aux is None)),
    "a key that is not there": ("dict", lambda found, y: yes(found.get("b") is None)),
    "a sum of arrays": ("array", lambda found, y: yes(isinstance(found + found, Tensor))),
    "an attribute": ("object", lambda found, y: yes(isinstance(found.data, tuple))),
    "no attribute": ("dict", lambda found, y: yes(hasattr(found, "mean"))),
    "callable": ("dict", lambda found, y: yes(callable(found))),
    "none": ("none", lambda found, y: yes(found is None)),
    "not none": ("none", lambda found, y: 3.0 if found is not None else 2.0),
    "an item that is none": ("tuple", lambda found, y: yes(found[1] is None)),
}


@pytest.mark.parametrize("kind", [Around, Within])
@pytest.mark.parametrize("case", RESULTS)
def test_what_code_that_cannot_be_traced_gives(case: str, kind: type[nn.Module]) -> None:
    model = randomize(kind(*RESULTS[case])).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


def test_an_argument_that_may_be_none() -> None:
    model = Within("none", yes)  # type: ignore[arg-type]
    model.asking = Optional(yes)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 5, 5).double()
    randomize(model).double().eval()
    assert relative_error(run(fxrep.reparameterize(model), x), run(model, x)) <= 1e-9


class Given(nn.Module):
    """Asks whether an argument is None that has nothing to do with the code that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.untraced = Optional(yes), Untraced("tensor")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 2, x) + self.untraced(x)


def test_an_argument_that_is_no_result_is_no_reason_to_stop() -> None:
    model = randomize(Given()).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert fxrep.report(merged).merged
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


@torch.fx.wrap
def narrow(x: Tensor) -> tuple[Tensor, Tensor]:
    """It is not traced: it asks for a value."""
    return (x, x) if x.sum() > 1e9 else (x[:, :2], x[:, 2:])


@torch.fx.wrap
def nothing(x: Tensor) -> Any:
    return x if x.sum() > 1e9 else None


class HandsOn(Around):
    """What it asks for comes from other modules and functions than the one that cannot be traced."""

    def __init__(self, ask: Callable[[Any, Tensor], Any]) -> None:
        super().__init__("dict", ask)
        self.identity, self.recurrent = nn.Identity(), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return y * self.ask(self, y)


@pytest.mark.parametrize("case", ["identity", "lstm", "wrapped", "none"])
def test_what_other_modules_and_functions_give(case: str) -> None:
    asks: dict[str, Callable[[Any, Tensor], Any]] = {
        "identity": lambda m, y: yes(isinstance(m.identity(m.untraced(y)), dict)),
        "lstm": lambda m, y: yes(isinstance(m.recurrent(y.mean(1)[..., :4]), tuple)),
        "none": lambda m, y: yes(nothing(y) is None),
        "wrapped": lambda m, y: yes(isinstance(narrow(y), tuple)),
    }
    model = randomize(HandsOn(asks[case])).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


class HandsItem(Within):
    def forward(self, x: Tensor) -> Tensor:
        return self.asking(self.untraced(x.clone())[1], x)  # type: ignore[no-any-return]


def test_an_item_that_is_handed_on_may_be_none() -> None:
    model = randomize(HandsItem("tuple", lambda found, y: yes(found is None))).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


class Cuts(Untraced):
    """It mentions None, and gives a tensor."""

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 1e9:
            return x
        y = F.interpolate(self.conv(x), size=None, scale_factor=1.0)[:, None][:, 0]
        return y[:, :, 1:-1]


class Sums(Around):
    def forward(self, x: Tensor) -> Tensor:
        y, total = self.untraced(x), None  # type: ignore[var-annotated]
        extra = getattr(self, "extra", None)
        for _ in range(2):
            part = self.a(y) + self.b(y)
            total = part if total is None else total + part
        return total if extra is None else total + extra  # type: ignore[return-value, operator]


def test_none_that_has_nothing_to_do_with_the_result_is_no_reason_to_stop() -> None:
    model = Sums("tensor", yes)  # type: ignore[arg-type]
    model.untraced = Cuts("tensor")
    randomize(model).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert fxrep.report(merged).merged
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


class Makes(Untraced):
    """It does not mention None."""

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 1e9:
            return x
        return Record(self.conv(x))


def test_a_field_that_is_none_by_default() -> None:
    model = Around("tensor", lambda found, y: yes(found.aux is None))
    model.untraced = Makes("tensor")
    randomize(model).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9


class Hands(nn.Module):
    """Cannot be traced, and hands anything to a module that can."""

    def __init__(self, asking: nn.Module, given: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.asking, self.given = asking, given

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 1e9:
            return x
        return self.asking(self.given(x), x)


HANDED: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Any]]] = {
    "none": (lambda: Asking(lambda found, y: yes(found is None)), lambda x: None),
    "none, asked by forward": (lambda: Optional(yes), lambda x: None),  # type: ignore[arg-type]
    "a list": (lambda: Asking(lambda found, y: yes(isinstance(found, list))), lambda x: [x]),
    "a tensor": (lambda: Asking(lambda found, y: yes(isinstance(found, Tensor))), lambda x: x),
}


@pytest.mark.parametrize("case", HANDED)
def test_what_code_that_cannot_be_traced_hands_on(case: str) -> None:
    asking, given = HANDED[case]
    model = randomize(Hands(asking(), given)).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert relative_error(run(merged, x), run(model, x)) <= 1e-9
