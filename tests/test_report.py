"""What the report says is what runs: figures against a count of one call, drawings against the model, and its text."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import fxrep
from benchmarks.counting import OpCounter
from fxrep.report import Drawing, Figures, Report, scaled
from tests.blocks import AnyRank, HandNormBlock, OriginalRepVGGBlock, SameBranches
from tests.helpers import randomize

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Net(nn.Module):
    """Blocks at three resolutions, a norm before a convolution, a factor, and a head of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = OriginalRepVGGBlock(3, 8, stride=2)
        self.blocks = nn.Sequential(OriginalRepVGGBlock(8, 8), OriginalRepVGGBlock(8, 12, stride=2, groups=2))
        self.pre, self.conv = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3, stride=2)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pre(self.blocks(self.stem(x)))).relu()
        x = F.gelu(self.left(x)) + x
        x = x.mean((2, 3))
        return (self.a(x) + self.b(x)) / 2


@pytest.fixture
def model() -> nn.Module:
    return randomize(Net())


X = torch.randn(2, 3, 32, 32)


def ran(model: nn.Module, *inputs: Tensor) -> tuple[int, int, int]:
    """Multiply-accumulates, those of norms as one for each element, and operators of the kinds of the report."""
    elements: list[int] = []
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, NORMS):
            module.register_forward_hook(lambda m, args, output: elements.append(output.numel()))
    with FlopCounterMode(display=False) as flops, OpCounter() as counter, torch.no_grad():
        copied(*inputs)
    linear = counter.operators["addmm"] + counter.operators["linear"]
    scales = counter.operators["mul"] + counter.operators["div"]
    adds = sum(counter.operators[name] for name in ("add", "add_", "sub"))  # those of a number, too
    kernels = counter.counts.convolutions + counter.counts.batch_norms + adds + linear + scales
    return flops.get_total_flops() // 2 + sum(elements), linear, kernels


# ---------------------------------------------------------------------------------------------------------- the figures
def test_totals_are_those_of_one_call(model: nn.Module) -> None:
    report = fxrep.explain(model, (X,))
    deploy = fxrep.reparameterize(model, (X,))
    assert fxrep.report(deploy).to_dict() == report.to_dict()
    assert report.inputs == [(2, 3, 32, 32)]
    factor = 2 * 5  # the division of the head
    for net, figures, counts in zip((model, deploy), report.total, (report.before, report.after), strict=True):
        macs, linear, kernels = ran(net, X)
        assert figures.macs == macs + (factor if net is model else 0)
        assert (figures.kernels, counts["linear"]) == (kernels, linear)
        assert figures.parameters == sum(p.numel() for p in net.parameters())
        assert figures.bytes is not None


def test_bytes_are_what_the_operators_read_and_write(model: nn.Module) -> None:
    report = fxrep.explain(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)).eval(), (X,))
    read, written = 2 * 3 * 32 * 32, 2 * 4 * 15 * 15
    assert report.total[0].bytes == 4 * (read + written + 2 * written)
    assert report.total[1].bytes == 4 * (read + written)


def test_each_merge_adds_up(model: nn.Module) -> None:
    report = fxrep.explain(model, (X,))
    before, after = report.total
    assert report.parameters[0] - report.parameters[1] == sum(
        m.before.parameters - m.after.parameters for m in report.merged
    )
    for name in ("macs", "bytes", "kernels"):
        saved = sum(getattr(m.before, name) - getattr(m.after, name) for m in report.merged)
        assert getattr(before, name) - getattr(after, name) == saved, name
    assert report.weight_bytes == tuple(4 * n for n in report.parameters)


def test_one_position_by_hand() -> None:
    (merge,) = fxrep.explain(randomize(OriginalRepVGGBlock(4, 4))).merged
    assert merge.positions is None
    weights = 4 * 4 * 9 + 4 * 4
    assert merge.before == Figures(weights + 3 * 4, weights + 3 * 2 * 4, 4 * (2 * 8 + 3 * 8 + 2 * 12), 7)
    assert merge.after == Figures(4 * 4 * 9, 4 * 4 * 9 + 4, 4 * 8, 1)


def test_totals_are_so_many_positions(model: nn.Module) -> None:
    """Where no border is cut off, a total is what one position takes, for each position."""
    alone, whole = fxrep.explain(model), fxrep.explain(model, (X,))
    assert alone.inputs is None
    assert (alone.total[0].macs, alone.total[0].bytes) == (None, None)
    assert [t.kernels for t in alone.total] == [t.kernels for t in whole.total]
    assert [m.positions for m in whole.merged] == [2 * 16 * 16, 2 * 16 * 16, 2 * 8 * 8, 2 * 3 * 3, 2]
    for one, all_ in zip(alone.merged, whole.merged, strict=True):
        assert all_.positions is not None
        assert one.after.macs is not None
        assert all_.after.macs == one.after.macs * all_.positions
        assert (one.before.kernels, one.before.parameters) == (all_.before.kernels, all_.before.parameters)
    assert whole.merged[0].before.macs == alone.merged[0].before.macs * 2 * 16 * 16  # type: ignore[operator]


