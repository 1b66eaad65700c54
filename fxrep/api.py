"""The story from top to bottom: check, copy, plan, rewrite, compare, report."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from .analysis.cost import Policy, PolicyName, policy_named
from .analysis.selection import Norms, Paths, Selection
from .capture import Observation, Piece, capture_whole, check_model, owning_copy, structural_copy
from .capture.code import looking_once
from .capture.exported import Exported, Shapes, is_exported, replace_content, runnable
from .capture.walk import parameters_of, tensors, walk, walk_paths
from .findings import make_report
from .plan import Plan, make_plan
from .report import REPORT, Report
from .rewrite import rewrite
from .rewrite_flat import rewrite_flat

M = TypeVar("M", bound=nn.Module)


@overload
def reparameterize(
    model: M,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    inplace: bool = False,
    policy: PolicyName = "default",
    only: Paths | None = None,
    skip: Paths | None = None,
    norms: Norms = "fold",
    differentiable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> M: ...


@overload
def reparameterize(
    model: ExportedProgram,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    inplace: bool = False,
    policy: PolicyName = "default",
    only: Paths | None = None,
    skip: Paths | None = None,
    norms: Norms = "fold",
    differentiable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedProgram: ...


def reparameterize(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    inplace: bool = False,
    policy: PolicyName = "default",
    only: Paths | None = None,
    skip: Paths | None = None,
    norms: Norms = "fold",
    differentiable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module | ExportedProgram:
    """Merge the linear branches of a trained model into single convolutions with the same output.

    Args:
        model: any ``nn.Module`` in eval mode, or a ``torch.export.ExportedProgram`` of one. It is not changed, unless
            ``inplace``.
        example_inputs: the positional arguments of a call. Never needed; with them the outputs of the whole model
            before and after are compared as well, and the number of axes of its values is known where the operators
            leave it open. They also say how the model is called: it is merged for the arguments with a default that
            they give, and for their strings, booleans and ``None``.
        inplace: change ``model`` itself and return it. An error leaves it as it was.
        policy: when two branches become one convolution. ``"default"``: if it is estimated to be no slower;
            ``"macs"``: if there are no more multiply-accumulates; ``"kernels"``: whenever it is exact.
        only: merge in these modules and what is inside them: paths, with ``*`` for any part of one, or a predicate of a
            path.
        skip: leave these modules and what is inside them alone; the same.
        norms: ``"keep"`` folds a norm only into branches that merge: the one behind their sum, or behind a convolution
            alone, stays, as training after the merge needs it.
        differentiable: the merged weights are functions of the branches', and everything else is the model's own:
            gradients of what is computed from the result, or from its weights, go to the parameters of ``model``. The
            merged weights are buffers then, and hold until the parameters change. Not for exported programs.
        progress: called with (done, total) as the merges are computed.

    Returns:
        A model of the same class, with the same attributes, methods and module tree, but for the merged pieces. A
        ``GraphModule`` comes back as a ``GraphModule``, an ``ExportedProgram`` as an ``ExportedProgram`` with the same
        dynamic shapes.

    Raises:
        TypeError: ``model`` is neither an ``nn.Module`` nor an ``ExportedProgram``.
        ValueError: ``model`` is in training mode, is not initialised, or has no values; ``policy`` or ``norms`` is
            unknown; ``only`` or ``skip`` fits no module; or ``differentiable`` is asked for of an exported program, or
            ``inplace``, which would drop the branches.
        RuntimeError: with ``example_inputs``, the outputs differ.

    The algebra is that of RepVGG (Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section
    3.3) for arbitrary sums of convolutions, scales and shifts; see ``docs/algebra.md``.

    >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> reparameterize(block)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    check_model(model)
    rule, selection = policy_named(policy), Selection(only, skip, norms)
    selection.check(lambda: _paths(model))
    if differentiable and (inplace or is_exported(model)):
        what = "inplace=True" if inplace else "an exported program"
        raise ValueError(f"differentiable=True needs the branches, which {what} drops")
    with torch.inference_mode(False), torch.set_grad_enabled(differentiable), _for_one_pass():
        # in functions of their own, so that all that they made is let go of before the collector looks at it
        if is_exported(model):
            return _reparameterize_exported(model, example_inputs, inplace, rule, selection, progress)
        assert isinstance(model, nn.Module)
        return _reparameterize_module(model, example_inputs, inplace, rule, selection, progress, differentiable)


