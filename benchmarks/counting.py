"""Counts what really runs: the operators and the memory of one call, as the dispatcher sees them."""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

CONVOLUTIONS = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("convolution", "_convolution", "convolution_overrideable", "_convolution_mode"),
    *("cudnn_convolution", "miopen_convolution", "mkldnn_convolution", "thnn_conv2d", "_conv_depthwise2d"),
    *("_slow_conv2d_forward", "slow_conv3d_forward", "conv_depthwise3d", "miopen_depthwise_convolution"),
    *("cudnn_convolution_relu", "cudnn_convolution_add_relu"),
}
BATCH_NORMS = {
    *("batch_norm", "_batch_norm_impl_index", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"),
    *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional"),
    *("_batch_norm_no_update", "_batch_norm_with_update", "batch_norm_elemt"),
}
ADDS = {"add", "add_", "sub", "sub_"}


@dataclass(frozen=True)
class OpCounts:
    """How many operators of each kind ran. `adds` are those (and the subtractions) of two tensors, not of numbers."""

    convolutions: int
    batch_norms: int
    adds: int


class OpCounter(TorchDispatchMode):
    """Counts the operators that run inside the `with` block, with or without gradients or inference mode.

    In inference mode a convolution arrives as `aten.conv2d`, elsewhere as `aten.convolution`; never as both, since what
    an operator calls inside itself is not seen again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self._adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operators[name] += 1
        self._adds += name in ADDS and all(isinstance(arg, torch.Tensor) for arg in args[:2])
        return func(*args, **(kwargs or {}))

    @property
    def counts(self) -> OpCounts:
        return OpCounts(
            convolutions=sum(self.operators[name] for name in CONVOLUTIONS),
            batch_norms=sum(self.operators[name] for name in BATCH_NORMS),
            adds=self._adds,
        )


def count_ops(model: Callable[..., Any], *inputs: Any) -> OpCounts:
    """The operators that one call `model(*inputs)` runs."""
    with torch.no_grad(), OpCounter() as counter:
        model(*inputs)
    return counter.counts


class PeakBytes(TorchDispatchMode):
    """Peak bytes of the storages that were made inside the `with` block and were alive at the same time.

    It counts what operators return. Scratch space inside a kernel is not seen, and neither are the weights and inputs,
    which were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {id(tensor.untyped_storage()) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in old | self._known:
                self._watch(tensor.untyped_storage())
        self.peak = max(self.peak, self._alive)
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self._alive += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


def peak_bytes(model: Callable[..., Any], *inputs: Any) -> int:
    """The most bytes of activations alive at once in one call `model(*inputs)`."""
    with torch.no_grad(), PeakBytes() as memory:
        model(*inputs)
    return memory.peak
