"""The long run of the fuzzer: as many random programs as asked for, recorded in tests/fuzz/results/fuzz.json.

    python -m tests.fuzz --programs 100000

The record is written every few seconds and adds up over runs of the same code: stop it at any time and start it again
until the record says 100,000. A run of other code (``fxrep/`` or the fuzzer changed), another first seed, or
``--fresh`` begins at zero. ``--show SEED`` prints the program of a seed and what comes of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.check import Outcome, check, path_for
from tests.fuzz.generate import generate
from tests.fuzz.model import reproduction
from tests.fuzz.shrink import shrink

ROOT = Path(__file__).parent.parent.parent
RECORD = Path(__file__).parent / "results" / "fuzz.json"
MOST_FAILURES = 50  # are shrunk; more are only counted


def fingerprint() -> str:
    """What the programs' outcomes depend on: the package and the fuzzer."""
    files = sorted([*(ROOT / "fxrep").rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def new_record(seed: int) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    counts = {"programs": 0, "lines": 0, "merged": 0, "seconds": 0.0, "failed": 0}
    return {"code": fingerprint(), "versions": versions, "seed": seed, **counts, "status": {}, "paths": {},
            "failures": []}  # fmt: skip


def load(path: Path, seed: int, fresh: bool) -> dict[str, Any]:
    """The record to go on with."""
    new = new_record(seed)
    if not fresh and path.exists():
        old: dict[str, Any] = json.loads(path.read_text())
        if all(old.get(key) == new[key] for key in ("code", "versions", "seed")):
            return old
    return new


def save(path: Path, record: dict[str, Any]) -> None:
    record["seconds"] = round(record["seconds"], 1)
    record["share_merged"] = round(record["merged"] / max(1, record["programs"]), 4)
    record["lines_per_program"] = round(record["lines"] / max(1, record["programs"]), 1)
    record["programs_per_second"] = round(record["programs"] / max(1e-9, record["seconds"]), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(path)


def one(record: dict[str, Any], seed: int) -> Outcome:
    """Run the program of a seed and add it to the record."""
    program, path = generate(seed), path_for(seed)
    outcome = check(program, path)
    record["programs"] += 1
    record["lines"] += program.size()
    record["merged"] += outcome.merged
    record["status"][outcome.status] = record["status"].get(outcome.status, 0) + 1
    if outcome.status in ("ok", "failed"):
        record["paths"][path] = record["paths"].get(path, 0) + 1
    if outcome.failure is not None:
        record["failed"] += 1
        if len(record["failures"]) < MOST_FAILURES:
            small, failure = shrink(program, outcome.failure)
            record["failures"].append({"seed": seed, "failure": str(failure), "lines": small.size(),
                                       "program": reproduction(small, path).splitlines()})  # fmt: skip
    return outcome


def fuzz(
    record: dict[str, Any], programs: int, seen: Callable[[dict[str, Any]], None] = lambda record: None
) -> dict[str, Any]:
    """Go on until ``record`` has so many programs; the seeds count up from the record's. ``seen`` watches."""
    while record["programs"] < programs:
        started = time.perf_counter()
        one(record, record["seed"] + record["programs"])
        record["seconds"] += time.perf_counter() - started
        seen(record)
    return record


class Progress:
    """A line on stderr, and the record saved, every so many seconds."""

    def __init__(self, path: Path, record: dict[str, Any], wanted: int) -> None:
        self.path, self.wanted, self.before = path, wanted, record["programs"]
        self.started = self.last = time.perf_counter()

    def __call__(self, record: dict[str, Any]) -> None:
        now, done = time.perf_counter(), record["programs"]
        if now - self.last < 2 and done < self.wanted:
            return
        self.last = now
        save(self.path, record)
        rate = (done - self.before) / max(1e-9, now - self.started)
        bar = "#" * int(30 * done / self.wanted)
        text = f"[{bar:30}] {done:,}/{self.wanted:,}  {record['merged'] / done:.0%} merged  {record['failed']} failures"
        text += f"  {rate:.0f}/s  {(self.wanted - done) / max(rate, 1e-9) / 60:.0f} min left"
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def show(seed: int) -> None:
    """Print the program of a seed, what comes of it, and if it fails a small one that fails in the same way."""
    program, path = generate(seed), path_for(seed)
    outcome = check(program, path)
    print(program, f"\n\n{outcome.status} on path '{path}'")
    if outcome.failure is not None:
        small, failure = shrink(program, outcome.failure)
        print(f"\n{failure}\n\n{reproduction(small, path)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=100_000, help="together with those recorded before")
    parser.add_argument("--seed", type=int, default=0, help="of the first program; the others count up from it")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--fresh", action="store_true", help="forget the record and begin at zero")
    parser.add_argument("--show", type=int, metavar="SEED", help="print one program instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    if arguments.show is not None:
        show(arguments.show)
        return 0
    record = load(arguments.record, arguments.seed, arguments.fresh)
    fuzz(record, arguments.programs, Progress(arguments.record, record, arguments.programs))
    print(file=sys.stderr)
    for entry in record["failures"]:
        print("\n".join((f"\nseed {entry['seed']}: {entry['failure']}", *entry["program"])))
    print(f"{record['failed'] or 'no'} failures; see {arguments.record}", file=sys.stderr)
    return 1 if record["failed"] else 0
