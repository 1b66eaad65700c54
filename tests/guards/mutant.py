"""A copy of the sources with some guards out, and what notices: tests, then random programs.

Each run is a fork of this process, which has torch loaded and none of fxrep: it takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hypothesis.strategies  # noqa: F401  loaded once, before the forks, as are the parts of torch
import pytest
import torch
import torch._dynamo
import torch.export

from tests.guards.guards import ROOT, UNPROVED, Edit

FORK = multiprocessing.get_context("fork")
COPIED = ("fxrep", "tests", "benchmarks", "examples", "docs", "README.md", "pyproject.toml")

Found = dict[str, Any] | None  # by: what noticed; why: how it put it


def copy_with(edits: Sequence[Edit], folder: Path) -> None:
    """The sources in ``folder``, with the edits."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("results", "*.json"))
        else:
            shutil.copy2(source, folder / name)
    for file, old, new in edits:
        path = folder / file
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} does not have this once:\n{old}")
        path.write_text(text.replace(old, new))


class _First:
    """Remembers the tests that fail, with the first line of why."""

    def __init__(self) -> None:
        self.failed: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            lines = (crash.message if crash is not None else str(report.longrepr)).strip().splitlines()
            self.failed.append({"by": report.nodeid, "why": lines[0][:200] if lines else ""})


def suite(folder: Path, names: Sequence[str], but: Sequence[str], all_of_them: bool) -> list[dict[str, str]]:
    """Run tests by their names; returns those that fail, at most one unless ``all_of_them``."""
    first = _First()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
    options += [*([] if all_of_them else ["-x"]), *(f"--deselect={name}" for name in but)]
    pytest.main([*options, *names], plugins=[first])
    return first.failed


def twice(folder: Path, names: Sequence[str], passing: dict[str, list[str]]) -> list[Any]:
    """The first test that fails, with the proof and without; without, only the one that fails with it, if one does."""
    (alone,) = suite(folder, names, passing["alone"], False) or [None]
    os.environ[UNPROVED] = "1"
    (unproved,) = suite(folder, [alone["by"]] if alone else names, passing["unproved"], False) or [None]
    return [alone, unproved]


def programs(folder: Path, number: int, seconds: float, proof: bool) -> list[dict[str, str]]:
    """Run random programs until one fails, with the proof or without."""
    os.environ |= {} if proof else {UNPROVED: "1"}
    from tests.fuzz.check import check, path_for
    from tests.fuzz.generate import generate

    started = time.perf_counter()
    for seed in range(number):
        outcome = check(generate(seed), path_for(seed))
        if outcome.failure is not None:
            why = f"{outcome.failure.kind}: {outcome.failure.message}"
            return [{"by": f"tests.fuzz, seed {seed}", "why": why.splitlines()[0][:200]}]
        if time.perf_counter() - started > seconds:
            break
    return []


def run(folder: Path, limit: float, what: Callable[..., list[Any]], *args: Any) -> list[dict[str, str]]:
    """``what(folder, *args)`` in a process of its own that imports the sources in ``folder``."""
    mine, its = FORK.Pipe()
    process = FORK.Process(target=_child, args=(its, folder, what, args))
    process.start()
    its.close()
    try:
        if not mine.poll(limit):
            raise TimeoutError(f"no answer in {limit:.0f} s")
        found: list[Any] = mine.recv()
    except EOFError:
        raise RuntimeError("the process that ran the tests ended") from None
    finally:
        process.kill()
        process.join()
    return found


def _child(pipe: Connection, folder: Path, what: Callable[..., list[Any]], args: Any) -> None:
    log = os.open(folder / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "fxrep", "benchmarks")]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(folder)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    pipe.send(what(folder, *args))
    pipe.close()
    os._exit(0)
