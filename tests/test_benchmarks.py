"""The counters count what runs, and the commands answer bad input with one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.common import alternate, quartiles
from benchmarks.counting import OpCounter, OpCounts, count_ops, peak_bytes

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
    ],
)
def test_unknown_model_is_one_line_with_the_closest_names(command: list[str]) -> None:
    pytest.importorskip("timm")
    answer = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: timm has no model 'repvg_a0'; did you mean repvgg_a0")
    assert answer.stderr.count("\n") == 1
