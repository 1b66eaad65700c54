"""Symbolic tracing that records in-place operators, remembers which module call made each node, and goes on past
what it cannot trace.

Differences from ``torch.fx.Tracer``:

* ``x += y``, ``x[i] = y`` and their kin become calls of ``x.__iadd__(y)``, ``x.__setitem__(i, y)``. A plain Proxy turns
  ``z = y; y += b`` into an out-of-place add, which is silently wrong; and so does a second trace of ``operator.iadd``.
* A module whose forward cannot be traced, has hooks or is otherwise not what its class says becomes one opaque
  ``call_module`` node, and tracing goes on around it.
* A method that keeps something for the next call becomes one call of it, where that is safe: see ``apart``.
* Every non-leaf call is recorded as a ``Call``, so that an edit of the flat graph can be put back into the module that
  it belongs to.
* Arguments with a default keep the default, unless an example says how the model is called.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import operator
import threading
from collections.abc import Callable, Collection, Iterable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from .apart import Apart, methods_apart, shared, takes_numbers
from .changes import holds_container, may_change, stale
from .code import Asks, asks, forward_parameters, has_own_code, may_give_none, may_pass
from .kinds import forget_types, is_builtin, is_number, why_opaque
from .piece import Call, Piece, iterate, mapped
from .results import ANYTHING, call_as_is, count_of
from .running import Running
from .state import Outside, State, outside
from .symbols import InplaceProxy, TensorProxy
from .walk import first_paths, join, named_tensors, walk
from .watch import (
    RandomDraw,
    entered_modes,
    extremes_are_recorded,
    factories_are_recorded,
    is_not_seen,
    modes_are_noted,
    no_random,
    reads_are_noted,
    types_are_answered,
    variables_are_recorded,
    weights_are_kept,
)

ONE_AT_A_TIME = threading.RLock()  # a trace patches torch.nn and files, for all threads


class Tracer(fx.Tracer):
    """Traces one module; see the top of this file for how it differs from ``torch.fx.Tracer``."""

    proxy_buffer_attributes = True
    trace_asserts = True
    # What another thread that runs a module finds when the trace has just ended:
    current: Call | None = None
    apart: Apart | None = None
    thread = 0
    _autowrap_function_ids: set[int] = set()  # noqa: RUF012  # as fx declares it

    def __init__(
        self,
        opaque: dict[nn.Module, str],
        barred: dict[nn.Module, str] | None = None,
        watch_random: bool = False,
        apart: Apart | None = None,
        given: tuple[Any, ...] = (),
    ) -> None:
        super().__init__()
        self.apart, self.given = apart, given
        self.trying, self.modes = False, 0
        self.opaque = opaque
        self.barred = barred or {}
        self.watch_random = watch_random
        forget_types()
        self.calls: list[Call] = []
        self.call_of: dict[fx.Node, Call] = {}
        self.tensor_names: dict[int, str] = {}
        self.asked: set[str] = set()
        self.nones: set[fx.Node] = set()
        self.running = Running()
        self.asks: Callable[[nn.Module], Asks] = functools.cache(asks)
        self.outside: dict[type[nn.Module], Outside] = {}

    def trace_piece(self, root: nn.Module, path: str) -> Piece:
        """Trace ``root``; raises whatever its forward raises when it is run on symbols."""
        self.inner = bool(path)
        with ONE_AT_A_TIME:
            self.thread = threading.get_ident()
            return self._trace_piece(root, path)

    def _trace_piece(self, root: nn.Module, path: str) -> Piece:
        for name, tensor in named_tensors(root):
            self.tensor_names.setdefault(id(tensor), name)
        self.current = Call(root, "", None)
        self.calls.append(self.current)
        state = self.current.state = State(root, self._outside(root))
        state.add({base for _, module in walk(root) for base in type(module).__mro__})
        for _, module in walk(root):  # before names in the files are patched
            self._outside(module)
        kept = weights_are_kept(root)
        try:
            self._check_identity(root)
            _check_iterators(state)
            with torch.no_grad(), no_random(type(root).__name__), kept, contextlib.ExitStack() as patched:
                recorded = factories_are_recorded(self), variables_are_recorded(self), modes_are_noted(self)
                for patch in (types_are_answered(self, root), *recorded, extremes_are_recorded()):
                    patched.enter_context(patch)
                graph = self.trace(root)
            if self.calls[0].guessed:
                raise TypeError("its forward goes on after an error that only tracing raises")
            if kept.changed:
                raise TypeError("its forward changes weights or modules")
            if state.changed(but=set(self.tensor_attrs.values()) - state.attributes.keys()):
                raise TypeError("its forward changes attributes of the module")
        except Exception:
            state.restore()  # a symbol may have been left behind
            raise
        self._forget_unread(graph)
        output = next(node for node in reversed(graph.nodes) if node.op == "output")
        self.calls[0].last = output
        piece = Piece(path, root, graph, self.calls, self.call_of, self.opaque, asked=self.asked)
        vars(self).clear()  # fx leaves cycles behind that hold the tracer, and by it would hold the model
        return piece

    # -------------------------------------------------------------------------------------------------- fx overrides
    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        arguments: list[Any] = [self.root]
        assert self.current is not None
        is_graph = isinstance(self.root, fx.GraphModule)
        given = () if is_graph else self.given
        for i, (name, parameter) in enumerate(forward_parameters(self.root).items()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            required = parameter.default is parameter.empty
            if i < len(given) and _says_how(given[i]) and not (required and self.inner):
                self.current.args += (given[i],)
                arguments.append(given[i])
                continue
            if not required and not is_graph and i >= len(given):
                self.current.kwargs[name] = parameter.default
                continue
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise TypeError(f"forward() takes the keyword-only argument '{name}'")
            default = () if required else (parameter.default,)
            proxy = self.create_proxy("placeholder", name, default, {})
            asks = self.asks(self.root)
            if self.inner and (name in asks.nones or asks.handed):
                raise TypeError(f"code that is not traced calls it, and it may ask whether '{name}' is None")
            if self.inner:
                proxy.node.meta[ANYTHING] = True
            self.current.args += (proxy.node,)
            arguments.append(proxy)
        if len(arguments) == 1:
            raise TypeError("forward() has no named tensor arguments")

        def run(*args: Any) -> Any:
            assert self.current is not None
            is_not_seen()
            self.modes = entered_modes()
            try:
                with reads_are_noted(self):
                    result = root_fn(*args)
                self.running.settle(self.current)
            finally:
                self.running.stop()
            self.current.output = _nodes(result)
            return result

        return run, arguments

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m not in self.opaque:
            reason = self.barred.get(m) or why_opaque(m)
            if reason:
                self.opaque[m] = reason
        return m in self.opaque or is_builtin(m)

    def path_of_module(self, mod: nn.Module) -> str:
        path = (self.submodule_paths or {}).get(mod)
        if path is None:
            raise NameError(f"a {type(mod).__name__} is called that is not registered as a submodule")
        return path

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.is_elsewhere():
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if type(m).__call__ is not nn.Module.__call__:  # its code around the call would be recorded and run again
            raise TypeError(f"'{path}' has a __call__ of its own")
        if self.current is not None:
            self.current.looked.discard(m)
        if self.is_leaf_module(m, path):
            if entered_modes() > self.modes:
                self._guess()
                raise TypeError(f"its forward calls '{path}' in a mode that may change what that does")
            return self._call_opaque(m, path, args, kwargs)
        outer, call = self.current, Call(m, path, self.current)
        call.args, call.kwargs = _nodes(args), _nodes(kwargs)
        mark, calls = self._last_node(), len(self.calls)
        self.calls.append(call)
        self.current = call
        call.after = mark
        state = call.state = State(m, self._outside(m))
        try:
            _check_iterators(state)
            self._check_identity(m)
            self._check_none(call)
            with no_random(path) if self.watch_random else contextlib.nullcontext():
                result = m.forward(*args, **kwargs)  # it has no hooks that __call__ would run
            call.output, call.last = _nodes(result), self._last_node()
            self.running.settle(call)
            if state.changed():
                raise TypeError("its forward changes attributes of the module")
            if call.guessed:
                raise TypeError("its forward goes on after an error that only tracing raises")
            call.changes = (_nodes(args), _nodes(kwargs)) != (call.args, call.kwargs)
        except Exception as error:
            self._roll_back(mark, calls)
            self.running.forget(call)
            state.restore()
            self.current = outer
            # what it was given: its forward may have changed a list in it since
            given = fx.map_arg((call.args, call.kwargs), self.proxy)  # type: ignore[arg-type, unused-ignore]
            if _keeps_apart(m, self.apart):
                return self.call_module(m, forward, *given)
            self.opaque[m] = f"cannot be traced: {_first_line(error)}"
            return self._call_opaque(m, path, *given)
        finally:
            self.current, call.state = outer, None
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.is_elsewhere():
            return attr_val
        if attr_val is None and self.current is not None:
            self.current.absent.add(attr)
        name = self.tensor_names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        return TensorProxy(self, self.create_node("get_attr", name, (), {}), attr_val)

    def create_arg(self, a: Any) -> Argument:
        if isinstance(a, fx.Proxy):
            if a.node._erased:  # it is in a list that a module changed before its trace failed
                raise TypeError("it reads a value that code which cannot be traced computes")
            return a.node
        if type(a) in (bool, int, float, str, type(None)):  # what most arguments are
            return a  # type: ignore[no-any-return]
        if type(a) is tuple:
            return tuple(map(self.create_arg, a))
        if type(a) is dict and all(type(key) is str for key in a):
            return {key: self.create_arg(value) for key, value in a.items()}
        if isinstance(a, Tensor) and id(a) in self.tensor_names:
            return self.create_node("get_attr", self.tensor_names[id(a)], (), {})
        assert self.current is not None
        walked = set(self.current.walked)
        try:
            return super().create_arg(a)
        finally:
            self.current.walked = walked  # fx itself looks for the names of tensors

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        if name is None and type(target) is str:
            name = target.replace(".", "_")
        node = self.graph.create_node(kind, target, (), {}, name, type_expr)
        if args:  # which create_node would search for symbolic numbers, at some length
            node.args = args
        if kwargs:
            node.kwargs = kwargs
        assert self.current is not None
        self.call_of[node] = self.current
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InplaceProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        """As in fx, but a Python function that somebody wrapped as a leaf is looked into where that works."""
        if kind == "call_function" and _is_wrapped_python(target):
            mark, calls, call = self._last_node(), len(self.calls), self.current
            assert call is not None
            guessed = call.guessed
            try:
                return target(*args, **kwargs)
            except Exception:
                self._roll_back(mark, calls)
                call.guessed = guessed  # it is called as it is
            self._keep_out(target, target.__name__, args, kwargs)
            result = super().create_proxy(kind, target, args, kwargs, *rest, **more)
            if may_give_none(target):
                self._note_none(result, target.__name__)
            return result
        return super().create_proxy(kind, target, args, kwargs, *rest, **more)

    def to_bool(self, obj: fx.Proxy) -> bool:
        if isinstance(obj, TensorProxy) and isinstance(obj._tensor, nn.Parameter):  # as constant as in a merged weight
            self.asked.add(str(obj.node.target))
            return bool(obj._tensor)
        self._guess()
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Any:
        count = count_of(obj.node, self.root)
        if count is not None:
            return iter([operator.getitem(obj, i) for i in range(count)])
        self._guess()
        return super().iter(obj)

    def refuse(self, kind: type) -> Any:
        """A symbol is asked for its value as a number."""
        self._guess()
        raise TypeError(f"{kind.__name__}() of a symbolic value")

    def is_elsewhere(self) -> bool:
        """Whether another thread asks, which runs a model: what a trace patches, it patches for all."""
        return threading.get_ident() != self.thread

    # ------------------------------------------------------------------------------------------------------- helpers
    def _call_opaque(self, m: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        if m in self.opaque:
            self._keep_out(m, f"'{path}'", args, kwargs)
        result = self.create_proxy("call_module", path, args, kwargs)
        if m in self.opaque and (isinstance(m, torch.jit.ScriptModule) or self.asks(m).none):
            self._note_none(result, f"'{path}'")
        return result

    def _note_none(self, result: fx.Proxy, name: str) -> None:
        """Of what code that is not traced gives, which may be None."""
        assert self.current is not None
        if self.asks(self.current.module).results and not self.running.note(self.current, name):
            self._guess()
            raise TypeError(f"its forward may ask whether what {name}, which is not traced, gives is None")
        self.nones.add(result.node)

    def _check_identity(self, module: nn.Module) -> None:
        if self.asks(module).identity:
            raise TypeError("its forward asks whether a type, a device or the like is something")

    def _check_none(self, call: Call) -> None:
        """Raise ``TypeError`` if a forward may ask whether something is None that code which is not traced gives."""
        asks = self.asks(call.module)
        if not self.nones or not (asks.nones or asks.results):
            return
        given = dict(zip(forward_parameters(call.module), call.args, strict=False)) | call.kwargs
        asked = [value for name, value in given.items() if asks.results or name in asks.nones]
        if any(map(self._may_be_none, iterate(asked))):
            raise TypeError("its forward may ask whether what code that cannot be traced gives is None")

    def _may_be_none(self, node: fx.Node) -> bool:
        """Whether a node is what an opaque module gives that may give None, or an item of it."""
        while node not in self.nones:
            whole = node.args[0] if node.target in (operator.getitem, getattr) else None
            if not isinstance(whole, fx.Node):
                return False
            node = whole
        return True

    def _keep_out(self, code: nn.Module | FunctionType, name: str, args: Any, kwargs: Any) -> None:
        """Refuse to go on past code that is not traced and may change a list that its caller reads afterwards."""
        given = (*args, *kwargs.values())
        if holds_container(given) and may_change(code, given):
            self._guess()  # it may catch the error
            raise TypeError(f"{name}, which is not traced, may change a list or dictionary that it is given")

    def recording(self, module: nn.Module, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """``method``, or what records a call of it if it is one that the module called now keeps apart."""
        assert self.current is not None
        assert self.apart is not None
        if self.trying or module is not self.current.module or name not in self.apart.get(module, ()):
            return method

        @functools.wraps(method)
        def record(*args: Any, **kwargs: Any) -> Any:
            assert self.current is not None
            numbers = takes_numbers((*args, *kwargs.values()))
            if not numbers or not self._gives_tensor(module, method, args, kwargs):
                self._guess()
                raise TypeError(f".{name}() keeps something for the next call")
            own = self.create_node("get_attr", join(self.current.path, name), (), {})
            node = self.create_node("call_function", call_as_is, (own, *map(self.create_arg, args)), {})
            node.kwargs = {key: self.create_arg(value) for key, value in kwargs.items()}
            return self.proxy(node)

        return record

    def _gives_tensor(self, module: nn.Module, method: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        """Whether a call of a method, of which nothing is kept, gives a tensor."""
        call, mark, state, asked = self.current, self._last_node(), State(module), set(self.asked)
        assert call is not None
        noted = {
            name: copy.copy(getattr(call, name))
            for name in ("absent", "reads", "held", "walked", "looked", "typed", "guessed")
        }
        self.trying = True
        try:
            result = method(*args, **kwargs)
            return isinstance(result, Tensor) or (isinstance(result, fx.Proxy) and not is_number(result.node))
        except Exception:
            return False
        finally:
            self.trying, self.asked = False, asked
            vars(call).update(noted)
            self._roll_back(mark, len(self.calls))
            state.restore()

    def _guess(self) -> None:
        assert self.current is not None
        self.current.guessed = True

    def _outside(self, module: nn.Module) -> Outside:
        if has_own_code(module):
            return outside(module)
        kind = type(module)
        if kind not in self.outside:
            self.outside[kind] = outside(module)
        return self.outside[kind]

    def _forget_unread(self, graph: fx.Graph) -> None:
        """Drop the parameters and buffers that were only looked at: ``self.bias is not None``."""
        unread = {node for node in graph.find_nodes(op="get_attr") if not node.users}

        def before(node: fx.Node | None) -> fx.Node | None:
            while node is not None and node in unread:
                node = node._prev
            return node

        for call in self.calls:
            call.after, call.last = before(call.after), before(call.last)
        for node in unread:
            del self.call_of[node]
            graph.erase_node(node)

    def _last_node(self) -> fx.Node:
        return self.graph._root._prev

    def _roll_back(self, mark: fx.Node, calls: int) -> None:
        """Forget every node and call after ``mark``."""
        while (node := self._last_node()) is not mark:
            self.call_of.pop(node, None)
            self.graph.erase_node(node)
        del self.calls[calls:]


def _nodes(value: Any) -> Any:
    """A nest of proxies as one of their nodes."""
    return mapped(value, lambda leaf: leaf.node if isinstance(leaf, fx.Proxy) else leaf)


Arguments = Callable[[str], tuple[Any, ...]]


def capture(
    model: nn.Module, original: nn.Module | None = None, given: Arguments | None = None
) -> tuple[list[Piece], dict[nn.Module, str]]:
    """Trace ``model`` in its largest traceable pieces; also returns why each opaque module is opaque.

    The model is run on symbols, which can leave marks on it: pass a structural copy of the ``original``. Modules that
    refused to be copied are left alone. ``given`` are the arguments of the module at a path in an example of a call.
    """
    modules = {m for _, m in walk(original)} if original is not None else set()
    copied_not = modules.intersection(m for _, m in walk(model))
    barred: dict[nn.Module, str] = {}
    while True:
        apart: Apart = {}
        pieces, opaque = _capture(model, copied_not, barred, apart, given)
        found = _read_stale(pieces, opaque) or shared(apart, pieces, opaque)
        if not found:
            return pieces, opaque
        barred |= found


def capture_whole(model: nn.Module) -> Piece:
    """Trace ``model`` as one piece; raises whatever its forward raises when it is run on symbols."""
    barred: dict[nn.Module, str] = {}
    while model not in barred:
        opaque: dict[nn.Module, str] = {}
        piece = Tracer(opaque, barred).trace_piece(model, "")
        found = _read_stale([piece], [m for outer in opaque for _, m in walk(outer)])
        if not found:
            return piece
        barred |= found
    raise TypeError(barred[model])


def _read_stale(pieces: list[Piece], untraced: Collection[nn.Module]) -> dict[nn.Module, str]:
    """The modules whose traced code reads attributes that code which is not traced may change, and which."""
    if not untraced:
        return {}
    calls = [call for piece in pieces for call in piece.calls]
    reads = [(*key, value) for call in calls for each in (call.reads, call.held) for key, value in each.items()]
    changing = stale(reads, untraced)
    return {
        call.module: f"it reads .{key[1]}, which code that is not traced may change"
        for call in calls
        for key in changing.intersection((*call.reads, *call.held))
    }


def _capture(
    model: nn.Module,
    copied_not: Collection[nn.Module],
    barred: dict[nn.Module, str],
    apart: Apart,
    given: Arguments | None,
) -> tuple[list[Piece], dict[nn.Module, str]]:
    """Trace ``model`` around what is ``copied_not``, and around the code of modules that are ``barred``."""
    opaque = dict.fromkeys(copied_not, "its copy is itself")
    pieces: list[Piece] = []
    seen: set[nn.Module] = set(copied_not)
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop(0)
        if module in seen:
            continue
        seen.add(module)
        before = set(opaque)
        if isinstance(module, torch.jit.ScriptModule):
            opaque[module] = "it is TorchScript"
            continue
        if is_builtin(module) and not any(True for _ in module.children()):
            continue
        hook = why_opaque(module)
        if hook:  # it stays around the forward, and what it does to the model counts
            opaque[module] = hook
        try:
            if "forward" in vars(module):
                raise TypeError("its forward is replaced on the instance")
            if module in barred:
                raise TypeError(barred[module])
            _check_arguments(module, path, opaque)
            pieces.append(_trace_piece(module, path, opaque, barred, apart, given(path) if given else ()))
        except Exception as error:
            if type(module).forward is not nn.Module.forward:
                opaque[module] = f"cannot be traced: {_first_line(error)}"
            waiting += [(join(path, name), child) for name, child in module.named_children()]
        names = first_paths(module)
        for inner in opaque.keys() - before:
            if inner is not module and inner in names:
                inner_path = join(path, names[inner])
                if inner in seen or isinstance(inner, torch.jit.ScriptModule):
                    continue
                waiting.append((inner_path, inner))
    return pieces, opaque


def _check_iterators(state: State) -> None:
    if state.iterates:
        raise TypeError("its forward may go on with an iterator")


def _check_arguments(module: nn.Module, path: str, callers: Iterable[nn.Module]) -> None:
    """Raise ``TypeError`` if one of the ``callers``, which are not traced, may pass an argument that has a default."""
    parameters = forward_parameters(module).values()
    optional = {p.name for p in parameters if p.default is not p.empty}
    required = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    name = path.rpartition(".")[2]
    for caller in callers if optional else ():
        inside = caller is not module and any(m is module for _, m in walk(caller))
        if inside and may_pass(caller, name, required, optional):
            raise TypeError(f"code that is not traced may pass it {', '.join(sorted(optional))}")


def _trace_piece(
    module: nn.Module,
    path: str,
    opaque: dict[nn.Module, str],
    barred: dict[nn.Module, str],
    apart: Apart,
    given: tuple[Any, ...],
) -> Piece:
    try:
        return Tracer(opaque, barred, apart=apart, given=given).trace_piece(module, path)
    except RandomDraw:  # somewhere inside: look at every call
        return Tracer(opaque, barred, watch_random=True, apart=apart, given=given).trace_piece(module, path)
    except Exception:
        if not _keeps_apart(module, apart):
            raise
        return _trace_piece(module, path, opaque, barred, apart, given)


def _says_how(value: Any) -> bool:
    """Whether an argument says in which way a model is called, rather than what it computes with."""
    return value is None or type(value) in (bool, str)


def _keeps_apart(module: nn.Module, apart: Apart | None) -> bool:
    """Whether it is news that methods of a module, which cannot be traced, may be called as they are."""
    if apart is None or module in apart:
        return False
    apart[module] = methods_apart(module)
    return bool(apart[module])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_wrapped_python(target: Any) -> bool:
    module = getattr(target, "__module__", None) or ""
    return inspect.isfunction(target) and not module.startswith(("torch.", "torch", "operator", "math", "_operator"))