def _reparameterize_module(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | None,
    inplace: bool,
    policy: Policy,
    selection: Selection,
    progress: Callable[[int, int], None] | None,
    differentiable: bool,
) -> nn.Module:
    expected, observed = _observe(model, example_inputs)
    plan = make_plan(structural_copy(model), model, policy, observed, progress, selection=selection)
    report, weights = make_report(plan, observed), parameters_of(model)
    if differentiable:
        result = structural_copy(model)
    else:
        result = model if inplace else owning_copy(model, except_for=plan.dead_tensors())
    undo = _Snapshot(result) if inplace else None
    try:
        rewrite(plan, result)
        if expected is not None and example_inputs is not None:
            _require_equal(expected, _run(_copy_to_run(result), example_inputs), _types(model, observed))
        report.weigh(weights, [*parameters_of(result), *_computed(result)])
    except BaseException:
        if undo:
            undo.restore()
        raise
    vars(result)[REPORT] = report
    return result


def _reparameterize_exported(
    model: ExportedProgram | fx.GraphModule,
    example_inputs: tuple[Any, ...] | None,
    inplace: bool,
    policy: Policy,
    selection: Selection,
    progress: Callable[[int, int], None] | None,
) -> ExportedProgram | fx.GraphModule:
    """The same for a graph whose modules have no forward of their own."""
    expected, observed = _observe(model, example_inputs)
    program = Exported(model)
    weights = program.parameters(model)
    plan = _plan_exported(program, policy, selection, progress)
    report = make_report(plan)
    rewrite_flat(plan, program)
    result = program.finish(share=inplace)
    if expected is not None and example_inputs is not None:
        _require_equal(expected, _run(_copy_to_run(runnable(result)), example_inputs), _types(model, observed))
    report.model = type(model).__name__
    report.weigh(weights, program.parameters(result))
    vars(result)[REPORT] = report
    if inplace:
        replace_content(model, result)
    return model if inplace else result


def _paths(model: nn.Module | ExportedProgram) -> dict[str, list[str]]:
    """All paths of each module of a model, by each; of a graph's, also those that held its weights."""
    state = model.state_dict() if isinstance(model, nn.Module) else model.state_dict
    held = [path.split(".")[:i] for path in state for i in range(1, path.count(".") + 1)]
    found = {path: [path] for path in map(".".join, held)}
    paths: dict[nn.Module, list[str]] = {}
    for path, module in walk_paths(model) if isinstance(model, nn.Module) else ():
        found[path] = paths.setdefault(module, [])
        found[path].append(path)
    return found


def _plan_exported(
    program: Exported, policy: Policy, selection: Selection, progress: Callable[[int, int], None] | None = None
) -> Plan:
    captured: tuple[list[Piece], dict[nn.Module, str]] = [program.piece], program.opaque
    return make_plan(program.holder, program.holder, policy, Shapes(), progress, captured, selection)


def explain(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    policy: PolicyName = "default",
    only: Paths | None = None,
    skip: Paths | None = None,
    norms: Norms = "fold",
) -> Report:
    """The report that ``reparameterize`` would give, without changing or copying anything.

    Args:
        model, policy: as for ``reparameterize``.
        example_inputs: the positional arguments of a call. With them the report gives totals for that call. An
            ``ExportedProgram`` knows its shapes.

    Raises:
        TypeError, ValueError: as ``reparameterize``.

    >>> found = explain(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)).eval())
    >>> [(kept.name, kept.reason) for kept in found.refused]
    [("BatchNorm2d '2'", "its input comes from ReLU '1', not from a convolution")]
    """
    check_model(model)
    selection = Selection(only, skip, norms)
    selection.check(lambda: _paths(model))
    if is_exported(model):
        program = Exported(model)
        weights = program.parameters(model)
        with torch.no_grad(), _for_one_pass():
            plan = _plan_exported(program, policy_named(policy), selection)
            report = make_report(plan)
            rewrite_flat(plan, program)
            result = program.finish(share=True)
        report.model = type(model).__name__
        report.weigh(weights, program.parameters(result))
        return report
    assert isinstance(model, nn.Module)
    with torch.no_grad(), _for_one_pass():
        _, observed = _observe(model, example_inputs)
        plan = make_plan(structural_copy(model), model, policy_named(policy), observed, selection=selection)
        report = make_report(plan, observed)
        rewrite(plan, plan.model)
    report.weigh(parameters_of(model), parameters_of(plan.model))
    return report


