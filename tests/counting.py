"""What really runs in a forward pass, by the names that fxrep's report has for it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import benchmarks.counting
from benchmarks.counting import CONVOLUTIONS as CONVS

__all__ = ["CONVS", "count_ops"]


def count_ops(model: Callable[..., Any], *inputs: Any) -> Counter[str]:
    """How often a forward pass runs a "conv", a "norm" and an "add" (or subtraction) of two tensors."""
    counts = benchmarks.counting.count_ops(model, *inputs)
    return +Counter(conv=counts.convolutions, norm=counts.batch_norms, add=counts.adds)
