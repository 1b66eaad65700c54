"""What must hold of a program and its rewritten model, through every way into the pass.

Every output, every input after the call and every buffer are those of the original, call after call, and the caller's
model is what it was. A program that rounding alone changes as much as a wrong merge would is put aside.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import fxrep
from fxrep.operators.registry import Linear, Value
from tests.fuzz.model import build, make_inputs
from tests.fuzz.program import Program
from tests.test_properties import copies, difference

TOLERANCE = 1e-9
CALLS = 2

Inputs = tuple[Tensor, ...]
Made = tuple[nn.Module, nn.Module] | None


# -------------------------------------------------------------------------------------------------------------- paths
def _traced(model: nn.Module, merge: Callable[[nn.Module], nn.Module]) -> Made:
    """The model as one graph, and what becomes of that; None if it cannot be traced."""
    try:
        graph = fxrep.trace(copy.deepcopy(model))  # a copy: the graph module shares its buffers
    except RuntimeError:
        return None
    return model, merge(graph)


def _by_torch(model: nn.Module, inputs: Inputs) -> Made:
    """A graph that torch itself traced, right or wrong, and what becomes of it; None if it cannot, or does not run."""
    try:
        graph = fx.symbolic_trace(copy.deepcopy(model))
        with torch.no_grad():
            copy.deepcopy(graph)(*copies(inputs))
    except Exception:
        return None
    return graph, fxrep.reparameterize(graph, policy="kernels")


# Ways to get from a model to a rewritten one: each returns what to compare with what, or None where it does not apply.
# torch.export would be one more, some seventeen times slower than the others.
PATHS: list[tuple[str, Callable[[nn.Module, Inputs], Made]]] = [
    ("default", lambda m, x: (m, fxrep.reparameterize(m))),
    ("kernels", lambda m, x: (m, fxrep.reparameterize(m, policy="kernels"))),
    ("macs", lambda m, x: (m, fxrep.reparameterize(m, policy="macs"))),
    ("example", lambda m, x: (m, fxrep.reparameterize(m, copies(x), policy="kernels"))),
    ("inplace", lambda m, x: (m, fxrep.reparameterize(copy.deepcopy(m), inplace=True, policy="kernels"))),
    ("copied", lambda m, x: (m, copy.deepcopy(fxrep.reparameterize(m, policy="kernels")))),
    ("again", lambda m, x: (m, fxrep.reparameterize(fxrep.reparameterize(m), policy="kernels"))),
    ("trace", lambda m, x: _traced(m, lambda graph: graph)),
    ("traced", lambda m, x: _traced(m, lambda graph: fxrep.reparameterize(graph, policy="kernels"))),
    ("by torch", lambda m, x: _by_torch(m, x)),
]


def path_for(seed: int) -> str:
    """The path that a program takes: every second one a plain call, the others each in its turn."""
    names = [name for name, _ in PATHS]
    return names[seed // 2 % 2] if seed % 2 else names[seed // 2 % len(names)]


# ----------------------------------------------------------------------------------------------------------- outcomes
@dataclass(frozen=True)
class Failure:
    """What went wrong on which path; failures of one ``kind`` are taken for the same."""

    path: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"[{self.path}] {self.kind}: {self.message}"


@dataclass
class Outcome:
    """What came of a program: "ok", "failed", "inapplicable" (the path does not take it), "discarded" (it does not run)
    or "unstable" (rounding alone changes it as much)."""

    path: str
    status: str = "ok"
    failure: Failure | None = None
    merged: bool = False


class Wrong(Exception):
    """A property that does not hold: its kind, and what was found."""


def check(program: Program, path: str) -> Outcome:
    """Take a program through the named path."""
    outcome = Outcome(path)
    inputs = [make_inputs(program, call) for call in range(CALLS)]
    try:
        model = build(program)
        expected = _results(copy.deepcopy(model), inputs)
    except Exception:
        outcome.status = "discarded"
        return outcome
    try:
        _check_path(outcome, model, inputs, expected)
    except Wrong as wrong:
        outcome.status, outcome.failure = "failed", Failure(path, *wrong.args)
        if wrong.args[0] in ("output", "input", "buffer") and is_unstable(program):
            outcome.status, outcome.failure = "unstable", None
    return outcome


def _check_path(outcome: Outcome, model: nn.Module, inputs: list[Inputs], expected: Results) -> None:
    before = snapshot(model)
    try:
        with mock.patch.object(Linear, "of", _unguarded):
            made = dict(PATHS)[outcome.path](model, inputs[0])
    except Exception as error:
        raise Wrong(f"the pass raises {type(error).__name__}", _where(error)) from error
    _require_unchanged(model, before)
    if made is None:
        outcome.status = "inapplicable"
        return
    reference, after = made
    if reference is not model:
        expected = _results(reference, inputs)
    try:
        found = _results(after, inputs)
    except Exception as error:
        raise Wrong(f"the result raises {type(error).__name__}", _where(error)) from error
    _compare(found, expected)
    _require_unchanged(model, before)
    _look_at_report(outcome, after)


def _unguarded(linear: Linear, *operands: Value) -> Value:
    """A rule that trips over an unusual call stops the pass here, to be found."""
    return linear.combine(*operands)


def _look_at_report(outcome: Outcome, after: nn.Module) -> None:
    """Count a merge; the proof on the spot is the last line of defence, so what it stops is wrong before."""
    try:
        report = fxrep.report(after)
    except ValueError:  # only traced
        return
    str(report)
    outcome.merged |= bool(report.merged)
    stopped = [entry.reason for entry in report.kept if "the check" in entry.reason]
    if stopped:
        raise Wrong("proof", stopped[0])


def _where(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "fuzz" not in f.filename]
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} {frames[-1].name})" if frames else ""
    return f"{str(error)[:300]}{place}"


# --------------------------------------------------------------------------------------------------------- comparison
@dataclass
class Results:
    """What calls of a model gave: per call the outputs, their structure and the inputs afterwards; then the buffers."""

    outputs: list[list[Any]]
    structures: list[Any]
    inputs: list[Inputs]
    buffers: dict[str, Tensor]


def _results(model: nn.Module, inputs: Sequence[Inputs]) -> Results:
    results = Results([], [], [], {})
    with torch.no_grad():
        for call in inputs:
            given = copies(call)
            leaves, structure = tree_flatten(model(*given))
            results.outputs.append([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves])
            results.structures.append(structure)
            results.inputs.append(given)
    results.buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return results


def _compare(found: Results, expected: Results) -> None:
    """Raise ``Wrong`` where two models' results differ; a buffer may be gone, but not hold something else."""
    for call in range(CALLS):
        if found.structures[call] != expected.structures[call]:
            raise Wrong("structure", f"{found.structures[call]} instead of {expected.structures[call]}")
        for kind, mine, its in (
            ("output", found.outputs[call], expected.outputs[call]),
            ("input", found.inputs[call], expected.inputs[call]),
        ):
            for i, (a, b) in enumerate(zip(mine, its, strict=True)):
                error = difference(a, b)
                if error > TOLERANCE:
                    raise Wrong(kind, f"{kind} {i} of call {call} differs by {error:.1e}")
    for name in found.buffers.keys() & expected.buffers.keys():
        error = difference(found.buffers[name], expected.buffers[name])
        if error > TOLERANCE:
            raise Wrong("buffer", f"buffer {name} differs by {error:.1e}")


