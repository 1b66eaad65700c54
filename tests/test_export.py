"""``torch.export`` programs, their modules, and dynamo's graphs: merged, counted, saved, loaded and exported again."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import fxrep
from tests.blocks import (
    SPELLINGS,
    AnyRank,
    ConvNorm,
    HandNormBlock,
    LayerScale,
    OriginalRepVGGBlock,
    PerChannel,
    SameBranches,
    Spelled,
    TwoBranches,
    TwoSources,
    WithPassThroughs,
)
from tests.counting import count_ops
from tests.helpers import TOLERANCE, randomize, relative_error, run


class MobileOneBlock(nn.Module):
    """Copies of a depthwise 3x3 with norms, a 1x1 and a norm of the input."""

    def __init__(self, channels: int = 4, copies: int = 3) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(channels)
        self.scale = ConvNorm(channels, channels, 1, groups=channels)
        self.convs = nn.ModuleList(ConvNorm(channels, channels, 3, padding=1, groups=channels) for _ in range(copies))

    def forward(self, x: Tensor) -> Tensor:
        out = self.identity(x) + self.scale(x)
        for conv in self.convs:
            out += conv(x)
        return out.relu()


class Counting(nn.Module):
    """Counts its calls in a buffer, and scales by it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OriginalRepVGGBlock(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.block(x) * self.calls


class Skip(nn.Module):
    """An activation through two branches, past which its input goes: ``a(h) + x + b(h)``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvNorm(4, 4, 3, padding=1), ConvNorm(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.relu()
        return self.a(h) + x + self.b(h)


class Sliced(nn.Module):
    """A 1x1 of the middle of the image beside a 3x3."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvNorm(4, 4, 3), ConvNorm(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x[:, :, 1:-1, 1:-1])


class Mixed(nn.Module):
    """Reads sizes, returns several values by name, and takes an argument by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OriginalRepVGGBlock(4, 4)
        self.chain = ConvNorm(4, 6)

    def forward(self, x: Tensor, *, skip: dict[str, Tensor]) -> dict[str, Any]:
        y = self.block(x) + skip["y"]
        return {"y": y, "flat": self.chain(y).reshape(y.shape[0], -1), "x": x}


def sizes(rank: int = 2, low: int = 8, high: int = 64) -> tuple[dict[int, Any]]:
    """A batch and an image of any size."""
    image = {2 + i: Dim(f"size{i}", min=low, max=high) for i in range(rank)}
    return ({0: Dim("batch", min=2, max=64), **image},)


def export(model: nn.Module, *inputs: Tensor, dynamic: bool = True, **limits: int) -> ExportedProgram:
    shapes = tuple(sizes(x.dim() - 2, **limits)[0] for x in inputs) if dynamic else None
    return torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)


def counts(model: Callable[..., Any], *inputs: Tensor) -> tuple[int, int, int]:
    found = count_ops(model, *(x.clone() for x in inputs))
    return found["conv"], found["norm"], found["add"]


def assert_program_merged(
    program: ExportedProgram, inputs: tuple[Tensor, ...], expected: tuple[int, int, int]
) -> ExportedProgram:
    """The merged program computes the same with these operators, validates, and leaves the caller's as it was."""
    text, keys = str(program.graph), list(program.state_dict)
    state = {key: value.clone() for key, value in program.state_dict.items()}
    before = run(copy.deepcopy(program).module(), inputs)

    merged = fxrep.reparameterize(program)

    assert isinstance(merged, ExportedProgram)
    assert merged is not program
    assert str(program.graph) == text
    assert list(program.state_dict) == keys
    assert all(torch.equal(program.state_dict[key], value) for key, value in state.items())
    own = {t.data_ptr() for t in merged.state_dict.values() if t.numel()}
    assert own.isdisjoint({t.data_ptr() for t in program.state_dict.values() if t.numel()})
    merged.validate()
    assert relative_error(run(copy.deepcopy(merged).module(), inputs), before) <= TOLERANCE
    module = copy.deepcopy(merged).module()
    assert counts(module, *inputs) == expected, f"{merged}\n{fxrep.report(merged)}"
    assert merged.range_constraints == program.range_constraints
    return merged


def dialects(program: ExportedProgram) -> Iterator[ExportedProgram]:
    """As it was exported, and in core ATen operators."""
    yield program
    yield program.run_decompositions()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "RepVGG": (lambda: OriginalRepVGGBlock(4, 4), (1, 0, 0)),
    "RepVGG, strided": (lambda: OriginalRepVGGBlock(4, 6, stride=2), (1, 0, 0)),
    "RepVGG, dilated in groups": (lambda: OriginalRepVGGBlock(4, 4, dilation=2, groups=2), (1, 0, 0)),
    "MobileOne": (MobileOneBlock, (1, 0, 0)),
    "same": (SameBranches, (1, 0, 0)),
    "same, even kernel": (lambda: SameBranches(kernel=4), (1, 0, 0)),
    "chain": (lambda: ConvNorm(4, 6, bias=True), (1, 0, 0)),
    "sliced": (Sliced, (1, 0, 0)),
    "valid": (TwoBranches, (1, 0, 0)),
    "norm by hand": (HandNormBlock, (1, 0, 0)),
    "two sources": (Skip, (1, 0, 1)),
    "two inputs": (TwoSources, (2, 0, 1)),
    "nothing done": (WithPassThroughs, (1, 0, 0)),
    "layer scale": (LayerScale, (1, 0, 0)),
    "constants": (PerChannel, (1, 0, 0)),
    "1d": (lambda: AnyRank(1), (1, 0, 0)),
    "3d": (lambda: AnyRank(3), (1, 0, 0)),
}


