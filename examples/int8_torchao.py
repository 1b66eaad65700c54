"""int8 post-training quantization with torchao (pt2e) after the merge, and what it costs in accuracy.

Needs: pip install torchao
Run: python examples/int8_torchao.py
"""

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import fxrep


class Block(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout))
        self.conv1 = nn.Sequential(nn.Conv2d(cin, cout, 1, 2, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(x) + self.conv1(x)).relu()


def quantize(model: nn.Module, batches: list[Tensor]) -> fx.GraphModule:
    """``model`` with int8 convolutions and linear layers, calibrated on ``batches``; 8 bits per channel of a weight."""
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(model, (batches[0],)).module(), quantizer)
        for batch in batches:
            prepared(batch)
        return convert_pt2e(prepared)


def convolutions(model: fx.GraphModule) -> int:
    return sum("conv2d" in str(node.target) for node in model.graph.nodes)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(3, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    batches = [torch.randn(8, 3, 32, 32) for _ in range(8)]
    with torch.no_grad():
        for batch in batches:  # stands in for training: gives the norms statistics
            model.train()(batch)
    model.eval()

    deploy = fxrep.reparameterize(model)

    for name, each in {"unmerged": model, "merged": deploy}.items():
        int8 = quantize(each, batches)
        error = fxrep.verify(model, int8, (batches[0],)).relative
        print(f"int8, {name}: {convolutions(int8)} convolutions, relative error {error:.1e}")


if __name__ == "__main__":
    main()