def snapshot(model: nn.Module) -> tuple[list[Any], dict[str, Tensor]]:
    """What a model is made of, and copies of its tensors."""
    structure = [(name, type(m), m.training, sorted(vars(m))) for name, m in model.named_modules()]
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return structure, {name: tensor.detach().clone() for name, tensor in tensors}


def _require_unchanged(model: nn.Module, before: tuple[list[Any], dict[str, Tensor]]) -> None:
    structure, tensors = snapshot(model)
    if structure != before[0]:
        raise Wrong("caller's model", "its structure is not what it was")
    changed = [name for name, tensor in before[1].items() if not torch.equal(tensor, tensors[name])]
    if changed or tensors.keys() != before[1].keys():
        raise Wrong("caller's model", f"tensors are not what they were: {changed}")


# ---------------------------------------------------------------------------------------------------------- stability
class _Noise(TorchDispatchMode):
    """Adds to every result a relative error some ten times that of rounding."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [r.alias_info for r in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return result  # a view
        written = any(alias is not None for alias in aliases)
        return tree_map(self._shake if not written else self._shake_in_place, result)

    def _noise(self, like: Tensor) -> Tensor:
        return 1 + 1e-14 * torch.randn(like.shape, generator=self.generator, dtype=torch.float64)

    def _shake(self, value: Any) -> Any:
        return value * self._noise(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _shake_in_place(self, value: Any) -> Any:
        return value.mul_(self._noise(value)) if isinstance(value, Tensor) and value.is_floating_point() else value


def is_unstable(program: Program) -> bool:
    """Whether noise of the size of rounding makes the original itself differ."""
    inputs = [make_inputs(program, call) for call in range(CALLS)]
    exact = _results(build(program), inputs)
    for seed in range(3):
        with _Noise(seed):
            noisy = _results(build(program), inputs)
        try:
            _compare(noisy, exact)
        except Wrong:
            return True
    return False