def report(result: nn.Module | ExportedProgram) -> Report:
    """What ``reparameterize`` did to make ``result``, also if ``load`` read it back: print it.

    Raises:
        ValueError: ``result`` was not made by ``reparameterize``.

    >>> found = report(reparameterize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()))
    >>> found.before["norm"], found.after["norm"]
    (1, 0)
    """
    found = vars(result).get(REPORT) if isinstance(result, nn.Module | ExportedProgram) else None
    if not isinstance(found, Report):
        raise ValueError(
            f"this {type(result).__name__} was not made by fxrep.reparameterize; "
            "fxrep.explain(model) reports on any model"
        )
    return found


def trace(model: nn.Module) -> fx.GraphModule:
    """The whole model as one flat graph, with torch.nn modules and what cannot be traced as its leaves.

    In-place operators are recorded as such. The graph module shares its weights with ``model``.

    Raises:
        TypeError, ValueError: as ``reparameterize``.
        RuntimeError: the model's own forward cannot be traced; the message says why.

    >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval())
    >>> [node.target for node in graph.graph.nodes]
    ['input', '0', '1', 'output']
    """
    check_model(model)
    if isinstance(model, ExportedProgram):
        raise TypeError("an ExportedProgram is one graph already; program.module() makes a GraphModule of it")
    copied = structural_copy(model)
    try:
        piece = capture_whole(copied)
    except Exception as error:
        raise RuntimeError(
            f"the forward of '{type(model).__name__}' cannot be traced as one graph: {error}; "
            "fxrep.reparameterize merges its traceable parts all the same"
        ) from error
    graph = fx.Graph()  # without a tracer class, which a pickle would need
    graph.output(graph.graph_copy(piece.graph, {}))
    return fx.GraphModule(copied, graph, type(model).__name__)


@dataclass(frozen=True)
class Verification:
    """How far two models' outputs are apart: ``max_abs`` at most, ``relative`` to the norm of the first's."""

    max_abs: float
    relative: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal" if self.ok else "DIFFERENT"
        return f"{verdict}: relative error {self.relative:.1e} (tolerance {self.tolerance:.1e}), max {self.max_abs:.1e}"


