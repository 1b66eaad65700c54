"""What each operator means as a linear form; importing this package fills the registry."""

from . import arithmetic, aten, concat, conv, norm, passing, reshape, window
from .registry import FUNCTIONS, METHODS, MODULES, Linear, Operator, Stacked, operator, read

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "MODULES",
    "Linear",
    "Operator",
    "Stacked",
    "arithmetic",
    "aten",
    "concat",
    "conv",
    "norm",
    "operator",
    "passing",
    "read",
    "reshape",
    "window",
]
