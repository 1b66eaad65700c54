"""One model of the zoo through ``fxrep.reparameterize``: everything that is promised, measured and judged."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import hashlib
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

import fxrep
from fxrep.capture import capture, structural_copy
from tests.counting import count_ops
from tests.helpers import relative_error
from tests.zoo.models import VALUES, Case, Inputs, build, outputs, possible_inputs

WELL_CONDITIONED = 1e-3  # the original's own float32 error
LISTENING = 1e-3  # by how much its output has to differ between two inputs
FACTOR = 4.0
FLOOR = 32 * torch.finfo(torch.float32).eps
SLOWER = 3.0
SECONDS = 30.0
T = TypeVar("T")
Row = dict[str, Any]


def fingerprint() -> str:
    """A hash of the sources of fxrep."""
    digest = hashlib.sha256()
    root = Path(fxrep.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


SOURCES = fingerprint()  # of what this process has loaded: a long run outlives edits


def measure(case: Case, stage: Callable[[str], None]) -> Row:
    """The row of one model. ``stage`` is told what is being done, for those who wait."""
    torch.set_num_threads(1)
    row: Row = {"sources": SOURCES}
    at = "build"

    def enter(name: str) -> None:
        nonlocal at
        at = name
        stage(name)

    try:
        with torch.no_grad():
            _measure(case, row, enter)
        row["failures"] = judge(row)
    except Exception as error:
        row["failures"] = ["raised" if at == "pass" else at]
        row["problem"] = f"{type(error).__name__}: {error}"[:500]
        row["traceback"] = traceback.format_exc()[-3000:]
    return row


def _measure(case: Case, row: Row, enter: Callable[[str], None]) -> None:
    enter("build")
    model = build(case)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    enter("original")
    shape, make = accepted(case, model)
    row["input"] = shape
    expected, reference = prepare(case, model, make, row)
    inputs = make(0)
    before = _operators(model, inputs)

    enter("trace")
    _warm_up()
    _time_others(model, row)

    state = _checksum(model)
    enter("pass")
    merged, row["seconds_pass"] = _timed(lambda: fxrep.reparameterize(model))

    enter("merged")
    with calls(called := set()):
        found = run(case, merged, inputs, torch.float32)
    after = _operators(merged, inputs)
    row["shapes"] = [t.shape for t in found] == [t.shape for t in expected]
    if row["shapes"]:
        row["error"] = worst(found, expected if reference is None else reference)
    row["class"] = isinstance(merged, type(model)) and type(merged).__name__ == type(model).__name__
    for kind in ("conv", "norm", "add"):
        row[f"{kind}s"] = [before[kind], after[kind]]

    enter("compare")
    again = run(case, model, inputs, torch.float32)
    equal = len(again) == len(expected) and all(map(torch.equal, again, expected))
    row["unchanged"] = _checksum(model) == state and equal
    theirs = {t.untyped_storage().data_ptr() for _, t in _state(model) if t.numel()}
    row["shares"] = [name for name, t in _state(merged) if t.numel() and t.untyped_storage().data_ptr() in theirs][:5]

    enter("report")
    report = fxrep.report(merged)
    row["opaque"] = report.opaque
    row["merges"] = len(report.merged)
    row["proof"] = max((m.error for m in report.merged), default=0.0)
    for kind in ("norm", "add"):
        row[f"kept_{kind}s"] = reasons(kept for kept in report.kept if kept.kind == kind)
    row["unexplained"] = _unexplained(merged, report, called)
    str(report)
    row["pieces"] = [piece.path for piece in capture(structural_copy(model))[0]]


def judge(row: Row) -> list[str]:
    """What a measured model fails; empty if all is well."""
    failures = {
        "shapes": not row["shapes"],
        "wrong": row["shapes"] and not exact(row["error"], row["own_error"]),
        "changed": not row["unchanged"],
        "shares": bool(row["shares"]),
        "class": not row["class"],
        "unexplained": bool(row["unexplained"]),
        "more": _runs_more(row),
    }
    return [name for name, failed in failures.items() if failed]


def _runs_more(row: Row) -> bool:
    """Whether more runs than before: of one kind, but for an add for each norm that went.

    A linear layer of a value with gaps in memory adds its bias on its own: the shift that was the norm's.
    """
    (convs, convs_after), (norms, norms_after), (adds, adds_after) = row["convs"], row["norms"], row["adds"]
    return bool(convs_after > convs or norms_after > norms or adds_after - adds > norms - norms_after)


def exact(error: float, own: float) -> bool:
    """Whether a merged model's error, relative to float64, is one that rounding explains."""
    return error <= FACTOR * own + FLOOR


def slow(row: Row) -> bool:
    """Whether the pass took longer than is promised: three times a plain trace and deepcopy, or 30 s."""
    if "seconds_pass" not in row:
        return False
    if row["seconds_pass"] > SECONDS and row["parameters"] < 100e6:
        return True
    return row["seconds_trace"] is not None and slowness(row) > SLOWER


def slowness(row: Row) -> float:
    """The seconds of the pass over those of a plain trace and deepcopy."""
    return float(row["seconds_pass"] / (row["seconds_trace"] + row["seconds_deepcopy"]))


# -------------------------------------------------------------------------------------------------------------- helpers
def accepted(case: Case, model: nn.Module) -> tuple[str, Callable[[int], Inputs]]:
    """The smallest input that the model runs on."""
    errors = []
    for shape, make in possible_inputs(case, model):
        try:
            run(case, model, make(0), torch.float32)
        except Exception as error:  # noqa: PERF203
            errors.append(f"{shape}: {type(error).__name__}: {error}"[:200])
        else:
            return shape, make
    raise RuntimeError("no input is accepted: " + "; ".join(errors))


