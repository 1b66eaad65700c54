"""What is watched and patched while a module is traced: its attributes, what is read off modules, random numbers."""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace as symbolic_trace
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .clone import STANDARD
from .code import Asks
from .kinds import is_number
from .piece import Call
from .symbols import InplaceMixin
from .walk import place_of, walk

CONTAINERS = (dict, list, set)
PLAIN = {bool, int, float, str, type(None)}
INHERITED = STANDARD.union(dir(nn.Module))  # the attributes that every module has
UNNOTED = {"__dict__", "__class__", *STANDARD} - {"_modules"}  # what is read most, by torch itself
NOTED = {*PLAIN, tuple, *CONTAINERS, OrderedDict, defaultdict, deque, Tensor}
FIXED = (*(bool, int, float, complex, str, Enum), *(type, FunctionType, BuiltinFunctionType),
         *(torch.dtype, torch.device, torch.layout, torch.memory_format))  # fmt: skip
# They make tensors of numbers alone, and in torch 2.5 do not take a symbol for a device.
FACTORIES = ("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "zeros")
IS_TENSOR = torch.is_tensor
MODES: tuple[tuple[Any, str], ...] = (
    *((kind, "__enter__") for kind in (torch.autocast, torch.no_grad, torch.enable_grad, torch.inference_mode)),
    (torch.set_grad_enabled, "__init__"),
)  # fmt: skip
VariableMeta: Any = type(torch.autograd.Variable)
EXTREMES: tuple[Callable[..., Any], ...] = (max, min)


class Recorder(Protocol):
    """A trace that goes on: the call that it is in, and what records a call or a value."""

    current: Call | None
    apart: Any
    asks: Callable[[nn.Module], Asks]

    def is_elsewhere(self) -> bool: ...

    def refuse(self, kind: Any) -> Any: ...

    def recording(self, module: nn.Module, name: str, method: Callable[..., Any]) -> Callable[..., Any]: ...

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any: ...


class RandomDraw(TypeError):
    """A forward draws random numbers, which would be baked in as constants."""


class types_are_answered:
    """Let questions for the class of a symbol be answered as of the value that there will be, or not at all.

    Note which modules are asked for theirs. It holds in all files that the code of the modules may go through.
    """

    def __init__(self, tracer: Recorder, root: nn.Module) -> None:
        self.tracer = tracer
        files: dict[int, dict[str, Any]] = {}
        for _, m in walk(root):
            if (forward := _written(m)) is not None:
                files[id(forward.__globals__)] = forward.__globals__
                own = (vars(sys.modules[name]) for name in tracer.asks(m).files if name in sys.modules)
                files.update({id(names): names for names in own})
        answers = {"isinstance": self.is_instance, "hasattr": self.has_attribute, "getattr": self.get_attribute,
                   "callable": self.is_callable, "type": Type}  # fmt: skip
        self.files = [(names, {k: v for k, v in answers.items() if k not in names}) for names in files.values()]
        self.renamed = [(names, k) for names in (*files.values(), vars(torch)) for k in names if names[k] is IS_TENSOR]

    def __enter__(self) -> None:
        for names, own in self.files:
            names.update(own)
        for names, name in self.renamed:
            names[name] = self.is_tensor

    def __exit__(self, *_: object) -> None:
        for names, name in self.renamed:
            names[name] = IS_TENSOR
        for names, own in self.files:
            for name in own:
                del names[name]

    def is_tensor(self, value: Any) -> bool:
        return self.is_instance(value, Tensor)

    def is_instance(self, value: Any, kind: Any) -> bool:
        """The answer, noting the module of which it would be another one if an identity were in its place."""
        call = self.tracer.current
        if isinstance(value, InplaceMixin):
            return self._is_of(value, kind if isinstance(kind, tuple) else (kind,))
        answer = isinstance(value, kind)
        if isinstance(value, nn.Module) and answer != issubclass(nn.Identity, kind) and call is not None:
            call.typed.add(value)
        return answer

    def _is_of(self, value: Any, kinds: tuple[Any, ...]) -> bool:
        if any(type(k) is type(torch.FloatTensor) for k in kinds):
            self.tracer.refuse(isinstance)  # the type of its elements
        return issubclass(self._kind(value), kinds)

    def _kind(self, value: Any) -> type:
        """The class that a symbol will have, noting that it was asked for."""
        if self.tracer.current is not None:
            self.tracer.current.tensors.add(value.node)
        return value.kind()  # type: ignore[no-any-return]

    def is_callable(self, value: Any) -> bool:
        return self._is_of(value, (Callable,)) if isinstance(value, InplaceMixin) else callable(value)

    def has_attribute(self, value: Any, name: str) -> bool:
        return hasattr(self._kind(value), name) if isinstance(value, InplaceMixin) else hasattr(value, name)

    def get_attribute(self, value: Any, name: str, *default: Any) -> Any:
        absent = default and isinstance(value, InplaceMixin) and not hasattr(self._kind(value), name)
        return default[0] if absent else getattr(value, name, *default)


class _Type(type):
    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        one = len(arguments) == 1 and not keywords and isinstance(arguments[0], InplaceMixin)
        return arguments[0].kind() if one else type(*arguments, **keywords)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, type)


