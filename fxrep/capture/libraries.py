"""Whose code something is: the user's, or that of Python, of torch, or of a library that has nothing to do with torch.

What the code of a model may go through is looked into, file by file. A model's file that imports matplotlib would lead
into twenty thousand functions, of which none does anything to a module.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from pathlib import Path
from types import FunctionType, ModuleType

IMPORTS = re.compile(rb"^\s*(import|from)\s+torch\b", re.MULTILINE)
FEW = 20
"""One in so many of a library's files imports torch, or it has nothing to do with it."""
FOR_TORCH: set[str] = set()
"""Libraries of which that is known."""


def is_users(holder: type | ModuleType | FunctionType) -> bool:
    """Whether a class, a file or a function is neither Python's nor torch's own, nor such a library's."""
    package = home_of(holder).split(".")[0]
    return package != "torch" and package not in sys.stdlib_module_names and not is_elsewhere(package)


def home_of(holder: type | ModuleType | FunctionType) -> str:
    """The name of the file that it is from: empty for what was made by ``type()`` in code that has none."""
    return holder.__name__ if isinstance(holder, ModuleType) else getattr(holder, "__module__", None) or ""


@functools.cache
def is_elsewhere(package: str) -> bool:
    """Whether a package is an installed library of which few of the files that are loaded import torch."""
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    if package in FOR_TORCH or not _is_installed(path):
        return False
    inside = f"{package}."
    loaded = [file for name, file in [*sys.modules.items()] if name.startswith(inside)]
    files = sorted({path, *(getattr(file, "__file__", None) or "" for file in loaded)} - {""})
    files = files[:: len(files) // (2 * FEW) + 1]  # of many
    found = 0
    for file in files:
        found += _imports_torch(file)
        if found * FEW >= len(files):
            FOR_TORCH.add(package)
            return False
    return True


@functools.lru_cache(maxsize=1024)
def would_run_users(name: str, importer: str | None) -> bool:
    """Whether an import that a function of the file ``importer`` has not done yet would run a file of the user's."""
    package = name.split(".")[0]
    if importer is not None and not _is_installed(importer):
        beside = Path(importer).parent.joinpath(*name.split("."))
        if beside.is_dir() or beside.with_suffix(".py").exists():
            return True
    if package in ("", "torch") or package in sys.stdlib_module_names:
        return False
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    places = found.submodule_search_locations or () if found is not None else ()
    return found is not None and not _is_installed(found.origin or next(iter(places), ""))


def _is_installed(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path


def forget_libraries() -> None:
    """Look anew at what is loaded."""
    is_elsewhere.cache_clear()


@functools.cache
def _imports_torch(file: str) -> bool:
    """Whether a file imports torch, or cannot be read."""
    try:
        return file.endswith(".py") and IMPORTS.search(Path(file).read_bytes()) is not None
    except OSError:  # in an archive, say
        return True
