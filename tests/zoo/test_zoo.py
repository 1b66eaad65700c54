"""The zoo's own machinery, on models that take a second; the whole zoo is ``python -m tests.zoo``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("rich")

import fxrep
from tests.zoo import measure, table
from tests.zoo.models import LARGE, Case, catalogue
from tests.zoo.workers import run_all

SMALL = Case("timm", "test_byobnet", "byobnet")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_catalogue_is_whole() -> None:
    import timm
    import torchvision

    cases = catalogue()
    names = {library: {c.name for c in cases if c.library == library} for library in ("timm", "torchvision")}
    assert names["torchvision"] == set(torchvision.models.list_models())
    left_out = set(timm.list_models()) - names["timm"]
    assert len(left_out) < len(names["timm"])
    families = {case.family for case in cases if case.library == "timm"}
    large = {case.family for case in cases if case.library == "timm" and case.parameters > LARGE}
    assert len(families) > 80
    assert len(large) > 30
    first = {case.family for case in cases if case.library == "timm"}
    assert {case.family for case in cases[: len(first) + 40] if case.library == "timm"} == first, "not breadth first"


@pytest.mark.parametrize(
    "case", [SMALL, Case("torchvision", "shufflenet_v2_x0_5", "shufflenetv2")], ids=lambda c: c.key
)
def test_a_row(case: Case) -> None:
    stages: list[str] = []
    row = measure.measure(case, stages.append)
    assert row["failures"] == [], row
    assert row["norms"][0] > row["norms"][1] == 0
    assert row["merges"] == row["norms"][0]
    assert row["own_error"] < 1e-3
    assert row["signal"] > 1e-3
    assert stages[0] == "build"
    assert stages[-1] == "report"


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (lambda model, merged: merged.conv.weight.mul_(1.001), "wrong"),
        (lambda model, merged: model.conv.weight.mul_(1.001), "changed"),
        (lambda model, merged: model.add_module("more", nn.Identity()), "changed"),
        (lambda model, merged: setattr(merged, "conv", model.conv), "shares"),
    ],
)
def test_what_is_wrong_is_seen(spoil, failure, monkeypatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x)).relu()

    reparameterize = fxrep.reparameterize

    def spoilt(model: nn.Module) -> nn.Module:
        merged = reparameterize(model)
        if isinstance(model, Net):
            spoil(model, merged)
        return merged

    monkeypatch.setattr(measure, "build", lambda case: Net().eval())
    monkeypatch.setattr(fxrep, "reparameterize", spoilt)
    row = measure.measure(Case("timm", "net", "net"), lambda stage: None)
    assert failure in row["failures"], row


@pytest.mark.parametrize(
    ("convs", "norms", "adds", "more"),
    [
        ([4, 4], [52, 0], [32, 36], False),
        ([4, 5], [52, 0], [32, 32], True),
        ([4, 4], [2, 2], [32, 33], True),
        ([4, 4], [2, 1], [32, 34], True),
        ([4, 4], [2, 3], [32, 31], True),
    ],
)
def test_more_runs_than_before(convs: list[int], norms: list[int], adds: list[int], more: bool) -> None:
    """A bias that a linear layer adds on its own is where a norm was."""
    row = {"shapes": True, "error": 0.0, "own_error": 0.0, "unchanged": True, "shares": [], "class": True}
    row |= {"unexplained": [], "convs": convs, "norms": norms, "adds": adds}
    assert measure.judge(row) == ["more"] * more


def test_a_hang_makes_a_row() -> None:
    ((case, row),) = run_all([SMALL], jobs=1, seconds=0.1, gigabytes=8)
    assert case == SMALL
    assert len(row["failures"]) == 1  # whichever stage it was in
    assert "timeout" in str(row["problem"])


def test_rows_and_page(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    stamp = {"library": "timm", "family": "byobnet", "torch": "2", "timm": "1", "torchvision": "0", "sources": "abc"}
    table.append({"model": "timm/a", "failures": ["crash"], "problem": "a | b", **stamp}, path)
    table.append({"model": "timm/b", "failures": ["build"], **stamp}, path)
    good = measure.measure(SMALL, lambda stage: None)
    table.append({"model": "timm/a", **good, **stamp}, path)
    table.compact(path)
    rows = table.read(path)
    assert [*rows] == ["timm/a", "timm/b"]
    assert rows["timm/a"]["failures"] == []
    page = table.page(rows)
    assert "0 of 1 models fail; 1 more cannot be built or run." in page
    assert "| timm/a |" in page
