"""What an operator may do besides computing its value: alias its operands, write to them, draw random numbers.

Everything that is not known here is assumed to do the worst.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.nn import functional as F

from ..capture.kinds import (
    NORMS,
    STATISTICS,
    UPDATES_NONE,
    arguments_of,
    builtin_type,
    is_number,
    mode_of,
    reads_metadata,
    why_opaque,
)
from ..capture.piece import iterate
from ..capture.results import call_as_is
from ..capture.symbols import INPLACE

INPLACE_OPERATORS = {name.strip("_") for name in INPLACE}  # the functions of Python's ``operator``
ASSERTS = {
    "_assert", "_assert_is_none", "_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range",
    "sym_constrain_range_for_size",
}  # fmt: skip

# Functions, methods and torch.nn modules, by name, that return memory of their own and write to nobody's.
FRESH = {
    "abs", "add", "addmm", "amax", "amin", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "bmm", "cat",
    "celu", "clamp", "clone", "concat", "concatenate", "constant_pad_nd", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cos", "cumsum", "div", "elu", "eq", "exp",
    "floordiv", "ge", "gelu", "group_norm", "gt", "hardsigmoid", "hardswish", "hardtanh", "instance_norm",
    "interpolate", "layer_norm", "le", "leaky_relu", "linear", "log", "logsigmoid", "lt", "matmul", "max_pool1d",
    "max_pool2d", "max_pool3d", "mean", "mish", "mul", "ne", "neg", "pad", "pow", "prelu", "reciprocal", "relu",
    "relu6", "repeat", "rms_norm", "rsqrt", "scaled_dot_product_attention", "selu", "sigmoid", "silu", "sin",
    "softmax", "softplus", "sqrt", "square", "stack", "std", "sub", "sum", "tanh", "truediv", "var", "where",
    "zeros_like", "ones_like", "roll", "rsub", "radd",
    "__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__rsub__", "__truediv__", "__neg__",
}  # fmt: skip
FRESH_MODULES = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.MaxPool1d,
    nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU,
    nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.PReLU,
    nn.Mish, nn.Softplus, nn.Softmax, nn.MultiheadAttention, nn.Upsample,
)  # fmt: skip
RANDOM = {"dropout", "rand", "randn", "randint", "bernoulli", "normal", "multinomial", "rand_like", "randn_like",
          "randint_like", "randperm", "poisson", "rrelu", "empty", "empty_like", "new_empty"}  # fmt: skip
POINTWISE_MODULES = (
    nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid,
    nn.LeakyReLU, nn.ELU, nn.Mish, nn.PReLU, nn.Softplus, nn.modules.batchnorm._BatchNorm,
)  # fmt: skip
# Where a value that is off by a rounding may be off by a step.
JUMPS = {
    "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal", "not_equal", "isclose",
    "__gt__", "__ge__", "__lt__", "__le__", "__eq__", "__ne__", "sign", "sgn", "heaviside", "round", "floor", "ceil",
    "trunc", "fix", "frac", "fmod", "mod", "remainder", "floordiv", "floor_divide", "__floordiv__", "__mod__", "div",
    "divide", "argmax", "argmin", "argsort", "sort", "topk", "kthvalue", "median", "mode", "unique", "bucketize",
    "searchsorted", "to", "type", "type_as", "bool", "byte", "char", "short", "int", "long", "_to_copy", "logical_not",
    "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine", "quantize_per_tensor",
    "quantize_per_channel", "nonzero",
}  # fmt: skip
RESHAPES = {"flatten", "view", "reshape", "permute", "reshape_as", "view_as", "mean", "add", "sub", "mul", "truediv",
            "div", "pow", "matmul"}  # fmt: skip
POINTWISE = {"relu", "relu_", "relu6", "silu", "gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "leaky_relu",
             "dropout", "contiguous", "clone", "detach", "batch_norm", "neg"}  # fmt: skip
ELEMENTWISE = POINTWISE | {"abs", "sqrt", "rsqrt", "square", "reciprocal", "exp", "log", "sin", "cos", "erf", "elu",
                           "mish", "softplus", "hardtanh", "logsigmoid"}  # fmt: skip
# Modules that in eval mode compute their value from their input and their weights alone.
FUNCTIONS = {
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm,
    nn.GroupNorm, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Identity, nn.Dropout, nn.Flatten, nn.ReLU,
    nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Softplus, nn.Hardswish, nn.Hardsigmoid,
    nn.LeakyReLU, nn.ELU, nn.Mish, nn.PReLU,
}  # fmt: skip
POINTWISE_OR_FRESH = (*FRESH_MODULES, *POINTWISE_MODULES)
SHAPES = {"shape", "ndim", "size", "dim", "ndimension", "numel", "nelement"}
KEEPS_RANK_MODULES = (*POINTWISE_MODULES, nn.Linear)
KEEPS_RANK = {*ELEMENTWISE, "pad", "linear", "transpose", "swapaxes", "permute", "softmax", "log_softmax"}
WRITES = {*INPLACE, "__setitem__", "setitem"}
# Where the argument ``inplace`` is among the positional ones.
INPLACE_ARGUMENT = {
    function.__name__: [*parameters].index("inplace")
    for function in vars(F).values()
    if inspect.isfunction(function) and "inplace" in (parameters := inspect.signature(function).parameters)
}


def name_of(node: fx.Node) -> str:
    """The bare name of the function or method that a node calls."""
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, OpOverload):  # "add.Tensor" is an "add"
        return str(target.overloadpacket.__name__)
    return getattr(target, "__name__", "")


def is_torch(node: fx.Node) -> bool:
    """Whether a node calls something of torch or Python's operators, whose names can be trusted."""
    if node.op == "call_method":
        return True
    if node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):  # runs a graph of its own
        return False
    home = getattr(node.target, "__module__", None)
    if home is None:  # torch's own C functions have none
        return isinstance(node.target, type(torch.relu))
    return home.split(".")[0] in ("torch", "_operator", "operator", "math", "builtins")


