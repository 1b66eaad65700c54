"""What the command `fxrep` takes besides what nobody can do without: importing timm, building the model, saving it.

    python -m benchmarks.command

`fxrep report` is timed in fresh processes, from the end of `import torch, timm`. `fxrep convert -o x.safetensors` says
itself how long each of its steps took; in turns with it runs a script that builds the same model with timm and saves
its weights as they are, and both are timed from the start of Python to its end. Everything is repeated; the table has
the medians, a JSON file has all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Results, check_models, fail, machine, positive, require

REPORT = """
import sys, time, torch, timm
start, busy = time.perf_counter(), time.process_time()
from fxrep.cli.app import app
app(["report", sys.argv[1]], standalone_mode=False)
print(time.perf_counter() - start, time.process_time() - busy, file=sys.stderr)
"""

SAVE = """
import sys, timm
from safetensors.torch import save_file
save_file(timm.create_model(sys.argv[1]).state_dict(), sys.argv[2])
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--report", default="repvgg_a0", metavar="NAME", help="a timm model to report on")
    parser.add_argument("--convert", default="repvgg_b3", metavar="NAME", help="a timm model to convert")
    parser.add_argument("--rounds", type=positive, default=5, help="of each (default 5)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    return parser.parse_args()


def report_times(name: str) -> dict[str, float]:
    """Seconds from the end of the imports to the end of the report, of the clock and of the processor."""
    command = [sys.executable, "-W", "ignore", "-c", REPORT, f"timm:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, busy = map(float, done.stderr.split()[-2:])
    return {"report": wall, "of the processor": busy}


def convert_times(name: str, folder: Path, check: bool = True) -> dict[str, float]:
    """Seconds of a whole conversion, of its steps, and of a script that builds and saves the same model as it is."""
    out = folder / f"{name}.safetensors"
    python = [sys.executable, "-W", "ignore"]
    command = [*python, "-m", "fxrep.cli", "convert", f"timm:{name}", "-o", str(out), "--json", "--force"]
    start = time.perf_counter()
    done = subprocess.run(command if check else [*command, "--no-check"], capture_output=True, text=True, check=True)
    whole = time.perf_counter() - start
    out.unlink()
    start = time.perf_counter()
    subprocess.run([*python, "-c", SAVE, name, str(out)], check=True)
    script = time.perf_counter() - start
    out.unlink()
    steps: dict[str, float] = json.loads(done.stdout)["seconds"]
    return {**steps, "all": whole, "a script that saves the model": script, "ratio": whole / script}


def table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    view = Table("", "step", "median, s", "least", title="the command")
    for row in rows:
        command, name = next(iter(row["case"].items()))
        for step, samples in row["seconds"].items():
            view.add_row(f"{command} {name}", step, f"{statistics.median(samples):.2f}", f"{min(samples):.2f}")
    return view


def main() -> None:
    options = arguments()
    require("timm", "rich", "typer", "safetensors")
    from rich.console import Console

    check_models([options.report, options.convert])
    here, results = machine(), Results.open(options.out / "command.json", fresh=options.fresh)
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        convert = partial(convert_times, options.convert, Path(folder))
        for case, measure in (
            ({"report": options.report}, partial(report_times, options.report)),
            ({"convert": options.convert}, convert),
            ({"convert --no-check": options.convert}, partial(convert, check=False)),
        ):
            row = results.find(case, here)
            if row is None:
                found = [measure() for _ in range(options.rounds)]
                seconds = {step: [each[step] for each in found] for step in found[0]}
                row = results.add(case, here, seconds=seconds, load=os.getloadavg()[0])
            rows.append(row)
    Console().print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
