"""Take the guards out, one by one, and see who notices: ``python -m tests.guards``.

Each guard is taken out twice: alone, and together with the proof that would refuse a wrong merge. What noticed goes to
results.json, guard by guard: stop it at any time and start it again. A guard is done again when the file that it stands
in or its entry changed; ``--redo`` does all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.guards import guards as of
from tests.guards.guards import GUARDS, NO_PROOF, ROOT, TRIPS, UNPROVED, Guard
from tests.guards.mutant import FORK, copy_with, programs, run, suite, twice
from tests.guards.reach import is_watched, reach
from tests.guards.table import page

RESULTS = Path(__file__).parent / "results.json"
REACH = Path(__file__).parent / "reach.json"  # which tests can notice what; not kept in the repository
PAGE = Path(__file__).parent / "TABLE.md"
QUICK = (of.OWN, of.REGRESSIONS, of.HAZARDS, of.COMPOSED, of.ANY, of.BAD, of.MAPS, of.TUTORIALS, of.RESULT,
         of.EXPORT, of.CONCAT, of.RESHAPES, of.FILLS, of.CONSTANTS, "tests/test_transposed.py",
         "tests/test_selection.py", "tests/test_validate.py", "tests/test_example_inputs.py", "tests/test_apart.py",
         of.SIZES, of.SYMBOLS, of.UNTRACED)  # fmt: skip
KEPT = 400  # of the tests that can notice a guard, the quickest
SLOW = ["tests/test_result.py::test_compile_inductor"]


def fingerprint(guard: Guard) -> str:
    """What a row is of: the files that the guard stands in, and the entry."""
    files = sorted({file for file, *_ in guard.edits})
    return _hash([*((ROOT / file).read_text() for file in files), repr(guard.edits)])


def _package() -> list[str]:
    return [path.read_text() for path in sorted((ROOT / "fxrep").rglob("*.py")) if "cli" not in path.parts]


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def examine(guard: Guard, results: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Who notices that a guard is out: first, of the tests in which it counts, the quickest."""
    started = time.perf_counter()
    passing, reached = results["control"], results["reach"].get(guard.name) if is_watched(guard) else None
    if reached is None:  # its line cannot be watched
        first = [name for name in guard.tests if (ROOT / name.split("::")[0]).exists()]
    else:
        known = sorted((t for t in reached if t not in passing["alone"]), key=reached.__getitem__)
        named = [t for t in known if any(t.startswith(hint) for hint in guard.tests)][: 4 * options.most]
        exact = [hint for hint in guard.tests if "::" in hint and not any(t.startswith(hint) for t in named)]
        first = [*named, *exact, *(t for t in known[: options.most] if t not in named)]
    row: dict[str, Any] = {"reached": None if reached is None else len(reached), "alone": None, "unproved": None}
    with tempfile.TemporaryDirectory(prefix="fxrep-guard-") as place:
        folder = Path(place)
        switch = [edit for edit in NO_PROOF if not any(edit[1] in old or old in edit[1] for _, old, _ in guard.edits)]
        copy_with([*guard.edits, *switch, TRIPS], folder)
        if first:
            row["alone"], row["unproved"] = run(folder, options.limit, twice, first, passing) or (None, None)
        if options.thorough and not row["alone"] and not row["unproved"]:
            for kind, proof in (("alone", True), ("unproved", False)):
                (row[kind],) = run(folder, options.limit, programs, options.programs, options.seconds, proof) or (None,)
    row["thorough"], row["seconds"] = options.thorough, round(time.perf_counter() - started, 1)
    return row


def control(options: argparse.Namespace) -> dict[str, list[str]]:
    """The tests that fail with every guard in place, and with the proof alone out: they say nothing of a guard."""
    names = [name for name in QUICK if (ROOT / name).exists()]
    with tempfile.TemporaryDirectory(prefix="fxrep-guard-") as place:
        copy_with([*NO_PROOF, TRIPS], Path(place))
        failing = {}
        for kind, environment in (("alone", {}), ("unproved", {UNPROVED: "1"})):
            with mock.patch.dict(os.environ, environment):
                found = run(Path(place), 3600, suite, names, SLOW, True)
            failing[kind] = [*SLOW, *(entry["by"] for entry in found)]
    return failing


