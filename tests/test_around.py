"""Code around a module: hooks, replaced forwards, wrappers and modes, which may write, or give something else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import fxrep
from tests.helpers import randomize, relative_error

X = torch.randn(2, 4, 8, 8, dtype=torch.float64)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.conv1, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv3(x)) + self.conv1(x)


def check(model: nn.Module, x: Any = X) -> nn.Module:
    """Twice the same as the model, which gives something else the second time if it changes itself."""
    model = randomize(model).double()
    merged = fxrep.reparameterize(model)
    given, own = (copy.deepcopy(x), copy.deepcopy(x))
    for _ in range(2):
        with torch.no_grad():
            expected, found = (m(*v) if isinstance(v, tuple) else m(v) for m, v in ((model, given), (merged, own)))
        assert relative_error(found, expected) < 1e-12
    return merged


# --------------------------------------------------------------------------------------- modules that write to x
class Beside(Branches):
    """A module between the branches, which gets what they read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        y = self.conv3(x)
        z = self.module(x)
        return y + z + self.conv1(x)  # type: ignore[no-any-return]


class After(Branches):
    """What a module gives is written to: is that what the branches read?"""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        y = self.conv3(x)
        self.module(x).mul_(2)
        return y + self.conv1(x)  # type: ignore[no-any-return]


def hooked(module: nn.Module, hook: Callable[..., Any], before: bool = False) -> nn.Module:
    (module.register_forward_pre_hook if before else module.register_forward_hook)(hook)
    return module


def replaced(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    module.forward = forward  # type: ignore[method-assign]
    return module


def clamps(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].clamp_(min=0),)


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Transformer(nn.Module):
    """torch's own, of which a norm, the first to get the value, has a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True, norm_first=True)
        self.layer.norm1.register_forward_pre_hook(clamps)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        y = self.first(x)
        return y + self.layer(x) + self.second(x)  # type: ignore[no-any-return]


WRITERS: dict[str, Callable[[], nn.Module]] = {
    "a chain with a hook": lambda: Beside(hooked(nn.Sequential(nn.ReLU(True), nn.Conv2d(4, 4, 1)), lambda *_: None)),
    "an activation with a hook": lambda: Beside(hooked(nn.SiLU(True), lambda *_: None)),
    "an activation whose hook gives something else": lambda: Beside(hooked(nn.ReLU(True), lambda m, args, y: y * 2)),
    "a pre-hook": lambda: Beside(hooked(nn.GroupNorm(2, 4), clamps, before=True)),
    "a forward of its own": lambda: Beside(replaced(nn.Identity(), lambda x: x.mul_(2))),
    "a wrapper": lambda: Beside(nn.DataParallel(Doubling())),
    "a hook that gives the input": lambda: After(hooked(nn.BatchNorm2d(4), lambda m, args, y: args[0])),
    "a hook inside of a module of torch's": lambda: Transformer(),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_module_that_writes(case: str) -> None:
    check(WRITERS[case](), X if "inside" not in case else X.flatten(1, 2))


# ---------------------------------------------------------------------------------------------- hooks on the whole
def clips(module: nn.Module, _: Any) -> None:
    for parameter in module.parameters():
        parameter.data.clamp_(-0.1, 0.1)


def reads(module: Any, _: Any, y: Tensor) -> Tensor:
    return y * module.conv3.weight.norm()


class Untraced(nn.Module):
    """Goes on to a module with the hook, which is traced by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(x.sum() < 1e9) else x


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("hook", [clips, reads])
def test_a_hook_on_the_whole(hook: Callable[..., Any], inside: bool) -> None:
    model = hooked(Branches(), hook, before=hook is clips)
    check(Untraced(model) if inside else model)


def test_a_forward_of_its_own_on_the_whole() -> None:
    model = randomize(Branches()).double()
    replaced(model, lambda x: model.conv3(x) - model.norm(x))
    expected = model(X)
    assert relative_error(fxrep.reparameterize(model, inplace=True)(X), expected) < 1e-12


