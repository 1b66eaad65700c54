"""Random torch.nn modules that fit a value: each maker returns the module's code and the shape of what comes out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from tests.fuzz.program import Shape

Made = tuple[str, Shape]
ACTIVATIONS = ("ReLU()", "ReLU(inplace=True)", "SiLU()", "Sigmoid()", "GELU()", "Hardswish(inplace=True)", "Tanh()",
               "LeakyReLU(0.1, inplace=True)", "ELU()", "ReLU6(inplace=True)", "Hardtanh()", "Softplus()")  # fmt: skip


def conv(rng: random.Random, shape: Shape) -> Made | None:
    """Any convolution that ``shape`` is large enough for."""
    rank, channels, sizes = len(shape) - 2, shape[1], shape[2:]
    kernel = tuple(rng.choice((1, 1, 2, 3, 3, 5)) for _ in sizes) if rng.random() < 0.3 else None
    kernel = kernel or (rng.choice((1, 1, 2, 3, 3, 3, 5)),) * rank
    dilation = rng.choice((1, 1, 1, 2))
    stride = rng.choice((1, 1, 1, 2))
    mode = rng.choice(("zeros",) * 5 + ("reflect", "replicate", "circular"))
    pads: tuple[int, ...] | str = tuple(rng.choice((0, dilation * (k - 1) // 2, 1)) for k in kernel)
    if stride == 1 and mode == "zeros" and rng.random() < 0.15:
        pads = "same"
    elif mode != "zeros":
        pads = tuple(min(p, size - 1) for p, size in zip(pads, sizes, strict=True))
    out = rng.choice((channels, channels, channels, 1, 2, 4, 6))
    return convolution(rng, shape, out, kernel, stride, pads, dilation, mode)


def conv_for(rng: random.Random, shape: Shape, out: int, stride: int, mode: str = "zeros") -> Made | None:
    """A convolution that keeps the size, up to the stride, so that others like it can be added."""
    sizes = shape[2:]
    kernel = tuple(rng.choice((1, 3)) for _ in sizes) if rng.random() < 0.2 else None
    kernel = kernel or (rng.choice((1, 1, 3, 3, 3, 5)),) * len(sizes)
    dilation = rng.choice((1, 1, 1, 1, 2))
    pads = tuple(dilation * (k - 1) // 2 for k in kernel)
    if mode != "zeros" and any(p >= size for p, size in zip(pads, sizes, strict=True)):
        return None
    same = stride == 1 and rng.random() < 0.15
    return convolution(rng, shape, out, kernel, stride, "same" if same else pads, dilation, mode)


def convolution(
    rng: random.Random,
    shape: Shape,
    out: int,
    kernel: Shape,
    stride: int,
    pads: Shape | str,
    dilation: int,
    mode: str,
) -> Made | None:
    """The code of a convolution with random groups and bias; None if nothing would come out of it."""
    channels, sizes = shape[1], []
    for i, (size, k) in enumerate(zip(shape[2:], kernel, strict=True)):
        reach = dilation * (k - 1)
        total = reach if isinstance(pads, str) else 2 * pads[i]
        if mode == "reflect" and total > size:
            return None
        sizes.append((size + total - reach - 1) // stride + 1)
        if size + total - reach < 1:
            return None
    common = math.gcd(channels, out)
    groups = rng.choice((1, 1, 1, common, rng.choice([g for g in range(1, common + 1) if common % g == 0])))
    options = [f"{channels}, {out}, {_short(kernel)}"]
    options += [f"stride={stride}"] if stride != 1 else []
    options += [f"padding={pads!r}" if isinstance(pads, str) else f"padding={_short(pads)}"] if any(pads) else []
    options += [f"dilation={dilation}"] if dilation != 1 else []
    options += [f"groups={groups}"] if groups != 1 else []
    options += [f"padding_mode='{mode}'"] if mode != "zeros" else []
    options += ["bias=False"] if rng.random() < 0.4 else []
    code = f"nn.Conv{len(kernel)}d({', '.join(options)})"
    return f"nn.utils.parametrizations.weight_norm({code})" if rng.random() < 0.01 else code, (shape[0], out, *sizes)


def transposed(rng: random.Random, shape: Shape) -> Made | None:
    """Any transposed convolution of which something is left, if that is not too large."""
    rank, channels, k, p = len(shape) - 2, shape[1], rng.choice((1, 2, 3, 4)), rng.choice((0, 0, 1))
    stride, dilation, out = rng.choice((1, 2, 2)), rng.choice((1, 1, 2)), rng.choice((channels, 1, 2, 4))
    more = rng.randrange(max(stride, dilation))
    groups = rng.choice((1, 1, math.gcd(channels, out)))
    sizes = [(size - 1) * stride - 2 * p + dilation * (k - 1) + more + 1 for size in shape[2:]]
    if min(sizes) < 1 or math.prod(sizes) * out * shape[0] > 3000:
        return None
    bias = rng.choice((True, True, False))
    code = f"nn.ConvTranspose{rank}d({channels}, {out}, {k}, {stride}, {p}, {more}, {groups}, {bias}, {dilation})"
    return code, (shape[0], out, *sizes)


def batch_norm(rng: random.Random, shape: Shape) -> Made | None:
    rank = max(1, len(shape) - 2)
    options = rng.choice(("", "", "", "", ", affine=False", ", eps=0.1", ", momentum=None"))
    return f"nn.BatchNorm{rank}d({shape[1]}{options})", shape


def other_norm(rng: random.Random, shape: Shape) -> Made | None:
    """One that depends on the values and cannot be merged."""
    if shape[-1] > 2 and rng.random() < 0.5:
        return f"nn.LayerNorm({shape[-1]})", shape
    if math.prod(shape[2:]) < 3:
        return None
    groups = rng.choice([g for g in range(1, shape[1] + 1) if shape[1] % g == 0])
    options = (f"nn.GroupNorm({groups}, {shape[1]})",) * 3 + (
        f"nn.BatchNorm{len(shape) - 2}d({shape[1]}, track_running_stats=False)",
        f"nn.InstanceNorm{len(shape) - 2}d({shape[1]}, affine=True)",
    )
    return rng.choice(options), shape


def activation(rng: random.Random, shape: Shape) -> Made | None:
    return f"nn.{rng.choice(ACTIVATIONS)}", shape


def passing(rng: random.Random, shape: Shape) -> Made | None:
    """One that hands its input on."""
    kinds = ["nn.Identity()", "nn.Dropout(0.5)", "nn.Dropout(0.2, inplace=True)"]
    kinds += [f"nn.Dropout{len(shape) - 2}d(0.3)"] if len(shape) > 3 else []
    return rng.choice(kinds), shape


def pool(rng: random.Random, shape: Shape) -> Made | None:
    rank = len(shape) - 2
    if min(shape[2:]) < 3:
        return None
    kind = rng.choice(("Max", "Avg", "Avg", "Adaptive", "One"))
    if kind == "Adaptive":
        return f"nn.AdaptiveAvgPool{rank}d(2)", (*shape[:2], *[2] * rank)
    if kind == "One":
        return f"nn.AdaptiveAvgPool{rank}d(1)", (*shape[:2], *[1] * rank)
    if rng.random() < 0.5:
        return f"nn.{kind}Pool{rank}d(3, stride=1, padding=1)", shape
    return f"nn.{kind}Pool{rank}d(2)", (*shape[:2], *[size // 2 for size in shape[2:]])


def sequential(rng: random.Random, shape: Shape) -> Made | None:
    """A few of the others in a row."""
    codes = []
    for maker in rng.choice(((conv, batch_norm), (conv, batch_norm, activation), (conv, activation, conv, batch_norm),
                             (batch_norm, activation, conv), (passing, conv, passing, batch_norm))):  # fmt: skip
        made = maker(rng, shape)
        if made is None:
            return None
        code, shape = made
        codes.append(code)
    return f"nn.Sequential({', '.join(codes)})", shape


Maker = Callable[[random.Random, Shape], Made | None]


def _short(values: Shape) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(values)
