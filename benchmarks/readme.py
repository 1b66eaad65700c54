"""The measured part of the README, made of the JSON files of `benchmarks.latency` and `benchmarks.pass_time`.

python -m benchmarks.readme
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.common import Results, quartiles, ratio

ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
SECTION = re.compile(r"(?<=<!-- benchmarks: begin -->\n).*?(?=<!-- benchmarks: end -->)", re.DOTALL)
BATCHES = (1, 8, 32, 128)
Row = dict[str, Any]


def section() -> str:
    """The lines between the marks."""
    return f"{_latency()}\n![latency by batch size](benchmarks/results/latency-cpu.png)\n\n{_pass_time()}"


def _latency() -> str:
    rows = [row for row in Results.open(RESULTS / "latency-cpu.json").rows if row["case"]["batch"] in BATCHES]
    machine = rows[0]["machine"]
    lines = [
        f"On {machine['threads']} cores of an {machine['processor']}, float32, eager, torch "
        f"{machine['torch'].split('+')[0]}",
        "(`benchmarks/results/latency-cpu.json`; ratio is before over after):",
        "",
        "| model | batch | before, ms | after, ms | ratio | memory before, MiB | after, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *map(_line, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    before, after = (1e3 * quartiles(row["seconds"][name])[1] for name in ("before", "after"))
    memory = (row["peak_bytes"][name] / 2**20 for name in ("before", "after"))
    case, times = row["case"], f"{before:.1f} | {after:.1f} | {row['ratio']:.2f}"
    return f"| {case['model']} | {case['batch']} | {times} | {' | '.join(f'{m:.0f}' for m in memory)} |"


def _pass_time() -> str:
    rows = Results.open(RESULTS / "pass_time.json").rows
    models = {row["case"]["model"]: row for row in rows if "model" in row["case"]}
    chains = {row["case"]["blocks"]: row for row in rows if "blocks" in row["case"]}
    lines = [
        "The pass itself, proof included, beside timm's own merge and what tracing and copying alone take",
        "(`benchmarks/results/pass_time.json`; peak memory over that of the model):",
        "",
        "| model | fxrep, s | timm's merge, s | `fx.symbolic_trace` and `deepcopy`, s | peak memory |",
        "|---|---:|---:|---:|---:|",
        *(_model(name, models[name]) for name in sorted(models)),
        "",
        textwrap.fill(_growth(chains, next((row for row in rows if "wide" in row["case"]), None)), 120),
    ]
    return "\n".join(lines) + "\n"


def _model(name: str, row: Row) -> str:
    own, timm = _seconds(row, "fxrep"), _seconds(row, "timm")
    least = _seconds(row, "symbolic_trace") + _seconds(row, "deepcopy")
    memory = row["growth_bytes"]["fxrep"] / row["model_bytes"]
    return f"| {name} | {own:.2f} | {timm:.2f} | {least:.2f} | {memory:.1f} |"


def _growth(chains: dict[int, Row], large: Row | None) -> str:
    """How the time grows with the number of blocks, and what a very large network takes."""
    times = _seconds(chains[2000], "fxrep") / _seconds(chains[200], "fxrep")
    text = f"A chain of 2,000 blocks takes {times:.1f} times as long as one of 200"
    if large is not None:
        share = ratio(large["seconds"]["fxrep"], large["seconds"]["deepcopy"])
        text += f", a network of {large['parameters'] / 1e9:.1f} billion parameters {share:.1f} times its `deepcopy`"
    return f"{text}."


def _seconds(row: Row, name: str) -> float:
    return quartiles(row["seconds"][name])[1]


def main() -> None:
    README.write_text(SECTION.sub(lambda _: section(), README.read_text()))


if __name__ == "__main__":
    main()
