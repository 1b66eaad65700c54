"""Give one module instance a forward of its own, in a way that copies, pickles, compiles and exports.

The instance moves to a subclass of its class, under the same name: ``isinstance``, attributes and methods stay, and
pickling stores the class, the code of the forward and what the code refers to. (A bound method on the instance would
run the original's weights after a copy.)
"""

from __future__ import annotations

import builtins
import functools
import importlib
import keyword
import linecache
import re
import sys
import zlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import fx, nn

from .libraries import home_of
from .piece import iterate

BUILTIN = {int, float, complex, str, tuple, list, dict, slice}


@dataclass(frozen=True)
class Forward:
    """The text of a ``forward`` function and the names that it refers to; modules are held by name."""

    code: str
    names: tuple[tuple[str, Any], ...]
    imports: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls,
        graph: fx.Graph,
        guards: dict[str, Any],
        reads: dict[tuple[str, str], Any],
        tensors: Collection[str] = (),
        present: Collection[str] = (),
    ) -> Forward:
        """The forward that ``graph`` computes.

        ``guards`` are the values that some arguments were traced with; ``reads``, those that attributes of modules had,
        by the path of the module and the name of the attribute; ``tensors``, arguments that must be tensors, and
        ``present``, that must not be None. It raises an error where they are others.
        """
        python = graph.python_code("self")
        definition = re.search(r"^def forward\(.*\).*:$", python.src, re.MULTILINE)
        assert definition is not None
        guards = guards | {_attribute(path, name): value for (path, name), value in reads.items()}
        checks = "".join(map(_tensor_guard, tensors))
        checks += "".join(_none_guard(name) for name in present if name not in tensors)
        checks += "".join(_guard(name, value, python.globals) for name, value in guards.items())
        body = python.src[definition.end() :].lstrip("\n")
        code = f"{python.src[: definition.end()]}\n{checks}{body}"
        imports = tuple((k, v.__name__) for k, v in python.globals.items() if isinstance(v, ModuleType))
        names = tuple((k, v) for k, v in python.globals.items() if not isinstance(v, ModuleType))
        return cls(code, names, imports)

    def __deepcopy__(self, memo: object) -> Forward:
        return self

    def function(self) -> Any:
        namespace: dict[str, Any] = dict(self.names)
        namespace |= {item[0]: importlib.import_module(item[1]) for item in self.imports}
        filename = f"<fxrep forward {zlib.crc32(self.code.encode()):08x}>"
        linecache.cache[filename] = (len(self.code), None, self.code.splitlines(True), filename)
        exec(_compiled(self.code, filename), namespace)
        return namespace["forward"]


@functools.lru_cache(maxsize=256)
def _compiled(code: str, filename: str) -> CodeType:
    return compile(code, filename, "exec")


class Rewritten:
    """Mixed into the class of a module whose forward was rewritten."""

    _fxrep_base: type[nn.Module]
    _fxrep_forward: Forward

    def __init_subclass__(cls, **_: Any) -> None:
        """Not a subclass that the base's author meant: registries and required keywords do not apply."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Code that makes another of its kind gets one of its base: but for a slice of what is no mere sequence."""
        own = issubclass(cls._fxrep_base, nn.Sequential) and cls._fxrep_base.forward is not nn.Sequential.forward
        if own and args and isinstance(args[0], OrderedDict):
            name = cls._fxrep_base.__qualname__
            raise TypeError(f"this {name} was merged by fxrep as a whole: take the slice, then merge it")
        try:
            return cls._fxrep_base(*args, **kwargs)
        except TypeError:
            if args or kwargs:
                raise
            return super().__new__(cls)  # torch 2.5's dynamo makes one without its arguments

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(2, int(protocol)))
        return (_rebuild, (self._fxrep_base, self._fxrep_forward), *reduced[2:])


def install(module: nn.Module, forward: Forward) -> None:
    """Let ``module`` run ``forward``."""
    base = getattr(type(module), "_fxrep_base", type(module))
    object.__setattr__(module, "__class__", _subclass(base, forward))  # its class may have a __setattr__ of its own