class Type(metaclass=_Type):
    """``type``, where the class of a symbol is the one that it says it has."""


def is_patched(value: object) -> bool:
    """Whether this is what stands for ``isinstance`` or ``type`` while a module is traced."""
    return value is Type or isinstance(getattr(value, "__self__", None), types_are_answered)


def _is_plain(value: object) -> bool:
    return type(value) in PLAIN or isinstance(value, FIXED) or (isinstance(value, tuple) and all(map(_is_plain, value)))


@functools.lru_cache(maxsize=256)
def _is_noted(kind: Any) -> bool:
    return kind in NOTED or issubclass(kind, (*FIXED, tuple))


class reads_are_noted:
    """Note the numbers, lists and the like that traced code reads off modules: the graph is right for these.

    Code that writes to another module than its own, whose state before and after is compared, is not traced.
    """

    def __init__(self, tracer: Recorder) -> None:
        self.tracer = tracer

    def __enter__(self) -> None:
        tracer, read, write = self.tracer, nn.Module.__getattribute__, nn.Module.__setattr__
        self.own = vars(nn.Module).get("__getattribute__")  # there is none, unless somebody patched one in

        def noted(module: nn.Module, name: str) -> Any:
            if name in UNNOTED:
                return read(module, name)
            try:
                value = read(module, name)
            except AttributeError:  # a child, or nothing
                call = tracer.current
                child = vars(module).get("_modules", {}).get(name)
                if child is not None and call is not None and module is not call.module and not tracer.is_elsewhere():
                    call.looked.add(child)
                raise
            kind = type(value)
            if kind in NOTED or _is_noted(kind):  # type: ignore[arg-type]
                call = tracer.current
                if call is None or tracer.is_elsewhere():
                    return value
                if name not in INHERITED:
                    if module is not call.module and kind not in PLAIN and call.state is not None:
                        call.state.add([value])
                    (call.reads if _is_plain(value) else call.held)[module, name] = value
                elif name == "_modules" and call.module is not module:
                    call.walked.add(module)
            elif tracer.apart and kind is MethodType:
                return tracer.recording(module, name, value)
            return value

        def written(module: nn.Module, name: str, value: Any) -> None:
            call = tracer.current
            if call is not None and module is not call.module and not tracer.is_elsewhere():
                call.guessed = True  # it may catch the error
                raise TypeError(f"its forward sets .{name} of another module")
            write(module, name, value)

        nn.Module.__getattribute__ = noted  # type: ignore[method-assign, assignment]
        self.write, nn.Module.__setattr__ = write, written  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        nn.Module.__setattr__ = self.write  # type: ignore[method-assign]
        if self.own is None:
            del nn.Module.__getattribute__
        else:
            nn.Module.__getattribute__ = self.own  # type: ignore[method-assign]


class weights_are_kept(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse code that writes to the weights while it is traced: the caller's own. What it has replaced is put back."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tables = [table for _, m in walk(root) for table in (m._parameters, m._buffers, m._modules)]
        self.held: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, dict(table)) for table in tables if isinstance(table, dict)
        ]
        weights = (value for _, before in self.held for value in before.values() if isinstance(value, Tensor))
        self.weights = [(tensor, tensor.data, tensor.requires_grad) for tensor in weights]
        self.places = {place_of(tensor) for tensor, *_ in self.weights} - {0}
        self.changed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
            written = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            if any(isinstance(leaf, Tensor) and place_of(leaf) in self.places for leaf in tree_leaves(written)):
                self.changed = True  # it may catch the error
                raise TypeError("its forward writes to weights")
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for own, before in self.held:
            if [*own] != [*before] or any(own[name] is not value for name, value in before.items()):
                self.changed = True
                own.clear()
                own.update(before)
        for tensor, data, requires_grad in self.weights:
            if _address(tensor) != _address(data) or tensor.dtype != data.dtype or tensor.shape != data.shape:
                tensor.data, self.changed = data, True
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad, self.changed = requires_grad, True


# Torch wraps the method in what keeps its compiler out, and imports the compiler for it: more than a second.
_unwrapped = getattr(weights_are_kept.__torch_dispatch__, "__wrapped__", None)
if _unwrapped is not None:
    vars(_unwrapped)["__dynamo_disable"] = _unwrapped


