"""Counts what one call runs by kind, in all and by the module whose code runs it, as the dispatcher sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.counting import BATCH_NORMS, CONVOLUTIONS

KINDS = {
    "conv": CONVOLUTIONS,
    "batch norm": BATCH_NORMS,
    "norm": {"native_layer_norm", "native_group_norm", "_fused_rms_norm"},
    "add": {"add", "sub", "rsub", "addcmul"},
    "mul": {"mul", "div", "neg"},
    "linear": {"linear", "addmm", "mm", "addmv", "mv"},
    "pad": {
        "constant_pad_nd",
        "pad",
        *(f"{m}_pad{rank}d" for m in ("reflection", "replication") for rank in (1, 2, 3)),
    },
}
OTHER = "other"
FREE = {"_unsafe_view", "detach", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "new_empty"}
"""Not views by their schema, and nothing is computed all the same."""


def kind_of(name: str) -> str:
    """What an operator counts as; the in-place one as the other."""
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return next((kind for kind, names in KINDS.items() if name in names or plain in names), OTHER)


class KindCounter(TorchDispatchMode):
    """Counts the operators that compute something inside the `with` block, by path of the module and kind.

    A module has the first of its paths in `model`; what none of them runs is at "".
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.at: dict[str, Counter[str]] = {}
        self._paths = {module: path for path, module in model.named_modules()}
        self._calls: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> KindCounter:
        def enter(module: nn.Module, _: Any) -> None:
            self._calls.append(self._paths.get(module, self._calls[-1] if self._calls else ""))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            self._calls.pop()

        self._hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            path = self._calls[-1] if self._calls else ""
            self.at.setdefault(path, Counter())[kind_of(name)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def counts(self) -> dict[str, int]:
        """All that ran, of every kind."""
        total = sum(self.at.values(), Counter[str]())
        return {kind: total[kind] for kind in (*KINDS, OTHER)}


def count_kinds(model: nn.Module, call: Callable[[], Any]) -> KindCounter:
    """What one `call` of `model` runs."""
    with torch.no_grad(), KindCounter(model) as counter:
        call()
    return counter
