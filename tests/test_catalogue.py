"""Every published design in the catalogue: the same output, and exactly what the catalogue says is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxrep
from tests.blocks.catalogue import DESIGNS, FAMILIES
from tests.blocks.design import count
from tests.blocks.page import page
from tests.helpers import assert_unchanged, relative_error, run, snapshot

PAGE = Path(__file__).parent.parent / "docs" / "catalogue.md"


@pytest.mark.parametrize("name", DESIGNS)
def test_design(name: str) -> None:
    design = DESIGNS[name]
    model, inputs = design.model(), design.inputs()
    expected, state = run(model, inputs), snapshot(model)
    merged = fxrep.reparameterize(model, inputs if design.example else None)
    assert_unchanged(model, state)
    assert relative_error(run(merged, inputs), expected) <= 1e-9
    if torch.__version__ < design.since:
        pytest.xfail(f"{name} is not traced by this torch")
    assert count(merged, inputs) == design.left, fxrep.report(merged)


# What fxrep still gets wrong in exported programs
EXPORTED = {
    "ECBSR, merged in forward": "a factor in float64 before a convolution of float32 values is folded",
}


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=EXPORTED[n])) if n in EXPORTED else n
        for n in DESIGNS
    ],
)
def test_exported_design(name: str) -> None:
    design = DESIGNS[name]
    model, inputs = design.model(), design.inputs()
    try:
        program = torch.export.export(model, inputs)
    except Exception as error:
        pytest.skip(f"torch.export refuses it: {type(error).__name__}")
    merged = fxrep.reparameterize(program).module()
    assert relative_error(run(merged, inputs), run(model, inputs)) <= 1e-9
    assert sum(count(merged, inputs).values()) <= sum(design.left.values())


@pytest.mark.parametrize("name", [name for name, design in DESIGNS.items() if design.authors])
def test_a_difference_to_the_authors_merge_has_a_reason(name: str) -> None:
    design = DESIGNS[name]
    assert design.left != design.authors
    assert design.note.startswith("Not reached") == design.behind


def test_names_are_unique() -> None:
    assert len(DESIGNS) == sum(len(family) for family in FAMILIES.values())


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(FAMILIES), "run python -m tests.blocks.catalogue > docs/catalogue.md"
