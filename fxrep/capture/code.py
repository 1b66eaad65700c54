"""What the Python code of a module may do: the functions that it goes through, and what these mention and ask."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from inspect import CO_VARARGS, CO_VARKEYWORDS
from logging import Logger
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, TypeVar

from torch import Tensor, fx, nn

from .bytecode import (
    RUNNING,
    asks_for_identity,
    asks_for_none,
    asks_for_types_in,
    beginnings_in,
    branches_in,
    chains_in,
    gives_none,
    globals_in,
    imports_in,
    loaded_in,
    mentions_in,
    names_in,
    off_globals_in,
    strings_in,
    touched_in,
    values_in,
)
from .clone import ATOMIC, STANDARD
from .libraries import forget_libraries, home_of, is_elsewhere, is_users, would_run_users
from .text import flows_in, tree_of

TO_LOOK_AT = {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__repr__", "__str__"}
T = TypeVar("T")

DATA = ATOMIC - {type, FunctionType}
PLAIN = {SimpleNamespace}  # nothing but its attributes


def reachable_names(module: nn.Module, but_forward: bool = False) -> set[str]:
    """The names that ``module.forward`` and hooks mention, and the methods and functions that they go through.

    Without those of ``forward`` itself, and of those that it overrides, if ``but_forward``.
    """
    _, functions = reachable_functions(module)
    forwards = {users_function(vars(base).get("forward")) for base in type(module).__mro__} if but_forward else ()
    left = [f for f in functions if f not in forwards]
    return set[str]().union(*map(names_of, left), *(strings_in(f.__code__) for f in left))


def mentions(module: nn.Module) -> tuple[set[str], set[str]]:
    """As ``reachable_names``, in two parts: those that are read off ``self`` somewhere, and those that are not only."""
    _, functions = reachable_functions(module)
    decorators = (names_of(f) - names_in(f.__code__) for f in functions)
    parts = [mentions_in(function.__code__) for function in functions]
    return set[str]().union(*(own for own, _ in parts)), set[str]().union(*(o for _, o in parts), *decorators)


def is_flag(module: nn.Module, name: str) -> bool:
    """Whether an attribute of a module is plain data, or a module in it: nothing of torch's under that name."""
    value = vars(module).get(name, vars(module)["_modules"].get(name, getattr(type(module), name, None)))
    return isinstance(value, nn.Module) or (type(value) in DATA and value is not None)


def reachable_functions(module: nn.Module) -> tuple[FunctionType | None, list[FunctionType]]:
    """``module.forward``, and all functions of the user's that it and the hooks may go through."""
    known = _MEMORY.known
    key = (type(module), module if has_own_code(module) else None)
    if known is not None and key in known:
        return known[key]
    forward = users_function(getattr(type(module), "forward", None))
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    found = forward, reachable_from([forward, *hooks], module)
    if known is not None:
        known[key] = found
    return found


class _Memory(threading.local):
    known: dict[tuple[type, nn.Module | None], tuple[FunctionType | None, list[FunctionType]]] | None = None
    names: dict[FunctionType, frozenset[str]] | None = None
    parameters: dict[type, dict[str, inspect.Parameter]] | None = None


_MEMORY = _Memory()


