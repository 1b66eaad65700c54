"""What the pass itself costs: its time beside timm's own, its peak memory, and its growth with the number of blocks.

    python -m benchmarks.pass_time

Four things are timed on every model, alternating in one run: `fxrep.reparameterize` (validation included), timm's
hand-written `reparameterize_model`, `copy.deepcopy` and `torch.fx.symbolic_trace`; both passes leave the model as it is
and so make a copy of their own. Memory is the growth of the process's resident set at its peak, over the bytes of the
model, each in a fresh process. Growth is measured on chains of RepVGG blocks with few channels, where a pass that was
slow is left out of the longer ones. Rows go to a JSON file as they are measured, and a second run measures only what is
missing. `--large` adds a network of a billion parameters (8 GB of memory, a minute).
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import (
    Results,
    alternate,
    build,
    check_models,
    fail,
    machine,
    model_bytes,
    positive,
    quartiles,
    randomise_norms,
    ratio,
    require,
)

MODELS = ["repvgg_a0", "repvgg_b3", "mobileone_s0", "mobileone_s4"]
BLOCKS = [20, 200, 2000]
PASSES = ["fxrep", "timm", "deepcopy", "symbolic_trace"]
COPIES = ["fxrep", "timm", "deepcopy"]  # those that make a model of their own
LARGE = 106  # 3x3 convolutions from 1024 to 1024 channels, each with a norm: a billion parameters
SLOW = 5.0  # seconds on one chain, over which a pass is left out of the longer ones
COLOURS = dict(zip(PASSES, ["C0", "C1", "C7", "C2"], strict=True))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pass_time", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", nargs="+", default=MODELS, metavar="NAME", help="timm models")
    parser.add_argument("--blocks", nargs="+", type=positive, default=BLOCKS, metavar="N", help="lengths of the chains")
    parser.add_argument("--large", action="store_true", help="also a network of a billion parameters")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per model (default 30)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    parser.add_argument("--growth-of", nargs=2, metavar=("PASS", "MODEL"), help=argparse.SUPPRESS)
    return parser.parse_args()


def passes() -> dict[str, Callable[[nn.Module], Any]]:
    import timm.utils.model

    import fxrep

    return {
        "fxrep": fxrep.reparameterize,
        "timm": timm.utils.model.reparameterize_model,
        "deepcopy": copy.deepcopy,
        "symbolic_trace": torch.fx.symbolic_trace,
    }


def chain(blocks: int, channels: int = 8) -> nn.Module:
    """RepVGG blocks one after the other, with random norm statistics."""
    from timm.models.byobnet import RepVggBlock

    torch.manual_seed(0)
    return randomise_norms(nn.Sequential(*(RepVggBlock(channels, channels) for _ in range(blocks))).eval())


def wide(layers: int, channels: int = 1024) -> nn.Module:
    """Convolutions with many channels one after the other, with random norm statistics."""
    one = (nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    layers_of = (nn.Sequential(*copy.deepcopy(one)) for _ in range(layers))
    return randomise_norms(nn.Sequential(*layers_of).eval())


def times(model: nn.Module, budget: float, skip: Collection[str] = ()) -> dict[str, list[float]]:
    """Seconds of each pass on the model."""
    calls = {name: (lambda run=run: run(model)) for name, run in passes().items() if name not in skip}
    return alternate(calls, budget=budget, rounds=15, collect=True)


def growth(name: str, model: str) -> int | None:
    """Bytes that one pass adds to the peak of the resident set, in a fresh process; None where that cannot be read."""
    command = [sys.executable, "-m", "benchmarks.pass_time", "--growth-of", name, model]
    # Give freed blocks back at once, so that memory freed earlier does not hide what the pass takes.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    answer = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


def growth_here(name: str, model_name: str) -> int | None:
    """The same, in this process. A pass over a small chain comes first and pays for what is loaded once."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    run, model = passes()[name], build(model_name)
    run(chain(2))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = _resident("VmRSS")
    run(model)
    return _resident("VmHWM") - start


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def time_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    view = Table(title="one pass: median seconds (ratio to fxrep)")
    view.add_column("", no_wrap=True)
    for name in PASSES:
        view.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        size = f"{row['parameters'] / 1e9:.1f} billion parameters" if "wide" in row["case"] else ""
        title = size or row["case"].get("model") or f"{row['case']['blocks']} blocks"
        view.add_row(title, *(time_cell(row["seconds"], name) for name in PASSES))
    return view