def prepare(
    case: Case, model: nn.Module, make: Callable[[int], Inputs], row: Row
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Give the model values for which its output says something; returns that, in float32 and float64."""
    initial = {name: t.clone() for name, t in _state(model)}
    inputs, other = make(0), make(1)
    scores: dict[Any, float] = {}

    def attempt(give: Any) -> tuple[list[Tensor], list[Tensor] | None]:
        for name, tensor in _state(model):
            tensor.copy_(initial[name])
        give(model, lambda: run(case, model, inputs, torch.float32))
        row["values"] = give.__name__
        expected = run(case, model, inputs, torch.float32)
        row["signal"] = worst(run(case, model, other, torch.float32), expected)
        reference = _reference(case, model, inputs, row)
        pair = (expected, reference) if reference is not None else (_nudged(case, model, inputs), expected)
        row["own_error"] = worst(*pair)
        return expected, reference

    for give in VALUES:
        result = attempt(give)
        if row["own_error"] <= WELL_CONDITIONED and LISTENING <= row["signal"] < float("inf"):
            return result
        bad = max(row["own_error"], row["signal"]) == float("inf")
        scores[give] = 0.0 if bad else min(row["signal"], 1.0) / max(row["own_error"], 1e-7)
    return attempt(max(scores, key=lambda give: scores[give]))


def _reference(case: Case, model: nn.Module, inputs: Inputs, row: Row) -> list[Tensor] | None:
    try:
        return run(case, copy.deepcopy(model).double(), inputs, torch.float64)
    except Exception as error:  # float32 is written into some forwards: then the original itself is the reference
        row["reference"] = f"no float64: {type(error).__name__}: {error}"[:200]
        return None


def run(case: Case, model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return outputs(case, model, _cast(inputs, dtype), dtype)


def _nudged(case: Case, model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """What the original gives if each number that goes in is off in its last bit: as far as rounding alone moves it."""
    nudged = tree_map_only(Tensor, lambda x: x * (1 + 2**-23) if x.is_floating_point() else x, inputs)
    return run(case, model, nudged, torch.float32)


@contextlib.contextmanager
def calls(seen: set[nn.Module]) -> Iterator[None]:
    """Adds every module that is called to ``seen``."""
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: seen.add(module))
    try:
        yield
    finally:
        hook.remove()


def _operators(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    torch.manual_seed(0)
    return dict.fromkeys(("conv", "norm", "add"), 0) | count_ops(model, *_cast(inputs, torch.float32))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A copy, for models that write to their input."""
    return value.to(dtype, copy=True) if isinstance(value, Tensor) else type(value)(_cast(v, dtype) for v in value)


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error of any output."""
    pairs = zip(found, expected, strict=True)
    return max((relative_error(a, b) for a, b in pairs if b.is_floating_point() and b.numel()), default=0.0)


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    """The result, and the seconds of processor time: other processes do not count.

    What was freed before is given back first: a copy into memory that is at hand takes a third of one into fresh
    memory, and which of the two a deepcopy or the pass would meet is chance.
    """
    gc.collect()
    _give_back()
    start = time.process_time()
    result = function()
    return result, round(time.process_time() - start, 4)


def _give_back() -> None:
    """Hand the memory that the allocator holds on to back to the system, where that can be asked for."""
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _time_others(model: nn.Module, row: Row) -> None:
    """The seconds of a deepcopy, and of a plain trace where that works."""
    copied, row["seconds_deepcopy"] = _timed(lambda: copy.deepcopy(model))
    try:
        _, row["seconds_trace"] = _timed(lambda: fx.symbolic_trace(copied))
    except Exception as error:
        row["seconds_trace"] = None
        row["trace_error"] = f"{type(error).__name__}: {error}"[:200]


def _warm_up() -> None:
    """The first of everything loads code."""
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    fx.symbolic_trace(copy.deepcopy(block))
    fxrep.reparameterize(block)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _checksum(model: nn.Module) -> str:
    """Of every parameter and buffer, of ``state_dict``'s keys and of the module tree."""
    digest = hashlib.sha256()
    for name, tensor in _state(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr([*model.state_dict()]).encode())
    digest.update(repr([(name, type(m).__qualname__, m.training) for name, m in model.named_modules()]).encode())
    return digest.hexdigest()


def reasons(found: Iterable[fxrep.Kept]) -> dict[str, tuple[int, str]]:
    """How often each reason is given, without the names in it, and for what."""
    counts: dict[str, tuple[int, str]] = {}
    for kept in found:
        reason = re.sub(r"(\w+ )?'[^']*'|\w+ in forward", "…", kept.reason)
        count, first = counts.get(reason, (0, f"{kept.name}: {kept.reason}"))
        counts[reason] = count + 1, first
    return counts


def _unexplained(merged: nn.Module, report: fxrep.Report, called: set[nn.Module]) -> list[str]:
    """The batch norms of the result that were called and about which the report says nothing."""
    explained = {kept.name.split("'")[1] for kept in report.kept if kept.kind == "norm" and "'" in kept.name}
    if type(merged).__name__ in report.opaque:
        explained |= {name for name, _ in merged.named_children()}
    paths: dict[nn.Module, set[str]] = {}
    for name, module in merged.named_modules(remove_duplicate=False):
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None and module in called:
            paths.setdefault(module, set()).add(name)
    missing = []
    for names in paths.values():
        ancestors = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
        if not names & explained and not ancestors & report.opaque.keys():
            missing.append(min(names))
    return missing