DECOMPOSED = {"RepVGG, dilated in groups", "MobileOne", "constants", "two sources", "1d"}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block(name: str) -> None:
    make, expected = BLOCKS[name]
    model = randomize(make()).double()
    rank = int(name[0]) if name[0].isdigit() else 2
    inputs = (image(3, 4, *(10, 9, 8)[:rank]), image(3, 4, 10, 9, seed=1))[: 2 if name == "two inputs" else 1]
    program = export(model, *inputs, dynamic=name != "two inputs")
    for dialect in dialects(program) if name in DECOMPOSED else (program,):
        merged = assert_program_merged(dialect, inputs, expected)
        if name != "two inputs":
            other = image(5, 4, *(12, 11, 13)[:rank])
            assert relative_error(run(merged.module(), other), run(model, other)) <= TOLERANCE


@pytest.mark.parametrize(
    "name", ["+=", "-=", "+= through an alias", "torch.sub alpha", "stack sum", "scaled", "shifted"]
)
def test_a_spelling(name: str) -> None:
    model = randomize(Spelled(SPELLINGS[name])).double()
    x = image(2, 4, 8, 9)
    assert_program_merged(export(model, x), (x,), (1, 0, 0))


def test_saved_loaded_decomposed_and_exported_again() -> None:
    model = randomize(nn.Sequential(OriginalRepVGGBlock(3, 4, stride=2), MobileOneBlock(), ConvNorm(4, 5))).double()
    x, other = image(2, 3, 16, 16), image(7, 3, 21, 18)
    merged = fxrep.reparameterize(export(model, x))
    assert {*merged.state_dict} == {
        f"{path}.{w}" for path in ("0.merged", "1.merged", "2.conv") for w in ("weight", "bias")
    }
    file = io.BytesIO()
    torch.export.save(merged, file)
    file.seek(0)
    for program in (
        torch.export.load(file),
        merged.run_decompositions(),
        torch.export.export(merged.module(), (x,), dynamic_shapes=sizes()),
        fxrep.reparameterize(merged),
        copy.deepcopy(merged),
    ):
        assert counts(program.module(), other) == (3, 0, 0)
        assert relative_error(run(program.module(), other), run(model, other)) <= TOLERANCE


def test_sizes_out_of_range_are_refused_as_before() -> None:
    program = export(randomize(OriginalRepVGGBlock(4, 4)).double(), image(2, 4, 8, 8))
    too_large = image(65, 4, 8, 8)
    for module in (program.module(), fxrep.reparameterize(program).module()):
        with pytest.raises((AssertionError, RuntimeError), match=r"64|Guard"):
            module(too_large)


def test_a_buffer_that_the_program_writes_to() -> None:
    x = image(2, 4, 6, 6)
    for dialect in dialects(export(randomize(Counting()).double(), x, dynamic=False)):
        merged = assert_program_merged(dialect, (x,), (1, 0, 0))
        before, after = copy.deepcopy(dialect).module(), merged.module()
        for _ in range(3):  # the factor is not baked
            assert relative_error(run(after, x), run(before, x)) <= TOLERANCE


def test_arguments_and_results_by_name() -> None:
    model = randomize(Mixed()).double()
    x, y = image(2, 4, 8, 8), image(2, 4, 8, 8, seed=1)
    shapes = {"x": sizes()[0], "skip": {"y": sizes()[0]}}
    program = torch.export.export(model, (x,), {"skip": {"y": y}}, dynamic_shapes=shapes)
    for dialect in dialects(program):
        merged = fxrep.reparameterize(dialect)
        with torch.no_grad():
            found, expected = merged.module()(x, skip={"y": y}), model(x, skip={"y": y})
        assert found.keys() == expected.keys()
        assert all(relative_error(found[key], expected[key]) <= TOLERANCE for key in found)
        assert fxrep.report(merged).after == {"conv": 2, "norm": 0, "add": 1}


