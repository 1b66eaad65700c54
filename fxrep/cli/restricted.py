"""Check that the text of a merged module's forward computes on tensors and does nothing else.

A saved model brings the forwards of its merged modules as text. Text from a file must not run just because somebody
loads weights: it may only combine what the module holds with tensor operators, as torch.fx writes it. Everything else,
an import, an unknown name, a file operation, is refused unless the caller trusts the file.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from .errors import UserError

VALUE = object()  # what is only known when the forward runs
STATEMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.If, ast.Raise)
PURE = (
    *(ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Slice, ast.Subscript, ast.Starred, ast.keyword),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
BUILTINS = {"slice": slice, "type": type, "ValueError": ValueError, "bool": bool, "int": int, "float": float,
            "str": str, "isinstance": isinstance, "len": len, "tuple": tuple, "list": list, "max": max, "min": min,
            "sum": sum, "complex": complex, "dict": dict}  # fmt: skip
CONSTANTS = {"inf": math.inf, "nan": math.nan, "NoneType": type(None), "device": torch.device}
MODULES = {"torch", "torch.fx._pytree", "torch.utils._pytree", "operator", "math"}
PROPERTIES = {"shape", "dtype", "device", "ndim", "layout", "is_cuda", "T", "mT", "H", "real", "imag"}
FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros", "scalar_tensor", "rand", "randn",
             "broadcast_shapes", "rand_like", "randn_like", "device", "Size", "_assert")  # fmt: skip
# Methods that run a function, write outside the tensor, or hand memory out.
DENIED = {"apply_", "map_", "map2_", "set_", "storage", "untyped_storage", "data_ptr", "const_data_ptr", "numpy",
          "register_hook", "register_post_accumulate_grad_hook", "module_load", "share_memory_",
          "backward"}  # fmt: skip


def check_forward(code: str, names: dict[str, Any], module: nn.Module) -> None:
    """Refuse the text of a forward of ``module`` that is more than tensor operators; ``names`` are what it refers to.

    Raises:
        UserError: it says what is refused.
    """
    tree = ast.parse(code)
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef) or tree.body[0].name != "forward":
        raise UserError("its text is not one forward function")
    function = tree.body[0]
    if function.decorator_list:
        raise UserError("its forward is decorated")
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    local = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    local |= {argument.arg for argument in arguments[1:]}
    if not arguments or arguments[0].arg in local:
        raise UserError("its forward has no self, or assigns to it")
    known = {**BUILTINS, **names, **dict.fromkeys(local, VALUE), arguments[0].arg: module}
    checker = _Checker(known)
    for expression in (*function.args.defaults, *(d for d in function.args.kw_defaults if d is not None)):
        checker.value(expression)
    for annotation in (*(a.annotation for a in arguments), function.returns):
        if annotation is not None:
            checker.value(annotation)
    checker.statements(function.body)


def allowed_function(found: object) -> bool:
    """Whether a function only computes on tensors or numbers."""
    if isinstance(found, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        return str(found).split(".")[0] in ("aten", "prims", "torchvision") and "from_file" not in str(found)
    if getattr(found, "__module__", None) in ("_operator", "math"):
        return getattr(found, "__name__", "call") != "call"
    return callable(found) and found in _functions()


class _Checker:
    """Walks expressions; an expression's value is the object it stands for where that is known, else ``VALUE``."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.known = known

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if not isinstance(statement, STATEMENTS):
                raise UserError(f"its forward has a '{type(statement).__name__}' statement")
            for child in ast.iter_child_nodes(statement):
                if isinstance(child, ast.stmt):
                    self.statements([child])
                elif isinstance(child, ast.expr):
                    self.value(child)

    def value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            if node.id not in self.known:
                raise UserError(f"its forward refers to '{node.id}'")
            return self.known[node.id]
        if isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Store):
                raise UserError(f"its forward sets an attribute, '{node.attr}'")
            return self.attribute(self.value(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self.call(node)
        if not isinstance(node, PURE):
            raise UserError(f"its forward has a '{type(node).__name__}' expression")
        for child in ast.iter_child_nodes(node):
            self.value(child)
        return VALUE

    def attribute(self, owner: Any, name: str) -> Any:
        if owner is VALUE or isinstance(owner, Tensor):
            if name in PROPERTIES or name in _methods():
                return VALUE
        elif isinstance(owner, nn.Module):
            found = getattr(owner, name, None)
            if isinstance(found, nn.Module | Tensor):
                return found
            if found is None or isinstance(found, bool | int | float | str | tuple):
                return VALUE
        elif isinstance(owner, ModuleType | torch._ops.OpOverloadPacket):
            found = getattr(owner, name, None)
            if isinstance(found, ModuleType) and found.__name__.split(".")[0] in ("torch", "torch_ops"):
                return found
            if isinstance(found, torch.dtype | torch.layout | torch.memory_format) or found is Tensor:
                return found
            if found is not None and allowed_function(found):
                return found
        raise UserError(f"its forward uses '{name}', which is not a tensor operator")

    def call(self, node: ast.Call) -> Any:
        for argument in (*node.args, *node.keywords):
            if not (isinstance(node.func, ast.Name) and node.func.id == "getattr"):
                self.value(argument)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and "getattr" not in self.known:
            owner, name = (*node.args, None, None)[:2]
            if owner is None or not isinstance(name, ast.Constant) or not isinstance(name.value, str) or node.keywords:
                raise UserError("its forward uses 'getattr' with a name that is not written out")
            return self.attribute(self.value(owner), name.value)
        function = self.value(node.func)
        if function is VALUE and not isinstance(node.func, ast.Attribute | ast.Call):
            raise UserError("its forward calls a value")
        if function is VALUE or isinstance(function, nn.Module):
            return VALUE
        if not isinstance(function, Tensor) and (function in BUILTINS.values() or allowed_function(function)):
            return VALUE
        raise UserError(f"its forward calls {function!r}")


@functools.cache
def _functions() -> frozenset[Any]:
    tables = get_overridable_functions()
    functions = {f for owner, table in tables.items() if owner is not Tensor for f in table}
    return frozenset(functions | {getattr(torch, name) for name in FACTORIES})


@functools.cache
def _methods() -> frozenset[str]:
    overridable = set(get_overridable_functions()[Tensor])
    arithmetic = {name for name in dir(operator) if name.startswith("__") and hasattr(Tensor, name)} - {"__call__"}
    plain = {name for name in dir(Tensor) if not name.startswith("_")}
    factories = {"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"}
    return frozenset({n for n in (plain | arithmetic) - DENIED if getattr(Tensor, n) in overridable} | factories)