@pytest.mark.parametrize("spelling", ["sum of a stack", "sum of a list", "in place"])
def test_spellings_of_a_sum(spelling: str) -> None:
    """However branches are added, they are drawn as one sum, and a position takes the same share of the total."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            branches = [self.a(x), self.b(x), x]
            if spelling == "sum of a stack":
                return torch.stack(branches).sum(0)
            if spelling == "sum of a list":
                return sum(branches)  # type: ignore[return-value]
            branches[0] += branches[1]
            branches[0] += x
            return branches[0]

    model, x = randomize(Spelled()), torch.randn(2, 4, 8, 8)
    (one,), (whole,) = fxrep.explain(model).merged, fxrep.explain(model, (x,)).merged
    assert (whole.positions, whole.before.kernels) == (2 * 64, one.before.kernels)
    for name in ("macs", "bytes"):
        assert getattr(whole.before, name) == getattr(one.before, name) * 2 * 64
        assert getattr(whole.after, name) == getattr(one.after, name) * 2 * 64
    drawing = one.drawings[0]
    (total,) = (i for i, box in enumerate(drawing.boxes) if box.label == "sum of 3")
    assert len([end for _, end in drawing.arrows if end == total]) == 3


def test_an_add_that_a_merge_leaves_is_counted() -> None:
    """A sum over a stack is no add; of values of two sources, one is left."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x.relu()
            return torch.stack([self.a(h), self.b(h), x]).sum(0)

    report = fxrep.explain(randomize(Stacked()))
    assert (report.before, report.after) == ({"conv": 2}, {"conv": 1, "add": 1})
    assert "adds          0       1" in str(report)


