"""The least time that a network needs: its multiply-accumulates and bytes over the rates measured on this machine.

Two bounds come of it. The *network* bound lets every activation stay in a cache: all multiply-accumulates at the best
rate, or the weights, the input and the output from memory once, whichever takes longer. The *layer* bound is that of
running convolutions and matrix products one after the other: for each of them, its multiply-accumulates, or its
weights, inputs and outputs from memory once, and everything between them for nothing. A layer whose data stay in a
cache between calls can be faster than that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.common import alternate


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product, for one image: multiply-accumulates, and elements of weights and data."""

    macs: int
    weights: int
    data: int


@torch.no_grad()
def layers(model: nn.Module, x: Tensor) -> list[Layer]:
    """The convolutions and matrix products that one call on one image runs."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with _Layers(weights) as counter:
        model(x)
    return counter.layers


class _Layers(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights
        self.layers: list[Layer] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            inputs = [arg for arg in args if isinstance(arg, Tensor)]
            weights = sum(t.numel() for t in inputs if t.untyped_storage().data_ptr() in self.weights)
            outputs = result if isinstance(result, Tensor) else result[0]
            data = sum(t.numel() for t in inputs) - weights + outputs.numel()
            self.layers.append(Layer(count(*args, **(kwargs or {}), out_val=result) // 2, weights, data))
        return result


def bounds(
    layers: list[Layer], ends: int, *, batch: int, element_bytes: int, macs_per_second: float, bytes_per_second: float
) -> dict[str, float]:
    """Seconds of the two bounds; `ends` are the elements of the network's own input and output for one image."""

    def time(macs: int, weights: int, data: int) -> float:
        return max(batch * macs / macs_per_second, (weights + batch * data) * element_bytes / bytes_per_second)

    return {
        "network": time(sum(layer.macs for layer in layers), sum(layer.weights for layer in layers), ends),
        "layers": sum(time(layer.macs, layer.weights, layer.data) for layer in layers),
    }


@torch.no_grad()
def rates(device: str, dtype: torch.dtype, budget: float, tick: Callable[[float], Any] = lambda part: None) -> Any:
    """The best rates of this machine: multiply-accumulates of large products and convolutions, bytes of large copies.

    The fastest of many short rounds counts: a rate is what the machine can do, not what it does while something else
    runs.
    """
    large = device == "cuda"
    size, images, mebibytes = (8192, 256, 1024) if large else (768, 1, 128)
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    a, b = torch.randn(size, size, **options), torch.randn(size, size, **options)
    x = torch.randn(images, 256, 28, 28, **options).contiguous(memory_format=torch.channels_last)
    wide, narrow = torch.randn(256, 256, 3, 3, **options), torch.randn(256, 256, 1, 1, **options)
    source = torch.ones(mebibytes * 2**20 // dtype.itemsize, **options)
    target = torch.empty_like(source)
    calls = {
        "matrix product": lambda: a @ b,
        "3x3 convolution": lambda: F.conv2d(x, wide, padding=1),
        "1x1 convolution": lambda: F.conv2d(x, narrow),
        "copy": lambda: target.copy_(source),
        "sum": lambda: source.sum(),
    }
    pixels = images * 28 * 28
    work = {
        "matrix product": size**3,
        "3x3 convolution": pixels * wide.numel(),
        "1x1 convolution": pixels * narrow.numel(),
        "copy": 2 * source.nbytes,
        "sum": source.nbytes,
    }
    seconds = alternate(calls, budget=budget, rounds=1000, sample=0, device=device, tick=tick)
    found = {name: work[name] / min(samples) for name, samples in seconds.items()}
    moving = ("copy", "sum")
    return {
        "macs_per_second": max(rate for name, rate in found.items() if name not in moving),
        "bytes_per_second": max(found[name] for name in moving),
        "rates": found,
    }
