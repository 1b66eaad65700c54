"""The scripts in examples/ run as they are and print what they claim; those on export are in test_after_merge.py."""

from __future__ import annotations

import re
import runpy
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, capsys: pytest.CaptureFixture[str], *needs: str) -> str:
    """What ``examples/name.py`` prints; skipped where something that it ``needs`` is not installed."""
    for package in needs:
        pytest.importorskip(package, exc_type=ImportError)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed: str = capsys.readouterr().out
    assert "DIFFERENT" not in printed, printed
    return printed


def test_a_fine_tuned_timm_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("timm_checkpoint", capsys, "timm")
    assert "-> {'conv': 22, 'norm': 0, 'add': 0, 'linear': 1}" in printed
    assert "deploy.pt2: equal" in printed


def test_a_segmentation_model(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("segmentation", capsys, "timm")
    assert "Segmenter: 44 merges" in printed
    assert "-> {'conv': 50, 'norm': 0, 'add': 4}" in printed  # 43 + 1 of the encoder, 4 lateral, smooth, head
    assert printed.count("pixels: equal") == 2


def test_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("detector", capsys, "torchvision")
    assert "FCOS: 6 merges" in printed
    assert "batch norms: 15 -> 0" in printed
    boxes, difference = re.search(r"(\d+) boxes, largest difference (\S+) pixels", printed).groups()  # type: ignore[union-attr]
    assert int(boxes) > 0
    assert float(difference) < 0.01


def test_a_block_of_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("own_block", capsys)
    assert printed.count("(merged): Conv2d(16, 16, kernel_size=(5, 5)") == 2
    assert re.search(r"batch norms +8 +0\n", printed)
    assert "equal: relative error" in printed


def test_a_training_loop(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("training_loop", capsys)
    scores = [(float(a), float(b)) for a, b in re.findall(r"accuracy (\S+), merged (\S+);", printed)]
    assert len(scores) == printed.count("equal: relative error") == 3
    assert all(before == pytest.approx(after, abs=0.005) for before, after in scores)  # one image of 256 may tip over
    assert scores[-1][1] > 0.8, "training does not go on after a merge"


def test_a_pass_in_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("fx_pipeline", capsys)
    assert re.findall(r"target=(\w+)", printed) == ["input", "merged", "relu", "merged_1", "relu"]
    assert "modified: True" in printed
    assert "equal: relative error" in printed
