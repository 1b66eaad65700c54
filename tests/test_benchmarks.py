"""The counters count what runs, the suite goes on where it was stopped, and bad input is answered with one line."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import command, gpu, measuring, modes, page, parallel, peers, roofline, suite, usage
from benchmarks.common import alternate, quartiles
from benchmarks.counting import OpCounter, OpCounts, count_ops, peak_bytes
from benchmarks.models import TUTORIAL, make
from benchmarks.networks import Network
from benchmarks.selections import SELECTIONS, Grid, cases

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_counts_a_resnet(context: type) -> None:
    models = pytest.importorskip("torchvision.models")
    model, x = models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    with context(), OpCounter() as counter:
        model(x)
    assert counter.counts == OpCounts(convolutions=20, batch_norms=20, adds=8)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_counts_every_number_of_dimensions_and_training(dimensions: int) -> None:
    conv, norm = getattr(nn, f"Conv{dimensions}d"), getattr(nn, f"BatchNorm{dimensions}d")
    model = nn.Sequential(conv(2, 2, 3, padding="same", padding_mode="circular"), norm(2))
    x = torch.randn(2, 2, *[4] * dimensions)
    expected = OpCounts(convolutions=1, batch_norms=1, adds=0)
    assert count_ops(model.eval(), x) == expected
    assert count_ops(model.train(), x) == expected


def test_a_number_added_is_no_add() -> None:
    assert count_ops(lambda x: (x + 1) + x, torch.randn(2)).adds == 1


def test_peak_bytes_counts_what_is_alive_together() -> None:
    x = torch.zeros(256)
    assert peak_bytes(lambda x: x.exp().exp().exp().exp(), x) == 2 * x.nbytes
    assert peak_bytes(lambda x: x.exp().exp_().view(16, 16), x) == x.nbytes
    assert peak_bytes(lambda x: torch.stack([x.exp(), x.sin()]), x) == 4 * x.nbytes


def test_alternate_takes_turns() -> None:
    turns: list[str] = []
    samples = alternate({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, budget=1, rounds=3, sample=0)
    assert [len(values) for values in samples.values()] == [3, 3]
    assert turns[-2:] == ["a", "b"]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "command",
    [
        ["examples/deploy_timm.py", "repvg_a0"],
        ["-m", "benchmarks.latency", "--model", "repvg_a0"],
        ["-m", "benchmarks.pass_time", "--model", "repvg_a0"],
        ["-m", "benchmarks.phases", "repvg_a0"],
    ],
)
def test_unknown_model_is_one_line_with_the_closest_names(command: list[str]) -> None:
    pytest.importorskip("timm")
    answer = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: timm has no model 'repvg_a0'; did you mean repvgg_a0")
    assert answer.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------- the suite
@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Run the suite on the tutorials' network with 32 pixels, and read the file that it leaves."""
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")

    def run(*options: str) -> list[dict[str, Any]]:
        few = ["--models", TUTORIAL, "--image-size", "32", "--budget", "0.05", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["suite", "--select", "quick", *few, *options])
        suite.main()
        return json.loads((tmp_path / "suite-cpu.json").read_text())["rows"]

    return run


