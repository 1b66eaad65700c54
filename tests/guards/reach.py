"""Which tests can notice that a guard is out: those in which the line without it would do something else.

One run of the suite on sources whose guarded lines are watched: a condition, a returned or an assigned value is
computed both ways, and the test in which they differ is noted.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.guards.guards import GUARDS, ROOT, Guard

LINE = re.compile(r"^(\s*)(if |elif |return |[a-z_.]+ = )(.*?)(:?)$")
WATCH = "fxrep_watch"


def _line(guard: Guard) -> tuple[int, str] | None:
    """The number of the line that a guard is on, and what it is without it; None if it is on several."""
    file, old, new = guard.edits[0]
    text = (ROOT / file).read_text()
    before, after = text.splitlines(), text.replace(old, new).splitlines()
    if len(before) != len(after):
        return None
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return (changed[0], after[changed[0]]) if len(changed) == 1 else None


def watched(file: str, guards: Sequence[Guard]) -> str:
    """The text of a file with the lines of its guards watched."""
    lines = (ROOT / file).read_text().splitlines()
    for guard in guards:
        place = _line(guard)
        if place is None:
            continue
        number, new = place
        old = (ROOT / file).read_text().splitlines()[number]
        mine, its = LINE.match(old), LINE.match(new)
        kept = lines[number]
        if mine and its and mine[2] == its[2] and ":=" not in old:
            inner = LINE.match(kept)
            assert inner is not None
            if inner[2] in ("if ", "elif "):
                call = f"{WATCH}({guard.name!r}, lambda: bool({inner[3]}), lambda: bool({its[3]})):"
            else:
                call = f"{WATCH}({guard.name!r}, lambda: ({inner[3]}{inner[4]}), lambda: ({its[3]}{its[4]}))"
            lines[number] = f"{inner[1]}{inner[2]}{call}"
        elif kept.lstrip().startswith("raise "):
            indent = kept[: len(kept) - len(kept.lstrip())]
            lines[number] = f"{indent}{WATCH}({guard.name!r}, None, None); {kept.lstrip()}"
        try:
            ast.parse("\n".join(lines))
        except SyntaxError:
            lines[number] = kept
    return "\n".join(lines) + "\n"


class Watch:
    """Notes the tests in which a guard counts, the quickest first."""

    def __init__(self) -> None:
        self.test, self.seen = "", defaultdict[str, set[str]](set)
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, mine: Callable[[], Any] | None, its: Callable[[], Any] | None) -> Any:
        if mine is None or its is None:
            self.seen[name].add(self.test)
            return None
        value = mine()
        if self.test not in self.seen[name]:
            try:
                other = its()
                same = value is other or _equal(value, other)
            except Exception:
                same = False
            if not same:
                self.seen[name].add(self.test)
        return value

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.test = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def reach(folder: Path, names: Sequence[str], but: Sequence[str]) -> list[dict[str, Any]]:
    """For each guard, the tests that can notice, in ``folder``, which has a copy of the sources."""
    by_file: dict[str, list[Guard]] = defaultdict(list)
    for guard in GUARDS:
        by_file[guard.file].append(guard)
    for file, guards in by_file.items():
        (folder / file).write_text(watched(file, guards))
    watch = Watch()
    setattr(builtins, WATCH, watch)
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *(f"--deselect={name}" for name in but)]
    pytest.main([*options, *names], plugins=[watch])
    return [
        {
            guard.name: {t: watch.seconds[t] for t in watch.seen[guard.name] & watch.seconds.keys()}
            for guard in GUARDS
            if is_watched(guard)
        }
    ]


def is_watched(guard: Guard) -> bool:
    """Whether the line that the guard is on can be watched."""
    return f"{WATCH}({guard.name!r}" in watched(guard.file, [guard])
