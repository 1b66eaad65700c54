"""The measured part of docs/benchmarks.md, made of the suite's JSON files and nothing else.

    python -m benchmarks.page

It draws the plots beside the files and writes the tables between the page's two markers. The prose around them is
written by hand.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plots, tables
from benchmarks.common import Results, fail, require
from benchmarks.tables import Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PICTURES = {
    "speedup": "How many times as long as fxrep's model the others take",
    "latency": "Latency by batch size",
    "memory": "Memory of weights and activations",
    "roofline": "Distance to the roofline",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    return parser.parse_args()


def machines(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows of each machine, without telling apart what versions of an engine the rows of one mode add."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        machine = row["machine"]
        key = tuple(str(machine[name]) for name in ("gpu", "processor", "cores", "threads", "python", "torch", "timm"))
        found.setdefault(key, []).append(row)
    yield from found.values()


def describe(rows: list[Row]) -> str:
    """Where, how and under what load the rows were measured."""
    machine = {key: value for row in rows for key, value in row["machine"].items() if value is not None}
    loads = [row["load"] for row in rows]
    lines = [
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        f"Load average while measuring: {min(loads)} to {max(loads)} on {machine['cores']} cores.",
        *(f"Command: `{command}`" for command in sorted({row["command"] for row in rows})),
        "Commit: " + ", ".join(sorted({str(row["commit"]) for row in rows})) + ".",
    ]
    return "\n\n".join(lines)


def section(rows: list[Row], stem: Path, page: Path) -> str:
    """One machine's part of the page."""
    machine = rows[0]["machine"]
    pictures = [path for path in plot_files(stem) if path.exists()]
    links = [f"![{PICTURES[path.stem.split('-')[-1]]}]({_relative(path, page)})" for path in pictures]
    title = f"### {machine['gpu'] or machine['processor']}, {machine['threads']} CPU thread(s)"
    return "\n\n".join([title, describe(rows), *links, tables.markdown(rows)])


def plot_files(stem: Path) -> list[Path]:
    return [stem.with_name(f"{stem.name}-{name}.png") for name in plots.PLOTS]


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def files(results: Path) -> Iterator[tuple[Path, list[Row]]]:
    """Each machine's rows, with what the names of its plots begin with."""
    for path in sorted(results.glob("suite-*.json")):
        for number, rows in enumerate(machines(Results.open(path).rows)):
            yield path.with_name(path.stem + (f"-{number + 1}" if number else "")), rows


def render(results: Path, page: Path) -> str:
    """The measured part of the page."""
    parts = [section(rows, stem, page) for stem, rows in files(results)]
    checks = results / "correctness.json"
    if checks.exists():
        rows = Results.open(checks).rows
        title = f"### {rows[0]['machine']['gpu']}: merged models against float64, in float32"
        parts.append(f"{title}\n\n{tables.checks(rows)}\n")
    return "\n".join(parts)


def main() -> None:
    options = arguments()
    require("matplotlib")
    found = list(files(options.results))
    if not found:
        fail(f"{options.results} holds no suite-*.json; python -m benchmarks.suite makes one")
    try:
        head, rest = options.page.read_text().split(BEGIN)
        _, tail = rest.split(END)
    except (OSError, ValueError):
        fail(f"{options.page} is not there or lacks the lines {BEGIN} and {END}")
    for stem, rows in found:
        for stale in plot_files(stem):
            stale.unlink(missing_ok=True)
        plots.draw(rows, stem)
    options.page.write_text(f"{head}{BEGIN}\n\n{render(options.results, options.page)}\n{END}{tail}")
    print(f"{options.page}: {sum(len(rows) for _, rows in found)} rows")


if __name__ == "__main__":
    main()
