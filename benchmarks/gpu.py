"""The GPU run: are the merged models right on this device, and then how fast are they. One command, ten minutes.

    python -m benchmarks.gpu --out DIR

It needs torch and timm, for two of the models torchvision, and no network. First each model and its merged form run in
float32 with TF32 off and then on, and are compared with float64; a model that fails is not timed, and the exit code
is 1. Then the `gpu` selection of `python -m benchmarks.suite` runs until the minutes are spent; the options of that
command are taken too. DIR gets `correctness.json`, `suite-cuda.json` and `summary.md`, each as it is measured; with DIR
as it is, a second run goes on from there.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, suite, tables
from benchmarks.common import Results, fail
from benchmarks.networks import Network, Networks
from benchmarks.peers import AS_IS, FXREP, reason
from benchmarks.progress import Progress

SPARE = 1.5  # minutes that a case may take which was started in time
FLOOR = {False: 1e-5, True: 1e-3}  # what TF32 off and on may add to four times the error of the model as it is


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").split("\n")[0],
        epilog="the options of python -m benchmarks.suite are taken too",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the same code without one")
    parser.add_argument("--minutes", type=float, default=7.0, help="start no case after this many (default 7)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of timing per case (default 2)")
    return parser.parse_known_args()


def correctness(names: list[str], networks: Networks, results: Results, device: str) -> set[str]:
    """The models whose merged form is right on the device, TF32 off and on."""
    right = set(names)
    machine = common.machine(device)
    with Progress(2 * len(names)) as progress, torch.no_grad():
        for allowed in (False, True):
            suite.tf32(allowed)
            for name in names:
                case = {"model": name, "image_size": networks.image_size, "device": device, "tf32": allowed}
                progress.start(f"checking {name}, TF32 {'on' if allowed else 'off'}")
                row = results.find(case, machine)
                if row is not None and not row["ok"]:  # it may be right by now
                    results.drop(row)
                    row = None
                row = row or results.add(case, machine, **check(networks, name, device, FLOOR[allowed]))
                if not row["ok"]:
                    right.discard(name)
                    said = row["failed"] or f"WRONG, {row['error']}"
                    progress.say(f"{name}, TF32 {'on' if allowed else 'off'}: {said}")
    return right


def check(networks: Networks, name: str, device: str, floor: float) -> dict[str, Any]:
    """Whether the merged model is as right on the device as the model is, or why that cannot be said."""
    try:
        error = errors(networks[name], device)
    except Exception as failed:
        return {"error": {}, "ok": False, "failed": reason(failed)}
    return {"error": error, "ok": FXREP in error and error[FXREP] <= 4 * error[AS_IS] + floor, "failed": None}


def errors(network: Network, device: str) -> dict[str, float]:
    """The errors against float64 of the model as it is and of the merged one, in float32 on the device."""
    case = {"device": device, "dtype": "float32", "format": "contiguous"}
    return {name: network.worst_error(name, case) for name in (AS_IS, FXREP) if name in network.variants}


class TimeIsUp(BaseException):
    """Raised in the middle of a case: no ``Exception``, which would be taken for the case's own."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what runs inside after so many seconds, a compilation that hangs, say, with what was measured so far."""

    def end(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    except TimeIsUp:
        print("time is up in the middle of a case; run it again to go on", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    start = time.monotonic()
    mine, rest = arguments()
    command = ["--select", "gpu", "--device", mine.device, "--out", str(mine.out), "--budget", str(mine.budget), *rest]
    options = suite.arguments(command)
    common.require("timm")
    suite.set_up(options)
    todo = suite.chosen(options)
    names = list(dict.fromkeys(case["model"] for case in todo if "model" in case))
    networks = Networks(options.image_size, slots=len(names))
    checks = Results.open(mine.out / "correctness.json", fresh=options.fresh)
    summary, right = mine.out / "summary.md", set[str]()

    def write(rows: list[dict[str, Any]]) -> None:
        summary.write_text("\n\n".join([tables.checks(checks.rows), *([tables.markdown(rows)] if rows else [])]))

    with at_most(start + 60 * (mine.minutes + SPARE) - time.monotonic()):
        right = correctness(names, networks, checks, mine.device)
        write([])
        suite.set_up(options)  # the checks moved TF32
        todo = [case for case in todo if case.get("model") in right or "model" not in case]
        suite.run(options, todo, networks, deadline=start + 60 * mine.minutes, after=write)
    if not checks.rows:
        fail("nothing was measured")
    if not right:
        write([])
    print(summary.read_text())
    print(f"files, in {mine.out}: correctness.json, suite-{mine.device}.json, summary.md")
    sys.exit(0 if len(right) == len(names) else 1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