def verify(
    before: nn.Module | ExportedProgram,
    after: nn.Module | ExportedProgram,
    inputs: tuple[Any, ...],
    *,
    tolerance: float | None = None,
) -> Verification:
    """Run two models on the same inputs and compare every tensor that comes out.

    Args:
        before, after: the models; both are run in eval mode as they are, without gradients.
        inputs: the positional arguments of a call; a single tensor is taken for the only one.
        tolerance: on the relative error; by default the square root of the epsilon of the coarsest type among the
            outputs and the weights.

    Raises:
        ValueError: the outputs are not comparable: their structure or shapes differ.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    >>> verify(model, reparameterize(model), (torch.randn(1, 3, 32, 32),)).ok
    True
    """
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    with torch.no_grad():
        outputs = [_run(runnable(model), arguments) for model in (before, after)]
        return _difference(outputs[0], outputs[1], {*_types(before), *_types(after)}, tolerance)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Every tensor that a call returns; its inputs are left as they were, and random numbers repeat."""
    leaves = tree_leaves(inputs)
    given: dict[int, Any] = {id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.SymInt)}
    computed = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad_fn is not None)  # no copy is made of
    given |= {id(leaf): leaf.detach().clone() for leaf in computed}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(0)
        if devices:
            torch.cuda.manual_seed_all(0)
        output = model(*copy.deepcopy(inputs, given))
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


def _observe(
    model: nn.Module | ExportedProgram, inputs: tuple[Any, ...] | None
) -> tuple[list[Tensor] | None, Observation | None]:
    """Run the model, if there are inputs, and watch the values go by."""
    if inputs is None:
        return None, None
    if not isinstance(inputs, tuple):
        raise TypeError(f"example_inputs is a tuple of the arguments of a call, not a {type(inputs).__name__}")
    observed, copied = Observation(), _copy_to_run(runnable(model))
    observed.watch(copied)
    return _run(copied, inputs), observed


def _copy_to_run(model: M) -> M:
    """A copy to run: a forward may write to buffers, and even to parameters."""
    return owning_copy(model, except_for=_computed(model))


def _computed(model: nn.Module) -> list[Tensor]:
    """The buffers that are functions of parameters."""
    return [buffer for buffer in model.buffers() if buffer.grad_fn is not None]


def _types(model: nn.Module | ExportedProgram, observed: Observation | None = None) -> set[torch.dtype]:
    """The types that a model computes in, as its weights and, if it was watched, its values tell."""
    weights = model.state_dict.values() if isinstance(model, ExportedProgram) else tensors(model)
    return {tensor.dtype for tensor in weights} | (observed.types() if observed else set())


def _difference(
    expected: list[Tensor], found: list[Tensor], types: set[torch.dtype], tolerance: float | None = None
) -> Verification:
    """How far outputs are apart that were computed in ``types``."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        shapes = " and ".join(str([tuple(t.shape) for t in ts]) for ts in (expected, found))
        raise ValueError(f"the outputs cannot be compared: their shapes are {shapes}")
    worst, squares, error = 0.0, 0.0, 0.0
    for a, b in zip(map(_doubles, expected), map(_doubles, found), strict=True):
        difference = (a - b).nan_to_num(nan=float("inf"))
        difference = difference.masked_fill(a == b, 0.0)
        worst = max(worst, float(difference.abs().max()) if difference.numel() else 0.0)
        error += float(difference.square().sum())
        squares += float(a[a.isfinite()].square().sum())  # an infinity is right or wrong, and no measure of others
    epsilons = (
        torch.finfo(t).eps for t in types.union(t.dtype for t in expected) if t.is_floating_point or t.is_complex
    )
    relative = (error / squares) ** 0.5 if squares else (0.0 if error == 0 else float("inf"))
    return Verification(worst, relative, max(epsilons, default=0.0) ** 0.5 if tolerance is None else tolerance)


def _doubles(tensor: Tensor) -> Tensor:
    """The numbers in a tensor, in float64; two for a complex one."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()


def _require_equal(expected: list[Tensor], found: list[Tensor], types: set[torch.dtype]) -> None:
    if [t.shape for t in expected] == [t.shape for t in found]:  # every merge is proved: NaN may be what a model gives
        both = [a.isnan() & b.isnan() for a, b in zip(expected, found, strict=True)]
        expected, found = ([t.masked_fill(m, 0) for t, m in zip(ts, both, strict=True)] for ts in (expected, found))
    result = _difference(expected, found, types)
    if not result.ok:
        raise RuntimeError(f"the merged model's outputs differ on example_inputs, so nothing was changed: {result}")


@contextlib.contextmanager
def _for_one_pass() -> Iterator[None]:
    """Look at nobody's code twice, and pause the collector.

    Thousands of graph nodes in a row set off full garbage collections, which take longer than the pass itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with looking_once():
            yield
    finally:
        if enabled:
            gc.enable()


class _Snapshot:
    """The structure of a model, to go back to: classes and dictionaries, no tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.saved = [
            (m, type(m), dict(vars(m)), dict(m._modules), dict(m._parameters), dict(m._buffers)) for _, m in walk(model)
        ]

    def restore(self) -> None:
        for module, kind, attributes, modules, parameters, buffers in self.saved:
            object.__setattr__(module, "__class__", kind)  # its class may have a __setattr__ of its own
            vars(module).clear()
            vars(module).update(attributes)
            for own, saved in (
                (module._modules, modules),
                (module._parameters, parameters),
                (module._buffers, buffers),
            ):
                own.clear()
                own.update(saved)  # type: ignore[arg-type]
