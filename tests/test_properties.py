"""The two properties: legal programs merge into what the algebra predicts, illegal ones are never merged wrongly.

CI runs 2,000 examples of each, always the same ones. ``python -m tests.long_run --examples 100000`` runs as many others
as you like and records them.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxrep
from tests.counting import CONVS, count_ops
from tests.helpers import assert_unchanged, snapshot
from tests.programs.description import DTYPES, Program
from tests.programs.draw import dangerous, programs
from tests.programs.hazards import Hazard, build
from tests.programs.prediction import predict

TOLERANCE = 1e-9
SEEN: Counter[str] = Counter()

CI = settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@CI
@given(programs())
def test_legal_programs_merge_as_predicted(program: Program) -> None:
    check_legal(program)


@CI
@given(dangerous())
def test_illegal_neighbours_are_never_merged_wrongly(case: tuple[Program, tuple[Hazard, ...]]) -> None:
    check_dangerous(*case)


# ------------------------------------------------------------------------------------------------------- property one
def check_legal(program: Program) -> None:
    """The merged model computes the same, with as many convolutions, norms and additions as predicted."""
    SEEN["examples"] += 1
    model, inputs = build(program), program.inputs()
    state, expected = snapshot(model), run(model, inputs)
    before = count_ops(model, *copies(inputs))

    merged = fxrep.reparameterize(model, policy="kernels")
    note(merged)
    require_same(run(merged, inputs), expected)
    require_no_failed_proof(merged)
    require_counts(merged, program, predict(program))
    assert_unchanged(model, state)
    require_same(run(model, inputs), expected)

    policy = ("default", "macs")[program.seed % 2]
    other = fxrep.reparameterize(model, policy=policy)
    require_same(run(other, inputs), expected)
    assert count_ops(other, *copies(inputs))["conv"] <= before["conv"]
    if policy == "macs":
        assert count_macs(other, inputs) <= count_macs(model, inputs)
    if program.dtype != "float64":
        check_low_precision(program)


def check_low_precision(program: Program) -> None:
    """A model of another type keeps it; its merged weights are those of the float64 merge, rounded once."""
    dtype = DTYPES[program.dtype]
    model, inputs = build(program).to(dtype), program.inputs()
    merged = fxrep.reparameterize(model, policy="kernels")
    tensors = [t for t in (*merged.parameters(), *merged.buffers()) if t.is_floating_point()]
    assert {t.dtype for t in tensors} == {dtype}
    exact = copy.deepcopy(merged).double()
    require_counts(exact, program, predict(program))
    expected = run(model.double(), inputs)
    rounded = (expected[0][0], run(exact, inputs)[0][0])
    scale = max(1.0, float(rounded[0].abs().max()))
    assert float((rounded[0] - rounded[1]).abs().max()) <= 100 * torch.finfo(dtype).eps * scale


def require_counts(model: nn.Module, program: Program, predicted: dict[str, int]) -> None:
    """Convolutions and norms are those predicted; additions too, where they can be told from the spelling.

    A stack is not counted as the additions that it stands for, and a constant that is added may ride along as a bias.
    """
    counts = count_ops(model, *copies(program.inputs()))
    found = {kind: counts[kind] for kind in predicted}
    spelled = "stack" in repr(program) or "channels" in repr(program)
    exact = {kind for kind in predicted if kind != "add" or not spelled}
    same = all(found[kind] == predicted[kind] for kind in exact)
    assert same, f"{found} instead of the predicted {predicted}\n{fxrep.report(model)}"


# ------------------------------------------------------------------------------------------------------- property two
def check_dangerous(program: Program, hazards: tuple[Hazard, ...]) -> None:
    """Whatever is merged or not, every output and every input afterwards is that of the original, call after call."""
    inputs = program.inputs()
    if any(h.kind == "alias inputs" for h in hazards):
        inputs = inputs[0], inputs[0]
    try:
        model = build(program, hazards)
        reference = copy.deepcopy(model)
        expected = [run(reference, inputs) for _ in range(2)]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # the original cannot run
        SEEN["discarded"] += 1
        event(f"discarded: {type(error).__name__}")
        return
    SEEN["examples"] += 1
    state = snapshot(model)
    for i, policy in enumerate(("kernels", "default")):
        merged = fxrep.reparameterize(model, policy=policy)
        if i == 0:
            note(merged)
        require_state(model, state)
        if not any(h.kind == "norm" for h in hazards):  # broken statistics are for the proof to find
            require_no_failed_proof(merged)
        for times in range(2):
            require_same(run(merged, inputs), expected[times])
    for times in range(2):
        require_same(run(model, inputs), expected[times], exact=True)


# ------------------------------------------------------------------------------------------------------------ helpers
def note(merged: nn.Module) -> None:
    """Count the examples in which something was merged."""
    SEEN["merged"] += bool(fxrep.report(merged).merged)


def require_no_failed_proof(merged: nn.Module) -> None:
    """The proof on the spot is the last line of defence: what it stops is wrong before."""
    failed = [entry for entry in fxrep.report(merged).kept if "the check" in entry.reason]
    assert not failed, failed


def require_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    """``assert_unchanged`` for models with NaNs in them."""
    after = snapshot(model)
    assert list(after) == list(before)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


def copies(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies of the inputs; one tensor that is given twice stays one."""
    new = {id(x): x.clone() for x in inputs}
    return tuple(new[id(x)] for x in inputs)


def run(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """All outputs of a call, and the inputs after it."""
    given = copies(inputs)
    with torch.no_grad():
        return [t.clone() for t in flatten(model(*given))], given


def flatten(value: Any) -> list[Tensor]:
    if isinstance(value, tuple | list):
        return [t for v in value for t in flatten(v)]
    return [value]


def require_same(found: Any, expected: Any, exact: bool = False) -> None:
    assert len(found[0]) == len(expected[0])
    for what, mine, its in (("output", found[0], expected[0]), ("input after the call", found[1], expected[1])):
        for i, (a, b) in enumerate(zip(mine, its, strict=True)):
            error = difference(a, b)
            assert error <= (0 if exact else TOLERANCE), f"{what} {i} differs by {error:.2e}"


def difference(a: Tensor, b: Tensor) -> float:
    """The relative difference of the finite elements; infinity where the others are not the same."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return math.inf
    a, b = a[finite], b[finite]
    size = float(b.norm())
    error = float((a - b).norm())
    return error / size if size > 1e-6 else error


class _Macs(TorchDispatchMode):
    """Multiply-accumulates of the convolutions that run."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in CONVS:
            self.total += result.numel() * args[1][0].numel()
        return result


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with torch.no_grad(), _Macs() as mode:
        model(*copies(inputs))
    return mode.total