class Shared(nn.Module):
    """One block, called at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OriginalRepVGGBlock(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).mean() + self.block(F.max_pool2d(x, 2)).mean()


class Undecided(nn.Module):
    """A forward that looks at its input, which cannot be traced, and a block that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(OriginalRepVGGBlock(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        return self.blocks[1](x) if x.sum() > -1e9 else self.blocks[2](x)


@pytest.mark.parametrize(
    "factory",
    [Shared, Undecided, lambda: HandNormBlock(4), lambda: SameBranches(4), lambda: AnyRank(2)],
    ids=["called twice", "not traceable", "functions", "no norms", "any rank"],
)
def test_totals_of_other_models(factory: Any) -> None:
    model, x = randomize(factory()), torch.randn(2, 4, 8, 8)
    report = fxrep.explain(model, (x,))
    deploy = fxrep.reparameterize(model)
    macs, _, kernels = ran(deploy, x)
    assert report.inputs == [(2, 4, 8, 8)]
    assert report.total[1].macs == macs
    assert report.total[1].kernels == kernels
    assert report.merged
    assert all(m.positions is not None for m in report.merged)
    assert sum(m.before.kernels for m in report.merged if m.positions) > len(report.merged)


def test_a_block_that_is_called_twice_takes_twice_and_has_its_weights_once() -> None:
    model, x = randomize(Shared()), torch.randn(2, 4, 8, 8)
    (merge,) = fxrep.explain(model, (x,)).merged
    assert (merge.calls, merge.positions) == (2, 2 * (64 + 16))
    assert merge.after == Figures(2 * 80 * 144, 4 * 4 * 9 + 4, 4 * 2 * 80 * 8, 2)


def test_what_was_not_called_took_nothing() -> None:
    report = fxrep.explain(randomize(Undecided()), (torch.randn(2, 4, 8, 8),))
    *called, idle = report.merged
    assert (idle.name, idle.positions, idle.before.macs, idle.before.kernels) == ("blocks.2.merged", 0, 0, 0)
    assert all(m.positions == 2 * 64 for m in called)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("core", [False, True])
def test_an_exported_program_knows_its_shapes(model: nn.Module, dynamic: bool, core: bool) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(model, (X,), dynamic_shapes=shapes)
    expected = fxrep.explain(model, (X,))
    if core:
        program = program.run_decompositions()
        expected = fxrep.explain(nn.Sequential(model.stem, model.blocks).eval(), (X,))
    report = fxrep.explain(program)
    assert report.inputs == [(2, 3, 32, 32)]
    assert report.weight_bytes == fxrep.explain(model).weight_bytes or core
    for mine, its in zip(expected.merged[:3], report.merged, strict=False):
        assert (mine.before, mine.after, mine.positions) == (its.before, its.after, its.positions)
    assert core or report.total == expected.total


def test_half_precision_moves_half_the_bytes(model: nn.Module) -> None:
    single, half = fxrep.explain(model), fxrep.explain(model.to(torch.bfloat16))
    assert [m.before.bytes for m in single.merged] == [2 * (m.before.bytes or 0) for m in half.merged]
    assert half.weight_bytes == tuple(n // 2 for n in single.weight_bytes)


def test_inputs_that_do_not_fit_are_the_models_error(model: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        fxrep.explain(model, (torch.randn(1, 5, 8, 8),))
    with pytest.raises(TypeError, match="example_inputs is a tuple"):
        fxrep.explain(model, X)  # type: ignore[call-overload]


# ----------------------------------------------------------------------------------------------------- what was refused
class Made(nn.Module):
    """Two convolutions under a forward of the case's own."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def refused(body: Callable[[Any, Tensor], Any]) -> list[tuple[str, str]]:
    """Kind and reason of what the report has left alone."""
    return [(kept.kind, kept.reason) for kept in fxrep.explain(randomize(Made(body))).refused]


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str, str]] = {
    "a pool": (
        lambda m, x: m.b(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        "pool",
        "at the border it divides by the part of the window that is inside",
    ),
    "a gate": (lambda m, x: m.a(x) * m.b(x), "scale", "its factor is computed from the input or written to"),
    "a pad": (lambda m, x: m.b(F.pad(m.a(x), (1, 1), value=1.0)), "pad", "it pads with a number that is not zero"),
    "a pad behind a bias": (
        lambda m, x: F.pad(m.b(x), (1, 1)),
        "pad",
        "what it reads has a bias, and it pads with zeros: the border would differ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_rule_refuses(case: str) -> None:
    body, kind, reason = REFUSED[case]
    assert refused(lambda m, x: F.relu(body(m, x))) == [(kind, reason)]
    assert refused(lambda m, x: F.max_pool2d(F.relu(m.a(x)), 2) * 2) == []


@pytest.mark.parametrize(
    ("kind", "body"), [("scale", lambda m, x: m.a(x) * 2), ("other", lambda m, x: m.a(x)[:, :, 1:-1])]
)
def test_a_failed_proof_at_another_operator(kind: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxrep.plan.build_modules", lambda region, workspace: "the check failed")
    assert refused(body) == [(kind, "the check failed")]


def test_many_gates_take_one_line() -> None:
    report = fxrep.explain(Made(lambda m, x: m.a(x) * m.b(x) * x.sigmoid() * x.tanh()).eval())
    assert len(report.refused) == 3
    assert str(report).count("its factor is computed") == 1
    assert "mul in forward and 2 more: its factor" in str(report)


def test_a_convolution_that_nothing_goes_into() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[0].register_forward_hook(print)
    assert [k.reason for k in fxrep.explain(model).refused] == ["it cannot go into Conv2d '0': forward hook print"]

    def written(m: Any, x: Tensor) -> Tensor:
        y = F.relu(x)
        z = y[:, :1]
        z[:] = 0
        return m.norm(m.b(y))

    ((kind, reason),) = refused(written)
    assert kind == "norm"
    assert reason == "it cannot go into Conv2d 'b': __setitem__ in forward may write to its input before it is read"


@pytest.mark.parametrize("inplace", [False, True])
def test_a_summand_that_is_read_elsewhere(inplace: bool) -> None:
    def body(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        first = y[:, :1]
        if not inplace:
            return first, y + m.b(x)
        y += m.b(x)
        return first

    through = "through a view, which this writes to" if inplace else "too"
    assert refused(body) == [("add", f"its input, Conv2d 'a', is read by getitem in forward {through}")]


# --------------------------------------------------------------------------------------------------------- the drawings
def kinds(drawing: Drawing) -> list[str]:
    return [box.kind for box in drawing.boxes]


def test_the_drawing_of_a_block(model: nn.Module) -> None:
    merge = fxrep.explain(model).merged[1]
    before, after = merge.drawings
    assert sorted(kinds(before)) == ["add", "conv", "conv", "norm", "norm", "norm", "value"]
    total = kinds(before).index("add")
    assert before.boxes[total].label == "sum of 3"
    assert sorted(kinds(before)[start] for start, end in before.arrows if end == total) == ["norm"] * 3
    assert sorted(kinds(before)[end] for start, end in before.arrows if start == 0) == ["conv", "conv", "norm"]
    assert sorted(box.label for box in before.boxes if box.kind == "conv") == ["1x1 conv", "3x3 conv"]
    modules = dict(model.named_modules())
    assert all(box.path in modules for box in before.boxes if box.kind in ("conv", "norm"))
    assert kinds(after) == ["value", "merged"]
    assert after.arrows == ((0, 1),)
    assert (after.boxes[1].label, after.boxes[1].detail) == ("3x3 conv", "8 to 8")
    assert after.boxes[1].path == merge.name


def test_a_drawing_with_two_sources_and_what_does_nothing() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            h = x.relu()
            return self.drop(self.a(h)) - h / 2 + x + self.drop(self.b(self.drop(h)))

    (merge,) = fxrep.explain(randomize(Two())).merged
    before, after = merge.drawings
    assert sorted(kinds(before)) == ["add", "add", "conv", "conv", "scale", "value", "value"]
    assert sorted(box.label for box in before.boxes if box.kind == "add") == ["difference", "sum of 3"]
    assert sorted(kinds(after)) == ["add", "merged", "value", "value"]
    assert len(after.arrows) == 3


def test_what_a_merge_gives_is_called_after_it() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), OriginalRepVGGBlock(4, 4)))
    first, second = fxrep.explain(model).merged
    before, after = second.drawings
    assert (first.name, before.boxes[0].label, before.boxes[0].path) == ("0", "BatchNorm2d", "1")
    assert (after.boxes[0].label, after.boxes[0].path) == ("convolution", "0")


# -------------------------------------------------------------------------------------------------- text, JSON, pickles
def test_a_report_survives_json_and_pickling(model: nn.Module, tmp_path: Path) -> None:
    deploy = fxrep.reparameterize(model, (X,))
    report = fxrep.report(deploy)
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved == report.to_dict()
    again = Report.from_dict(saved)
    assert again == report
    assert str(again) == str(report)
    assert Report.from_dict({**saved, "of a later version": 1}) == report
    assert pickle.loads(pickle.dumps(report)) == report
    torch.save(deploy, tmp_path / "deploy.pt")
    assert fxrep.report(torch.load(tmp_path / "deploy.pt", weights_only=False)) == report


@pytest.mark.parametrize("broken", [{}, {"merged": 3}, [], None, {"merged": [{"drawings": []}]}, "text"])
def test_something_else_is_no_report(broken: Any) -> None:
    with pytest.raises(ValueError, match="not a report that fxrep saved"):
        Report.from_dict(broken)


def test_an_arrow_to_nowhere_is_no_report(model: nn.Module) -> None:
    saved = fxrep.explain(model).to_dict()
    saved["merged"][0]["drawings"][0]["arrows"].append([0, 99])
    with pytest.raises(ValueError, match="leads nowhere"):
        Report.from_dict(saved)


def test_the_table(model: nn.Module) -> None:
    alone, whole = str(fxrep.explain(model)), str(fxrep.explain(model, (X,)))
    assert "linear layers  2       1" in alone
    assert "*" not in whole
    assert "for one position of the output" in alone
    assert "example_inputs give totals" in alone
    assert "fxrep: Net, input 2x3x32x32" in whole
    assert "for one call of the model" in whole
    assert "adds values of different origin" in whole
    (line,) = (line for line in whole.splitlines() if line.startswith("  blocks.0.merged"))
    assert " ".join(line.split()) == "blocks.0.merged 340k -> 295k 688 -> 584 262k -> 32.8k 7 -> 1"


def test_the_table_fits_in_100_columns() -> None:
    class Deep(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            child = Deep(depth - 1) if depth else OriginalRepVGGBlock(4, 4)
            self.add_module("a_rather_long_name", child)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a_rather_long_name(x).relu() + x)

    report = fxrep.explain(randomize(Deep(8)), (torch.randn(1, 4, 8, 8),))
    lines = str(report).splitlines()
    assert [line for line in lines if len(line) > 100 and " " in line.strip()] == []
    assert any(len(line) > 100 for line in lines), "a name that is longer than that is not cut"


def test_numbers() -> None:
    numbers = (0, 999, 1000, 9994, 9995, 99_949, 99_950, 999_499, 999_500, 10**9, 10**18, 10**22)
    found = " ".join(map(scaled, numbers))
    assert found == "0 999 1.00k 9.99k 10.0k 99.9k 100k 999k 1.00M 1.00G 1000P 10000000P"
    assert scaled(36_400_000, "B") == "36.4 MB"


def test_a_pool_and_a_norm_have_no_convolution_that_tells_their_type() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(4)).eval()
    (norm,) = (kept for kept in fxrep.explain(model).kept if kept.kind == "norm")
    assert norm.reason == "no convolution is among its parts"
