"""What a user can do with the result: copy, save, load, export, compile, cast, print, and merge again."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import fxrep
from tests.blocks import OriginalRepVGGBlock
from tests.counting import count_ops
from tests.helpers import assert_unchanged, randomize, relative_error, run, snapshot

ROOT = Path(__file__).parent.parent


class Net(nn.Module):
    """Two stages of RepVGG blocks and a head, with an attribute and a method of its own."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.classes = classes
        self.stem = OriginalRepVGGBlock(3, 4, stride=2)
        self.stages = nn.Sequential(
            nn.Sequential(OriginalRepVGGBlock(4, 4), OriginalRepVGGBlock(4, 4)),
            nn.Sequential(OriginalRepVGGBlock(4, 8, stride=2), OriginalRepVGGBlock(8, 8, groups=2)),
        )
        self.head = nn.Linear(8, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


BLOCKS = ("stem", "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomize(Net())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def assert_same_outputs(model: nn.Module, expected: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(run(model, x), run(expected, x), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ same model
def test_same_class_attributes_methods_and_tree(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    assert type(after) is Net
    assert after.classes == 5
    assert relative_error(after.features(x), model.features(x)) <= 1e-5
    assert relative_error(run(after, x), run(model, x)) <= 1e-5
    assert all(isinstance(m, type(model.get_submodule(name))) for name, m in after.named_children())
    assert isinstance(after.get_submodule("stages.1.0"), OriginalRepVGGBlock)
    assert count_ops(after, x) == {"conv": 5}
    assert not after.training
    assert all(not m.training for m in after.modules())


def test_print_shows_plain_convolutions(model: Net) -> None:
    text = str(fxrep.reparameterize(model))
    assert text.count("Conv2d(") == 5
    assert "BatchNorm" not in text
    assert "Conv2d(3, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))" in text


def test_attributes_set_by_hand_survive(model: Net) -> None:
    model.labels = ["cat", "dog"]
    model.stem.note = "first"
    after = fxrep.reparameterize(model)
    assert after.labels == ["cat", "dog"]
    assert after.stem.note == "first"


def test_in_place_changes_and_returns_the_given_object(model: Net, x: Tensor) -> None:
    expected = run(model, x)
    assert fxrep.reparameterize(model, inplace=True) is model
    assert type(model) is Net
    assert count_ops(model, x) == {"conv": 5}
    assert relative_error(run(model, x), expected) <= 1e-5


def test_out_of_place_leaves_the_model_alone(model: Net, x: Tensor) -> None:
    state, text, expected, operators = snapshot(model), str(model), run(model, x), count_ops(model, x)
    parameters = [id(p) for p in model.parameters()]
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    after = fxrep.reparameterize(model)
    assert_unchanged(model, state)
    assert str(model) == text
    assert [id(p) for p in model.parameters()] == parameters
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
    assert torch.equal(run(model, x), expected)
    assert count_ops(model, x) == operators
    own = {t.untyped_storage().data_ptr() for t in after.state_dict().values()}
    theirs = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert not own & theirs, "the result shares memory with the caller's model"


def test_the_original_still_trains(model: Net, x: Tensor) -> None:
    fxrep.reparameterize(model)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_that_was_run_with_gradients(model: Net, x: Tensor) -> None:
    model.cache = model(x)  # a non-leaf tensor: copy.deepcopy refuses it
    after = fxrep.reparameterize(model)
    assert relative_error(run(after, x), model.cache.detach()) <= 1e-5


def test_merging_twice_changes_nothing(model: Net, x: Tensor) -> None:
    once = fxrep.reparameterize(model)
    twice = fxrep.reparameterize(once)
    assert str(twice) == str(once)
    assert_unchanged(twice, snapshot(once))
    assert_same_outputs(twice, once, x)
    assert not fxrep.report(twice).merged


def test_a_model_with_nothing_to_merge(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 2)).eval()
    after = fxrep.reparameterize(model)
    assert str(after) == str(model)
    assert_unchanged(after, snapshot(model))
    assert_same_outputs(after, model, x)
    assert not fxrep.report(after).merged


def test_requires_grad_and_parameters(model: Net) -> None:
    after = fxrep.reparameterize(model)
    assert all(isinstance(p, nn.Parameter) for p in after.parameters())
    assert all(p.is_leaf for p in after.parameters())


# ------------------------------------------------------------------------------------------------------ state dicts
def test_keys_come_from_the_paths_of_the_blocks(model: Net) -> None:
    keys = list(fxrep.reparameterize(model).state_dict())
    assert len(keys) == len(set(keys)) == 2 * len(BLOCKS) + 2
    for block in BLOCKS:
        mine = [key for key in keys if key.startswith(f"{block}.")]
        assert len(mine) == 2, mine
        assert {key.rpartition(".")[2] for key in mine} == {"weight", "bias"}
    assert {"head.weight", "head.bias"} <= set(keys)


def test_keys_are_stable(model: Net) -> None:
    """Another model of the same architecture gives the same keys and shapes, so that weights can be exchanged."""
    first, second = fxrep.reparameterize(model), fxrep.reparameterize(randomize(Net(), seed=7))
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (first, second)]
    assert list(shapes[0]) == list(shapes[1])
    assert shapes[0] == shapes[1]


def test_state_dict_round_trip(model: Net, x: Tensor) -> None:
    first, second = fxrep.reparameterize(model), fxrep.reparameterize(randomize(Net(), seed=7))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert_same_outputs(second, first, x)


# --------------------------------------------------------------------------------------------- copy, pickle, process
def test_deep_copy(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    twin = copy.deepcopy(after)
    assert_same_outputs(twin, after, x)
    expected = run(after, x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(run(after, x), expected), "the copy shares weights with the original"
    assert not run(twin, x).any(), "the copy computes with other weights than its own"


def test_pickle(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    loaded = pickle.loads(pickle.dumps(after))
    assert type(loaded) is Net
    assert_same_outputs(loaded, after, x)
    assert list(loaded.state_dict()) == list(after.state_dict())
    assert count_ops(loaded, x) == {"conv": 5}


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_saved_and_loaded_in_a_fresh_process(model: Net, x: Tensor, tmp_path: Path, kind: str) -> None:
    after = fxrep.reparameterize(model if kind == "module" else fxrep.trace(model))
    torch.save((after, x, run(after, x)), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        f"after, x, expected = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "with torch.no_grad():\n"
        "    torch.testing.assert_close(after(x), expected)\n"
        "print(type(after).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == type(after).__name__


# --------------------------------------------------------------------------------------------------- export, compile
@pytest.mark.parametrize("strict", [False, True])
def test_export(model: Net, x: Tensor, strict: bool) -> None:
    after = fxrep.reparameterize(model)
    program = torch.export.export(after, (x,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum("conv2d" in target for target in targets) == 5
    assert not any("batch_norm" in target for target in targets)
    torch.testing.assert_close(run(program.module(), x), run(after, x))
    assert set(program.state_dict) == set(after.state_dict())


def test_export_with_a_dynamic_batch(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(after, (x,), dynamic_shapes=({0: batch},))
    more = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(run(program.module(), more), run(after, more))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_trace(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    torch.testing.assert_close(run(torch.jit.trace(after, x), x), run(after, x))


class Settings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.scale, self.times, self.mode, self.axes = 0.5, 1, "relu", (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x) + x * self.scale
        if self.mode == "relu":
            y = y.relu() * self.times
        return y + y.mean(self.axes, keepdim=True)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_of_code_that_reads_settings(x: Tensor) -> None:
    model = randomize(Settings())
    after = fxrep.reparameterize(model)
    torch.testing.assert_close(run(torch.jit.script(after), x), run(model, x), rtol=1e-4, atol=1e-5)
    assert fxrep.report(after).merged
    for name, value in {"scale": 1, "times": True, "mode": "", "axes": (3, 2)}.items():
        another = copy.deepcopy(after)
        setattr(another, name, value)
        with pytest.raises(ValueError, match=f"merged by fxrep for self.{name}="):
            another(x)


def test_compile_eager(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    torch._dynamo.reset()
    torch.testing.assert_close(run(torch.compile(after, backend="eager", fullgraph=True), x), run(after, x))


def test_compile_inductor(model: Net, x: Tensor) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # which one depends on the version of torch
        pytest.skip("no C++ compiler")
    after = fxrep.reparameterize(model)
    torch._dynamo.reset()
    torch.testing.assert_close(run(torch.compile(after, fullgraph=True), x), run(after, x), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ dtype, device
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str
)
def test_moved_to_another_dtype(model: Net, x: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    after = fxrep.reparameterize(model)
    expected = run(after, x)
    after.to(dtype)
    assert {t.dtype for t in after.state_dict().values()} == {dtype}
    out = run(after, x.to(dtype))
    assert out.dtype == dtype
    assert relative_error(out, expected) <= tolerance


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str
)
def test_merged_in_another_dtype(model: Net, x: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    expected = run(copy.deepcopy(model).to(torch.float64), x.double())
    model.to(dtype)
    after = fxrep.reparameterize(model)
    assert {t.dtype for t in after.state_dict().values()} == {dtype}
    assert count_ops(after, x.to(dtype)) == {"conv": 5}
    assert relative_error(run(after, x.to(dtype)), expected) <= tolerance


def test_channels_last_is_kept(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model.to(memory_format=torch.channels_last))
    weights = [p for p in after.parameters() if p.dim() == 4]
    assert len(weights) == 5
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moved_to_cuda(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model).cuda()
    assert relative_error(run(after, x.cuda()).cpu(), run(model, x)) <= 1e-3
    there = fxrep.reparameterize(model.cuda())
    assert all(t.is_cuda for t in there.state_dict().values())
    assert relative_error(run(there, x.cuda()), run(model, x.cuda())) <= 1e-3


def test_to_empty_and_meta(model: Net) -> None:
    after = fxrep.reparameterize(model)
    state = after.state_dict()
    shell = copy.deepcopy(after).to("meta")
    assert shell(torch.empty(1, 3, 16, 16, device="meta")).shape == (1, 5)
    shell.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 16, 16)
    assert_same_outputs(shell, after, x)


# ------------------------------------------------------------------------------------------------------------ graphs
def test_a_graph_module_gives_a_graph_module(model: Net, x: Tensor) -> None:
    graph = fx.symbolic_trace(model)
    state, code = snapshot(graph), graph.code
    after = fxrep.reparameterize(graph)
    assert isinstance(after, fx.GraphModule)
    assert graph.code == code
    assert_unchanged(graph, state)
    assert count_ops(after, x) == {"conv": 5}
    assert relative_error(run(after, x), run(model, x)) <= 1e-5
    after.graph.lint()


def test_trace_gives_a_flat_graph(model: Net, x: Tensor) -> None:
    state = snapshot(model)
    graph = fxrep.trace(model)
    assert isinstance(graph, fx.GraphModule)
    graph.graph.lint()
    assert_same_outputs(graph, model, x)
    assert_unchanged(model, state)
    after = fxrep.reparameterize(graph)
    assert isinstance(after, fx.GraphModule)
    assert count_ops(after, x) == {"conv": 5}


def test_a_graph_module_copies_and_pickles(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(fxrep.trace(model))
    assert_same_outputs(copy.deepcopy(after), after, x)
    assert_same_outputs(pickle.loads(pickle.dumps(after)), after, x)


# ------------------------------------------------------------------------------------------------- report and verify
def test_explain_changes_nothing_and_says_the_same(model: Net, x: Tensor) -> None:
    state, text, operators = snapshot(model), str(model), count_ops(model, x)
    explained = fxrep.explain(model)
    assert_unchanged(model, state)
    assert str(model) == text
    assert count_ops(model, x) == operators
    report = fxrep.report(fxrep.reparameterize(model))
    assert explained.to_dict() == report.to_dict()
    assert str(explained)


def test_report(model: Net) -> None:
    report = fxrep.report(fxrep.reparameterize(model))
    assert len(report.merged) == 5
    assert not [entry for entry in report.kept if entry.kind in ("norm", "add")]
    text = str(report)
    for block in BLOCKS:
        assert block in text
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_report_gives_a_reason_for_all_that_stays() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(torch.relu(self.a(x)) + self.b(torch.sigmoid(x)))

    report = fxrep.report(fxrep.reparameterize(randomize(Kept())))
    assert not report.merged
    kept = {(entry.kind, entry.name): entry.reason for entry in report.kept}
    assert {kind for kind, _ in kept} >= {"norm", "add"}
    assert [name for kind, name in kept if kind == "norm" and "bn" in name]
    assert all(kept.values()), "an entry without a reason"


def test_report_of_something_else_is_an_error() -> None:
    with pytest.raises((TypeError, ValueError)):
        fxrep.report(nn.ReLU())


def test_verify(model: Net, x: Tensor) -> None:
    after = fxrep.reparameterize(model)
    good = fxrep.verify(model, after, (x,))
    assert good.ok
    assert 0 <= good.relative <= 1e-4
    assert good.max_abs >= 0
    with torch.no_grad():
        after.head.weight[0, 0] += 1
    bad = fxrep.verify(model, after, (x,))
    assert not bad.ok
    assert bad.relative > good.relative
    assert bad.max_abs > good.max_abs
    with torch.no_grad():
        after.head.weight[0, 0] = float("nan")
    assert not fxrep.verify(model, after, (x,)).ok


class Scaled(nn.Module):
    def __init__(self, factor: float, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.factor, self.make = factor, make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(x * self.factor)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.masked_fill(torch.eye(4).bool(), float("-inf")),  # nothing is close to, relative to that
        lambda x: torch.complex(torch.ones_like(x), x),
        lambda x: torch.complex(torch.ones_like(x), x).conj(),
    ],
)
def test_verify_sees_every_number(make: Callable[[Tensor], Tensor]) -> None:
    one, other, x = Scaled(1.0, make), Scaled(1.1, make), (torch.randn(4, 4),)
    assert fxrep.verify(one, one, x).ok
    assert not fxrep.verify(one, other, x).ok


def test_example_inputs_of_a_model_with_complex_outputs(model: Net, x: Tensor) -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.net(x))

    merged = fxrep.reparameterize(Spectrum().eval(), (x,))
    assert fxrep.report(merged).merged


def test_verify_does_not_take_two_nans_for_agreement(model: Net, x: Tensor) -> None:
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    assert not fxrep.verify(model, copy.deepcopy(model), (x,)).ok


def test_importing_needs_torch_only() -> None:
    code = "import sys, fxrep; print([m for m in ('timm', 'torchvision', 'numpy.testing') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_weights_learn_after_the_pass(model: Net, x: Tensor) -> None:
    """A merged model can be fine-tuned: its convolutions get gradients where the branches did."""
    after = fxrep.reparameterize(model)
    after(x).sum().backward()
    assert all(p.grad is not None for p in after.parameters())