@contextlib.contextmanager
def looking_once() -> Iterator[None]:
    """Within it, nobody's code changes: what modules go through is found once for a class. Nothing is kept after."""
    outer = _MEMORY.known, _MEMORY.names, _MEMORY.parameters
    _MEMORY.known, _MEMORY.names, _MEMORY.parameters = {}, {}, {}
    forget_libraries()
    try:
        yield
    finally:
        _MEMORY.known, _MEMORY.names, _MEMORY.parameters = outer


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of ``module.forward``, without ``self``."""
    kind, known = type(module), _MEMORY.parameters
    if known is not None and kind in known:
        return known[kind]
    parameters = dict(inspect.signature(inspect.unwrap(kind.forward)).parameters)
    parameters.pop(next(iter(parameters)), None)
    if known is not None:
        known[kind] = parameters
    return parameters


def reachable_from(
    roots: Iterable[object], module: nn.Module | None = None, but: Iterable[FunctionType] = ()
) -> list[FunctionType]:
    """The functions of the user's among ``roots`` and those that they may go through, as methods of ``module``.

    Without those in ``but`` and what only they go through.
    """
    reached = _Reached(set(but))
    if module is not None:
        held = (v for key, v in vars(module).items() if key not in STANDARD and is_users(type(v)))
        own = (getattr(v, "__dict__", {}) for v in held if not isinstance(v, nn.Module))
        reached.spaces += [vars(module), *own]
        reached.hold(type(module))
    reached.waiting += roots
    return reached.run()


class _Reached:
    """Collects functions: a name that one of them mentions may be any attribute, of that name, of what they get at."""

    def __init__(self, left_out: set[FunctionType]) -> None:
        self.left_out = left_out
        self.functions: dict[FunctionType, None] = {}
        self.spaces: list[dict[str, Any]] = []
        self.holders: set[type | ModuleType] = set()
        self.names: set[str] = set()
        self.beginnings: tuple[str, ...] = ()
        self.waiting: list[object] = []
        self.seen: set[int] = set()
        self.kept: list[object] = []  # so that an id stays one's own

    def run(self) -> list[FunctionType]:
        while self.waiting:
            value = self.waiting.pop()
            if id(value) in self.seen or type(value) in DATA or issubclass(type(value), Tensor | fx.Proxy):
                continue
            self.seen.add(id(value))
            self.kept.append(value)
            self.waiting += _leads_to(value)
            if own := _own_space(value):
                self._search([own], self.names)
            for holder in (value, type(value)) if isinstance(value, ModuleType | type) else (type(value),):
                self.hold(holder)
            function = users_function(value)
            if function is not None and function not in self.functions and function not in self.left_out:
                self.functions[function] = None
                self._look_into(function)
        return list(self.functions)

    def hold(self, holder: type | ModuleType) -> None:
        """Look for what is mentioned in a class or a file, too."""
        if holder in self.holders or not is_users(holder):
            return
        self.holders.add(holder)
        spaces = [vars(holder)] if isinstance(holder, ModuleType) else [_namespace(holder)]
        if isinstance(holder, type):
            if not issubclass(holder, nn.Module):  # making one runs its constructor, say
                self.waiting += (v for name, v in spaces[0].items() if name.startswith("__") and name not in TO_LOOK_AT)
            if "super" in self.names:
                spaces += _bases(holder)
        self._search(spaces, self.names)
        self._complete([holder], self.beginnings)

    def _search(self, spaces: list[dict[str, Any]], names: set[str]) -> None:
        self.spaces += spaces
        self.waiting += (space[name] for space in spaces for name in names & space.keys())

    def _complete(self, kinds: Iterable[type | ModuleType], beginnings: tuple[str, ...]) -> None:
        """The name of a method that is made at run time may be any that begins so."""
        for kind in kinds if beginnings else ():
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                methods = _namespace(kind)  # type: ignore[arg-type]
                self.waiting += (v for name, v in methods.items() if name.startswith(beginnings))

    def _look_into(self, function: FunctionType) -> None:
        self.waiting += (
            *_enclosed(function),
            *(function.__defaults__ or ()),
            *(function.__kwdefaults__ or {}).values(),
        )
        mentioned, space = names_of(function) - {"__init__"}, function.__globals__  # which runs before
        looked_up = strings_in(function.__code__) if "globals" in mentioned or RUNNING & mentioned else set()
        self.waiting += (space[name] for name in (globals_in(function.__code__) | looked_up) & space.keys())
        new = mentioned - self.names
        self.waiting += (space[name] for space in self.spaces for name in new & space.keys())
        self.names |= new
        self.beginnings += (beginnings := tuple(beginnings_in(function.__code__)))
        self._complete(self.holders, beginnings)
        if "super" in new:  # a method goes on with one that it overrides
            self._search([base for h in self.holders if isinstance(h, type) for base in _bases(h)], self.names)
        for name in imports_in(function.__code__):
            paths = [path for path in (name, f"{space.get('__package__')}.{name}") if path in sys.modules]
            for path in paths:
                self.hold(sys.modules[path])
            if not paths and would_run_users(name, space.get("__file__")):
                self.waiting.append(_reaches_anything)  # nobody has seen what is in it


def _leads_to(value: object) -> Collection[object]:
    """What an object goes on with when it is called, or is read off a class: what it wraps, and has beside it."""
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return (value.fget,)
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, functools.partial):
        return value.func, *value.args, *value.keywords.values()
    if isinstance(value, Enum):
        return (value.value,)
    if isinstance(value, operator.attrgetter | operator.methodcaller):
        return (_looks_up(value),)
    wrapped = getattr(value, "__wrapped__", None) if callable(value) else None
    if wrapped is not None:
        return (wrapped,)
    return _items(value)  # a table of helpers, say


def _own_space(value: object) -> dict[str, Any]:
    """The attributes of an object of a user's, or of one that is nothing but its attributes."""
    kind = type(value)
    if isinstance(value, type | ModuleType | FunctionType | nn.Module) or not (is_users(kind) or kind in PLAIN):
        return {}
    slots = (name for base in kind.__mro__ for name in vars(base).get("__slots__", ()))
    return getattr(value, "__dict__", {}) | {name: getattr(value, name) for name in slots if hasattr(value, name)}