def _reach(results: dict[str, Any]) -> None:
    """Bring the record of which tests can notice which guard up to date, for the files that changed."""
    files, reached = results.setdefault("files", {}), results.setdefault("reach", {})
    now = {name: _hash([*_package(), (ROOT / name).read_text()]) for name in QUICK if (ROOT / name).exists()}
    changed = [name for name in now if files.get(name) != now[name]]
    fresh = {g.name for g in GUARDS if is_watched(g)} - reached.keys()
    changed = list(now) if fresh else changed
    if not changed:
        return
    with tempfile.TemporaryDirectory(prefix="fxrep-guard-") as place:
        copy_with([], Path(place))
        (found,) = run(Path(place), 3600, reach, changed, results["control"]["alone"]) or [{}]
    for name, noticing in found.items():
        kept = {t: s for t, s in reached.get(name, {}).items() if t.split("::")[0] not in changed}
        reached[name] = dict(sorted((kept | noticing).items(), key=lambda item: item[1])[:KEPT])
    files.update({name: now[name] for name in changed})


def _send(pipe: Any, guard: Guard, results: dict[str, Any], options: argparse.Namespace) -> None:
    try:
        pipe.send(examine(guard, results, options))
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}"})


def run_all(
    guards: list[Guard], results: dict[str, Any], options: argparse.Namespace
) -> Iterator[tuple[Guard, dict[str, Any]]]:
    """Rows, as they come, of so many guards at a time."""
    waiting, running = list(guards), dict[Any, tuple[Guard, Any]]()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            guard = waiting.pop(0)
            mine, its = FORK.Pipe()
            process = FORK.Process(target=_send, args=(its, guard, results, options))
            process.start()
            its.close()
            running[mine] = guard, process
        for pipe in wait(list(running)):
            guard, process = running.pop(pipe)
            try:
                row = pipe.recv()
            except EOFError:
                row = {"error": "its process ended"}
            process.join()
            yield guard, row


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.guards", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--filter", default="", metavar="REGEX", help="guards whose name or file matches")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--most", type=int, default=8, help="tests for each guard")
    parser.add_argument("--programs", type=int, default=3000, help="random programs for each guard")
    parser.add_argument("--seconds", type=float, default=600, help="at most so long with random programs")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for one run of tests")
    parser.add_argument("--hints", dest="thorough", action="store_false", help="only the tests that the table names")
    parser.add_argument("--redo", action="store_true", help="also what is done")
    parser.add_argument("--survivors", action="store_true", help="only what nothing noticed")
    parser.add_argument("--table", action="store_true", help="only write TABLE.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = _load()
    if not options.table:
        _run(options, results)
    rows = results["guards"]
    PAGE.write_text(page(rows))
    alive = [g.name for g in GUARDS if g.name in rows and not g.needless and not _noticed(rows[g.name])]
    print(f"{PAGE}: {len(rows)} of {len(GUARDS)} guards taken out, {len(alive)} not noticed: {'; '.join(alive)}")
    return 1 if alive else 0


def _noticed(row: dict[str, Any]) -> bool:
    return bool(row.get("alone") or row.get("unproved"))


def _run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    console = Console(width=160, highlight=False, soft_wrap=True)
    rows = results["guards"]
    for name in rows.keys() - {guard.name for guard in GUARDS}:
        del rows[name]
    if not results["control"]:
        with console.status("the tests with every guard in place, and without the proof"):
            results["control"] = control(options)
        _save(results)
    with console.status("which tests can notice which guard"):
        _reach(results)
    _save(results)
    waiting = []
    for guard in GUARDS:
        row = rows.get(guard.name)
        done = row and row["of"] == fingerprint(guard) and (_noticed(row) or row["thorough"] >= options.thorough)
        if re.search(options.filter, f"{guard.file} {guard.name}") and (
            not row or not _noticed(row) if options.survivors else options.redo or not done
        ):
            waiting.append(guard)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("guards", total=len(waiting))
        for guard, row in run_all(waiting, results, options):
            progress.update(task, advance=1)
            if "error" in row:
                console.print(f"ERROR {guard.name}: {row['error']}")
                continue
            rows[guard.name] = {"of": fingerprint(guard), **row}
            _save(results)
            by = [f"{kind}: {row[kind]['by']}" for kind in ("alone", "unproved") if row[kind]]
            console.print(f"{'ok  ' if by else 'ALIVE'} {guard.name}  {'; '.join(by)}  {row['seconds']} s")


def _load() -> dict[str, Any]:
    found: dict[str, Any] = {"control": {}, "guards": {}}
    for path in (RESULTS, REACH):
        found |= json.loads(path.read_text()) if path.exists() else {}
    return found


def _save(results: dict[str, Any]) -> None:
    for path, names in ((RESULTS, ("control", "guards")), (REACH, ("files", "reach"))):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({name: results.get(name, {}) for name in names}, indent=1) + "\n")
        shutil.move(partial, path)


if __name__ == "__main__":
    raise SystemExit(main())