def _address(tensor: Tensor) -> int:
    """Where a tensor's first number is; 0 if it has none, or does not say."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


@contextlib.contextmanager
def factories_are_recorded(tracer: Recorder) -> Iterator[None]:
    """Record ``torch.zeros(n, device=x.device)`` and its kin where an argument is a symbol."""

    def recording(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def record(*args: Any, **kwargs: Any) -> Any:
            symbols: list[fx.Proxy] = []
            fx.node.map_aggregate((args, kwargs), lambda a: symbols.append(a) if isinstance(a, fx.Proxy) else None)
            return tracer.create_proxy("call_function", make, args, kwargs) if symbols else make(*args, **kwargs)

        return record

    own = {name: getattr(torch, name) for name in FACTORIES}
    vars(torch).update({name: recording(make) for name, make in own.items()})
    try:
        yield
    finally:
        vars(torch).update(own)


@contextlib.contextmanager
def modes_are_noted(tracer: Recorder) -> Iterator[None]:
    """Note the modes of torch's that code enters, under whatever name it has them."""

    def noting(enter: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(enter)
        def note(*args: Any, **kwargs: Any) -> Any:
            if tracer.current is not None and not tracer.is_elsewhere():
                tracer.current.modes.add(name)
            return enter(*args, **kwargs)

        return note

    own = [(kind, method, getattr(kind, method)) for kind, method in MODES]
    for kind, method, enter in own:
        setattr(kind, method, noting(enter, kind.__name__))
    try:
        yield
    finally:
        for kind, method, enter in own:
            setattr(kind, method, enter)


@contextlib.contextmanager
def variables_are_recorded(tracer: Recorder) -> Iterator[None]:
    """Record ``torch.autograd.Variable(x)``, as code from before torch 0.4 has it: today that is ``x.detach()``."""
    own = vars(VariableMeta).get("__call__")

    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], InplaceMixin) and not kwargs and not tracer.is_elsewhere():
            return tracer.create_proxy("call_method", "detach", args, {})
        return type.__call__(cls, *args, **kwargs) if own is None else own(cls, *args, **kwargs)

    VariableMeta.__call__ = call
    try:
        yield
    finally:
        if own is None:
            del VariableMeta.__call__
        else:
            VariableMeta.__call__ = own


class extremes_are_recorded:
    """Record Python's ``max`` and ``min`` of sizes, which would ask which is larger: how much a stride wants padded."""

    def __enter__(self) -> None:
        vars(builtins).update({choose.__name__: _recording(choose) for choose in EXTREMES})

    def __exit__(self, *_: object) -> None:
        vars(builtins).update({choose.__name__: choose for choose in EXTREMES})


def is_not_seen() -> None:
    """Let code that asks whether fx traces be told what it will be told when the result runs."""
    if hasattr(symbolic_trace, "_set_is_fx_tracing"):
        symbolic_trace._set_is_fx_tracing(False)
    else:  # torch 2.5
        vars(symbolic_trace)["_is_fx_tracing_flag"] = False


def entered_modes() -> int:
    """How many modes are entered that may change what torch's functions do."""
    return int(torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack())


def _recording(choose: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(choose)
    def record(*args: Any, **kwargs: Any) -> Any:
        symbols = [a for a in args if isinstance(a, fx.Proxy)]
        if symbols and not kwargs and all(is_number(a.node) for a in symbols):
            return symbols[0].tracer.create_proxy("call_function", choose, args, {})
        return choose(*args, **kwargs)

    return record


def _written(module: nn.Module) -> Any:
    """The forward of a module, if it is a Python function that is not torch's own."""
    function: Any = getattr(type(module), "forward", None)  # TorchScript has none on the class
    function = inspect.unwrap(function)
    return (
        function
        if inspect.isfunction(function) and not (function.__module__ or "torch.").startswith("torch.")
        else None
    )


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two entries of a state, numbers or arrays of them, are the same."""
    return bytes(one) == bytes(other) if hasattr(one, "tobytes") else bool(one == other)


class no_random:
    """Refuse code that draws random numbers while it is traced."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        self.state, self.python = torch.get_rng_state(), random.getstate()
        self.numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
        self.drawn: Any = self.numpy.get_state() if self.numpy else None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        same = not self.numpy or all(map(_is_equal, self.drawn, self.numpy.get_state()))
        if same and torch.equal(self.state, torch.get_rng_state()) and self.python == random.getstate():
            return
        if self.numpy:
            self.numpy.set_state(self.drawn)
        torch.set_rng_state(self.state)
        random.setstate(self.python)
        if kind is None:
            raise RandomDraw(f"{self.where or 'forward'} draws random numbers")