def _looks_up(value: Any) -> FunctionType:
    """A function with the names in an ``attrgetter`` or ``methodcaller``."""
    _, named = value.__reduce__()
    made: FunctionType = eval(f"lambda value: getattr(value, {named!r})")
    return made


def _reaches_anything(module: nn.Module) -> object:
    return module.modules()


def _bases(holder: type) -> list[dict[str, Any]]:
    return [dict(vars(base)) for base in holder.__mro__[1:] if is_users(base)]


def has_own_code(module: nn.Module) -> bool:
    """Whether a module holds hooks, functions or objects that others of its class may not hold."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return not all(_is_data(value) for key, value in vars(module).items() if key not in STANDARD)


def _is_data(value: object) -> bool:
    if type(value) in (list, tuple, dict):
        return all(map(_is_data, _items(value)))
    return type(value) in DATA or isinstance(value, Tensor | nn.Module)


def asks_for_types(module: nn.Module) -> bool:
    """Whether the code that ``module.forward`` and hooks go through asks an object for its class."""
    _, functions = reachable_functions(module)
    return any(asks_for_types_in(function.__code__) for function in functions)


def classes_run_by(module: nn.Module) -> frozenset[type[nn.Module]]:
    """The user's classes of modules that the code of ``module.forward`` names where it mentions ``forward``."""
    _, functions = reachable_functions(module)
    named = (
        function.__globals__.get(name)
        for function in functions
        if "forward" in names_of(function)
        for name in globals_in(function.__code__)
    )
    return frozenset(v for v in named if isinstance(v, type) and issubclass(v, nn.Module) and is_users(v))


def may_give_none(function: FunctionType) -> bool:
    """Whether a call of ``function`` may give None, or something in which there is None."""
    return _may_give_none(reachable_from([function]))


def _may_give_none(functions: Collection[FunctionType]) -> bool:
    return any(gives_none(function.__code__) or _makes_object(function) for function in functions)


