"""One row of the table against timm: what runs in a model as it is, after timm's own merge, and after fxrep's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fxrep
from benchmarks.kinds import KINDS, OTHER, KindCounter, count_kinds
from benchmarks.peers import AS_IS, FXREP, merges, reason
from tests.zoo.measure import accepted, exact, prepare, reasons, run, worst
from tests.zoo.models import Case, Inputs, build

Row = dict[str, Any]
TIMM = "timm"
COMPARED = {
    **{f"{kind}s": (kind,) for kind in ("conv", "batch norm", "norm", "linear", "pad")},
    "elementwise operators": ("add", "mul"),
    "operators": (*KINDS, OTHER),
}


def architecture(model: nn.Module) -> str:
    """The same for models that are made of the same modules."""
    return hashlib.sha256(repr(model).encode()).hexdigest()[:12]


@torch.no_grad()
def measure(case: Case, model: nn.Module | None = None) -> Row:
    """Counts by variant and kind; errors against float64; and why the norms and adds that could be gone are not."""
    model = build(case) if model is None else model
    row: Row = {"family": case.family, "parameters": sum(p.numel() for p in model.parameters())}
    row["input"], make = accepted(case, model)
    expected, reference = prepare(case, model, make, row)
    inputs, passes = make(0), merges()
    made = {AS_IS: model, FXREP: passes[FXREP](model)}
    try:
        made[TIMM] = passes[TIMM](model)
    except Exception as error:
        row["failed"] = reason(error)
    counters = {name: count_kinds(each, _caller(case, each, inputs)) for name, each in made.items()}
    row["counts"] = {name: counter.counts for name, counter in counters.items()}
    truth = expected if reference is None else reference
    row["errors"] = {name: worst(run(case, each, inputs, torch.float32), truth) for name, each in made.items()}
    report = fxrep.report(made[FXREP])
    row["opaque"] = report.opaque
    row["kept_norms"] = reasons(kept for kept in report.kept if kept.kind == "norm")
    row["kept_adds"] = reasons(_adds_that_timm_removed(report, counters) if TIMM in made else [])
    return row


def _caller(case: Case, model: nn.Module, inputs: Inputs) -> Callable[[], Any]:
    return lambda: run(case, model, inputs, torch.float32)


def _adds_that_timm_removed(report: fxrep.Report, counters: dict[str, KindCounter]) -> list[fxrep.Kept]:
    """The adds that fxrep left in modules whose code runs fewer after timm's merge than before, and than are left."""
    kept: dict[str, list[fxrep.Kept]] = {}
    for each in report.kept:
        if each.kind == "add":
            kept.setdefault(each.path, []).append(each)
    before, after = ({p: each["add"] for p, each in counters[name].at.items()} for name in (AS_IS, TIMM))
    return [add for path, adds in kept.items() for add in adds
            if after.get(path, 0) < min(before.get(path, 0), len(adds))]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- verdict
def behind(row: Row) -> list[str]:
    """Of what more runs after fxrep than after timm's own merge, or in all than in the model as it is.

    A linear layer without a bias that takes in a norm has one, and for some inputs torch runs that as an add: so it is
    after both merges.
    """
    counts = row["counts"]
    ours, theirs = counts[FXREP], counts.get(TIMM, counts[AS_IS])
    found = [name for name, kinds in COMPARED.items() if sum(map(ours.get, kinds)) > sum(map(theirs.get, kinds))]
    more = sum(ours.values()) > sum(counts[AS_IS].values())
    return [*found, "operators"] if more and "operators" not in found else found


def norms_left(row: Row) -> int:
    """The batch norms that run after fxrep."""
    return int(row["counts"][FXREP]["batch norm"])


def wrong(row: Row) -> bool:
    """Whether the merged model is further from float64 than rounding explains."""
    return not exact(row["errors"][FXREP], row["errors"][AS_IS])
