"""What one call uses besides time: bytes of activations and kernels, on the CPU and on CUDA."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes its own log to the terminal otherwise

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def activation_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes that the allocator had given out at once during one call, over those before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start
    alive = most = 0
    for event in _events(call, torch.profiler.ProfilerActivity.CPU, memory=True):
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def kernels(call: Callable[[], Any], device: str) -> int | None:
    """Kernels that one call runs on the GPU; on the CPU the operators that it runs, views not counted.

    None where the profiler is not allowed to see the GPU.
    """
    if device == "cuda":
        events = _events(call, torch.profiler.ProfilerActivity.CUDA)
        on_device = (event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA)
        kernels = (event for event in on_device if not event.is_user_annotation())
        return sum(not event.name().startswith(("Memcpy", "Memset")) for event in kernels) or None
    with _Operators() as operators:
        call()
    return operators.count


def _events(call: Callable[[], Any], activity: Any, memory: bool = False) -> list[Any]:
    on_device = activity == torch.profiler.ProfilerActivity.CUDA
    call()
    if on_device:
        torch.cuda.synchronize()  # or its kernels would be counted, too
    with torch.profiler.profile(activities=[activity], profile_memory=memory) as profile:
        call()
        if on_device:
            torch.cuda.synchronize()
    return profile.profiler.kineto_results.events()


class _Operators(TorchDispatchMode):
    """Counts the operators that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