def may_pass(caller: nn.Module, child: str, positional: int, keywords: Collection[str]) -> bool:
    """Whether the code of ``caller`` may call a module that is named ``child`` with more than so many arguments.

    Or with one of ``keywords``. Without its text, it may.
    """
    _, functions = reachable_functions(caller)
    for function in functions:
        tree, local = tree_of(function.__code__), _locals(function.__code__)
        for call in ast.walk(tree) if tree is not None else ():
            if isinstance(call, ast.Call) and _may_be(call.func, child, local):
                named = {keyword.arg for keyword in call.keywords}
                more = len(call.args) > positional or any(isinstance(a, ast.Starred) for a in call.args)
                if more or None in named or not named.isdisjoint(keywords):
                    return True
        if tree is None and child in names_of(function):
            return True
    return False


def _may_be(called: ast.expr, child: str, local: Collection[str]) -> bool:
    """Whether an expression that is called may be the module named ``child``: an attribute, an item, a variable."""
    if isinstance(called, ast.Attribute) and called.attr not in (child, "forward"):
        return False
    root = called
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    return not isinstance(root, ast.Name) or root.id in local


def _locals(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return {*code.co_varnames, *code.co_freevars}.union(*map(_locals, inner))


@dataclass(frozen=True)
class Asks:
    """What the code of ``module.forward`` asks of values beside computing with them.

    ``identity``: whether a type, a device or a size *is* something, or of which class a value is in a way that no
    symbol of one can answer. ``nones``: the arguments of which it asks whether they *are* None; ``handed``,
    whether a function that it goes through asks that of one that it must be given, and ``results``, whether anything
    is asked it but attributes of ``self``. ``none``: whether it may give None. ``files``: the names of its files.
    """

    identity: bool
    nones: frozenset[str]
    handed: bool
    results: bool
    none: bool
    files: frozenset[str]


def asks(module: nn.Module) -> Asks:
    """What the code of ``module.forward`` asks of values."""
    if has_own_code(module):
        found = _asks(*reachable_functions(module))
        if module._forward_hooks or module._forward_pre_hooks:  # one that gives None changes nothing
            alone = reachable_from([users_function(getattr(type(module), "forward", None))], module)
            found = dataclasses.replace(found, none=_may_give_none(alone))
        return found
    kind: type = type(module)
    code = getattr(getattr(kind, "forward", None), "__code__", None)  # the function would hold on to the class
    known = _ASKS.get(kind)
    if known is None or known[0] is not code:
        known = _ASKS[kind] = code, _asks(*reachable_functions(module))
    return known[1]


_ASKS: weakref.WeakKeyDictionary[type, tuple[CodeType | None, Asks]] = weakref.WeakKeyDictionary()


def _asks(forward: FunctionType | None, functions: Collection[FunctionType]) -> Asks:
    codes = [function.__code__ for function in functions]
    nones, other = asks_for_none(forward.__code__) if forward is not None else (frozenset[str](), False)
    helpers = [f for f in functions if f is not forward]
    handed = any(not asks_for_none(f.__code__)[0].isdisjoint(_required(f)) for f in helpers)
    other = other or any(any(asks_for_none(f.__code__)) for f in helpers)
    identity = any(map(asks_for_identity, codes))
    names = {str(function.__globals__.get("__name__")) for function in functions}
    files = frozenset(name for name in names if name.split(".")[0] not in {"torch", "fxrep", *sys.stdlib_module_names})
    return Asks(identity, nones, handed, other, _may_give_none(functions), files)


def _required(function: FunctionType) -> tuple[str, ...]:
    """The positional arguments that a function has no default for."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]


def _makes_object(function: FunctionType) -> bool:
    """Whether a function may look something up, or makes an object that may hold None and be asked for it."""
    named = (function.__globals__.get(name) for name in globals_in(function.__code__))
    kinds = (v for v in named if isinstance(v, type) and is_users(v) and not issubclass(v, nn.Module))
    return "get" in names_in(function.__code__) or any(any(v is None for v in vars(kind).values()) for kind in kinds)


def _by_class(function: Callable[[type], T]) -> Callable[[type], T]:
    """Remember the answer for each class, as long as there is the class."""
    known: weakref.WeakKeyDictionary[type, T] = weakref.WeakKeyDictionary()

    def answer(cls: type) -> T:
        if cls not in known:
            known[cls] = function(cls)
        return known[cls]

    return answer


@_by_class
def entry_points(cls: type) -> list[frozenset[str]]:
    """The names that each public method of a user's class mentions, where it takes an input as ``forward`` does.

    With those of what it goes through, but for ``forward``.
    """
    return [frozenset[str]().union(*(names for _, names, _ in entered)) for entered in _entered(cls)]


@_by_class
def entry_values(cls: type) -> frozenset[str]:
    """The names of parts that those methods may go through, item by item."""
    return frozenset[str]().union(*(values_in(code) for entered in _entered(cls) for code, _, _ in entered))


def readers_of(cls: type, part: str) -> set[str]:
    """The names of the parts that get in those methods what ``part`` gives, and "" if anything else does.

    What a method returns that ``forward`` goes through, ``forward`` goes on with.
    """
    found = set[str]()
    for code, names, goes_on in {reached for entered in _entered(cls) for reached in entered}:
        readers = flows_in(code).get(part, set()) if part in names else set[str]()
        found |= {"" if reader == "return" else reader for reader in readers if reader != "return" or not goes_on}
    return found


def has_one_way(cls: type, parts: set[str]) -> bool:
    """Whether ``forward`` does the same in every call, with its only argument and ``parts`` of the module alone."""
    codes, branches = _forward_codes(cls)
    own, *others = codes
    alone = not branches and not others and own.co_argcount == 2 and not own.co_kwonlyargcount
    return alone and not own.co_flags & (CO_VARARGS | CO_VARKEYWORDS) and mentions_in(own)[0] <= parts


def readers_in_forward(cls: type, value: str) -> set[str]:
    """The names of the parts that get in ``forward`` what a part gives, or "(x)", an argument.

    "return" if the caller does, and "" if anything else does, or if the code does not call that part by its name.
    """
    kind: Any = cls
    if kind.forward is nn.Sequential.forward or issubclass(cls, fx.GraphModule):
        return set()  # one way through it
    codes, branches = _forward_codes(cls)
    own = codes[:1] if value[0] == "(" else [code for code in codes if value in names_in(code)]
    start = [code for code in own if value in flows_in(code)]
    if not start:
        return {""} if branches or value[0] == "(" else set()
    return set[str]().union(*(_follow(codes, code, value, set()) for code in start))


@_by_class
def _forward_codes(cls: type) -> tuple[list[CodeType], bool]:
    """The code of ``forward``, and of what it goes through; and whether there is more than one way through it."""
    forward: Any = cls.forward  # type: ignore[attr-defined]
    codes = [function.__code__ for function in _from(cls, forward)] or [forward.__code__]
    return codes, any(map(branches_in, codes))


def _follow(codes: list[CodeType], code: CodeType, value: str, seen: set[tuple[CodeType, str]]) -> set[str]:
    """Those that get a value of ``code``, also by way of a method that gets it, or of what ``code`` returns."""
    if (code, value) in seen:
        return set()
    seen.add((code, value))
    found, methods = set[str](), {each.co_name: each for each in codes}
    for reader in flows_in(code)[value]:
        if reader == "return" and code is not codes[0]:
            callers = (each for each in codes if code.co_name in names_in(each))
            then = [(each, code.co_name) for each in callers if code.co_name in flows_in(each)]
        elif reader in methods:
            then = [(methods[reader], name) for name in flows_in(methods[reader]) if name[0] == "("]
        else:
            found.add(reader)
            continue
        found |= set[str]().union(*(_follow(codes, *each, seen) for each in then)) if then else {""}
    return found


@_by_class
def _entered(cls: type) -> list[list[tuple[CodeType, frozenset[str], bool]]]:
    """Of each of those methods, what it goes through: the code, its names, and whether ``forward`` mentions it."""
    forward = users_function(getattr(cls, "forward", None))
    own = frozenset[str]().union(*map(names_of, _from(cls, forward)))
    but = {forward} if forward is not None else ()
    ways = [_from(cls, method, but) for method in _entry_methods(cls)]
    return [[(f.__code__, names_of(f), f.__name__ in own) for f in functions] for functions in ways]


def _from(cls: type, method: object, but: Iterable[FunctionType] = ()) -> list[FunctionType]:
    reached = _Reached(set(but))
    reached.hold(cls)
    reached.waiting.append(method)
    return reached.run()


@_by_class
def entry_chains(cls: type) -> list[frozenset[tuple[str, str]]]:
    """The pairs of names in ``self.a.b`` and ``self.a[0].b`` in each of those methods."""
    return [chains_in(method.__code__) for method in _entry_methods(cls)]


def _entry_methods(cls: type) -> Iterator[FunctionType]:
    for name, function in _namespace(cls).items():
        method = None if name.startswith("_") or name == "forward" else users_function(function)
        parameters = list(inspect.signature(method).parameters.values())[1:] if method is not None else []
        if method and any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
            yield method


@functools.lru_cache(maxsize=128)
def _namespace(cls: type) -> dict[str, object]:
    """The attributes of a class and of those that it inherits from, but for ``nn.Module``'s own.

    Remembered for so many classes, and not as long as there is the class: its methods refer to it.
    """
    own = [vars(base) for base in reversed(cls.__mro__) if is_users(base)]
    return {name: value for attributes in own for name, value in attributes.items()}


def _items(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set | frozenset) else ()


def users_function(value: object) -> FunctionType | None:
    """``value`` as a Python function that is not torch's own."""
    if isinstance(value, MethodType | staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, FunctionType) and not is_elsewhere(package := (value.__module__ or "").split(".")[0]):
        return value if package != "torch" else None
    return None


def _enclosed(function: FunctionType) -> list[object]:
    """What a function has from the code around it: what a decorator is wrapped around, say."""
    values = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell may be empty
            values.append(cell.cell_contents)
    return values


def names_of(function: object) -> frozenset[str]:
    """The attribute names that a function's code mentions, and the names of torch's own decorators on it.

    Without what it reads off another library.
    """
    if not isinstance(function, FunctionType):
        return frozenset()
    known = _MEMORY.names
    if known is None:
        return _names_of(function)
    if function not in known:
        known[function] = _names_of(function)
    return known[function]


def _names_of(function: FunctionType) -> frozenset[str]:
    kinds = [type(getattr(value, "__self__", value)) for value in _enclosed(function)]
    reads, space = off_globals_in(function.__code__), function.__globals__
    others = {of for of, _ in reads if of and _is_others(space.get(of))}
    names = names_in(function.__code__).intersection(name for of, name in reads if of not in others)
    return names.union(k.__name__ for k in kinds if home_of(k).startswith("torch."))


def _is_others(value: object) -> bool:
    """Whether a variable of a file is another library, or a class of its: what is read off it is none of the user's."""
    return isinstance(value, Logger) or (isinstance(value, type | ModuleType) and not is_users(value))


def loaded_names(module: nn.Module) -> set[str]:
    """The names that ``module.forward``, hooks, and its class's other methods read for more than to call them."""
    _, functions = reachable_functions(module)
    entered = {code for codes in _entered(type(module)) for code, _, _ in codes}
    return set[str]().union(*map(loaded_in, (*(f.__code__ for f in functions), *entered)))


def touched_names(module: nn.Module) -> set[str]:
    """The names that ``module.forward`` and hooks read something off, set, or hand to ``hasattr`` and the like."""
    _, functions = reachable_functions(module)
    return set[str]().union(*(touched_in(f.__code__) for f in functions))
