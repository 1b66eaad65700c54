"""What code may ask of a value beside computing with it: its class, its identity, its hash, its text.

While a model is traced there are symbols in the place of values. They give the answer of any tensor, or none, and then
the code is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
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
    "a device": lambda m, x, y: yes(isinstance(x.device, torch.device)),
    "a text in an assertion": lambda m, x, y: checked(x),
}

# What depends on the value that there will be is left alone.
VALUES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "elements of a type": lambda m, x, y: yes(isinstance(x, torch.DoubleTensor)),  # type: ignore[arg-type]
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
