"""What fxrep leaves running beside timm's own merge, on every model of the families that timm can merge.

    python -m benchmarks.against_timm

Every model up to 60 M parameters, one of each architecture. It writes a row to `against_timm.json` after each model and
the page at the end; a second run measures only what is missing or was measured with other versions.
"""

import argparse
import gc
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import against, against_page
from benchmarks.common import Results, fail, require
from benchmarks.peers import reason
from benchmarks.progress import Progress
from tests.zoo.measure import SOURCES
from tests.zoo.models import LARGE, Case, build, catalogue

FAMILIES = {
    *("repghost", "ghostnet", "lcnetv2", "fastvit", "repvit", "coat", "davit", "twins", "csatv2", "tiny_vit", "levit"),
    *("efficientformer_v2", "efficientvit_msra", "efficientvit_mit", "shvit", "iformer", "efficientvim", "starnet"),
    *("swiftformer", "edgenext", "convnext", "nfnet"),
}


def arguments() -> argparse.Namespace:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_timm", description=description)
    parser.add_argument("--filter", default="", metavar="REGEX", help="models whose name matches")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/against_timm.json"), metavar="FILE")
    parser.add_argument("--page", type=Path, default=Path("docs/against_timm.md"))
    parser.add_argument("--any-sources", action="store_true", help="keep what was measured with other sources of fxrep")
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    parser.add_argument("--table", action="store_true", help="only write the page")
    return parser.parse_args()


def cases() -> list[Case]:
    """The models, family by family and the smallest first."""
    found = (case for case in catalogue() if case.library == "timm" and case.family in FAMILIES)
    chosen = [case for case in found if 0 < case.parameters <= LARGE]
    return sorted(chosen, key=lambda case: (case.family, case.parameters, case.name))


def fill(results: Results, chosen: list[Case], any_sources: bool) -> None:
    """Measure what is missing. A model of an architecture that was measured gets no numbers, but the other's name."""
    versions = {package: version(package) for package in ("torch", "timm")}
    stamp = versions | {"sources": SOURCES}
    compared = versions if any_sources else stamp

    def is_current(row: dict[str, Any]) -> bool:
        return all(row["machine"][key] == value for key, value in compared.items())

    current = {row["case"]["model"]: row for row in results.rows if is_current(row)}
    waiting = [case for case in chosen if case.name not in current]
    measured = {row["architecture"]: name for name, row in current.items() if "counts" in row}
    with Progress(len(waiting)) as progress:
        for case in waiting:
            progress.start(case.name)
            row: dict[str, Any]
            try:
                model = build(case)
                same = against.architecture(model)
                first = measured.setdefault(same, case.name)
                found = {"as": first} if first != case.name else against.measure(case, model)
                row = {"architecture": same, "family": case.family, **found}
            except Exception as error:
                row = {"architecture": "", "family": case.family, "error": reason(error)}
                progress.say(f"{case.name}: {row['error']}")
            results.rows = [old for old in results.rows if old["case"]["model"] != case.name]
            row = results.add({"model": case.name}, stamp, **row)
            if "counts" in row and (lags := against_page.remarks(row)):
                progress.say(f"{case.name}: {lags}")
            model = None
            gc.collect()


def main() -> None:
    options = arguments()
    require("timm", "torchvision")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = Results.open(options.results, fresh=options.fresh)
    if not options.table:
        fill(results, [case for case in cases() if re.search(options.filter, case.name)], options.any_sources)
    if not results.rows:
        fail(f"{options.results} has no rows")
    options.page.write_text(against_page.page(results.rows))
    print(f"{options.page}: {against_page.summary(results.rows)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
