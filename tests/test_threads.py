"""Several threads merge at once, and nothing that a trace patches stays so."""

from __future__ import annotations

import builtins
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from tests.blocks import TwoBranches as Branches
from tests.helpers import randomize, relative_error

NAMES = dict(globals())
"""As some registries do; with what Python puts into every file."""


class Names(Branches):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * (2.0 if "Branches" in NAMES else 3.0)


class Merges(Branches):
    """Merges another model while it is traced itself, which patches Python's own functions, and restores them."""

    def forward(self, x: Tensor) -> Any:
        fxrep.explain(nn.Sequential(Branches()).eval())
        return super().forward(x) * (2.0 if "Branches" in NAMES else 3.0)


def assert_merged(model: nn.Module) -> None:
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert fxrep.report(merged).merged
    assert relative_error(merged(x), model(x)) <= 1e-9


def test_threads_that_merge_at_once() -> None:
    models = [nn.Sequential(Branches(4, 4), nn.ReLU(), Branches(4, 4)) for _ in range(8)]
    start = threading.Barrier(4)

    def merge(model: nn.Module) -> None:
        if model in models[:4]:
            start.wait(20)
        fxrep.reparameterize(model)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(merge, [randomize(model).double().eval() for model in models]))
    assert "__getattribute__" not in vars(nn.Module)
    for model in models:
        assert_merged(model)


class Sets(Branches):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.last = super().forward(x)
            return self.last.clone()


def test_threads_that_run_models_meanwhile() -> None:
    """Those of the thread that merges are traced, others compute."""
    model = randomize(nn.Sequential(*(Branches(4, 4) for _ in range(40)))).double().eval()
    other, x = randomize(nn.Sequential(Sets(4, 4), nn.ReLU(), Branches(4, 4))).double().eval(), torch.ones(2, 4, 5, 5)
    expected, over, found = other(x.double()), threading.Event(), set[int]()
    runs, tries = [0, 0], 0

    def work(number: int) -> None:
        while not over.is_set():
            assert torch.equal(other(x.double()), expected)
            runs[number] += 1

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, number) for number in range(2)]
        try:
            while (min(runs) < 50 or tries < 10) and not any(each.done() for each in working):
                found.add(len(fxrep.explain(model).merged))
                tries += 1
        finally:
            over.set()
        for each in working:
            each.result()
    assert found == {40}


@pytest.mark.parametrize("kind", [Names, Merges])
def test_a_table_of_names_is_left_alone(kind: type[nn.Module]) -> None:
    known, is_tensor = dict(vars(builtins)), torch.is_tensor
    model = randomize(nn.Sequential(kind())).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert vars(builtins) == known
    assert torch.is_tensor is is_tensor
    assert relative_error(merged(x), model(x)) <= 1e-9
