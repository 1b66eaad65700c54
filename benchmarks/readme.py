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
    growth = _seconds(chains[2000], "fxrep") / _seconds(chains[200], "fxrep")
    memory = max(row["growth_bytes"]["fxrep"] / row["model_bytes"] for row in models.values())
    large = next((row for row in rows if "wide" in row["case"]), None)
    text = "The pass itself, proof included (`benchmarks/results/pass_time.json`), beside timm's own merge: "
    text += ", ".join(f"{_seconds(row, 'fxrep'):.2f} s on {name} (timm {_seconds(row, 'timm'):.2f})"
                      for name, row in models.items())  # fmt: skip
    text += f". A chain of 2,000 blocks takes {growth:.1f} times as long as one of 200; at its peak the pass needs "
    text += f"{memory:.1f} times the memory of the model"
    if large is not None:
        share = ratio(large["seconds"]["fxrep"], large["seconds"]["deepcopy"])
        text += (
            f"; a network of {large['parameters'] / 1e9:.1f} billion parameters takes {share:.1f} times its deepcopy"
        )
    return textwrap.fill(f"{text}.", 120) + "\n"


def _seconds(row: Row, name: str) -> float:
    return quartiles(row["seconds"][name])[1]


def main() -> None:
    README.write_text(SECTION.sub(lambda _: section(), README.read_text()))


if __name__ == "__main__":
    main()
