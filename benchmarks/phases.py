"""Where the pass spends its time: the processor seconds of each of its steps, the least of several runs.

    python -m benchmarks.phases mobileone_s0

The steps are the functions that the story in `fxrep/api.py` and `fxrep/plan.py` is told in; what is left is theirs.
"""

import argparse
import importlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import build, check_models, positive, require

STEPS = {
    "copy for the trace": ("fxrep.api", "structural_copy"),
    "copy for the result": ("fxrep.api", "owning_copy"),
    "trace": ("fxrep.plan", "capture"),
    "read the graph": ("fxrep.plan", "Program"),
    "forms and regions": ("fxrep.plan", "Analysis.run"),
    "place and fold": ("fxrep.plan", "_arrange"),
    "weights and proofs": ("fxrep.plan", "_build"),
    "what is dead": ("fxrep.plan", "_removals"),
    "report": ("fxrep.api", "make_report"),
    "rewrite": ("fxrep.api", "rewrite"),
}


def timed(function: Callable[..., Any], seconds: dict[str, float], step: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[step] += time.process_time() - start

    return call


def watch(seconds: dict[str, float]) -> None:
    """Let every step add its time to ``seconds``, from now on."""
    for step, (home, path) in STEPS.items():
        owner: Any = importlib.import_module(home)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, name, timed(getattr(owner, name), seconds, step))


def least(name: str, seconds: dict[str, float], rounds: int) -> dict[str, float]:
    """The least time of each step, and of the whole, over so many runs on a model."""
    import fxrep

    model, found = build(name), dict[str, float]()
    fxrep.reparameterize(model)
    for _ in range(rounds):
        seconds.clear()
        start = time.process_time()
        fxrep.reparameterize(model)
        whole = time.process_time() - start
        run = seconds | {"what is left": whole - sum(seconds.values()), "all": whole}
        found = {step: min(value, found.get(step, value)) for step, value in run.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="+", metavar="NAME", help="timm models")
    parser.add_argument("--rounds", type=positive, default=7)
    options = parser.parse_args()
    require("timm", "rich")
    check_models(options.model)
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    seconds: dict[str, float] = defaultdict(float)
    watch(seconds)
    found = {name: least(name, seconds, options.rounds) for name in options.model}
    view = Table(title="one pass: processor milliseconds (share)")
    view.add_column("")
    for name in found:
        view.add_column(name, justify="right")
    for step in (*STEPS, "what is left", "all"):
        cells = (f"{1e3 * run[step]:.1f} ({run[step] / run['all']:.0%})" for run in found.values())
        view.add_row(step, *cells)
    Console().print(view)


if __name__ == "__main__":
    main()
