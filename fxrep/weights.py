"""The modules of a region: merged weights in float64, proved, and cast once to the model's type and place."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from .analysis.forms import Term, biases
from .convmap import ConvMap
from .cover.regions import Region
from .deferred import Cast, Deferred, Weight
from .validate import TOLERANCE, Check, relative_error
from .workspace import Workspace

CONV = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
# Without the random values that a constructor fills its weights with.
BLANK: dict[Any, Any] = {
    conv: type(conv.__name__, (conv,), {"reset_parameters": lambda self: None})
    for conv in (*CONV.values(), *TRANSPOSED.values())
}


def build_modules(region: Region, workspace: Workspace) -> list[nn.Module | None] | str:
    """The proven convolutions of a region, one for each term that is not its source; or why there are none.

    The largest weight is cast to float64 once, in ``workspace``: the proof reads it, then the merged kernel takes it.
    """
    with torch.no_grad():
        modules = _proven(region, workspace)
    if torch.is_grad_enabled() and not isinstance(modules, str):
        _let_gradients_through(region, modules)
    return modules


def _let_gradients_through(region: Region, modules: list[nn.Module | None]) -> None:
    """Replace the weights by what they are computed from the branches' as, as far as that takes part in gradients."""
    for term, conv, bias in zip(region.form.terms, modules, biases(region.form), strict=True):
        if conv is None or not isinstance(term.map, ConvMap):
            continue
        kernel = term.map.weight(term.map.layout()[0])
        kernel = term.map.as_transposed(kernel)[0] if term.map.up else kernel
        bias = None if bias is None else bias.expand(term.map.out_channels)
        for name, value in (("weight", kernel), ("bias", bias)):
            made = conv._parameters[name]
            if value is not None and made is not None and value.requires_grad:
                del conv._parameters[name]
                conv.register_buffer(name, value.to(made))


def _proven(region: Region, workspace: Workspace) -> list[nn.Module | None] | str:
    lossy = _cancelling_norm(region)
    if lossy is not None:
        return lossy
    like = largest_weight(region)
    device = like.device if _has_float64(like.device) else torch.device("cpu")
    doubles = _Doubles(device, like, workspace)
    try:
        check = Check(region, device)
        expected = check.before(doubles.get)
        modules, weights = _convolutions(region, doubles.take, device)
        found = [
            check.read(term, check.samples) * weight
            if conv is None
            else check.hand_on(term, check.convolve(conv, check.read(term, check.images), weight, bias))
            for term, conv, (weight, bias) in zip(region.form.terms, modules, weights, strict=True)
        ]
        total = torch.cat(found, -1 - region.rank) if region.form.joined else functools.reduce(torch.add, found)
        rank = region.rank if region.form.rank is None else region.form.rank
        region.error = relative_error(expected, total, rank)
        if not region.error <= TOLERANCE:
            region.error = relative_error(expected, total, rank, check.scale)
    except Exception as error:
        return f"the check could not be run: {type(error).__name__}: {error}"
    if not region.error <= TOLERANCE:
        size = "is not finite" if math.isinf(region.error) else f"differs by {region.error:.1e}"
        return f"the check failed: the merged result {size}"
    trainable = any(_requires_grad(region, node) for node in region.nodes)
    for conv, (kernel, bias) in zip(modules, weights, strict=True):
        if conv is not None and not _fill(conv, kernel, bias, like, region.dtype, trainable):
            return f"the merged weights do not fit into {region.dtype}: a value is too large, or a channel too small"
    return modules


def _cancelling_norm(region: Region) -> str | None:
    """Why folding a norm would lose more than half of the digits of the region's type; None if it would not.

    A norm subtracts the mean before it scales, and its values are as exact as its input. Folded into a convolution it
    is the difference of what the kernel makes of the input and a constant, each rounded. Behind a convolution that is
    no different: the convolution's output is rounded, too, before the mean is subtracted.
    """
    convolved: set[fx.Node] = set()
    for node in region.nodes:
        linear = region.linear[node]
        if linear.convolves or not convolved.isdisjoint(linear.operands):
            convolved.add(node)
        elif linear.cancels is not None:
            times = linear.cancels()
            if not times <= torch.finfo(region.dtype).eps ** -0.5:
                name = region.program.describe(node)
                return f"{name} has means {times:.0f} times its deviations, too many to merge it in {region.dtype}"
    return None


