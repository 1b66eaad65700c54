"""The long run of the property tests: as many random examples as asked for, recorded in tests/results/properties.json.

    python -m tests.long_run --examples 100000

runs both properties on fresh random seeds, half a thousand examples at a time, with a progress line on stderr. The
record is written after every batch and adds up over runs of the same code: stop it at any time and start it again until
the record says 100,000 of each. A run of other code (``fxrep/`` or the strategies changed), or ``--fresh``, begins at
zero.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import secrets
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from tests import test_properties as properties
from tests.programs.draw import dangerous, programs

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "results" / "properties.json"
PROPERTIES: dict[str, tuple[Any, Callable[..., None]]] = {
    "legal": (programs(), properties.check_legal),
    "illegal": (dangerous(), lambda case: properties.check_dangerous(*case)),
}
COUNTS = {"examples": 0, "merged": 0, "discarded": 0, "seconds": 0.0}


def fingerprint() -> str:
    """What the examples depend on: the package and the properties."""
    files = [
        *sorted((ROOT / "fxrep").rglob("*.py")),
        *sorted((ROOT / "tests" / "programs").glob("*.py")),
        ROOT / "tests" / "test_properties.py",
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def load(path: Path, fresh: bool) -> dict[str, Any]:
    """The record to go on with."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "hypothesis": hypothesis.__version__}
    new = {"code": fingerprint(), "versions": versions, **{name: COUNTS | {"failures": []} for name in PROPERTIES}}
    if not fresh and path.exists():
        old: dict[str, Any] = json.loads(path.read_text())
        if (old.get("code"), old.get("versions")) == (new["code"], versions):
            return old
    return new


def save(path: Path, record: dict[str, Any]) -> None:
    for name in PROPERTIES:
        entry = record[name]
        entry["seconds"] = round(entry["seconds"], 1)
        entry["share_merged"] = round(entry["merged"] / max(1, entry["examples"]), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(path)


def batch(name: str, examples: int, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Run a batch of one property; returns its counts and its failure, minimised, if there is one."""
    strategy, check = PROPERTIES[name]
    last: list[str] = []
    seen: dict[str, int] = {}

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def run(case: Any) -> None:
        try:
            check(case)
        except BaseException:
            if not last:  # what follows is minimising
                seen.update(properties.SEEN)
            last[:] = [repr(case)]
            raise

    properties.SEEN.clear()
    started, failures = time.perf_counter(), []
    try:
        run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failures = [
            {"seed": seed, "example": last[-1] if last else "", "error": f"{type(error).__name__}: {error}"[:2000]}
        ]
    counts = {key: (seen if failures else properties.SEEN).get(key, 0) for key in ("examples", "merged", "discarded")}
    return counts | {"seconds": time.perf_counter() - started}, failures


def progress(name: str, entry: dict[str, Any], wanted: int, started: float, before: int) -> None:
    done = entry["examples"]
    rate = (done - before) / max(1e-9, time.perf_counter() - started)
    left = (wanted - done) / rate if rate and done < wanted else 0
    bar = "#" * int(30 * min(1, done / wanted))
    text = f"{name:8} [{bar:30}] {done:,}/{wanted:,}  {entry['merged'] / max(1, done):.0%} merged  "
    text += f"{len(entry['failures'])} failures  {rate:.0f}/s  {left / 60:.0f} min left"
    print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--examples", type=int, default=100_000, help="per property, together with those recorded before"
    )
    parser.add_argument("--only", choices=list(PROPERTIES), help="run one of the two")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--fresh", action="store_true", help="forget the record and begin at zero")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    record = load(arguments.record, arguments.fresh)
    for name in [arguments.only] if arguments.only else PROPERTIES:
        entry, started = record[name], time.perf_counter()
        before = entry["examples"]
        while entry["examples"] < arguments.examples:
            counts, failures = batch(
                name, min(arguments.batch, arguments.examples - entry["examples"]), secrets.randbits(32)
            )
            for key, value in counts.items():
                entry[key] += value
            entry["failures"] += failures
            save(arguments.record, record)
            progress(name, entry, arguments.examples, started, before)
        print(file=sys.stderr)
    failed = sum(len(record[name]["failures"]) for name in PROPERTIES)
    print(f"{'no failures' if not failed else f'{failed} failures'}; see {arguments.record}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
