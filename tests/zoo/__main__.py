"""Run the zoo: ``python -m tests.zoo``; write its page: ``python -m tests.zoo --table``."""

from __future__ import annotations

import argparse
import re
import time
from importlib.metadata import version

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import fxrep
from tests.zoo import table
from tests.zoo.measure import SOURCES, slow
from tests.zoo.models import Case, catalogue
from tests.zoo.workers import run_all


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.zoo", description=__doc__)
    parser.add_argument("--library", choices=("timm", "torchvision"))
    parser.add_argument("--filter", default="", metavar="REGEX", help="models whose library/name matches")
    parser.add_argument("--first", type=int, metavar="N", help="at most the N smallest models of each family")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit-seconds", type=float, default=120, help="per model of up to 60 M parameters")
    parser.add_argument("--limit-gigabytes", type=float, default=12, help="of memory, per model")
    parser.add_argument("--redo", action="store_true", help="also what is done with these sources of fxrep")
    parser.add_argument("--failed", action="store_true", help="only models whose last row is a failure")
    parser.add_argument("--any-sources", action="store_true", help="skip what is done with any sources of fxrep")
    parser.add_argument("--table", action="store_true", help="only write results/ZOO.md")
    options = parser.parse_args()

    if not options.table:
        _run(options)
    rows = table.read()
    table.PAGE.write_text(table.page(rows))
    failures = sum(bool(row["failures"]) and table.usable(row) for row in rows.values())
    print(f"{table.PAGE}: {len(rows)} models, {failures} failures")
    return 1 if failures else 0


def _run(options: argparse.Namespace) -> None:
    console = Console(width=160, highlight=False, soft_wrap=True)
    rows = table.read()
    stamp = {
        "fxrep": fxrep.__version__,
        "sources": SOURCES,
        **{package: version(package) for package in ("torch", "timm", "torchvision")},
    }

    with console.status("sizes of the models"):
        cases = _chosen(catalogue(), options)
    waiting = []
    for case in cases:
        row = rows.get(case.key)
        if options.failed and not (row and row["failures"]):
            continue
        if not options.redo and row and (options.any_sources or row["sources"] == SOURCES) and not options.failed:
            continue
        waiting.append(case)
    console.print(f"{len(waiting)} of {len(cases)} models to do, fxrep sources {SOURCES}")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = 0
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("zoo", total=len(waiting))
        for case, row in run_all(waiting, options.jobs, options.limit_seconds, options.limit_gigabytes):
            head = {"model": case.key, "library": case.library, "family": case.family, "parameters": case.parameters}
            full = {**head, **stamp, **row, "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
            table.append(full)
            failed += bool(full["failures"])
            progress.update(task, advance=1, description=f"zoo, {failed} failed")
            if full["failures"]:
                console.print(f"FAIL {case.key}: {', '.join(full['failures'])} {full.get('problem', '')[:200]}")
            else:
                slowly = " SLOW" if slow(full) else ""
                console.print(f"ok   {case.key} {full['merges']} merges, {full['seconds']} s{slowly}")
    table.compact()


def _chosen(cases: list[Case], options: argparse.Namespace) -> list[Case]:
    chosen, ranks = [], dict[tuple[str, str], int]()
    for case in cases:
        rank = ranks[case.library, case.family] = ranks.get((case.library, case.family), 0) + 1
        if options.library not in (None, case.library) or not re.search(options.filter, case.key):
            continue
        if options.first is None or rank <= options.first:
            chosen.append(case)
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
