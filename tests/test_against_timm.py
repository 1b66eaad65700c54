"""The table against timm: two small rows measured anew, what marks a row, and the page that is made of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from timm.utils.model import reparameterize_model

import fxrep
from benchmarks import against, against_page, against_timm
from benchmarks.common import Results
from benchmarks.kinds import count_kinds
from tests.zoo.models import Case, build

ROOT = Path(__file__).parent.parent
FILE = ROOT / "benchmarks" / "results" / "against_timm.json"


@pytest.mark.parametrize(("name", "family"), [("repghostnet_050", "repghost"), ("lcnetv2_small", "lcnetv2")])
def test_fxrep_is_ahead(name: str, family: str) -> None:
    row = against.measure(Case("timm", name, family))
    assert against_page.remarks(row) == ""
    counts = row["counts"]
    assert counts["fxrep"]["batch norm"] == 0 < counts["timm"]["batch norm"] < counts["as is"]["batch norm"]
    assert counts["fxrep"]["add"] == counts["timm"]["add"] < counts["as is"]["add"]


def test_fxrep_is_ahead_on_levit_without_an_example() -> None:
    """Its attention keeps a cache, which a method of its own looks after: a trace calls that as it is."""
    model, x = build(Case("timm", "levit_128s", "levit")), torch.randn(1, 3, 224, 224)
    after = {"timm": reparameterize_model(model), "fxrep": fxrep.reparameterize(model)}
    counts = {name: count_kinds(each, lambda each=each: each(x)).counts for name, each in after.items()}
    assert counts["fxrep"]["batch norm"] == 0
    assert all(counts["fxrep"][kind] <= counts["timm"][kind] for kind in counts["timm"])


def test_no_row_of_the_table_is_marked() -> None:
    rows = {row["case"]["model"]: row for row in Results.open(FILE).rows if row.get("counts")}
    assert len(rows) > 150
    assert {name: text for name, row in rows.items() if (text := against_page.remarks(row))} == {}


def test_what_runs_is_counted_by_kind_and_module() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(F.pad(x, (1, 1, 1, 1), mode="reflect"))
            x = (x + 1).add_(x) * x
            return self.head(F.layer_norm(x.mean((2, 3)).flatten(1), (4,)))

    model = Model().eval()
    x = torch.randn(2, 3, 8, 8)
    counter = count_kinds(model, lambda: model(x))
    kinds = {"conv": 1, "batch norm": 1, "norm": 1, "add": 2, "mul": 1, "linear": 1, "pad": 1, "other": 2}
    assert counter.counts == kinds
    assert {path: dict(counts) for path, counts in counter.at.items()} == {
        "": {"pad": 1, "add": 2, "mul": 1, "other": 1, "norm": 1},
        "body.0": {"conv": 1},
        "body.1": {"batch norm": 1},
        "body.2": {"other": 1},
        "head": {"linear": 1},
    }


def _row(**fxrep: int) -> dict[str, Any]:
    least = dict.fromkeys(against_page.NAMES, 0) | {"conv": 5, "add": 1}
    counts = {"as is": {**least, "conv": 9, "batch norm": 9, "add": 8}, "timm": least, "fxrep": {**least, **fxrep}}
    errors = dict.fromkeys(counts, 1e-6)
    return {
        "case": {"model": "net"}, "family": "nets", "parameters": 1, "machine": {"torch": "2"}, "counts": counts,
        "errors": errors, "opaque": {}, "kept_norms": {}, "kept_adds": {"because": [2, "add in 'a.b': because"]},
    }  # fmt: skip


def test_what_is_behind_is_marked() -> None:
    assert against_page.remarks(_row()) == ""
    assert against_page.remarks(_row(add=2)) == "more elementwise operators, more operators"
    assert against_page.remarks(_row(pad=1, add=0)) == "more pads"
    assert against_page.remarks(_row(mul=1, add=0)) == ""
    assert against_page.remarks(_row(conv=4, **{"batch norm": 1})) == "more batch norms, leaves batch norms"
    row = _row()
    row["errors"]["fxrep"] = 1e-3
    assert against_page.remarks(row) == "wrong"
    text = against_page.page([_row(add=2)])
    assert "8 / 1 / **2**" in text
    assert "fxrep is behind in 1" in text
    assert "| 2 | 1 | because | `net` add in 'a.b': because |" in text


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case("timm", name, "lcnet", 1) for name in ("lcnet_035", "lcnet_050", "lcnet_075")]
    measured: list[str] = []

    def measure(case: Case, model: nn.Module) -> dict[str, Any]:
        if len(measured) == 1 and case.name == "lcnet_050":
            raise KeyboardInterrupt
        measured.append(case.name)
        return {key: value for key, value in _row().items() if key not in ("case", "machine", "family")}

    monkeypatch.setattr(against, "measure", measure)
    path = tmp_path / "rows.json"
    with pytest.raises(KeyboardInterrupt):
        against_timm.fill(Results.open(path), cases, any_sources=False)
    measured.append("interrupted")
    against_timm.fill(Results.open(path), [*cases, Case("timm", "lcnet_035", "lcnet", 1)], any_sources=False)
    assert measured == ["lcnet_035", "interrupted", "lcnet_050", "lcnet_075"]
    assert [row["case"]["model"] for row in json.loads(path.read_text())["rows"]] == [
        "lcnet_035",
        "lcnet_050",
        "lcnet_075",
    ]


def test_the_page_says_what_the_file_says() -> None:
    """Whoever measures again gets the page from the same command."""
    assert (ROOT / "docs" / "against_timm.md").read_text() == against_page.page(Results.open(FILE).rows)
