"""Merge a timm model for deployment: build, time, merge, verify, report.

    python examples/deploy_timm.py repvgg_a0 --batch 1 --image-size 224

The model is untrained, but every norm gets random statistics, so that a wrong merge shows.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.common import alternate, build, check_models, fail, positive, quartiles, ratio, require
from benchmarks.counting import count_ops


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="the name of a timm model, such as repvgg_a0 or mobileone_s1")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--image-size", type=positive, default=224)
    return parser.parse_args()


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, over the largest value of the reference."""
    return ((value - reference).abs().max() / reference.abs().max()).item()


def main() -> int:
    options = arguments()
    require("timm", "rich")
    from rich.console import Console
    from rich.table import Table

    import fxrep

    check_models([options.model])
    console = Console()
    with console.status(f"building {options.model}") as status, torch.no_grad():
        model = build(options.model)
        x = torch.randn(options.batch, 3, options.image_size, options.image_size)
        try:
            original = model(x)
        except (RuntimeError, AssertionError, ValueError) as error:
            fail(f"{options.model} does not run on input of shape {tuple(x.shape)}: {str(error).splitlines()[0]}")

        status.update("merging")
        deploy = fxrep.reparameterize(model)

        status.update("verifying")
        check = fxrep.verify(model, deploy, (x,))
        exact = copy.deepcopy(model).double()(x.double())
        errors = [relative_error(value, exact) for value in (original, deploy(x))]

        status.update("timing, before and after in turns")
        with torch.inference_mode():
            seconds = alternate({"before": lambda: model(x), "after": lambda: deploy(x)}, budget=10)

    console.print(str(fxrep.report(deploy)), markup=False, highlight=False, soft_wrap=True)
    console.print()

    table = Table(title=f"{options.model}, batch {options.batch}, {options.image_size} pixels")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")

    def row(title: str, values: Any, form: str) -> None:
        table.add_row(title, *(format(value, form) for value in values))

    counts = [count_ops(each, x) for each in (model, deploy)]
    row("convolutions run", (count.convolutions for count in counts), "d")
    row("batch norms run", (count.batch_norms for count in counts), "d")
    row("adds run", (count.adds for count in counts), "d")
    row("parameters", (sum(p.numel() for p in each.parameters()) for each in (model, deploy)), ",d")
    row("latency, ms (median)", (1e3 * quartiles(samples)[1] for samples in seconds.values()), ".2f")
    row("error against float64, relative", errors, ".1e")
    console.print(table)
    scatter = max((high - low) / middle for low, middle, high in map(quartiles, seconds.values()))
    busy = f"; the times scatter by {scatter:.0%}: this machine is busy" if scatter > 0.25 else ""
    console.print(f"speed-up: {ratio(seconds['before'], seconds['after']):.2f} times, pair by pair{busy}")
    verdict = "verified" if check.ok else "NOT verified"
    console.print(f"{verdict}: outputs differ by at most {check.max_abs:.1e}, {check.relative:.1e} relative")
    return 0 if check.ok else 1


if __name__ == "__main__":
    sys.exit(main())
