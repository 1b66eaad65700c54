"""The instructions of a function, alike in every version of Python."""

from __future__ import annotations

import dis
import functools
import re
from types import CodeType
from typing import Any, NamedTuple

SKIPPED = {"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "NOT_TAKEN"}
# The operators in place that containers have.
INPLACE = {"ADD": "+=", "MULTIPLY": "*=", "OR": "|=", "AND": "&=", "XOR": "^=", "SUBTRACT": "-="}


class Step(NamedTuple):
    """An instruction; ``reached`` says that a jump leads to it."""

    name: str
    value: Any
    shown: str
    reached: bool


def steps_in(code: CodeType) -> list[Step]:
    """The instructions of a function and of those inside of it."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return [*steps_of(code), *(step for c in inner for step in steps_in(c))]


@functools.lru_cache(maxsize=4096)
def steps_of(code: CodeType) -> list[Step]:
    """The instructions of a function; those that newer versions of Python join are taken apart."""
    steps: list[Step] = []
    for each in dis.get_instructions(code):
        if each.opname in SKIPPED:
            continue
        names = re.findall("(?:LOAD|STORE)_FAST", each.opname)
        if len(names) == 2 and isinstance(each.argval, tuple):
            steps.append(Step(names[0], each.argval[0], "", each.is_jump_target))
            steps.append(Step(names[1], each.argval[1], "", False))
        else:
            name = each.opname.replace("_BORROW", "")
            value = code.co_consts[each.arg or 0] if name == "KW_NAMES" else each.argval  # Python 3.11 does not say
            steps.append(Step(name, value, each.argrepr, each.is_jump_target))
    return steps


def inplace_operator(step: Step) -> str:
    """How the operator of a step is written if it is one in place: ``+=``. For each, Python 3.10 has a step."""
    if step.name.startswith("INPLACE_"):
        return INPLACE.get(step.name.removeprefix("INPLACE_"), "another")
    return step.shown if step.name == "BINARY_OP" and step.shown.endswith("=") else ""
