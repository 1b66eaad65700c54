"""The rows of the zoo, and the page that sums them up."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.zoo.measure import slow, slowness
from tests.zoo.models import RESULTS

ROWS = RESULTS / "zoo.jsonl"
PAGE = RESULTS / "ZOO.md"
UNUSABLE = {"build", "original", "trace"}  # the model itself cannot be built or run: not the pass's doing
Row = dict[str, Any]


def read(path: Path = ROWS) -> dict[str, Row]:
    """The last row of each model."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines() if line.strip())
    return {row["model"]: row for row in rows}


def append(row: Row, path: Path = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def compact(path: Path = ROWS) -> None:
    """Keep only the last row of each model, in the order of their names."""
    rows = read(path)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)))
    partial.replace(path)


def usable(row: Row) -> bool:
    return not UNUSABLE & {*row["failures"]}


def page(rows: dict[str, Row]) -> str:
    """The whole page, as Markdown."""
    tested = {key: row for key, row in rows.items() if usable(row)}
    parts = ["# The zoo", *_totals(rows, tested), *_problems(rows), *_slow(tested), *_reasons(tested), *_all(rows)]
    return "\n".join(parts) + "\n"


def _totals(rows: dict[str, Row], tested: dict[str, Row]) -> list[str]:
    failed = [key for key, row in tested.items() if row["failures"]]
    done = [row for row in tested.values() if "convs" in row]
    lines = [
        "",
        "Made by `python -m tests.zoo`. Random weights and norm statistics, float32, eval mode, batch of one. ",
        "Operators are those that run, counted at the dispatcher.",
        "",
        "| | timm | torchvision | all |",
        "|---|---:|---:|---:|",
    ]

    def line(title: str, number: Any) -> str:
        split = [[row for row in done if row["library"] == library] for library in ("timm", "torchvision")]
        return f"| {title} | " + " | ".join(str(number(part)) for part in (*split, done)) + " |"

    def change(kind: str) -> Any:
        return lambda part: " → ".join(f"{sum(row[kind][i] for row in part):,}" for i in (0, 1))

    lines += [
        line("models", len),
        line("families", lambda part: len({row["family"] for row in part})),
        line("without a failure", lambda part: sum(not row["failures"] for row in part)),
        line("with a merge", lambda part: sum(row["merges"] > 0 for row in part)),
        line("captured whole", lambda part: sum(whole(row) for row in part)),
        line("convolutions", change("convs")),
        line("batch norms", change("norms")),
        line("adds", change("adds")),
        line("largest error / own error", lambda part: f"{max((_ratio(row) for row in part), default=0):.1f}"),
        line("slower than promised", lambda part: sum(map(slow, part))),
        "",
        f"{len(failed)} of {len(tested)} models fail; {len(rows) - len(tested)} more cannot be built or run.",
    ]
    versions = Counter((row["torch"], row["timm"], row["torchvision"], row["sources"]) for row in rows.values())
    for (torch, timm, torchvision, sources), count in versions.most_common():
        lines.append(f"{count} rows: torch {torch}, timm {timm}, torchvision {torchvision}, fxrep sources {sources}.  ")
    return lines


def _problems(rows: dict[str, Row]) -> list[str]:
    lines = ["", "## Failures", ""]
    for key, row in sorted(rows.items()):
        if row["failures"]:
            detail = row.get("problem") or ", ".join(
                f"{name} {row.get(name)}" for name in ("error", "own_error", "shares", "unexplained") if row.get(name)
            )
            lines.append(f"* `{key}`: **{', '.join(row['failures'])}** {_escape(detail)[:300]}")
    return lines if len(lines) > 3 else [*lines, "None."]


def _slow(rows: dict[str, Row]) -> list[str]:
    chosen = sorted((row for row in rows.values() if slow(row)), key=lambda row: -row["seconds_pass"])
    lines = ["", "## Slower than three times a plain trace and deepcopy", "", f"{len(chosen)} models; the longest:", ""]
    lines += [
        f"* `{row['model']}`: {row['seconds_pass']:.1f} s" + (f", {slowness(row):.1f}×" if row["seconds_trace"] else "")
        for row in chosen[:20]
    ]
    return lines


def _reasons(rows: dict[str, Row]) -> list[str]:
    lines = []
    for title, field in (
        ("Why batch norms stay", "kept_norms"),
        ("Why adds stay", "kept_adds"),
        ("Why modules are not looked into", "opaque"),
    ):
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for key, row in rows.items():
            for reason, value in row.get(field, {}).items():
                if field == "opaque":  # there it is a reason by path
                    found[re.sub(r"'[^']*'|\d+", "…", value)].append((1, f"`{key}` {reason}"))
                else:
                    found[reason].append((value[0], f"`{key}` {value[1]}"))
        lines += ["", f"## {title}", "", "| in reports | models | reason | for example |", "|---:|---:|---|---|"]
        for reason, places in sorted(found.items(), key=lambda item: -sum(n for n, _ in item[1]))[:40]:
            models = len({place.split("`")[1] for _, place in places})
            count = sum(n for n, _ in places)
            lines.append(f"| {count:,} | {models} | {_escape(reason)} | {_escape(places[0][1])} |")
    return lines


def _all(rows: dict[str, Row]) -> list[str]:
    lines = [
        "",
        "## Every model",
        "",
        "Error: relative to float64, the original's own and the merged model's. Seconds: of the pass, and over those",
        "of a plain trace and deepcopy.",
        "",
        "| model | M | input | captured | convs | norms | adds | own error | error | seconds | × | |",
        "|---|---:|---|---|---|---|---|---|---|---:|---:|---|",
    ]
    for key, row in sorted(rows.items()):
        if "convs" not in row:
            lines.append(f"| {key} | | | | | | | | | | | {', '.join(row['failures'])} |")
            continue
        numbers = [" → ".join(map(str, row[kind])) for kind in ("convs", "norms", "adds")]
        error = f"{row['error']:.0e}" if "error" in row else ""
        times = f"{slowness(row):.1f}" if row["seconds_trace"] is not None else "–"
        captured = "whole" if whole(row) else f"{len(row['pieces'])} pieces, {len(row['opaque'])} opaque"
        cells = [key, f"{row['parameters'] / 1e6:.1f}", row["input"], captured, *numbers]
        cells += [f"{row['own_error']:.0e}", error, f"{row['seconds_pass']:.2f}", times, ", ".join(row["failures"])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def whole(row: Row) -> bool:
    return not row["opaque"] and row["pieces"] == [""]


def _ratio(row: Row) -> float:
    return float(row.get("error", 0.0) / max(row["own_error"], 1e-7))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
