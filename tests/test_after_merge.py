"""What comes after the merge works on the result: TorchScript, torch.compile, AOTInductor, int8 with torchao and ONNX
Runtime, quantization-aware training. Each is a script in examples/."""

from __future__ import annotations

import copy
import re
import runpy

import pytest
import torch
from torch import nn

import fxrep
from tests.helpers import randomize, relative_error, run
from tests.test_examples import EXAMPLES, run_example


def int8(printed: str) -> dict[str, tuple[int, float]]:
    """How many convolutions, and the relative error, of the quantized model "unmerged" and "merged"."""
    rows = re.findall(r"int8, (\w+): (\d+) convolutions, relative error (\S+)", printed)
    return {name: (int(convolutions), float(error)) for name, convolutions, error in rows}


def test_torchscript(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("torchscript", capsys, "timm")
    assert re.findall(r"(\S+): equal", printed) == ["scripted", "traced", "deploy.ts"]


@pytest.mark.long
def test_torch_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert "equal: relative error" in run_example("torch_compile", capsys)


@pytest.mark.long
def test_aot_inductor(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example("aot_inductor", capsys)
    difference = re.search(r"outputs differ by at most (\S+)", printed)
    assert difference is not None
    assert float(difference[1]) < 1e-5


@pytest.mark.parametrize(
    ("example", "needs"),
    [("int8_torchao", ("torchao",)), ("int8_onnxruntime", ("onnx", "onnxscript", "onnxruntime"))],
)
def test_int8(
    example: str, needs: tuple[str, ...], capsys: pytest.CaptureFixture[str], record_property: pytest.RecordProperty
) -> None:
    """Half the convolutions to quantize, and an error of about the same size."""
    found = int8(run_example(example, capsys, *needs))
    record_property("int8", found)
    (unmerged, error_before), (merged, error_after) = found["unmerged"], found["merged"]
    assert (unmerged, merged) == (4, 2)
    assert 0 < error_before < 0.03
    assert 0 < error_after < 0.03


@pytest.mark.long
def test_int8_compiled() -> None:
    """What torchao made of the merged model runs with the int8 kernels of torch.compile."""
    pytest.importorskip("torchao")
    inductor = pytest.importorskip("torch._inductor.config")
    example = runpy.run_path(str(EXAMPLES / "int8_torchao.py"))
    torch.manual_seed(0)
    model = randomize(nn.Sequential(example["Block"](3, 16), example["Block"](16, 32)))
    batches = [torch.randn(4, 3, 32, 32) for _ in range(4)]
    quantized = example["quantize"](fxrep.reparameterize(model), batches)
    with inductor.patch(freezing=True):
        compiled = run(torch.compile(quantized), batches[0])
    assert relative_error(compiled, run(quantized, batches[0])) < 1e-2
    assert 0 < relative_error(compiled, run(copy.deepcopy(model).double(), batches[0].double())) < 0.05


def test_quantization_aware_training_with_the_norms_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """It trains one convolution and one norm for each block, and what it gives is at least as good as before."""
    printed = run_example("qat_keep_norm", capsys, "torchao")
    assert "norms kept: {'conv': 2, 'norm': 2, 'add': 0, 'linear': 1}" in printed
    before = float(re.search(r"float: accuracy (\S+)", printed)[1])  # type: ignore[index]
    rows = re.findall(r"int8, (.*): accuracy (\S+), relative error (\S+)", printed)
    assert [name for name, _, _ in rows] == [
        "merged", "merged, trained for int8", "norms kept, trained for int8, merged"
    ]  # fmt: skip
    assert all(0 < float(error) < 0.05 for _, _, error in rows)
    after = [float(accuracy) for _, accuracy, _ in rows]
    assert after[0] == pytest.approx(before, abs=0.01)
    assert after[2] > before - 0.005, "training with the norms went on from where it was"


@pytest.mark.long
def test_a_graph_trained_for_int8_is_converted_as_it_is() -> None:
    """torchao folds the norms that were kept into the convolutions."""
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    example = runpy.run_path(str(EXAMPLES / "qat_keep_norm.py"))
    torch.manual_seed(0)
    model = randomize(nn.Sequential(example["Block"](1, 8), example["Block"](8, 8), nn.Flatten(), nn.Linear(128, 4)))
    kept = fxrep.reparameterize(model, norms="keep").train()
    x = example["batch"]()[0]
    prepared = prepare_qat_pt2e(torch.export.export(kept, (x,)).module(), example["int8"](training=True))
    example["train"](prepared, 2, 1e-3)
    move_exported_model_to_eval(prepared)
    expected = run(prepared, x)
    converted = convert_pt2e(prepared)
    targets = [str(node.target) for node in converted.graph.nodes]
    assert sum("conv2d" in target for target in targets) == 2
    assert not any("batch_norm" in target for target in targets)
    assert 0 < relative_error(run(converted, x), expected) < 0.05