def test_a_module_whose_signature_is_preserved_keeps_its_values() -> None:
    model = randomize(nn.Sequential(ConvNorm(3, 4), OriginalRepVGGBlock(4, 4))).double()
    x = image(2, 3, 8, 8)
    program = torch.export.export(model, (x,), preserve_module_call_signature=("0.conv",))
    merged = fxrep.reparameterize(program)
    assert counts(merged.module(), x) == (2, 1, 0)
    assert relative_error(run(merged.module(), x), run(model, x)) <= TOLERANCE


def test_shared_blocks_share_the_merged_weights() -> None:
    block = randomize(OriginalRepVGGBlock(4, 4))
    model = nn.Sequential(block, nn.ReLU(), block).double()
    x = image(2, 4, 8, 8)
    merged = assert_program_merged(export(model, x), (x,), (2, 0, 0))
    assert len(merged.state_dict) == len(list(merged.parameters())) == 2


def test_weights_that_somebody_else_reads_stay() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = ConvNorm(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.chain(x), self.chain.conv.weight.sum()

    model, x = randomize(Reads()).double(), image(2, 4, 8, 8)
    merged = fxrep.reparameterize(export(model, x))
    assert {"chain.conv.weight", "chain.merged.weight"} <= merged.state_dict.keys()
    with torch.no_grad():
        for found, expected in zip(merged.module()(x), model(x), strict=True):
            assert relative_error(found, expected) <= TOLERANCE


def test_linear_layers_and_pools() -> None:
    class Adapter(nn.Module):
        """A low-rank adapter, and a pool beside a convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.whole, self.down, self.up = nn.Linear(8, 8), nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
            self.conv, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = (self.whole(x) + self.up(self.down(x))).relu()
            return self.conv(y) + self.pool(y)

    model, x = Adapter().double(), image(2, 4, 8, 8)
    program = export(model, x, dynamic=False)
    merged = fxrep.reparameterize(program, policy="kernels")
    assert relative_error(run(merged.module(), x), run(model, x)) <= TOLERANCE
    targets = Counter(node.target for node in merged.graph.nodes if node.op == "call_function")
    aten = torch.ops.aten
    assert (targets[aten.linear.default], targets[aten.conv2d.default]) == (1, 1)
    assert not {aten.add.Tensor, aten.avg_pool2d.default} & targets.keys()


def test_a_timm_model() -> None:
    timm = pytest.importorskip("timm")
    model = randomize(timm.create_model("repvgg_a0")).eval()
    x = torch.randn(2, 3, 64, 64)
    program = export(model, x, low=40, high=256)
    merged = fxrep.reparameterize(program, (x,))
    before, after = counts(program.module(), x), counts(merged.module(), x)
    assert before == (44, 61, 39)
    assert after == (22, 0, 0)
    assert fxrep.report(merged).after == {"conv": 22, "linear": 1, "norm": 0, "add": 0}
    assert fxrep.verify(program, merged, (torch.randn(3, 3, 48, 80),)).ok
    assert "stages.0.0.merged.weight" in merged.state_dict


# -------------------------------------------------------------------------------------------------------- graph modules
def test_the_module_of_a_program() -> None:
    model, x = randomize(nn.Sequential(MobileOneBlock(), ConvNorm(4, 5))).double(), image(2, 4, 8, 8)
    program = export(model, x)
    for dialect in dialects(program):
        module = dialect.module()
        keys = list(module.state_dict())
        merged = fxrep.reparameterize(module)
        assert type(merged).__mro__[1:] == type(module).__mro__[1:]
        assert list(module.state_dict()) == keys
        assert list(merged.state_dict()) == ["0.merged.weight", "0.merged.bias", "1.conv.weight", "1.conv.bias"]
        other = image(5, 4, 11, 12)
        assert counts(merged, other) == (2, 0, 0)
        assert relative_error(run(merged, other), run(model, other)) <= TOLERANCE
        again = torch.export.export(merged, (x,), dynamic_shapes=sizes()).module()
        assert relative_error(run(again, other), run(model, other)) <= TOLERANCE
        with pytest.raises((AssertionError, RuntimeError)):
            merged(image(65, 4, 8, 8))
        with pytest.raises(NotImplementedError):
            merged.train()


def test_in_place() -> None:
    model, x = randomize(OriginalRepVGGBlock(4, 4)).double(), image(2, 4, 8, 8)
    program = export(model, x)
    module = program.module()
    for target in (program, module):
        assert fxrep.reparameterize(target, inplace=True) is target
        assert fxrep.report(target).after["conv"] == 1
    assert counts(program.module(), x) == counts(module, x) == (1, 0, 0)
    for target in (program.module(), module):
        assert relative_error(run(target, x), run(model, x)) <= TOLERANCE


def test_a_graph_of_make_fx() -> None:
    model, x = randomize(nn.Sequential(MobileOneBlock(), ConvNorm(4, 5))).double(), image(2, 4, 8, 8)
    with torch.no_grad():
        merged = fxrep.reparameterize(make_fx(model)(x))
    assert counts(merged, x) == (2, 0, 0)
    assert relative_error(run(merged, x), run(model, x)) <= TOLERANCE


def test_a_graph_of_dynamo() -> None:
    model, x = randomize(nn.Sequential(MobileOneBlock(), ConvNorm(4, 5))).double(), image(2, 4, 8, 8)
    graph = torch._dynamo.export(model, aten_graph=False)(x).graph_module
    merged = fxrep.reparameterize(graph)
    assert counts(merged, x) == (2, 0, 0)
    assert relative_error(run(merged, x), run(model, x)) <= TOLERANCE


@pytest.mark.parametrize("examples", [False, True])
def test_a_backend_of_torch_compile(examples: bool) -> None:
    model = randomize(nn.Sequential(MobileOneBlock(), ConvNorm(4, 5))).double()
    reports = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        merged = fxrep.reparameterize(graph, tuple(inputs) if examples else None)
        reports.append(fxrep.report(merged))
        return merged

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for size in ((2, 4, 8, 8), (3, 4, 9, 10), (5, 4, 7, 7)):
            other = image(*size)
            assert relative_error(compiled(other), model(other)) <= TOLERANCE
    assert reports
    assert all(report.after == {"conv": 2, "norm": 0, "add": 0} for report in reports)
    assert reports[0].merged[0].name == "0.merged"


# ---------------------------------------------------------------------------------------------------- reports, refusals
def test_a_report_and_an_explanation() -> None:
    model, x = randomize(nn.Sequential(MobileOneBlock(), nn.ReLU(), nn.BatchNorm2d(4))).double(), image(2, 4, 8, 8)
    program = export(model, x)
    text = str(program.graph)
    explained, merged = fxrep.explain(program), fxrep.reparameterize(program)
    assert str(program.graph) == text
    assert explained.to_dict() == fxrep.report(merged).to_dict()
    assert explained.model == "ExportedProgram"
    assert [m.name for m in explained.merged] == ["0.merged"]
    (norm,) = (kept for kept in explained.kept if kept.kind == "norm")
    assert "its input comes from relu" in norm.reason
    assert norm.name.endswith("in '2'")
    assert explained.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, merged))
    with pytest.raises(ValueError, match="not made by"):
        fxrep.report(program)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_program_in_training_mode(decomposed: bool) -> None:
    make = getattr(torch.export, "export_for_training", torch.export.export)  # what older versions call it
    program = make(OriginalRepVGGBlock(4, 4).train(), (torch.randn(2, 4, 8, 8),))
    if decomposed:
        program = program.run_decompositions()
    for target in (program, program.module()):
        with pytest.raises(ValueError, match=r"training mode: .*model\.eval\(\) and export it again"):
            fxrep.reparameterize(target)


def test_a_weight_that_is_standardised() -> None:
    """The norm of a weight is one in training mode, whatever the mode of the model."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
            return self._conv_forward(x, weight, self.bias)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Standardised(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    model, x = randomize(Net()).double(), torch.randn(2, 4, 8, 8).double()
    program = torch.export.export(model, (x,))
    whole = any(node.target is torch.ops.aten.batch_norm.default for node in program.graph.nodes)  # not in torch 2.5
    for target in (program, program.module()):
        merged = fxrep.reparameterize(target)
        assert fxrep.report(merged).after["conv"] == (1 if whole else 2)
        assert fxrep.verify(model, merged, (x,)).relative <= 1e-9


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)])
@pytest.mark.parametrize("way", ["decomposed", "make_fx", "dynamo"])
def test_a_norm_without_statistics_is_no_training_mode(norm: nn.Module, way: str) -> None:
    model, x = randomize(nn.Sequential(TwoBranches(4, 4), norm)).double(), torch.randn(2, 4, 8, 8).double()
    if way == "dynamo":
        target: Any = torch._dynamo.export(model, aten_graph=False)(x).graph_module
    else:
        target = make_fx(model)(x) if way == "make_fx" else torch.export.export(model, (x,)).run_decompositions()
    merged = fxrep.reparameterize(target)
    assert fxrep.report(merged).after["conv"] == 1
    assert (
        relative_error(run(merged.module() if isinstance(merged, ExportedProgram) else merged, x), run(model, x))
        <= 1e-9
    )


