"""The table of guards fits the code: each snippet is there once, and no refusal is left out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import ModuleType

import pytest
from torch import nn

import fxrep
from fxrep import plan
from fxrep.operators import MODULES
from tests.guards.guards import GUARDS, NO_PROOF, NOT_GUARDS, ROOT, UNPROVED, Edit
from tests.helpers import randomize


@pytest.mark.parametrize("edits", [*(guard.edits for guard in GUARDS), NO_PROOF],
                         ids=[*(guard.name for guard in GUARDS), "the proof"])  # fmt: skip
def test_snippets_occur_once(edits: list[Edit]) -> None:
    for file, old, new in edits:
        text = (ROOT / file).read_text()
        assert text.count(old) == 1, f"{file} has this {text.count(old)} times:\n{old}"
        ast.parse(text.replace(old, new))


def test_names_are_unique() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


def test_a_wrong_merge_passes_without_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = {file for file, _, _ in NO_PROOF}
    text = (ROOT / file).read_text()
    for _, old, new in NO_PROOF:
        text = text.replace(old, new)
    edited = ModuleType("fxrep.weights")
    edited.__package__ = "fxrep"
    exec(compile(text, file, "exec"), vars(edited))
    monkeypatch.setattr(plan, "build_modules", edited.build_modules)
    monkeypatch.setitem(MODULES, nn.Softplus, MODULES[nn.Identity])
    model = randomize(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softplus(), nn.BatchNorm2d(4)))
    assert not fxrep.explain(model).merged
    monkeypatch.setenv(UNPROVED, "1")
    assert fxrep.explain(model).merged


def refusals(file: str) -> Iterator[tuple[int, int, str]]:
    """The first and last line of each ``raise Illegal`` with the condition around it, and how its message begins."""

    def visit(node: ast.AST, start: int | None) -> Iterator[tuple[int, int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
                if ast.unparse(child.exc.func) == "Illegal":
                    first = child.lineno if start is None or start < child.lineno - 8 else start
                    yield first, child.end_lineno or first, ast.unparse(child.exc.args[0]).lstrip("f").strip("'\"")
            else:
                yield from visit(child, child.lineno if isinstance(child, ast.If) else start)

    yield from visit(ast.parse((ROOT / file).read_text()), None)


def test_every_refusal_is_a_guard_or_says_why_not() -> None:
    left = dict(NOT_GUARDS)
    for path in sorted((ROOT / "fxrep").rglob("*.py")):
        file, text = path.relative_to(ROOT).as_posix(), path.read_text()
        covered: set[int] = set()
        for _, old, _ in (edit for guard in GUARDS for edit in guard.edits if edit[0] == file):
            first = text[: text.find(old)].count("\n") + 1
            covered |= set(range(first, first + old.count("\n") + 1))
        for first, last, message in refusals(file):
            excuses = [key for key in NOT_GUARDS if f"fxrep/{key[0]}" == file and message.startswith(key[1])]
            for key in excuses:
                left.pop(key, None)
            assert excuses or covered & {*range(first, last + 1)}, f"{file}:{last}: {message} is in no table"
    assert not left, "these are not there any more"
