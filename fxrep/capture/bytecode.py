"""What the code of one function mentions, reads and asks, as far as its bytecode tells."""

from __future__ import annotations

import dis
import functools
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import CodeType
from typing import Any

from .kinds import METADATA_ATTRIBUTES

BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}
RUNNING = {"eval", "exec"}
WORD, PATH = re.compile(r"[A-Za-z_]\w*"), re.compile(r"\w+(\.\w+)*")
HAS_DOCSTRING = 0x4000000  # as Python 3.13 marks it; before, a function without one has None in its place
PASSING = ("LOAD", "PUSH_NULL", "KW_NAMES", "BUILD_SLICE", "PRECALL")
MAKING = ("FORMAT", "CONVERT", "BUILD_STRING", "BINARY")
GRADIENTS = {"grad", "grad_fn"}  # which a symbol always has
READS = {"LOAD_ATTR", "LOAD_METHOD"}
CHILDREN = {"children", "named_children", "_modules", "values", "items"}


@functools.lru_cache(maxsize=4096)
def globals_in(code: CodeType) -> frozenset[str]:
    """The names in a function's code that are not attributes."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    own = (i.argval for i in _steps(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return frozenset(own).union(*map(globals_in, inner))


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(code.co_names).union(*map(names_in, inner))


@functools.lru_cache(maxsize=4096)
def off_globals_in(code: CodeType) -> frozenset[tuple[str, str]]:
    """The names of attributes with the global variables that they are read off: ``torch.cat``, ``LOG.info``.

    Those that are read off anything else as well come with "", too; of ``torch.nn.init``, both names with ``torch``.
    """
    found, last = set[tuple[str, str]](), ""
    for step in _steps(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            last = step.argval
            found.add(("", last))
        elif step.opname in READS:
            found.add((last, step.argval))
        else:
            last = ""
            found.update(
                ("", name) for name in _flat(step.argval) if isinstance(name, str) and "FAST" not in step.opname
            )
    return frozenset(found).union(*(off_globals_in(c) for c in code.co_consts if isinstance(c, CodeType)))


@functools.lru_cache(maxsize=4096)
def strings_in(code: CodeType) -> frozenset[str]:
    """The names in the texts of a function's code, by which it may look something up: ``"a"``, ``"a.weight"``."""
    found = set[str]()
    for text in _texts(code.co_consts[_has_docstring(code) :]):
        if not RUNNING.isdisjoint(code.co_names):
            found.update(WORD.findall(text))
        elif PATH.fullmatch(text):
            found.update(text.split("."))
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(found).union(*map(strings_in, inner))


