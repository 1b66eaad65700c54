"""Every way to run a model faster, side by side: fxrep, its peers, and the engines, in turns and in one run.

    python -m benchmarks.suite --select cpu

A selection is a list of cases (model, batch, type, memory format, mode); `--models`, `--batches` and so on put other
values in its place. In each case the model as it is and what the passes make of it take turns, after a warm-up; in a
mode other than eager, the eager model before and after the pass take turns with them, so that every row shows what the
mode alone brings. Each output is compared with float64 first. Rows go to a JSON file as they are measured; a second run
measures only what is missing. `python -m benchmarks.page` makes the tables and the plots.
"""

import argparse
import gc
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, models, modes, tables
from benchmarks.common import Results, fail, positive
from benchmarks.measuring import Case, measure
from benchmarks.networks import Networks
from benchmarks.peers import reason
from benchmarks.progress import Progress
from benchmarks.selections import DTYPES, FORMATS, SELECTIONS, cases

COMPILING = 60  # seconds that a case may take which has to be compiled


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--select", choices=list(SELECTIONS), default="cpu", help="cases to measure (default cpu)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="instead of the selection's (timm, torchvision:NAME)"
    )
    parser.add_argument("--batches", nargs="+", type=positive, metavar="N")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, metavar="TYPE", help=", ".join(DTYPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    ways = [*modes.MODES, "merge"]
    parser.add_argument("--modes", nargs="+", choices=ways, metavar="MODE", help=", ".join(ways))
    parser.add_argument("--image-size", type=positive, default=224)
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of timing per case (default 8)")
    parser.add_argument("--minutes", type=float, help="start no case after this many minutes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    return parser.parse_args(argv)


def here(device: str) -> dict[str, Any]:
    """The machine, the versions and the settings that a row belongs to."""
    found = common.machine(device)
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "tf32": True, "autotune": True}
    return found


def set_up(options: argparse.Namespace) -> None:
    """The settings that people run with: on CUDA, TF32 for float32 and cuDNN's choice of algorithm by measurement."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda":
        if not torch.cuda.is_available():
            fail("torch sees no CUDA device here; use --device cpu")
        tf32(True)
        torch.backends.cudnn.benchmark = True


def tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def describe(case: Case) -> str:
    return ", ".join(str(value) for key, value in case.items() if key not in ("device", "image_size"))


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for, without what cannot run here, said in one line each.

    A model that was asked for by name must exist; one of a selection may be newer than what is installed.
    """
    models.check(options.models or [])
    axes = {axis: getattr(options, axis) for axis in ("models", "batches", "dtypes", "formats", "modes")}
    grids = [grid.with_only(**axes) for grid in SELECTIONS[options.select]]
    names = dict.fromkeys(name for grid in grids for name in grid.models)
    left_out = {name: f"{name} is left out, not in what is installed" for name in names if not models.known(name)}
    for mode in dict.fromkeys(mode for grid in grids for mode in grid.modes):
        reason = modes.missing(mode, options.device) if mode in modes.MODES else None
        left_out |= {mode: reason} if reason else {}
    for line in left_out.values():
        print(line, file=sys.stderr)
    kept = [
        replace(
            grid,
            models=tuple(name for name in grid.models if name not in left_out),
            modes=tuple(mode for mode in grid.modes if mode not in left_out),
        )
        for grid in grids
    ]
    return cases(kept, options.device, options.image_size)


def run(
    options: argparse.Namespace,
    todo: list[Case],
    networks: Networks,
    deadline: float | None,
    after: Callable[[list[dict[str, Any]]], Any] = lambda rows: None,
) -> tuple[Results, list[dict[str, Any]]]:
    """Measure the cases that the results file lacks. The file, and the rows of all the cases.

    No case starts after the deadline, and none that has to be compiled in the last minute before it. `after` is called
    with the rows so far after each.
    """
    results = Results.open(options.out / f"suite-{options.device}.json", fresh=options.fresh)
    machine = here(options.device)
    rows: list[dict[str, Any]] = []
    with Progress(len(todo)) as progress:
        for number, case in enumerate(todo):
            progress.start(describe(case))
            where = machine | (modes.versions(case["mode"]) if case["mode"] in modes.MODES else {})
            row = results.find(case, where)
            left = math.inf if row is not None or deadline is None else deadline - time.monotonic()
            if left < 0:
                progress.say(f"time is up with {len(todo) - number} of {len(todo)} cases left; run it again to go on")
                break
            if left < COMPILING and case["mode"] in modes.MODES and modes.MODES[case["mode"]].compiles:
                progress.say(f"{describe(case)}: not started, it may take longer than there is time; run it again")
                continue
            answers = True
            if row is None:
                load, measured = round(os.getloadavg()[0], 2), None
                try:
                    measured = measure(case, networks, options.budget, progress.tick)
                except Exception as error:
                    progress.say(f"{describe(case)}: left out, {reason(error)}")
                answers = clean_up(options.device)
                row = None if measured is None else results.add(case, where, load=load, **measured)
                for label, why in (row or {}).get("failed", {}).items():
                    progress.say(f"{describe(case)}: without {label}, {why}")
            if row is not None:
                rows.append(row)
                after(rows)
            if not answers:
                progress.say("the device does not answer any more; run it again to go on")
                break
    return results, rows


def clean_up(device: str) -> bool:
    """Give back what a case compiled and allocated. Whether the device still answers: some errors are its end."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
    return True


def main() -> None:
    options = arguments()
    common.require("timm")
    set_up(options)
    todo = chosen(options)
    networks = Networks(options.image_size, slots=16 if options.device == "cuda" else 1)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    results, rows = run(options, todo, networks, deadline)
    if not rows:
        fail("nothing was measured")
    print(tables.markdown(rows))
    print(f"raw numbers: {results.path}   tables and plots: python -m benchmarks.page")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
