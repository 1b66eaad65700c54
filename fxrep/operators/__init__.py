"""What each operator means as a linear form; importing this package fills the registry."""

from . import arithmetic, aten, concat, conv, fill, norm, passing, reshape, window
from .registry import FUNCTIONS, METHODS, MODULES, Linear, Operator, Stacked, Value, operator, read

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "MODULES",
    "Linear",
    "Operator",
    "Stacked",
    "Value",
    "arithmetic",
    "aten",
    "concat",
    "conv",
    "fill",
    "norm",
    "operator",
    "passing",
    "read",
    "reshape",
    "window",
]
