"""The fuzzer of tests/fuzz: a few hundred programs in CI, and proof that it would notice if the pass were wrong.

``python -m tests.fuzz --programs 100000`` runs as many as you like and records them.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fxrep import weights
from fxrep.analysis import effects
from fxrep.analysis.program import Program as Analysed
from fxrep.cover.placement import Usage
from fxrep.operators import MODULES
from tests.fuzz import run
from tests.fuzz.check import PATHS, check, is_unstable, path_for
from tests.fuzz.generate import generate
from tests.fuzz.model import build, make_inputs, reproduction
from tests.fuzz.program import Line, Part, Program, Scope
from tests.fuzz.shrink import shrink


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
    torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------------------------------- the pass
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_random_programs_compute_the_same(first: int) -> None:
    """Seeds 0 to 299, each through one of the ways into the pass."""
    record = run.fuzz(run.new_record(first), 50)
    assert not record["failures"], "\n".join((record["failures"][0]["failure"], *record["failures"][0]["program"]))
    assert record["merged"] >= 20
    assert record["status"].get("discarded", 0) + record["status"].get("unstable", 0) <= 2


# ------------------------------------------------------------------------------------------------------ the generator
def test_programs_run_with_the_shapes_that_the_generator_tracks() -> None:
    """A seed gives one program, which runs and is as large as promised; its values have the shapes it says."""
    sizes = []
    for seed in range(40):
        program = generate(seed)
        assert str(program) == str(generate(seed))
        shapes = {
            name: shape for line in program.main.lines for name, shape in zip(line.outs, line.shapes, strict=True)
        }
        shapes |= dict(program.main.inputs)
        with torch.no_grad():
            found = tree_leaves(build(program)(*make_inputs(program)))
        assert [tuple(t.shape) for t in found] == [shapes[name] for name in program.main.result.args]
        sizes.append(program.size())
    assert min(sizes) >= 5
    assert max(sizes) >= 50


def test_every_path_is_taken() -> None:
    seen = Counter(path_for(seed) for seed in range(200))
    assert set(seen) == {name for name, _ in PATHS}


def test_a_reproduction_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program = generate(2)
    try:
        exec(reproduction(program, "default"), {"__name__": "reproduction"})
    finally:
        torch.set_default_dtype(torch.float32)
    assert "after call 1" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- the checks
# A guard of the pass, what to put in its place, and a seed from which it does not take long until one fails.
GUARDS: dict[str, tuple[tuple[Any, str, Any], int]] = {
    "writes between the branches": ((Analysed, "written_between", lambda *_: None), 60),
    "operators that write": ((effects, "may_write", lambda *_: []), 30),
    "constants that are written to": ((Analysed, "is_written", lambda *_: False), 3430),
    "modules that are shared": ((Usage, "replaceable", lambda *_: True), 40),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_is_taken_out_is_noticed(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the pass's guards some program fails, and shrinks to a few lines that fail without it only."""
    patch, first = GUARDS[guard]
    monkeypatch.setattr(*patch)
    failed = next(o for o in map(_by_kernels, range(first, first + 300)) if o is not None and o[1].kind == "output")
    small, failure = shrink(*failed)
    assert small.size() <= 8, str(small)
    monkeypatch.undo()
    assert check(small, failure.path).status == "ok"


def _by_kernels(seed: int) -> Any:
    """A program and its failure; None if it does not fail."""
    program = generate(seed)
    failure = check(program, "kernels").failure
    return (program, failure) if failure is not None else None


def test_a_wrong_rule_is_stopped_by_the_proof_and_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that takes an activation for nothing: the proof on the spot refuses the merge, which counts as a failure;
    without the proof the outputs differ."""
    scope = Scope("Model", (("x0", (1, 2, 5, 5)),), (Part("module", "m0", "nn.Conv2d(2, 2, 1)"),
                  Part("module", "m1", "nn.Softplus()"), Part("module", "m2", "nn.BatchNorm2d(2)")),
                  (Line("{o0} = self.m2(self.m1(self.m0({0})))", ("x0",), ("v1",), ((1, 2, 5, 5),)),),
                  Line("return {0}", ("v1",)))  # fmt: skip
    assert check(Program(0, (scope,)), "default").status == "ok"
    monkeypatch.setitem(MODULES, nn.Softplus, MODULES[nn.Identity])
    assert check(Program(0, (scope,)), "default").failure.kind == "proof"
    monkeypatch.setattr(weights, "relative_error", lambda *_: 0.0)
    assert check(Program(0, (scope,)), "default").failure.kind == "output"


def test_a_changed_model_of_the_callers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: nn.Module, _: Any) -> None:
        next(model.parameters()).data.add_(1)

    monkeypatch.setattr("tests.fuzz.check.PATHS", [("spoiled", spoil)])
    outcome = check(generate(0), "spoiled")
    assert outcome.failure is not None
    assert outcome.failure.kind == "caller's model"


def test_what_rounding_changes_is_put_aside() -> None:
    """The sign of what is left of a difference that is zero says nothing about the pass."""
    wild = "y = self.m0({0})\n{o0} = ((y * 3 - y) / 2 - y + 1e-17 * y.sin()).sign()"
    scope = Scope("Model", (("x0", (1, 2, 5, 5)),), (Part("module", "m0", "nn.Conv2d(2, 2, 3)"),),
                  (Line(wild, ("x0",), ("v1",), ((1, 2, 3, 3),)),), Line("return {0}", ("v1",)))  # fmt: skip
    assert is_unstable(Program(0, (scope,)))
    assert not is_unstable(generate(0))


# --------------------------------------------------------------------------------------------------------- the command
def test_the_record_adds_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fuzz.json"
    for programs in (4, 6):
        monkeypatch.setattr("sys.argv", ["fuzz", "--programs", str(programs), "--seed", "5", "--record", str(path)])
        assert run.main() == 0
    record = json.loads(path.read_text())
    assert record["programs"] == 6
    assert sum(record["status"].values()) == 6
    assert run.load(path, 5, False)["programs"] == 6
    assert run.load(path, 6, False)["programs"] == 0
    assert "6/6" in capsys.readouterr().err
