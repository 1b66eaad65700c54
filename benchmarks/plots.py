"""The suite's rows as plots: speed-up by model, latency by batch, memory, distance to the roofline."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import quartiles, ratio
from benchmarks.peers import FXREP, PEERS
from benchmarks.tables import MIB, Row, bound, groups, timings

COLOURS = dict(zip(PEERS, ["C7", "C0", "C1", "C2"], strict=True))


def draw(rows: list[Row], stem: Path) -> list[Path]:
    """Every plot that the rows have numbers for, as `STEM-NAME.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []
    machine = rows[0]["machine"]
    for name, plot in PLOTS.items():
        figure = plot(rows, pyplot)
        if figure is None:
            continue
        figure.suptitle(f"{machine['gpu'] or machine['processor']}, torch {machine['torch']}", fontsize=9)
        made.append(stem.with_name(f"{stem.name}-{name}.png"))
        figure.savefig(made[-1], dpi=120)
        pyplot.close(figure)
    return made


def main_group(rows: list[Row]) -> tuple[str, list[Row]]:
    """The first group of timings, at the batch that most of its models have."""
    title, group = next(groups(rows), ("", []))
    if not group:
        return title, []
    batch = Counter(row["case"]["batch"] for row in group).most_common(1)[0][0]
    return f"batch {batch}, {title}", [row for row in group if row["case"]["batch"] == batch]


def bars(axis: Any, rows: list[Row], series: dict[str, list[float | None]], colours: dict[str, str]) -> None:
    """Bars side by side, one series to a colour, the models along the axis."""
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(rows))]
        have = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        axis.bar(*zip(*have, strict=True), width, label=label, color=colours.get(label))
    names = [row["case"]["model"].removeprefix("torchvision:") for row in rows]
    axis.set_xticks(range(len(rows)), labels=names, rotation=30, ha="right")
    axis.grid(axis="y", alpha=0.3)
    axis.legend()


def speedup(rows: list[Row], pyplot: Any) -> Any:
    title, group = main_group(rows)
    if not group:
        return None
    figure, axis = pyplot.subplots(figsize=(10, 4), layout="constrained")
    labels = [label for label in PEERS if label != FXREP and any(label in row["seconds"] for row in group)]
    series = {label: [_ratio(row["seconds"], label) for row in group] for label in labels}
    bars(axis, group, series, COLOURS)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(ylabel="latency over that of fxrep", title=title)
    return figure


def _ratio(seconds: dict[str, list[float]], label: str) -> float | None:
    return ratio(seconds[label], seconds[FXREP]) if label in seconds and FXREP in seconds else None


def memory(rows: list[Row], pyplot: Any) -> Any:
    title, group = main_group(rows)
    labels = [label for label in PEERS if any(row["activation_bytes"].get(label) is not None for row in group)]
    if not labels:
        return None
    figure, axis = pyplot.subplots(figsize=(10, 4), layout="constrained")
    series = {label: [_mebibytes(row, label) for row in group] for label in labels}
    bars(axis, group, series, COLOURS)
    axis.set(ylabel="weights and activations, MiB", title=title)
    return figure


def _mebibytes(row: Row, label: str) -> float | None:
    activations = row["activation_bytes"].get(label)
    return None if activations is None else (activations + row["weight_bytes"][label]) / MIB


def latency(rows: list[Row], pyplot: Any) -> Any:
    """Against the batch size, as in the tutorials: a panel for each model that was measured at several."""
    found: dict[str, list[Row]] = {}
    title, group = max(groups(rows), key=lambda each: len({r["case"]["batch"] for r in each[1]}), default=("", []))
    for row in group:
        found.setdefault(row["case"]["model"], []).append(row)
    panels = {model: sorted(each, key=lambda row: row["case"]["batch"]) for model, each in found.items()}
    panels = {model: each for model, each in panels.items() if len(each) > 1}
    if not panels:
        return None
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (model, each) in zip(axes[0], panels.items(), strict=True):
        for label in PEERS:
            have = [row for row in each if label in row["seconds"]]
            middles = [1e3 * quartiles(row["seconds"][label])[1] for row in have]
            axis.plot([row["case"]["batch"] for row in have], middles, marker="o", label=label, color=COLOURS[label])
        axis.set(title=f"{model}\n{title}", xlabel="batch size", xscale="log", yscale="log")
        axis.set_xticks([row["case"]["batch"] for row in each], labels=[str(row["case"]["batch"]) for row in each])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    axes[0][0].set_ylabel("latency, ms")
    return figure


def distance(rows: list[Row], pyplot: Any) -> Any:
    """The share of the layer bound that the merged network reaches, by model and mode, at the main batch."""
    title, group = main_group(rows)
    wanted = {key: group[0]["case"][key] for key in ("batch", "dtype", "format", "image_size")} if group else {}
    shares: dict[str, dict[str, float]] = {}
    for row in timings(rows):
        case, limit = row["case"], bound(row, rows)
        if limit and all(case[key] == value for key, value in wanted.items()):
            share = limit["layers"] / quartiles(row["seconds"][FXREP])[1]
            shares.setdefault(case["mode"], {})[case["model"]] = 100 * share
    if not shares:
        return None
    figure, axis = pyplot.subplots(figsize=(10, 4), layout="constrained")
    models = {row["case"]["model"]: row for row in group}
    series = {mode: [found.get(model) for model in models] for mode, found in shares.items()}
    bars(axis, list(models.values()), series, {})
    axis.set(ylabel="% of the layer bound reached", title=title.replace("eager, ", ""))
    return figure


PLOTS: dict[str, Callable[[list[Row], Any], Any]] = {
    "speedup": speedup,
    "latency": latency,
    "memory": memory,
    "roofline": distance,
}
