"""int8 post-training quantization with ONNX Runtime after the merge, and what it costs in accuracy.

Needs: pip install onnx onnxscript onnxruntime
Run: python examples/int8_onnxruntime.py
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import fxrep


class Block(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout))
        self.conv1 = nn.Sequential(nn.Conv2d(cin, cout, 1, 2, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(x) + self.conv1(x)).relu()


class Batches(CalibrationDataReader):
    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


def quantize(model: nn.Module, batches: list[Tensor], path: Path) -> None:
    """Write ``model`` to ``path`` with int8 convolutions and linear layers, calibrated on ``batches``."""
    float32 = path.with_suffix(".float32.onnx")
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (batches[0],), float32, dynamo=True, input_names=["input"], dynamic_shapes=shapes, verbose=False
    )
    quant_pre_process(float32, float32)
    quantize_static(float32, path, Batches(batches), per_channel=True, weight_type=QuantType.QInt8)


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(3, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    batches = [torch.randn(8, 3, 32, 32) for _ in range(8)]
    with torch.no_grad():
        for batch in batches:  # stands in for training: gives the norms statistics
            model.train()(batch)
        expected = model.eval()(batches[0])

    deploy = fxrep.reparameterize(model)

    folder = Path(tempfile.mkdtemp())
    for name, each in {"unmerged": model, "merged": deploy}.items():
        path = folder / f"{name}.onnx"
        quantize(each, batches, path)
        convolutions = sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)
        error = ((run(path, batches[0]) - expected).norm() / expected.norm()).item()
        print(f"int8, {name}: {convolutions} convolutions, relative error {error:.1e}")


if __name__ == "__main__":
    main()
