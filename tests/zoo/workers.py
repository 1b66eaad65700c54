"""Each model in a process of its own, with a limit on its time and memory: a crash makes a row, not an end."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.zoo.models import LARGE, Case

Row = dict[str, object]
POLL = 0.5
AFTERWARDS = ("merged", "compare", "report")


@dataclass
class _Running:
    case: Case
    process: BaseProcess
    pipe: Connection
    begun: float
    stage: str = "build"


def _work(case: Case, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    from tests.zoo.measure import measure

    pipe.send(("row", measure(case, lambda stage: pipe.send(("stage", stage)))))


def run_all(cases: Iterable[Case], jobs: int, seconds: float, gigabytes: float) -> Iterator[tuple[Case, Row]]:
    """Yield each model's row as it is ready. A model above 60 M parameters gets proportionally more time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["timm", "torchvision", "tests.zoo.measure"])
    waiting, running = iter(cases), list[_Running]()
    while True:
        while len(running) < jobs and (case := next(waiting, None)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(case, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append(_Running(case, process, ours, time.monotonic()))
        if not running:
            return
        wait([entry.pipe for entry in running], POLL)
        for entry in [*running]:
            row = _check(entry, seconds * max(1.0, entry.case.parameters / LARGE), gigabytes)
            if row is not None:
                running.remove(entry)
                if entry.process.is_alive():
                    entry.process.join(2)
                    entry.process.kill()
                entry.process.join()
                entry.pipe.close()
                row["seconds"] = round(time.monotonic() - entry.begun, 1)
                yield entry.case, row


def _check(entry: _Running, seconds: float, gigabytes: float) -> Row | None:
    """The row of a process that has ended, one way or the other."""
    try:
        while entry.pipe.poll():
            kind, content = entry.pipe.recv()
            if kind == "row":
                return dict(content)
            entry.stage = content
    except (EOFError, OSError):
        entry.process.join()
        return _failed(entry, "crash", f"the process ended with exit code {entry.process.exitcode}")
    if time.monotonic() - entry.begun > seconds:
        return _failed(entry, "timeout", f"more than {seconds:.0f} s")
    if _resident_gigabytes(entry.process.pid) > gigabytes:
        return _failed(entry, "memory", f"more than {gigabytes} GB")
    return None


def _failed(entry: _Running, what: str, problem: str) -> Row:
    """Before the pass it is the model's own doing, and named after the stage."""
    blame = what if entry.stage in ("pass", *AFTERWARDS) else entry.stage
    return {"failures": [blame], "problem": f"{what} in stage '{entry.stage}': {problem}"}


def _resident_gigabytes(pid: int | None) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * 4096 / 2**30