def _texts(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _texts(constant)


def _has_docstring(code: CodeType) -> bool:
    """Whether the first constant of a function is what it says of itself, and not what it computes with."""
    said = bool(code.co_flags & HAS_DOCSTRING) if sys.version_info >= (3, 13) else code.co_name[:1] != "<"
    return said and isinstance(next(iter(code.co_consts), None), str)


@functools.lru_cache(maxsize=4096)
def beginnings_in(code: CodeType) -> frozenset[str]:
    """How the names may begin that a function's code makes at run time: ``getattr(x, f"to_{i}")``."""
    inner = (beginnings_in(c) for c in code.co_consts if isinstance(c, CodeType))
    found, steps = set[str](), _steps(code) if "getattr" in code.co_names else []
    for at, step in enumerate(steps):
        if step.opname == "LOAD_CONST" and isinstance(step.argval, str):
            then = next(s for s in steps[at + 1 :] if s.argval == "format" or not s.opname.startswith("LOAD"))
            if then.argval == "format" or then.opname.startswith(MAKING):
                found.add(step.argval.partition("{")[0].partition("%")[0])
    return frozenset(name for name in found if name.isidentifier()).union(*inner)


@functools.lru_cache(maxsize=4096)
def branches_in(code: CodeType) -> bool:
    """Whether there is more than one way through a function's code, but for the times that a loop is gone through."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    own = (re.search("JUMP.*IF|SETUP_FINALLY|PUSH_EXC", step.opname) for step in _steps(code))
    return any(own) or any(map(branches_in, inner))


@functools.lru_cache(maxsize=4096)
def imports_in(code: CodeType) -> frozenset[str]:
    """The files that a function's code imports."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    own = (i.argval for i in _steps(code) if i.opname == "IMPORT_NAME")
    return frozenset(own).union(*map(imports_in, inner))


@functools.lru_cache(maxsize=4096)
def touched_in(code: CodeType) -> frozenset[str]:
    found = {before for before, _ in chains_in(code)}
    found |= {step.argval for step in _steps(code) if step.opname in ("STORE_ATTR", "DELETE_ATTR")}
    if not BY_NAME.isdisjoint(code.co_names):
        found |= {constant for constant in code.co_consts if isinstance(constant, str)}
    found.update(outer for text in _texts(code.co_consts) if PATH.fullmatch(text) for outer in text.split(".")[:-1])
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(found).union(*map(touched_in, inner))


@functools.lru_cache(maxsize=4096)
def loaded_in(code: CodeType) -> frozenset[str]:
    """The names of attributes that a function's code reads for more than to call them, and those in its texts."""
    read = (step for step in _steps(code) if step.opname == "LOAD_ATTR" and "NULL" not in step.argrepr)
    inner = (loaded_in(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(step.argval for step in read).union(strings_in(code), *inner)


@functools.lru_cache(maxsize=4096)
def chains_in(code: CodeType) -> frozenset[tuple[str, str]]:
    """The pairs of an attribute and one that is read off it, or off an item of it, or set."""
    found, last, steps = set[tuple[str, str]](), "", _steps(code)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"):
            if last:
                found.add((last, step.argval))
            last = step.argval if step.opname.startswith("LOAD") else ""
        elif step.opname not in ("LOAD_CONST", "LOAD_SMALL_INT", "BINARY_SUBSCR", "BINARY_OP", "CACHE"):
            index = step.opname.startswith("LOAD_FAST") and following and "BINARY" in following.opname
            last = last if index else ""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(found).union(*map(chains_in, inner))


@functools.lru_cache(maxsize=4096)
def reads_in(code: CodeType) -> frozenset[tuple[str, str]]:
    """Each name of an attribute with that of the attribute that it is read off, or off an item of; "" if it is not."""
    found, last, steps = set[tuple[str, str]](), "", _steps(code)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"):
            found.add((last, step.argval))
            last = step.argval if step.opname == "LOAD_ATTR" else ""
        elif step.opname not in ("LOAD_CONST", "LOAD_SMALL_INT", "BINARY_SUBSCR", "BINARY_OP", "CACHE"):
            index = step.opname.startswith("LOAD_FAST") and following and "BINARY" in following.opname
            last = last if index else ""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(found).union(*map(reads_in, inner))


@functools.lru_cache(maxsize=4096)
def values_in(code: CodeType) -> frozenset[str]:
    """The names that are read off the first argument for more than a call or an attribute: to go through, say."""
    found, steps = set[str](), _steps(code)
    for before, step, then in zip(steps, steps[1:], steps[2:], strict=False):
        read = step.opname == "LOAD_ATTR" and "NULL" not in step.argrepr and _is_self(before, code)  # not called
        if read and (then.opname not in READS or then.argval in CHILDREN):
            found.add(step.argval)
    return frozenset(found)


@functools.lru_cache(maxsize=4096)
def mentions_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The names that are read off the first argument, and the global names and those read off anything else."""
    own, other, steps = set[str](), set[str](), _steps(code)
    for before, step in pairwise(steps):
        if step.opname in READS and _is_self(before, code):
            own.add(step.argval)
        elif step.opname in READS or step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_SUPER", "IMPORT")):
            other.add(step.argval)
    inner = [mentions_in(c) for c in code.co_consts if isinstance(c, CodeType)]
    return frozenset(own), frozenset(other).union(*(o for o, _ in inner), *(o for _, o in inner))


@functools.lru_cache(maxsize=4096)
def asks_for_types_in(code: CodeType) -> bool:
    """Whether a function's code takes the class of an object for more than its name, which a rewritten class keeps."""
    steps = _steps(code)
    steps.append(steps[-1])  # something comes after whatever is found
    for at, step in enumerate(steps[:-1]):
        found = at if step.argval == "__class__" and step.opname.startswith("LOAD_ATTR") else None
        if step.argval == "type" and step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found = next((n for n in range(at, len(steps) - 1) if steps[n].opname.startswith("CALL")), at)
        if found is not None:
            then = steps[found + 1]
            named = then.opname.startswith("LOAD_ATTR") and then.argval in ("__name__", "__qualname__", "__module__")
            if not named and not then.opname.startswith(("FORMAT", "CONVERT")):
                return True
    return any(asks_for_types_in(inner) for inner in code.co_consts if isinstance(inner, CodeType))


@functools.lru_cache(maxsize=4096)
def asks_for_identity(code: CodeType) -> bool:
    steps = _steps(code)
    for at, step in enumerate(steps):
        if step.opname in READS and step.argval in GRADIENTS and _asks_next(steps, at):
            return True
        if step.opname in READS and step.argval == "isinstance":
            return True
        if step.opname != "IS_OP" or _is_none(steps[at - 1]):
            continue
        read = itertools.takewhile(lambda i: i.opname.startswith(("LOAD", "BINARY", "COMPARE")), steps[at - 1 :: -1])
        operands = list(itertools.islice(read, 5))
        asked = any(i.opname.startswith("LOAD_ATTR") and i.argval in METADATA_ATTRIBUTES for i in operands)
        if asked or any(i.opname == "COMPARE_OP" for i in operands[:2]):
            return True
    return any(asks_for_identity(inner) for inner in code.co_consts if isinstance(inner, CodeType))


@functools.lru_cache(maxsize=1024)
def asks_for_class(code: CodeType, offset: int) -> bool:
    """Whether the step at ``offset`` asks for a class by ``match`` or by ``x.__class__``, but for its name."""
    steps = _steps(code)
    for step, then in zip(steps, [*steps[1:], steps[-1]], strict=True):
        if step.offset == offset:
            named = then.argval in ("__name__", "__qualname__", "__module__")
            return step.opname == "MATCH_CLASS" or (step.argval == "__class__" and not named)
    return False


def _asks_next(steps: list[dis.Instruction], at: int) -> bool:
    """Whether the step after ``at`` asks if its value is None."""
    then = steps[at + 1]
    return then.opname.endswith(("_IF_NONE", "_IF_NOT_NONE")) or (_is_none(then) and steps[at + 2].opname == "IS_OP")


@functools.lru_cache(maxsize=4096)
def asks_for_none(code: CodeType) -> tuple[frozenset[str], bool]:
    """The arguments of which code asks if they are None, and if it asks that of what a call or an item gave."""
    steps, arguments, result = _steps(code), set[str](), False
    given = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    for at, step in enumerate(steps):
        if step.opname == "IS_OP" and _is_none(steps[at - 1]):
            asked = at - 2
        elif step.opname.endswith(("_IF_NONE", "_IF_NOT_NONE")):
            asked = at - 1
        else:
            continue
        sources = _sources(steps, asked, code)
        arguments |= given & sources
        result = result or "" in sources
    inner = (any(asks_for_none(c)) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(arguments), result or any(inner)


def _sources(steps: list[dis.Instruction], at: int, code: CodeType) -> set[str]:
    """The arguments that the value of step ``at`` may be, and "" if what a call gives, or an item, may be it."""
    found, seen, waiting = set[str](), set[int](), [at]
    while waiting:
        at = waiting.pop()
        if at in seen or at < 0:
            continue
        seen.add(at)
        step = steps[at]
        if step.opname.startswith("LOAD_FAST"):
            name = _flat(step.argval)[-1]
            found.add(name)
            stores = (n for n, s in enumerate(steps) if "STORE_FAST" in s.opname and name in _flat(s.argval))
            for store in stores:
                jumps = [n for n, s in enumerate(steps) if "JUMP" in s.opname and s.argval == steps[store].offset]
                waiting += [store - 1, *(n - 1 for n in jumps)]
                if len(_flat(steps[store].argval)) > 1 or (store and steps[store - 1].opname.startswith("UNPACK")):
                    found.add("")
        elif step.opname.startswith(("JUMP", "RETURN")) or step.opname in ("COPY", "DUP_TOP", "SWAP"):
            waiting.append(at - 1)
        elif not (_computes(step) or _reads_self(steps, at, code)):
            found.add("")
    return found


def _computes(step: dis.Instruction) -> bool:
    """Whether a step gives what is never None by chance: a constant, a number, a new list."""
    known = ("LOAD_CONST", "LOAD_SMALL", "LOAD_GLOBAL", "LOAD_NAME", "BUILD", "UNARY", "COMPARE")
    item = step.opname in ("BINARY_SUBSCR", "BINARY_SLICE") or step.argrepr == "[]"
    return step.opname.startswith(known) or (step.opname.startswith("BINARY") and not item)


def _reads_self(steps: list[dis.Instruction], at: int, code: CodeType) -> bool:
    """Whether step ``at`` reads ``self.name``, or is the call in ``getattr(self, "name", None)``."""
    called = steps[max(at - 4, 0) : at]
    return (steps[at].opname in READS and _is_self(steps[at - 1], code)) or (
        len(called) == 4
        and steps[at].opname.startswith("CALL")
        and called[0].argval == "getattr"
        and _is_self(called[1], code)
        and all(step.opname.startswith("LOAD_CONST") for step in called[2:])
    )


@functools.lru_cache(maxsize=4096)
def gives_none(code: CodeType) -> bool:
    """Whether code mentions None for more than a comparison, an argument or a place in a tensor."""
    steps = _steps(code)
    for at, step in enumerate(steps):
        if step.opname == "RETURN_CONST" and step.argval is None:
            return True
        if _is_none(step) and code.co_name != "__init__":
            after = (s for s in steps[at + 1 :] if not s.opname.startswith(PASSING))
            used = next(after, step)
            if used.opname == "BUILD_TUPLE":
                used = next(after, step)
            if not used.opname.startswith(("CALL", "BINARY_S", "STORE_S", "IS_OP", "COMPARE")) and used.argrepr != "[]":
                return True
    return any(gives_none(inner) for inner in code.co_consts if isinstance(inner, CodeType))


@functools.lru_cache(maxsize=64)  # most is asked of one function in a row
def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname not in ("PRECALL", "CACHE")]


def _is_none(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_CONST" and step.argval is None


def _is_self(step: dis.Instruction, code: CodeType) -> bool:
    first = step.opname.startswith("LOAD_FAST") and _flat(step.argval)[-1:] == code.co_varnames[:1]
    return first and (code.co_name == "forward" or code.co_varnames[0] == "self")


def _flat(names: Any) -> tuple[str, ...]:
    """The variables of a step that loads or stores one, or two at a time."""
    return names if isinstance(names, tuple) else (names,)