def test_the_suite_goes_on_where_it_was_interrupted(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def interrupted(case: Any, *rest: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(case["mode"])
        return measuring.measure(case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(suite, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny("--batches", "1", "2")
    kept = json.loads((tmp_path / "suite-cpu.json").read_text())["rows"]
    assert [row["case"]["mode"] for row in kept] == ["rates", "layers"]

    rows = tiny("--batches", "1", "2")
    assert rows[:2] == kept
    assert [row["case"]["mode"] for row in rows] == ["rates", "layers", "eager", "eager", "merge"]
    assert tiny("--batches", "1", "2") == rows
    timed = rows[2]
    assert list(timed["seconds"]) == ["as is", "fxrep", "timm", "fuse"]
    assert all(error < 1e-5 for error in timed["error"].values())
    assert timed["kernels"]["fxrep"] < timed["kernels"]["fuse"] < timed["kernels"]["as is"]
    shown = capsys.readouterr().out
    assert "distance to the roofline" in shown
    assert "time to merge" in shown

    monkeypatch.setattr(sys, "argv", ["page", "--results", str(tmp_path), "--page", str(tmp_path / "page.md")])
    (tmp_path / "page.md").write_text(f"before\n{page.BEGIN}\nstale\n{page.END}\nafter\n")
    page.main()
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(f"before\n{page.BEGIN}")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "stale" not in text
    assert "(suite-cpu-speedup.png)" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        f"suite-cpu-{name}.png" for name in ("latency", "memory", "roofline", "speedup")
    ]


def test_a_peer_that_fails_is_one_line_and_the_others_are_measured(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(model: nn.Module) -> nn.Module:
        raise ValueError("not today\nsecond line")

    passes = peers.merges() | {"timm": refuses}
    monkeypatch.setattr(peers, "merges", lambda: passes)
    (row,) = (row for row in tiny("--modes", "eager") if row["case"]["mode"] == "eager")
    assert row["failed"] == {"timm": "ValueError: not today"}
    assert list(row["seconds"]) == ["as is", "fxrep", "fuse"]
    assert (
        f"eager, {TUTORIAL}, 1, float32, contiguous: without timm, ValueError: not today\n" in capsys.readouterr().err
    )


def test_a_mode_whose_module_is_missing_is_one_line(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(SystemExit):
        tiny("--modes", "openvino", "cudagraphs")
    assert capsys.readouterr().err.splitlines() == [
        "openvino is left out, not installed: openvino",
        "cudagraphs runs on cuda only",
        "error: nothing was measured",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("main", [suite.main, gpu.main, parallel.main])
def test_no_cuda_is_one_line(
    main: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cuda", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: torch sees no CUDA device here; use --device cpu\n"


def test_a_model_that_this_timm_lacks_is_left_out_of_a_selection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setitem(SELECTIONS, "quick", (Grid(("repvgg_a0", "repvgg_of_tomorrow")),))
    found = suite.chosen(suite.arguments(["--select", "quick"]))
    assert [case.get("model") for case in found] == [None, "repvgg_a0", "repvgg_a0"]
    assert capsys.readouterr().err == "repvgg_of_tomorrow is left out, not in what is installed\n"


def test_an_unknown_model_is_one_line(tiny: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tiny("--models", "torchvision:resnet5")
    assert capsys.readouterr().err.startswith("error: torchvision has no model 'resnet5'; did you mean resnet50")


@pytest.mark.parametrize("mode", ["onnxruntime", "openvino"])
def test_an_engine_computes_what_the_model_does(mode: str) -> None:
    if modes.missing(mode, "cpu"):
        pytest.skip(f"{mode} is not installed")
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(modes.MODES[mode].prepare(model, x)(), model(x), atol=1e-5)


def test_fitted_statistics_keep_float16_in_range() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    network = Network(TUTORIAL, 32)
    case = {"device": "cpu", "dtype": "float16", "format": "channels_last", "batch": 2}
    x = network.input(case)
    assert x.dtype == torch.float16
    assert x.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert network.error(network.placed("as is", case)(x)) < 0.02
    assert all(not module.training for module in make(TUTORIAL).modules())


def test_the_bounds_count_every_layer_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 5)).eval()
    conv, linear = roofline.layers(model, torch.randn(1, 3, 4, 4))
    assert conv == roofline.Layer(macs=8 * 3 * 9 * 16, weights=8 * 3 * 9 + 8, data=3 * 16 + 8 * 16)
    assert linear == roofline.Layer(macs=128 * 5, weights=128 * 5 + 5, data=128 + 5)
    found = roofline.bounds(
        [conv, linear], 48 + 5, batch=2, element_bytes=4, macs_per_second=1000, bytes_per_second=1e6
    )
    assert found == {"network": 2 * (3456 + 640) / 1000, "layers": 2 * 3456 / 1000 + 2 * 640 / 1000}
    starved = roofline.bounds([linear], 53, batch=2, element_bytes=4, macs_per_second=1e12, bytes_per_second=1)
    assert starved == {"network": 4 * (645 + 2 * 53), "layers": 4 * (645 + 2 * 133)}


def test_usage_counts_what_one_call_takes() -> None:
    x = torch.zeros(256)
    assert usage.activation_bytes(lambda: x.exp().exp().exp().exp(), "cpu") == 2 * x.nbytes
    assert usage.kernels(lambda: x.exp().view(16, 16).t().exp_(), "cpu") == 2


def test_only_kernels_count_as_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(name: str, device: Any = torch.autograd.DeviceType.CUDA, annotation: bool = False) -> Any:
        return SimpleNamespace(name=lambda: name, device_type=lambda: device, is_user_annotation=lambda: annotation)

    seen = [
        event("conv_kernel"),
        event("relu_kernel"),
        event("Memcpy HtoD"),
        event("Memset (Device)"),
        event("Torch-Compiled Region", annotation=True),
        event("aten::conv2d", torch.autograd.DeviceType.CPU),
    ]
    monkeypatch.setattr(usage, "_events", lambda call, activity: seen)
    assert usage.kernels(lambda: None, "cuda") == 2
    seen.clear()
    assert usage.kernels(lambda: None, "cuda") is None


def test_a_selection_has_every_case_once_and_what_its_bounds_need() -> None:
    grid = Grid(("a", "b"), batches=(1, 8), dtypes=("float32", "float16"), modes=("eager", "onnxruntime", "merge"))
    found = cases([grid, grid], "cpu", 32)
    modes_of = [case["mode"] for case in found]
    assert {mode: modes_of.count(mode) for mode in modes_of} == {
        "rates": 2,
        "layers": 2,
        "eager": 8,
        "onnxruntime": 4,  # float32 alone
        "merge": 2,
    }
    assert all(cases(grids, "cuda", 224) for grids in SELECTIONS.values())


def test_the_page_says_what_the_files_say() -> None:
    """Whoever measures again runs `python -m benchmarks.page` too."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    measured = text.split(page.BEGIN)[1].split(page.END)[0].strip()
    assert measured == page.render(ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md").strip()


def test_the_command_is_timed(tmp_path: Path) -> None:
    for package in ("timm", "typer", "safetensors"):
        pytest.importorskip(package)
    found = command.report_times("test_byobnet")
    assert 0 < found["report"] < 60
    times = command.convert_times("test_byobnet", tmp_path)
    assert {"open", "merge", "write", "check", "all", "ratio"} <= times.keys()
    assert min(times.values()) > 0
    assert times["all"] > times["open"] + times["merge"] + times["write"] + times["check"]
    assert not list(tmp_path.glob("*.safetensors"))


# ------------------------------------------------------------------------------ convolutions of one value, side by side
class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, width, 1, bias=width > 2) for width in (2, 3, 4))
        self.strided, self.behind = nn.Conv2d(4, 2, 1, stride=2), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, strided = self.a(x), self.b(x), self.strided(x)
        return torch.cat([a, self.behind(b), self.c(x.relu_())], 1).mean() + strided.mean()


def test_convolutions_of_one_value_are_found_and_stacked() -> None:
    torch.manual_seed(0)
    model, x = Branches().eval().double(), torch.randn(2, 4, 6, 6).double()
    groups = parallel.siblings(model, x.clone())
    assert groups == [["a", "b"]]  # `c` reads what the write left
    with torch.no_grad():
        stacked = parallel.stack_siblings(model, groups)
        assert count_ops(stacked, x.clone()).convolutions == count_ops(model, x.clone()).convolutions - 1
        torch.testing.assert_close(stacked(x.clone()), model(x.clone()))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_measured_entries_are_those_of_the_networks(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model = getattr(models, name)(weights=None, init_weights=False).eval()
    pixels = 299 if name == "inception_v3" else 224
    found = {}
    for group in parallel.siblings(model, torch.randn(1, 3, pixels, pixels)):
        convs = [model.get_submodule(path) for path in group]
        block = group[0].split(".")[0].removeprefix("inception").removeprefix("Mixed_")
        found[f"{name} {block}"] = convs[0].in_channels, tuple(conv.out_channels for conv in convs)
    entries = {key: entry for key, entry in parallel.ENTRIES.items() if key.startswith(name)}
    assert entries
    for key, entry in entries.items():
        assert found[key] == (entry.channels, entry.widths)


@pytest.mark.parametrize(
    ("chosen", "variants"),
    [
        (["--block", "googlenet 5a", "--model"], ["apart", "again", "stacked", "relu once"]),
        (["--block", "ViT-S q, k, v", "--model"], ["apart", "again", "stacked"]),
        (
            ["--block", "--model", "torchvision:googlenet", "--image-size", "64"],
            ["apart", "again", "stacked", "relu once"],
        ),
    ],
)
def test_parallel_convolutions_are_timed(
    chosen: list[str],
    variants: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("timm", "torchvision", "rich"):
        pytest.importorskip(package)
    few = ["--batches", "2", "--formats", "channels_last", "--budget", "0.01", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["parallel", *chosen, *few])
    parallel.main()
    rows = json.loads((tmp_path / "parallel-cpu.json").read_text())["rows"]
    assert list(rows[0]["seconds"]) == variants
    assert all(error < 1e-3 for row in rows for error in row["error"].values())
    parallel.main()
    assert json.loads((tmp_path / "parallel-cpu.json").read_text())["rows"] == rows
    assert "ratios by kind" in capsys.readouterr().out


def test_a_wrong_variant_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    variants = parallel.blocks("googlenet 5a", full=False)
    variants[parallel.STACKED].entry.weight.data.mul_(1.01)
    case = {"block": "googlenet 5a", "batch": 1, "format": "contiguous", "device": "cpu", "readers": "pointwise"}
    with pytest.raises(SystemExit):
        parallel.measure(case, variants, 0.01, 1)
    assert "stacked computes something else" in capsys.readouterr().err