def test_a_hook_that_only_looks_is_no_reason_to_stop() -> None:
    merged = check(hooked(Branches(), lambda module, args, y: None))
    assert len(fxrep.report(merged).merged) == 1


# ------------------------------------------------------------------------------------------------ tables that change
class Tied(nn.Module):
    """A linear layer with the weight of a table of which the rows that are read are kept short."""

    def __init__(self, table: Callable[..., Any] = nn.Embedding) -> None:
        super().__init__()
        self.table, self.tied, self.linear = table(8, 8, max_norm=0.5), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.table.weight

    def look_up(self, index: Tensor) -> Tensor:
        return self.table(index)  # type: ignore[no-any-return]

    def forward(self, index: Tensor, x: Tensor) -> Tensor:
        row = self.look_up(index)
        return self.tied(x) + self.linear(x) + row  # type: ignore[no-any-return]


class TiedByFunction(Tied):
    def look_up(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.table.weight, max_norm=0.5)


class TiedUnseen(Tied):
    """Code that is not traced reads the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table.max_norm, self.seen = None, Reader(self.table)

    def look_up(self, index: Tensor) -> Tensor:
        return self.seen(index)  # type: ignore[no-any-return]


class Reader(nn.Module):
    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.table.weight, max_norm=0.5) if bool(index.sum() < 99) else index


TABLES: dict[str, Callable[[], Tied]] = {
    "a module": Tied,
    "a module for several": lambda: Tied(nn.EmbeddingBag),
    "a function": TiedByFunction,
    "code that is not traced": TiedUnseen,
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_whose_rows_are_kept_short(case: str) -> None:
    index = torch.tensor([1, 2, 3])
    check(TABLES[case](), (index[None] if "several" in case else index, torch.randn(3, 8, dtype=torch.float64)))


# -------------------------------------------------------------------------------------------------------- gradients
class DetachedAfter(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(x).detach() + self.conv1(x)  # type: ignore[no-any-return]


class DetachedBefore(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.detach(x)) + self.conv1(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("kind", [DetachedAfter, DetachedBefore])
def test_a_detached_branch_gets_no_gradient(kind: type[Branches], exported: bool) -> None:
    model = randomize(kind()).double()
    given = torch.export.export(model, (X,)).module() if exported else model
    gradients = []
    for each in (model, fxrep.reparameterize(given)):
        x = X.clone().requires_grad_()
        each(x).sum().backward()
        gradients.append(x.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert relative_error(gradients[1], gradients[0]) < 1e-12


# ------------------------------------------------------------------------------------------------------------ modes
class Rounding(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = function(*args, **(kwargs or {}))
        return (y * 8).round() / 8 if function in (torch.conv2d, F.conv2d) else y


class InMode(Branches):
    def forward(self, x: Tensor) -> Tensor:
        with Rounding():
            return super().forward(x)


class IfTraced(Branches):
    def forward(self, x: Tensor) -> Tensor:
        sign = -1 if torch.fx._symbolic_trace._get_is_fx_tracing() else 1  # type: ignore[attr-defined, unused-ignore]
        return self.conv3(x) + sign * self.conv1(x)  # type: ignore[no-any-return]


class IfSymbol(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(x) + (-1 if isinstance(x, torch.fx.Proxy) else 1) * self.conv1(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [InMode, IfTraced, IfSymbol])
def test_what_only_a_trace_would_see(kind: type[Branches]) -> None:
    if kind is IfTraced and not hasattr(torch.fx._symbolic_trace, "_get_is_fx_tracing"):
        pytest.skip("a name of newer versions")
    check(kind())


@torch.no_grad()
def saved(y: Tensor) -> None:
    y.sum()


class Saving(Branches):
    """A mode of a function that is not called is none of the forward's."""

    def forward(self, x: Tensor, save: bool = False) -> Tensor:
        y = super().forward(x)
        if save:
            saved(y)
        return y


def test_a_mode_that_is_not_entered() -> None:
    assert len(fxrep.report(check(Saving())).merged) == 1
