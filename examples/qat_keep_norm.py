"""Quantization-aware training after the merge, with the norm behind each sum kept for it.

Blocks that are meant for int8 have a norm behind their sum (Chu et al., "Make RepVGG Greater Again: A
Quantization-aware Approach", AAAI 2024). ``norms="keep"`` merges the branches and leaves it: a convolution and a norm
for each block, which is what quantization-aware training expects. A full merge, at the end, takes the norms in.

Needs: pip install torchao
Run: python examples/qat_keep_norm.py
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import fxrep


class Block(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout))
        self.conv1 = nn.Conv2d(cin, cout, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv3(x) + self.conv1(x)))


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    """Noise with a bright square in one of four corners: which one?"""
    images, labels = torch.randn(size, 1, 16, 16), torch.randint(4, (size,))
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[0, row + 2 : row + 6, column + 2 : column + 6] += 1
    return images, labels


def train(model: nn.Module, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for images, labels in (batch() for _ in range(steps)):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def int8(training: bool) -> X86InductorQuantizer:
    return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config(is_qat=training))


def train_for_int8(model: nn.Module, steps: int = 40, rate: float = 1e-3) -> nn.Module:
    """A copy of ``model``, trained while weights and activations are rounded as int8 will round them."""
    trained = copy.deepcopy(model).train()
    program = torch.export.export(trained, (batch()[0],)).module()
    prepared = prepare_qat_pt2e(program, int8(training=True))
    train(prepared, steps, rate)
    names = trained.state_dict()  # those of the graph, which has the ranges of the activations as well
    trained.load_state_dict({name: value for name, value in prepared.state_dict().items() if name in names})
    return trained.eval()


def quantize(model: nn.Module, batches: list[Tensor]) -> fx.GraphModule:
    """``model`` with int8 convolutions and linear layers, calibrated on ``batches``."""
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(model, (batches[0],)).module(), int8(training=False))
        for images in batches:
            prepared(images)
        return convert_pt2e(prepared)


@torch.no_grad()
def accuracy(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    return torch.cat([model(images).argmax(1) == labels for images, labels in batches]).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4))
    model = nn.Sequential(Block(1, 16), Block(16, 16), head)
    train(model, 100, 1e-3)
    model.eval()
    calibration, validation = [batch()[0] for _ in range(4)], [batch() for _ in range(16)]
    print(f"float: accuracy {accuracy(model, validation):.3f}")

    merged = fxrep.reparameterize(model)
    kept = fxrep.reparameterize(model, norms="keep")  # a convolution and a norm for each block
    print("norms kept:", fxrep.report(kept).after)
    ready = {
        "merged": merged,
        "merged, trained for int8": train_for_int8(merged),
        "norms kept, trained for int8, merged": fxrep.reparameterize(train_for_int8(kept)),
    }
    for name, each in ready.items():
        quantized = quantize(each, calibration)
        error = fxrep.verify(each, quantized, (validation[0][0],)).relative
        print(f"int8, {name}: accuracy {accuracy(quantized, validation):.3f}, relative error {error:.1e}")


if __name__ == "__main__":
    main()