class _Doubles:
    """float64 copies of a region's weights: lent to the check, then taken over by the merged kernel."""

    def __init__(self, device: torch.device, largest: Weight, workspace: Workspace) -> None:
        self.device, self.largest, self.workspace = device, _key(largest), workspace
        self.held: dict[object, tuple[Weight, Tensor]] = {}

    def get(self, tensor: Weight) -> Tensor:
        if not tensor.dtype.is_floating_point:
            return (tensor.compute() if isinstance(tensor, Deferred) else tensor).to(self.device)
        key = _key(tensor)
        if key not in self.held:  # holding on to the tensor keeps its address from being used again
            self.held[key] = tensor, self._cast(tensor)
        return self.held[key][1]

    def take(self, tensor: Weight) -> Tensor:
        """A copy that the caller may write to."""
        double = self.get(tensor)
        del self.held[_key(tensor)]
        if isinstance(tensor, Deferred):
            return double
        return double.clone() if double.data_ptr() == tensor.data_ptr() else double

    def _cast(self, tensor: Weight) -> Tensor:
        if isinstance(tensor, Deferred):
            return tensor.compute().to(self.device, torch.float64)
        tensor = tensor.detach()
        if _key(tensor) == self.largest:
            self.largest = None  # only once: it may be needed again while the first copy is in use
            return self.workspace.like(tensor, self.device).copy_(tensor)
        return tensor.to(self.device, torch.float64)


def _key(tensor: Weight) -> object:
    if isinstance(tensor, Deferred):
        return tensor
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _convolutions(
    region: Region, take: Cast, device: torch.device
) -> tuple[list[nn.Module | None], list[tuple[Tensor, Tensor | None]]]:
    """The module, kernel and bias of each term; no module, but a factor, for a multiple of its source."""
    shifts = biases(region.form)
    modules: list[nn.Module | None] = []
    weights: list[tuple[Tensor, Tensor | None]] = []
    for i, term in enumerate(region.form.terms):
        if not isinstance(term.map, ConvMap):
            modules.append(None)
            weights.append((term.factor.to(device), None))
            continue
        taps, padding = term.map.layout()
        kernel = term.map.weight(taps, take)
        more: dict[str, Any] = {}
        if term.map.up:
            kernel, more = term.map.as_transposed(kernel)
        added = shifts[i]
        bias = None if added is None else added.to(device).expand(term.map.out_channels)
        modules.append(_empty_conv(term, kernel, padding, bias is not None, more))
        weights.append((kernel, bias))
    return modules, weights


def _fill(conv: nn.Module, kernel: Tensor, bias: Tensor | None, like: Weight, dtype: torch.dtype, grad: bool) -> bool:
    """Cast the weights once, to the model's type, device and memory format; False if a value does not survive it."""
    memory, device = torch.contiguous_format, like.device
    like = like.like if isinstance(like, Deferred) else like
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        memory = torch.channels_last
    elif like.dim() == 5 and like.is_contiguous(memory_format=torch.channels_last_3d) and not like.is_contiguous():
        memory = torch.channels_last_3d
    for name, value in (("weight", kernel), ("bias", bias)):
        if value is None:
            continue
        cast = value.to(device, dtype, copy=True)
        if dtype is torch.float16 and name == "weight" and _vanishes(value, cast, bias):
            return False
        cast = cast.contiguous(memory_format=memory) if name == "weight" else cast.contiguous()
        if cast.numel() and not all(math.isfinite(extreme) for extreme in torch.aminmax(cast)):
            return False
        setattr(conv, name, nn.Parameter(cast, requires_grad=grad))
    return True


def _vanishes(kernel: Tensor, cast: Tensor, bias: Tensor | None) -> bool:
    """Whether a channel is lost in the cast which the type could hold: its weights are too small, not its values."""
    limits = torch.finfo(cast.dtype)
    size = kernel.flatten(1).norm(dim=1)
    error = (kernel - cast.to(kernel)).flatten(1).norm(dim=1)
    held = limits.eps * (size if bias is None else size + bias.abs()) + limits.smallest_normal * limits.eps
    return bool((error > 2 * held).any())


def _empty_conv(term: Term, kernel: Tensor, padding: Any, bias: bool, more: dict[str, Any]) -> nn.Module:
    """The module of a term's convolution, without weights; a transposed one with ``more`` arguments."""
    assert isinstance(term.map, ConvMap)
    taps, _ = term.map.layout()
    if not taps:
        linear = BLANK[nn.Linear](term.map.in_channels, term.map.out_channels, bias=bias, device="meta")
        linear.__class__, linear.training = nn.Linear, False
        return linear  # type: ignore[no-any-return]
    kind = (TRANSPOSED if term.map.up else CONV)[len(taps)]
    conv: nn.Module = BLANK[kind](
        term.map.in_channels,
        term.map.out_channels,
        tuple(kernel.shape[2:]),
        padding=padding,
        dilation=tuple(t.step for t in taps),
        groups=term.map.groups,
        bias=bias,
        padding_mode=term.map.mode or "zeros",
        device="meta",
        **(more or {"stride": term.map.stride}),
    )
    conv.__class__ = kind
    conv.training = False
    return conv


def largest_weight(region: Region) -> Weight:
    """What is made goes where this is, in its memory format."""
    tensors = (tensor for conv in region.convolutions for tensor in conv.tensors)
    return max(tensors, key=lambda tensor: tensor.numel())


def _requires_grad(region: Region, node: fx.Node) -> bool:
    module = region.program.module(node)
    if module is not None:
        return any(p.requires_grad for p in module.parameters())
    leaves = (region.program.leaf(n) for n in node.all_input_nodes)
    return any(leaf is not None and leaf.requires_grad for leaf in leaves)


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"