def assertions(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that are assertions, or numbers that assertions alone look at, if anybody does."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if name_of(node) in ASSERTS or (found.issuperset(node.users) and is_number(node)):
            found.add(node)
    return found


def makes_a_value(node: fx.Node) -> bool:
    """Whether a node is an operator on tensors: not an input, a parameter, a size, or an assertion."""
    return node.op in ("call_function", "call_method", "call_module") and not (
        name_of(node) in ASSERTS or is_number(node)
    )


def is_deterministic(node: fx.Node) -> bool:
    """Whether a node computes the same value each time, without effects."""
    return (
        is_torch(node)
        and name_of(node) not in RANDOM
        and not name_of(node).endswith("_")
        and not may_write(node, None)
        and "out" not in node.kwargs
    )


def moved(node: fx.Node) -> fx.Node | None:
    """The value that a node gives as it is, on the device of another one: ``x.to(y.device)``."""
    said = (*node.args[1:], *node.kwargs.values())
    devices = (isinstance(n, fx.Node) and n.target is getattr and n.args[1] == "device" for n in said)
    moves = node.op == "call_method" and node.target == "to" and len(said) == 1 and all(devices)
    return _first(node) if moves else None


def jumps(node: fx.Node) -> bool:
    """Whether a rounding of what a node reads may make a step in what it computes."""
    name = name_of(node)
    return name in JUMPS and (name not in ("div", "divide") or "rounding_mode" in node.kwargs)


def differentiates(node: fx.Node) -> bool:
    """Whether a node computes gradients, of which a merge changes which there are: those of detached branches, too."""
    return node.target in (torch.autograd.grad, torch.autograd.backward, "backward")


def lays_out(node: fx.Node) -> bool:
    """Whether an operator that changes no value is there for how it lies in memory."""
    return name_of(node) == "contiguous" or "memory_format" in node.kwargs


def needs_layout(node: fx.Node) -> bool:
    """Whether it depends on how a value lies in memory what an operator gives, or whether it raises an error."""
    return name_of(node) in ("view", "view_as", "as_strided", "stride", "is_contiguous")


def may_copy(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operator gives a view of its operand or a copy, as that lies in memory."""
    return isinstance(module, nn.Flatten) or name_of(node) in (
        "reshape",
        "reshape_as",
        "flatten",
        "ravel",
        "contiguous",
    )


def _by_schema(node: fx.Node, write: bool) -> list[fx.Node] | None:
    """The operands that a ``torch.ops`` operator declares to write to, or to alias; None if it is something else."""
    overload = getattr(node.target, "default", node.target)
    if not isinstance(overload, OpOverload):
        return None
    arguments = overload._schema.arguments
    marked = {a.name for a in arguments if a.alias_info is not None and (a.alias_info.is_write or not write)}
    marked = marked.difference(STATISTICS)  # which depends on the mode
    given = {a.name: v for a, v in zip(arguments, node.args, strict=False)} | dict(node.kwargs)
    return [n for name, value in given.items() if name in marked for n in iterate(value)]


def _updates(node: fx.Node) -> list[fx.Node]:
    """What few functions declare that they write to.

    The running statistics, unless a norm is in eval mode; a table of which the rows that are read are kept short.
    """
    name = name_of(node)
    if name in ("embedding", "embedding_bag") and node.op == "call_function":
        given = arguments_of(node)
        return [] if given.get("max_norm") is None else list(iterate(given.get("weight")))
    norm = any(word in name for word in NORMS) and not any(word in name for word in UPDATES_NONE)
    if not norm or node.op != "call_function":
        return []
    given = arguments_of(node)
    return [] if mode_of(given) is False else list(iterate([given.get(statistic) for statistic in STATISTICS]))


def _may_return_operand(node: fx.Node) -> bool:
    """Operators made of others, such as ``aten.dropout`` in eval mode, hand an operand on without declaring it."""
    overload: Any = getattr(node.target, "default", node.target)
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "CompositeImplicitAutograd")
    return composite and name_of(node).removesuffix("_") not in FRESH


def may_write(node: fx.Node, module: nn.Module | None) -> list[fx.Node]:
    """The operands that a node may write to."""
    declared = _by_schema(node, write=True)
    if declared is not None:
        return declared + _updates(node)
    if node.op in ("placeholder", "get_attr", "output") or reads_metadata(node) or name_of(node) in ASSERTS:
        return []
    if node.target is call_as_is:
        return list(iterate(node.args[0]))
    first = list(iterate(node.args[:1])) or list(iterate(node.kwargs.get("input")))
    if module is not None and type(module).__module__ == "torch.export._unlift":  # looks at the inputs' shapes
        return []
    if module is not None:
        if _does_what_it_says(module):
            return first if getattr(module, "inplace", False) else []
        return list(iterate((node.args, node.kwargs)))
    if not is_torch(node):
        return list(iterate((node.args, node.kwargs)))
    out = list(iterate(node.kwargs.get("out"))) + _updates(node)
    if name_of(node) in WRITES or _inplace_by_name(node):
        return first + out
    return out


def _does_what_it_says(module: nn.Module, kinds: tuple[type, ...] = (nn.Module,)) -> bool:
    """Whether a module is one of torch's, of these kinds, with nothing of the user's around it or inside."""
    kind = builtin_type(module)
    known = kind is not None and issubclass(kind, kinds) and why_opaque(module) is None
    inside = [
        child for name, child in module.named_children() if name != "parametrizations"
    ]  # which get a weight alone
    return known and all(map(_does_what_it_says, inside))


def may_alias(node: fx.Node, module: nn.Module | None, written: list[fx.Node]) -> list[fx.Node]:
    """The operands that a node's value may share memory with; ``written`` are those that it may write to."""
    if node.op in ("placeholder", "get_attr", "output") or reads_metadata(node) or name_of(node) in ASSERTS:
        return []
    if node.target is call_as_is:
        return written
    declared = _by_schema(node, write=False)
    if declared is not None:
        return declared or (list(iterate((node.args, node.kwargs))) if _may_return_operand(node) else [])
    if module is not None and type(module).__module__ == "torch.export._unlift":
        return []
    if module is not None:
        return written if _does_what_it_says(module, FRESH_MODULES) else list(iterate((node.args, node.kwargs)))
    name = name_of(node)
    if is_torch(node) and (
        name in FRESH or name in WRITES or name.removesuffix("_") in FRESH or _inplace_by_name(node)
    ):
        return written
    return list(iterate((node.args, node.kwargs)))


def updates_whole(node: fx.Node, module: nn.Module | None) -> fx.Node | None:
    """The operand that an in-place operator replaces as a whole and returns; None if it does something else."""
    first: Any = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node) or "out" in node.kwargs:
        return None
    if module is not None:
        inplace = getattr(module, "inplace", False) and _does_what_it_says(module, POINTWISE_OR_FRESH)
    else:
        inplace = is_torch(node) and _inplace_by_name(node)
    return first if inplace and may_write(node, module) == [first] else None


def _inplace_by_name(node: fx.Node) -> bool:
    name = name_of(node)
    trailing = name.endswith("_") and not name.endswith("__")
    return (
        trailing
        or name in INPLACE
        or name in INPLACE_OPERATORS
        or node.kwargs.get("inplace") is True
        or _positional_inplace(node)
    )


def _positional_inplace(node: fx.Node) -> bool:
    """``F.relu(x, True)`` and ``F.dropout(x, p, training, True)``."""
    if node.op != "call_function":
        return False
    place = INPLACE_ARGUMENT.get(name_of(node), len(node.args))
    return place < len(node.args) and node.args[place] is True


def spatial_rank(node: fx.Node, kind: type[nn.Module] | None) -> int | None:
    """The number of spatial axes that an operator's input and output must have; None if it takes several."""
    name = kind.__name__ if kind is not None else name_of(node) if node.op == "call_function" else ""
    kinds = ("conv", "avgpool", "avg_pool", "maxpool", "max_pool", "batchnorm", "pixel", "adaptive")
    if not name.lower().startswith(kinds):
        return None
    if name.lower() in ("batchnorm1d", "batch_norm"):
        return None
    return next((n for n in (1, 2, 3) if name.endswith(f"{n}d")), None)


def reshaped_rank(node: fx.Node, module: nn.Module | None, ranks: dict[fx.Node, int]) -> int | None:
    """The number of axes but two of what an operator gives that changes it, or joins values; None if it is not known.

    ``ranks`` holds those of the values before.
    """
    if module is not None:
        return (
            _flattened(ranks.get(_first(node)), module.start_dim, module.end_dim)
            if isinstance(module, nn.Flatten)
            else None
        )
    name, first = name_of(node), _first(node)
    if name not in RESHAPES or not is_torch(node):
        return None
    rank: int | None = ranks.get(first)
    given: tuple[Any, ...] = node.args[1:]
    if name == "flatten":
        start = given[0] if given else node.kwargs.get("start_dim", 0)
        return _flattened(rank, start, given[1] if len(given) > 1 else node.kwargs.get("end_dim", -1))
    if name in ("view", "reshape", "permute"):
        sizes = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
        if len(given) == 1 and isinstance(given[0], fx.Node):  # the shape of another value, or one number
            return None
        known = sizes and all(isinstance(s, int) or (isinstance(s, fx.Node) and is_number(s)) for s in sizes)
        return len(sizes) - 2 if known else None
    if name in ("reshape_as", "view_as"):
        return ranks.get(given[0]) if given else None
    if name == "mean":
        dim = given[0] if given else node.kwargs.get("dim")
        keeps = given[1] if len(given) > 1 else node.kwargs.get("keepdim", False)
        if rank is None or dim is None or not isinstance(keeps, bool):
            return None
        return rank if keeps else rank - (len(dim) if isinstance(dim, tuple | list) else 1)
    found = [ranks.get(n) for n in node.all_input_nodes if not is_number(n)]
    known = [rank for rank in found if rank is not None]
    if name == "matmul" and min(known, default=0) < 0:  # a vector: its only axis is summed over
        return None
    return max(known) if known and len(known) == len(found) else None


def _first(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _flattened(rank: int | None, start: Any, end: Any) -> int | None:
    """The rank of what ``flatten(start, end)`` makes of a value."""
    if (start, end) == (1, -1):
        return 0
    if rank is None or not isinstance(start, int) or not isinstance(end, int):
        return None
    axes = max(1, rank + 2)  # what flattens a single number has one axis
    return axes - 2 - (end % axes - start % axes)


def reads_rank(node: fx.Node) -> bool:
    """Whether a node asks how many axes a value has, and not how long they are."""
    name = node.args[1] if node.target is getattr else name_of(node)
    return reads_metadata(node) and name in ("ndim", "dim", "ndimension", "dtype", "device")


def reads_shape(node: fx.Node) -> bool:
    """Whether a node looks at a tensor's sizes only."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in SHAPES
    name = name_of(node)
    return reads_metadata(node) and (name in SHAPES or name.startswith(("sym_size", "sym_numel")))


def keeps_rank(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node's value has the rank of its first operand."""
    if module is not None:
        return isinstance(module, KEEPS_RANK_MODULES) or type(module).__module__ == "torch.nn.modules.padding"
    return name_of(node) in KEEPS_RANK and is_torch(node)
