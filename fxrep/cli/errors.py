"""Errors that are the user's to mend: one line that says what is wrong and, where there is one, the remedy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Shown as one line, without a traceback; exit code 2."""


class MissingExtra(UserError, ImportError):
    """A package is not installed that an extra of fxrep brings."""


def require(module: str, extra: str) -> Any:
    """Import a package that ``fxrep[extra]`` brings.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtra(f'this needs {error.name}, which is not installed: pip install "fxrep[{extra}]"') from None


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that offers the names closest to ``name``."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(prefix + match for match in close)}?" if close else ""


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