def test_one_norm_in_training_mode() -> None:
    model = randomize(nn.Sequential(ConvNorm(4, 4), ConvNorm(4, 5)))
    model[0].bn.train()
    make = getattr(torch.export, "export_for_training", torch.export.export)
    merged = fxrep.reparameterize(make(model, (torch.randn(2, 4, 8, 8),)))
    (kept,) = (k for k in fxrep.report(merged).kept if k.kind == "norm")
    assert "normalises by the batch: call .eval() before the export" in kept.reason
    assert (fxrep.report(merged).after["conv"], fxrep.report(merged).after["norm"]) == (2, 1)
    assert "1.conv.bias" in merged.state_dict


def test_nothing_to_merge() -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).double(), image(2, 4, 8, 8)
    program = export(model, x, dynamic=False)
    merged = assert_program_merged(program, (x,), (1, 0, 0))
    assert list(merged.state_dict) == list(program.state_dict)
    assert [n.name for n in merged.graph.nodes] == [n.name for n in program.graph.nodes]


def test_a_view_of_a_value_that_is_written_to() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
            self.norm = nn.BatchNorm2d(4)
            self.a, self.b = ConvNorm(4, 4, 1), ConvNorm(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            z = y[:, :1]  # it sees the sum
            y += self.b(x)
            return self.norm(self.up(y)) * z.mean()

    model, x = randomize(Views()).double(), image(2, 4, 6, 6)
    program = export(model, x, dynamic=False)
    functional = not any("add_" in str(node.target) for node in program.graph.nodes)  # as older versions export it
    assert_program_merged(program, (x,), (2, 0, 0) if functional else (3, 0, 1))


def test_linear_layers_as_products() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 5, bias=False), nn.Linear(5, 3)
            self.n, self.o = nn.BatchNorm1d(4), nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.a(self.n(x)) + self.b(x)) @ self.c.weight.t()

    model, x = randomize(Heads()).double(), image(6, 4)
    for dialect in dialects(export(model, x, dynamic=False)):
        merged = assert_program_merged(dialect, (x,), (0, 0, 0))
        assert fxrep.report(merged).after["linear"] == 1, fxrep.report(merged)


