"""What a model costs when it runs: operators, multiply-accumulates, bytes and milliseconds."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..capture.walk import bytes_of, count_parameters, tensors
from .errors import UserError, first_line

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cost:
    """``convs``, ``norms`` and ``adds`` are operators that really ran; ``macs`` those of the whole call."""

    convs: int
    norms: int
    adds: int
    macs: int
    parameters: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_inputs(shapes: Sequence[tuple[int, ...]], model: nn.Module, seed: int = 0) -> Inputs:
    """Random inputs of these shapes, in the type of the model's weights."""
    floats = (t.dtype for t in tensors(model) if t.is_floating_point())
    dtype = next(floats, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def describe_shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def run(name: str, model: nn.Module, inputs: Inputs) -> Any:
    """One call without gradients.

    Raises:
        UserError: the model rejects the inputs.
    """
    try:
        with torch.no_grad():
            return model(*(value.clone() for value in inputs))
    except Exception as error:
        shapes = describe_shapes([value.shape for value in inputs])
        raise UserError(
            f"'{name}' does not run on an input of {shapes}: {first_line(error)}; --input gives another"
        ) from error


def cost_of(name: str, model: nn.Module, inputs: Inputs) -> Cost:
    """Count one call of ``model``."""
    flops = FlopCounterMode(display=False)
    with flops, _Operators() as operators:
        run(name, model, inputs)
    return Cost(
        operators.kinds["conv"],
        operators.kinds["norm"],
        operators.kinds["add"],
        flops.get_total_flops() // 2,
        count_parameters(model),
        sum(map(bytes_of, {id(t): t for t in tensors(model)}.values())),
    )


def latency(
    models: dict[str, nn.Module],
    inputs: Inputs,
    seconds: float,
    tick: Callable[[float], Any] = lambda done: None,
    *,
    rounds: int = 3,
    warm: bool = False,
) -> dict[str, list[float]]:
    """Milliseconds per call, the models in turns, so that what else the machine does hits all alike.

    It takes about ``seconds``, and so many rounds at least. Each model is called once before, if it is not ``warm``.
    """
    begin = time.perf_counter()
    samples: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for model in () if warm else models.values():
            _timed(model, inputs)
        while len(next(iter(samples.values()))) < rounds or time.perf_counter() - begin < seconds:
            for name, model in models.items():
                samples[name].append(_timed(model, inputs))
            tick(min(1.0, (time.perf_counter() - begin) / seconds) if seconds else 1.0)
    return samples


def speedup(before: list[float], after: list[float]) -> float:
    """The median over the rounds of before over after."""
    return statistics.median(b / a for b, a in zip(before, after, strict=True))


def _timed(model: nn.Module, inputs: Inputs) -> float:
    cuda = any(value.is_cuda for value in inputs)
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(*inputs)
    if cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions, norms, and additions of two tensors, as the dispatcher sees them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "convolution" in name or name in ("conv1d", "conv2d", "conv3d", "_conv_depthwise2d"):
            self.kinds["conv"] += 1
        elif "batch_norm" in name:
            self.kinds["norm"] += 1
        elif name in ("add", "add_", "sub", "sub_"):
            self.kinds["add"] += all(isinstance(value, Tensor) for value in args[:2])
        return func(*args, **(kwargs or {}))
