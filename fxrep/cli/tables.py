"""What the commands print: tables of before and after, for people."""

from __future__ import annotations

import statistics
from typing import Any

from rich.table import Table

from ..api import Verification
from .measure import Cost, speedup

Samples = dict[str, list[float]]


def summary(before: Cost, after: Cost, samples: Samples | None) -> Table:
    """One row for each thing that a merge changes."""
    table = _table("", "before", "after", "change")
    for title, name in (("convolutions run", "convs"), ("batch norms run", "norms"), ("adds run", "adds"),
                        ("parameters", "parameters"), ("MACs of convolutions, products", "macs")):  # fmt: skip
        old, new = getattr(before, name), getattr(after, name)
        table.add_row(title, f"{old:,}", f"{new:,}", _change(old, new))
    table.add_row("size of the weights", size(before.bytes), size(after.bytes), _change(before.bytes, after.bytes))
    if samples:
        old_time, new_time = (statistics.median(samples[side]) for side in ("before", "after"))
        ratio = speedup(samples["before"], samples["after"])
        table.add_row("latency, median", f"{old_time:.1f} ms", f"{new_time:.1f} ms", f"{ratio:.2f} times as fast")
    return table


def latencies(rows: list[dict[str, Any]]) -> Table:
    """Latency by batch size."""
    table = _table("batch", "before, ms", "after, ms", "times as fast", "rounds")
    for row in rows:
        times = (f"{row[side]['median']:.1f} ({row[side]['low']:.1f} to {row[side]['high']:.1f})" for side in
                 ("before_ms", "after_ms"))  # fmt: skip
        table.add_row(str(row["batch"]), *times, f"{row['speedup']:.2f}", str(row["rounds"]))
    return table


def merges(rows: list[dict[str, Any]]) -> Table:
    """What the pass would do to each of many models."""
    table = _table("model", "merges", "convolutions", "batch norms", "adds", "parameters")
    for row in rows:
        if "error" in row:
            table.add_row(row["model"], "-", row["error"])
            continue
        pairs = (f"{row['before'].get(kind, 0)} → {row['after'].get(kind, 0)}" for kind in ("conv", "norm", "add"))
        table.add_row(row["model"], str(row["merges"]), *pairs, " → ".join(f"{n:,}" for n in row["parameters"]))
    return table


def verdict(check: Verification) -> str:
    """The outcome of a comparison in one line."""
    word = "the same output" if check.ok else "DIFFERENT output"
    return f"{word}: relative error {check.relative:.1e} (tolerance {check.tolerance:.1e}), largest {check.max_abs:.1e}"


def size(count: int) -> str:
    """Bytes in a unit that fits."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _table(first: str, *headings: str) -> Table:
    table = Table(header_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _change(old: int, new: int) -> str:
    return f"{100 * (new - old) / old:+.0f} %" if old and old != new else ""