def test_a_type_that_changes_in_between() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = ConvNorm(4, 4, 1), ConvNorm(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).half().to(x.dtype) + self.b(x).to(x.dtype)

    model, x = randomize(Casts()).double(), image(2, 4, 6, 6)
    for dialect in dialects(export(model, x, dynamic=False)):
        assert_program_merged(dialect, (x,), (2, 0, 1))


def test_autocast_is_left_alone() -> None:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = OriginalRepVGGBlock(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.block(x)

    model, x = randomize(Auto()), torch.randn(2, 4, 6, 6)
    program = export(model, x, dynamic=False)
    assert torch.equal(run(fxrep.reparameterize(program).module(), x), run(program.module(), x))


class Remembers(nn.Module):
    """Writes to a buffer that it never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        self.last.copy_(y.mean((0, 2, 3)))
        return y * 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("skip", [(), "*"])
def test_a_buffer_that_is_written_to_and_never_read(skip: Any) -> None:
    model, x = randomize(Remembers()).double().eval(), torch.randn(2, 4, 5, 5).double()
    program = torch.export.export(model, (x,)).run_decompositions()
    merged = fxrep.reparameterize(program, skip=skip).module()
    assert relative_error(run(merged, x), run(program.module(), x)) <= 1e-9
    assert relative_error(merged.get_buffer("last"), model.norm(model.conv(x)).mean((0, 2, 3))) <= 1e-9


class HalvesStatistics(nn.Module):
    """Writes to the statistics of a norm whose value is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = ConvNorm(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        self.norm.running_mean.mul_(0.5)  # type: ignore[union-attr, operator]
        return self.conv(x) + self.norm(x)


def test_a_decomposed_program_writes_to_the_statistics_of_a_norm() -> None:
    model, x = randomize(HalvesStatistics()).double().eval(), torch.randn(2, 4, 5, 5).double()
    program = torch.export.export(model, (x,)).run_decompositions()
    merged, plain = fxrep.reparameterize(program).module(), program.module()
    for _ in range(2):
        assert relative_error(run(merged, x), run(plain, x)) <= 1e-9
