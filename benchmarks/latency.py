"""Latency and peak memory of timm models before and after the pass, by batch size.

    python -m benchmarks.latency --model repvgg_a0 --batches 1 2 4 8 16 32 64 128 --device cpu

Before and after alternate in every round, warmed up and synchronised; a row shows medians and the quartiles around
them. The ratio is the median of the rounds' own ratios. Peak memory is the weights plus the activations alive at once:
on CUDA as the allocator counts them (with cuDNN's scratch space), on the CPU as the dispatcher sees them (without the
kernels' scratch space). Rows go to a JSON file as they are measured, and a second run measures only what is missing.
"""

import argparse
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
    ratio,
    require,
)
from benchmarks.counting import peak_bytes
from benchmarks.usage import activation_bytes

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["repvgg_a0"], metavar="NAME", help="timm models")
    parser.add_argument("--batches", nargs="+", type=positive, default=BATCHES, metavar="N")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--image-size", type=positive, default=224)
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds per model and batch size (default 10)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    return parser.parse_args()


def peak_memory(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the weights and of the activations alive at once."""
    if x.device.type != "cuda":
        return model_bytes(model) + peak_bytes(model, x)
    with torch.inference_mode():
        return model_bytes(model) + activation_bytes(lambda: model(x), "cuda")


def measure(before: nn.Module, after: nn.Module, x: torch.Tensor, budget: float, tick: Any) -> dict[str, Any]:
    with torch.inference_mode():
        samples = alternate(
            {"before": lambda: before(x), "after": lambda: after(x)}, budget=budget, device=x.device.type, tick=tick
        )
    return {
        "seconds": samples,
        "ratio": ratio(samples["before"], samples["after"]),
        "peak_bytes": {"before": peak_memory(before, x), "after": peak_memory(after, x)},
    }


def table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    view = Table(title="latency (median, ± half the quartile range) and peak memory")
    view.add_column("model", no_wrap=True)
    for heading in ("batch", "before\nms", "after\nms", "ratio\n", "before\nMiB", "after\nMiB", "rounds\n"):
        view.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds, memory = row["seconds"], row["peak_bytes"]
        view.add_row(
            row["case"]["model"],
            str(row["case"]["batch"]),
            *(spread(seconds[side]) for side in ("before", "after")),
            f"{row['ratio']:.2f}",
            *(f"{memory[side] / 2**20:.0f}" for side in ("before", "after")),
            str(len(seconds["before"])),
        )
    return view


def spread(samples: list[float]) -> str:
    low, middle, high = quartiles(samples)
    return f"{1e3 * middle:.1f}" + (f" ±{(high - low) / 2 / middle:.0%}" if len(samples) > 1 else "")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Latency against batch size, one panel per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["case"]["model"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(models), figsize=(4.5 * len(models), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, model in zip(axes[0], models, strict=True):
        chosen = sorted((row for row in rows if row["case"]["model"] == model), key=lambda row: row["case"]["batch"])
        batches = [row["case"]["batch"] for row in chosen]
        for side, marker in (("before", "o"), ("after", "s")):
            low, middle, high = zip(*(quartiles(row["seconds"][side]) for row in chosen), strict=True)
            (line,) = axis.plot(batches, [1e3 * value for value in middle], marker=marker, label=side)
            bounds = ([1e3 * value for value in edge] for edge in (low, high))
            axis.fill_between(batches, *bounds, color=line.get_color(), alpha=0.2)
        axis.set(title=model, xlabel="batch size", xscale="log", yscale="log")
        axis.set_xticks(batches, labels=[str(batch) for batch in batches])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    axes[0][0].set_ylabel("latency, ms")
    where = rows[0]["machine"]
    figure.suptitle(f"{where['gpu'] or where['processor']}, torch {where['torch']}", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    options = arguments()
    require("timm", "rich", "matplotlib")
    from rich.console import Console
    from rich.progress import Progress

    import fxrep

    if options.device == "cuda" and not torch.cuda.is_available():
        fail("torch sees no CUDA device here; use --device cpu")
    check_models(options.model)
    if options.threads:
        torch.set_num_threads(options.threads)

    here = machine(options.device)
    results = Results.open(options.out / f"latency-{options.device}.json", fresh=options.fresh)
    console = Console()
    rows = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(options.model) * len(options.batches))
        done = 0
        for name in options.model:
            pair = None
            for batch in options.batches:
                progress.update(task, description=f"{name}, batch {batch}", completed=done)
                case = {"model": name, "batch": batch, "image_size": options.image_size, "device": options.device}
                row = results.find(case, here)
                if row is None:
                    if pair is None:
                        before = build(name)
                        pair = before.to(options.device), fxrep.reparameterize(before).to(options.device)
                    x = torch.randn(batch, 3, options.image_size, options.image_size, device=options.device)
                    try:
                        measured = measure(
                            *pair, x, options.budget, lambda part, at=done: progress.update(task, completed=at + part)
                        )
                    except (torch.cuda.OutOfMemoryError, MemoryError):
                        console.print(f"{name}, batch {batch}: out of memory, left out")
                        continue
                    except (RuntimeError, AssertionError) as error:
                        fail(f"{name} at {options.image_size} pixels: {str(error).splitlines()[0]}")
                    row = results.add(case, here, **measured)
                rows.append(row)
                done += 1
    if not rows:
        fail("nothing was measured")
    picture = results.path.with_suffix(".png")
    plot(rows, picture)
    console.print(table(rows))
    console.print(f"raw numbers: {results.path}   plot: {picture}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