def time_cell(seconds: dict[str, list[float]], name: str) -> str:
    if name not in seconds:
        return ""
    middle = f"{quartiles(seconds[name])[1]:.3f}"
    return middle if name == "fxrep" else f"{middle} ({ratio(seconds[name], seconds['fxrep']):.2f})"


def memory_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    view = Table(title="peak memory of one pass, over the bytes of the model")
    for heading in ("", "model, MiB", *COPIES):
        view.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        shares = [grown and f"{grown / row['model_bytes']:.2f}" for grown in row["growth_bytes"].values()]
        view.add_row(row["case"]["model"], f"{row['model_bytes'] / 2**20:.1f}", *shares)
    return view


def plot(models: list[dict[str, Any]], chains: list[dict[str, Any]], path: Path) -> None:
    """Bars by model on the left, seconds against blocks on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    width = 0.8 / len(PASSES)
    for index, name in enumerate(PASSES):
        middles = [quartiles(row["seconds"][name])[1] for row in models]
        places = [place + (index - (len(PASSES) - 1) / 2) * width for place in range(len(models))]
        left.bar(places, middles, width, label=name, color=COLOURS[name])
        have = [row for row in chains if name in row["seconds"]]
        middles = [quartiles(row["seconds"][name])[1] for row in have]
        right.plot([row["case"]["blocks"] for row in have], middles, marker="o", label=name, color=COLOURS[name])
    left.set_xticks(range(len(models)), labels=[row["case"]["model"] for row in models])
    left.set(ylabel="seconds", title="timm models")
    right.set(xscale="log", yscale="log", xlabel="RepVGG blocks", ylabel="seconds", title="growth")
    blocks = [row["case"]["blocks"] for row in chains]
    right.set_xticks(blocks, labels=[str(count) for count in blocks])
    right.minorticks_off()
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    where = (models or chains)[0]["machine"]
    figure.suptitle(f"{where['processor']}, torch {where['torch']}", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _large(results: Results, here: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The row of the network of a billion parameters; timm has nothing to merge in it."""
    case = {"wide": LARGE}
    row = results.find(case, here)
    if row is None:
        model = wide(LARGE)
        count = sum(p.numel() for p in model.parameters())
        seconds = times(model, 2 * options.budget, {"timm", "symbolic_trace"})
        row = results.add(case, here, seconds=seconds, parameters=count)
    return [row]


def main() -> None:
    options = arguments()
    require("timm", "rich", "matplotlib")
    if options.growth_of:
        print(json.dumps(growth_here(*options.growth_of)))
        return
    from rich.console import Console
    from rich.progress import Progress

    check_models(options.model)
    if options.threads:
        torch.set_num_threads(options.threads)

    here = machine()
    results = Results.open(options.out / "pass_time.json", fresh=options.fresh)
    console = Console()
    models: list[dict[str, Any]] = []
    chains: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(options.model) + len(options.blocks))
        for name in options.model:
            progress.update(task, description=name)
            case = {"model": name}
            row = results.find(case, here)
            if row is None:
                grown = {one: growth(one, name) for one in COPIES}
                model = build(name)
                seconds = times(model, options.budget)
                row = results.add(case, here, seconds=seconds, growth_bytes=grown, model_bytes=model_bytes(model))
            models.append(row)
            progress.advance(task)
        for blocks in sorted(options.blocks):
            progress.update(task, description=f"{blocks} blocks")
            case = {"blocks": blocks}
            row = results.find(case, here)
            if row is None:
                last = chains[-1]["seconds"] if chains else {}
                kept = [name for name in PASSES if not chains or (name in last and quartiles(last[name])[1] < SLOW)]
                skip = set(PASSES) - {"fxrep", *kept}
                row = results.add(case, here, seconds=times(chain(blocks), options.budget, skip))
            chains.append(row)
            progress.advance(task)
        large = _large(results, here, options) if options.large else []
    picture = results.path.with_suffix(".png")
    plot(models, chains, picture)
    console.print(time_table(models + chains + large))
    console.print(memory_table(models))
    console.print(f"raw numbers: {results.path}   plot: {picture}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