def _subclass(base: type[nn.Module], forward: Forward) -> type[nn.Module]:
    function = forward.function()
    function.__qualname__, function.__module__ = f"{base.__qualname__}.forward", home_of(base)
    members = {
        "forward": function,
        "__module__": home_of(base),
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_fxrep_base": base,
        "_fxrep_forward": forward,
    }
    return type(base.__name__, (Rewritten, base), members)


def _rebuild(base: type[nn.Module], forward: Forward) -> nn.Module:
    cls = _subclass(base, forward)
    return base.__new__(cls)


def _attribute(path: str, name: str) -> str:
    """The expression for an attribute of the module at ``path``."""
    text = "self"
    for part in (*path.split("."), name) if path else (name,):
        plain = part.isidentifier() and not keyword.iskeyword(part)
        text = f"{text}.{part}" if plain else f"getattr({text}, {part!r})"
    return text


def _guard(name: str, value: Any, names: dict[str, Any]) -> str:
    """The statement that raises an error where what is called ``name`` is not ``value``."""
    differs = _differs(name, value, names)
    if not differs:
        return ""
    message = f"this module was merged by fxrep for {name}={value!r}; merge it again for another value"
    return f"    if {' or '.join(differs)}:\n        raise ValueError({message!r})\n"


def _tensor_guard(name: str) -> str:
    """The statement that raises an error where an argument is no tensor; a symbol of somebody else's trace may be."""
    message = f"this module was merged by fxrep for a tensor '{name}'"
    others = "(int, float, complex, str, tuple, list, dict)"
    return f"    if {name} is None or isinstance({name}, {others}):\n        raise ValueError({message!r})\n"


def _none_guard(name: str) -> str:
    """The statement that raises an error where an argument is None."""
    message = f"this module was merged by fxrep for a '{name}' that is given; merge it again for {name}=None"
    return f"    if {name} is None:\n        raise ValueError({message!r})\n"


def _differs(name: str, value: Any, names: dict[str, Any]) -> list[str]:
    """Conditions of which one holds where ``name`` is not ``value``, as far as that can be told by looking at it.

    ``names`` gets what they refer to. What depends on the input, a node, may be anything.
    """
    if value is None or isinstance(value, bool | torch.dtype | torch.layout | torch.memory_format):
        return [f"{name} is not {value!r}"]
    base: Any = next((base for base in (int, float, complex, str, torch.device) if isinstance(value, base)), None)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        known = _name_of(value, names)
        return [f"{name} is not {known}"] if known else []
    if isinstance(value, Enum) and base is None:
        known = _name_of(type(value), names) if type(value).__members__.get(value.name) is value else ""
        return [f"{name} is not {known}.{value.name}"] if known else []
    kind = [f"not isinstance({name}, {type(value).__name__})"] if type(value) in BUILTIN else []  # as TorchScript knows
    kind += [f"isinstance({name}, bool)"] if type(value) is int else []
    if base is not None:
        return [*kind, f"{name} != {base.__repr__(value)}" if value == value else f"{name} == {name}"]
    if isinstance(value, tuple | list):
        inner = [test for i, item in enumerate(value) for test in _differs(f"{name}[{i}]", item, names)]
        return [*([] if list(iterate(value)) else kind), f"len({name}) != {len(value)}", *inner]
    if type(value) is dict and all(type(key) is str for key in value):
        inner = [test for key, item in value.items() for test in _differs(f"{name}[{key!r}]", item, names)]
        return [*kind, f"list({name}) != {list(value)!r}", *inner]
    return [f"{name} != {value!r}"] if type(value) is slice and not list(iterate(value)) else kind


def _name_of(value: Any, names: dict[str, Any]) -> str:
    """A name for a class or function, which ``names`` gets; none if a pickle could not find it again."""
    name: str = value.__name__
    if getattr(builtins, name, None) is value:
        return name
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not value:
        return ""
    name = f"the_{name}"
    while names.get(name, value) is not value:
        name += "_"
    names[name] = value
    return name
