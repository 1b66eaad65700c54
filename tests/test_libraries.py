"""Which code is looked into: helpers wherever they are held, and no libraries that have nothing to do with torch."""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import rich
import timm
import torch
from torch import Tensor, nn

import fxrep
from fxrep.capture.bytecode import strings_in
from fxrep.capture.code import reachable_functions
from fxrep.capture.libraries import forget_libraries, is_elsewhere, is_users, would_run_users
from fxrep.capture.writes import written_storages
from tests.helpers import randomize, relative_error


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    """A block, and a function that gets at its convolution."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.function = Block(), function

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y if float(y.mean()) > 1e9 else y + self.function(self.block, x)


def own_convolution(module: Any, x: Tensor) -> Tensor:
    return module.conv(x)  # type: ignore[no-any-return]


def by_default(module: Any, x: Tensor, head: Any = own_convolution) -> Tensor:
    return head(module, x)  # type: ignore[no-any-return]


def by_keyword(module: Any, x: Tensor, *, head: Any = own_convolution) -> Tensor:
    return head(module, x)  # type: ignore[no-any-return]


@dataclasses.dataclass
class Config:
    head: Any


@dataclasses.dataclass
class Slotted:
    __slots__ = ("head",)
    head: Any


class Heads(enum.Enum):
    OWN = functools.partial(own_convolution)


class Calls(type):
    def __call__(cls, module: Any, x: Tensor) -> Any:
        return module.conv(x)


class Called(metaclass=Calls):
    pass


SPACE = types.SimpleNamespace(head=own_convolution)
CONFIG, SLOTTED, TABLE = Config(own_convolution), Slotted(own_convolution), {own_convolution}
GETTER, CALLER = operator.attrgetter("conv"), operator.methodcaller("get_submodule", "conv")
FILE = types.ModuleType("a_users_file")
FILE.head = own_convolution  # type: ignore[attr-defined]

WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "by a default": by_default,
    "by the default of a keyword": by_keyword,
    "in a namespace": lambda m, x: SPACE.head(m, x),
    "in a dataclass": lambda m, x: CONFIG.head(m, x),
    "in slots": lambda m, x: SLOTTED.head(m, x),
    "in an enumeration": lambda m, x: Heads.OWN.value(m, x),
    "in a set": lambda m, x: next(iter(TABLE))(m, x),
    "in another file": lambda m, x: FILE.head(m, x),
    "by attrgetter": lambda m, x: GETTER(m)(x),
    "by methodcaller": lambda m, x: CALLER(m)(x),
    "by a methodcaller made there": lambda m, x: operator.methodcaller("get_submodule", "conv")(m)(x),
    "by eval": lambda m, x: eval("m.conv(x)"),
    "by the name of a variable": lambda m, x: globals()["own_convolution"](m, x),
    "by the call of a class": lambda m, x: Called(m, x),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_helper_is_found(way: str) -> None:
    model, x = randomize(Net(WAYS[way]).double()), torch.randn(1, 4, 5, 5, dtype=torch.float64)
    assert relative_error(fxrep.reparameterize(model)(x), model(x)) < 1e-12


def test_a_file_that_is_imported_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fxrep_test_helper.py").write_text("def head(module, x):\n    return module.conv(x)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def later(module: Any, x: Tensor) -> Any:
        import fxrep_test_helper  # type: ignore[import-not-found]

        return fxrep_test_helper.head(module, x)

    model, x = randomize(Net(later).double()), torch.randn(1, 4, 5, 5, dtype=torch.float64)
    for _ in range(2):  # it is loaded by the first call
        assert relative_error(fxrep.reparameterize(model)(x), model(x)) < 1e-12


def test_what_an_import_would_run(tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    (tmp_path / "inner").mkdir()
    here = str(tmp_path / "model.py")
    assert would_run_users("beside", here)
    assert would_run_users("inner", here)
    assert not any(would_run_users(name, here) for name in ("nothing.of.the.kind", "torch.fx", "json", "pygments"))
    assert would_run_users("", here)  # from . import something
    assert not would_run_users("beside", None)
    assert would_run_users("tests", None)  # which is not installed


def test_libraries() -> None:
    forget_libraries()
    assert is_users(Block)
    assert is_users(sys.modules[__name__])
    assert not is_elsewhere("timm")
    assert is_users(timm)
    assert is_elsewhere("hypothesis")
    assert not is_users(rich)
    assert not is_users(torch)
    assert not is_users(sys)
    assert not is_elsewhere("nothing_of_the_kind")


def plots(x: Tensor) -> None:
    hypothesis.strategies.lists(rich.print(x)).example()  # type: ignore[arg-type, func-returns-value]


class Plotting(Block):
    def forward(self, x: Tensor, plot: bool = False) -> Tensor:
        y = super().forward(x)
        if plot:
            plots(y)
        return y


def test_a_library_that_has_nothing_to_do_with_torch_is_not_looked_into() -> None:
    model = randomize(Plotting())
    assert len(fxrep.report(fxrep.reparameterize(model)).merged) == 1
    assert len(reachable_functions(model)[1]) < 20


def test_texts_by_which_something_is_looked_up() -> None:
    def function(module: Any) -> Any:
        """Not what this.says."""
        found = module.get("a.weight"), ("b", "not a name"), [module.get("c") for _ in range(2)]
        return found, lambda: "d"

    assert {"a", "weight", "b", "c", "d"} <= strings_in(function.__code__)
    assert strings_in(function.__code__).isdisjoint({"Not", "this", "says", "not"})


def test_a_parameter_that_is_looked_up_by_its_path() -> None:
    model, x = Net(lambda m, x: x * dict(m.named_parameters())["conv.weight"].mean()), torch.randn(1, 4, 5, 5)
    randomize(model)
    assert relative_error(fxrep.reparameterize(model)(x), model(x)) < 1e-5


# ------------------------------------------------------------------------------------------------- what is written
class Owner(nn.Module):
    def __init__(self, writes: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.other, self.writes = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), writes
        self.parts = nn.ModuleList([self.conv])

    @property
    def alias(self) -> nn.Module:
        return self.conv

    def forward(self, x: Tensor) -> Any:
        return self.writes(self, x)


def local_names(self: Any, x: Tensor) -> Any:
    weight = x.sum()
    weight += 1
    return weight


def of_another(self: Any, x: Tensor) -> None:
    x += self.other.weight.sum()


def rows_kept_short(self: Any, x: Tensor) -> Any:
    return torch.nn.functional.embedding(x, self.conv.weight, max_norm=1.0)


def as_out(self: Any, x: Tensor) -> Any:
    return torch.mul(x, 2, out=self.conv.weight)


def assigns(self: Any, x: Tensor) -> None:
    self.conv.weight = nn.Parameter(x)


def of_an_item(self: Any, x: Tensor) -> None:
    x += 1
    self.parts[0].weight.mul_(2)


def divides(self: Any, x: Tensor) -> None:
    weight = self.conv.weight.data
    weight /= 2


def by_a_property(self: Any, x: Tensor) -> None:
    self.alias.weight.mul_(2)


def off_a_variable(self: Any, x: Tensor) -> None:
    conv = self.conv
    conv.weight.mul_(2)


def by_text(self: Any, x: Tensor) -> None:
    getattr(self.conv, "weight").mul_(2)  # noqa: B009


@pytest.mark.parametrize(
    ("function", "conv", "other"),
    [
        (local_names, False, False),
        (of_another, False, True),
        (rows_kept_short, True, False),
        (as_out, True, False),
        (assigns, True, True),
        (of_an_item, True, False),
        (divides, True, False),
        (by_a_property, True, True),
        (off_a_variable, True, True),
        (by_text, True, True),
    ],
)
def test_what_untraced_code_may_write_to(function: Callable[..., Any], conv: bool, other: bool) -> None:
    model = Owner(function)
    written = written_storages([model])
    held = [m.weight.untyped_storage().data_ptr() in written for m in (model.conv, model.other)]
    assert held == [conv, other]


def test_the_compiler_of_torch_is_not_imported() -> None:
    program = """
import sys, torch, fxrep
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.steps = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.ones(2)
    def forward(self, x):
        return self.norm(self.conv(x)) + (torch.zeros(3) + 1).sum()
fxrep.reparameterize(Net().eval())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
