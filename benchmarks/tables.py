"""The suite's rows as tables in Markdown, which read well in a terminal too."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.common import quartiles, ratio
from benchmarks.modes import MODES
from benchmarks.peers import AS_IS, FXREP
from benchmarks.roofline import Layer

Row = dict[str, Any]
MIB = 2**20


def table(head: list[str], body: Iterable[list[str]]) -> str:
    """Columns of equal width, the first one to the left, the others to the right."""
    lines = [head, *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def join(cells: list[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([cells[0].ljust(len(first)), *rest]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([join(lines[0]), rule, *map(join, lines[1:])])


def markdown(rows: list[Row]) -> str:
    """Every table that the rows have numbers for, each under a line that says what it shows."""
    parts = []
    for title, group in groups(rows):
        parts += [f"**{title}**", latency(group), details(group)]
    merging = [row for row in rows if row["case"]["mode"] == "merge"]
    if merging:
        parts += ["**time to merge**, seconds (how many times fxrep's)", merge(merging)]
    limited = [row for row in timings(rows) if bound(row, rows)]
    if limited:
        parts += ["**distance to the roofline**", limits(limited, rows)]
    parts += sorted({line for row in rows for line in failures(row)})
    return "\n\n".join(parts) + "\n"


def timings(rows: list[Row]) -> list[Row]:
    """The rows with latencies, eager first."""
    order = list(MODES)
    return sorted((row for row in rows if "batch" in row["case"]), key=lambda row: order.index(row["case"]["mode"]))


def groups(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Timings that differ in model and batch alone, with a title."""
    found: dict[str, list[Row]] = {}
    for row in timings(rows):
        case = row["case"]
        key = f"{case['mode']}, {case['dtype']}, {case['format'].replace('_', '-')}, {case['image_size']} pixels"
        found.setdefault(key, []).append(row)
    yield from found.items()


def latency(rows: list[Row]) -> str:
    """Medians in milliseconds, and how many times faster than each of the others fxrep is."""
    labels = list(dict.fromkeys(label for row in rows for label in row["seconds"]))
    labels.sort(key=lambda label: label != FXREP)
    head = ["model", "batch", *(f"{label}, ms" for label in labels)]
    return table(head, [[*_name(row), *(latency_cell(row["seconds"], label) for label in labels)] for row in rows])


def latency_cell(seconds: dict[str, list[float]], label: str) -> str:
    if label not in seconds:
        return ""
    low, middle, high = quartiles(seconds[label])
    spread = f"{_milliseconds(middle)} ±{(high - low) / 2 / middle:.0%}"
    if label == FXREP or FXREP not in seconds:
        return spread
    return f"{spread} ({ratio(seconds[label], seconds[FXREP]):.2f}×)"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def details(rows: list[Row]) -> str:
    """Throughput, memory, kernels and error of each variant."""
    head = ["model", "batch", "", "images/s", "weights, MiB", "activations, MiB", "kernels", "error"]
    return table(head, [line for row in rows for line in _details(row)])


def _details(row: Row) -> Iterator[list[str]]:
    for label, samples in row["seconds"].items():
        activations, kernels = row["activation_bytes"][label], row["kernels"][label]
        yield [
            *_name(row),
            label,
            f"{row['case']['batch'] / quartiles(samples)[1]:.4g}",
            f"{row['weight_bytes'][label] / MIB:.1f}",
            "" if activations is None else f"{activations / MIB:.1f}",
            "" if kernels is None else str(kernels),
            f"{row['error'][label]:.0e}",
        ]


def merge(rows: list[Row]) -> str:
    labels = list(dict.fromkeys(label for row in rows for label in row["seconds"]))
    return table(["model", *labels], [[row["case"]["model"], *_merge_cells(row, labels)] for row in rows])


def _merge_cells(row: Row, labels: list[str]) -> Iterator[str]:
    seconds = row["seconds"]
    for label in labels:
        if label not in seconds:
            yield ""
        elif label == FXREP:
            yield f"{quartiles(seconds[label])[1]:.2f}"
        else:
            yield f"{quartiles(seconds[label])[1]:.2f} ({ratio(seconds[label], seconds[FXREP]):.2f}×)"


def bound(row: Row, rows: list[Row]) -> dict[str, float] | None:
    """The bounds of a timing's merged network in seconds, if the rates and the layers they are made of are there."""
    case = row["case"]
    rates = _find(rows, mode="rates", dtype=case["dtype"], device=case["device"])
    layers = _find(rows, mode="layers", model=case["model"], image_size=case["image_size"])
    if rates is None or layers is None or FXREP not in row["seconds"]:
        return None
    return roofline.bounds(
        [Layer(*layer) for layer in layers["layers"]],
        layers["ends"],
        batch=case["batch"],
        element_bytes=getattr(torch, case["dtype"]).itemsize,
        macs_per_second=rates["macs_per_second"],
        bytes_per_second=rates["bytes_per_second"],
    ) | {"macs": case["batch"] * sum(layer[0] for layer in layers["layers"])}


def limits(rows: list[Row], every: list[Row]) -> str:
    """What the machine's measured rates allow the merged network, and the share of it that fxrep's model reaches."""
    head = ["model", "batch", "case", "GMAC", "network, ms", "layers, ms", "fxrep, ms", "of network", "of layers"]
    return table(head, [_limit(row, bound(row, every) or {}) for row in rows])


def _limit(row: Row, limit: dict[str, float]) -> list[str]:
    case, middle = row["case"], quartiles(row["seconds"][FXREP])[1]
    return [
        *_name(row),
        f"{case['mode']}, {case['dtype']}, {case['format'].replace('_', '-')}",
        f"{limit['macs'] / 1e9:.3g}",
        *map(_milliseconds, (limit["network"], limit["layers"], middle)),
        *(f"{limit[name] / middle:.0%}" for name in ("network", "layers")),
    ]


def checks(rows: list[Row]) -> str:
    """The GPU run's comparison with float64 on the device."""
    head = ["model", "TF32", "error as is", "error of fxrep", "right"]
    return table(head, [[*_check(row)] for row in rows])


def _check(row: Row) -> Iterator[str]:
    yield row["case"]["model"].removeprefix("torchvision:")
    yield "on" if row["case"]["tf32"] else "off"
    yield from (f"{row['error'][name]:.0e}" if name in row["error"] else "" for name in (AS_IS, FXREP))
    yield "yes" if row["ok"] else "NO"


def failures(row: Row) -> Iterator[str]:
    for name, why in row.get("failed", {}).items():
        yield f"`{name}` does not take {row['case']['model']} ({row['case']['mode']}): {why}"


def _find(rows: list[Row], **case: Any) -> Row | None:
    return next((row for row in rows if row["case"] == case), None)


def _name(row: Row) -> list[str]:
    return [row["case"]["model"].removeprefix("torchvision:"), str(row["case"]["batch"])]
