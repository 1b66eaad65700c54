"""Several convolutions of one value, for different readers: apart, or stacked into one whose output is split.

    python -m benchmarks.parallel

Blocks are the entries of published networks with what reads them, once in full and once with pointwise readers alone.
Networks have their norms folded by the pass, and the 1x1 convolutions and linear layers that read one tensor are found
while they run and stacked by hand; the pass does not do it. In "relu once" the activation runs before the split. All
take turns in every round, and "again" is a copy of "apart": what it differs by is noise. A ratio is the median of the
rounds' own, with the quartiles; above 1, stacking is faster. Each variant is first compared with "apart" in float64.
Rows go to a JSON file as they are measured, and a second run measures only what is missing.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import Results, alternate, fail, machine, positive, quartiles, ratio, require
from benchmarks.measuring import rounded
from benchmarks.models import TORCHVISION, check, make

APART, AGAIN, STACKED, ONCE = "apart", "again", "stacked", "relu once"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCHES = [1, 8, 32]
MODELS = [f"{TORCHVISION}googlenet", f"{TORCHVISION}inception_v3", "mobilenetv4_hybrid_medium", "convit_tiny"]
MODEL_BATCHES = [1, 8]
EXACT = 1e-9  # of the largest value, in float64


# --------------------------------------------------------------------------------------------------------------- blocks
@dataclass(frozen=True)
class Entry:
    """Convolutions of one value (linear layers with a `size` of tokens), and the convolution behind each."""

    channels: int
    size: int | tuple[int, int]
    widths: tuple[int, ...]
    readers: tuple[tuple[int, tuple[int, int]] | None, ...] = ()  # channels and kernel behind the activation
    relu: bool = True
    heads: tuple[int, ...] = ()  # of attention, which reads all three


ENTRIES = {
    "googlenet 3a": Entry(192, (28, 28), (64, 96, 16), (None, (128, (3, 3)), (32, (3, 3)))),
    "googlenet 4e": Entry(528, (14, 14), (256, 160, 32), (None, (320, (3, 3)), (128, (3, 3)))),
    "googlenet 5a": Entry(832, (7, 7), (256, 160, 32), (None, (320, (3, 3)), (128, (3, 3)))),
    "inception_v3 5b": Entry(192, (35, 35), (64, 48, 64), (None, (64, (5, 5)), (96, (3, 3)))),
    "inception_v3 6b": Entry(768, (17, 17), (192, 128, 128), (None, (128, (1, 7)), (128, (7, 1)))),
    "cspresnet50 stage 2": Entry(128, (28, 28), (256, 256), (None, (128, (1, 1))), relu=False),
    "cspdarknet53 stage 3": Entry(256, (28, 28), (128, 128), (None, (128, (1, 1)))),
    "mobilenetv4_hybrid q, k, v": Entry(256, (8, 8), (256, 64, 64), heads=(4, 1, 1)),
    "ViT-S q, k, v": Entry(384, 197, (384, 384, 384), heads=(6, 6, 6)),
}


class Block(nn.Module):
    """The convolutions one by one, and their readers: `full`, or the activation alone."""

    def __init__(self, entry: Entry, full: bool) -> None:
        super().__init__()
        self.entry, self.full = entry, full
        self.axis = -1 if isinstance(entry.size, int) else 1
        make = nn.Linear if self.axis == -1 else lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1)
        self.entries = nn.ModuleList(make(entry.channels, width) for width in entry.widths)
        self.readers = nn.ModuleList(
            nn.Conv2d(width, reader[0], reader[1], padding="same") if full and reader else nn.Identity()
            for width, reader in zip(entry.widths, entry.readers or [None] * len(entry.widths), strict=True)
        )

    def forward(self, x: Tensor) -> Any:
        return self.read([entry(x) for entry in self.entries])

    def read(self, values: Sequence[Tensor], active: bool = False) -> Any:
        """What the readers make of the values, whose activation may have run."""
        if self.full and self.entry.heads:
            return F.scaled_dot_product_attention(*map(self.split_heads, values, self.entry.heads))
        if not active and (self.entry.relu or not self.full):
            values = [F.relu(value, inplace=True) for value in values]
        if not self.full:
            return list(values)
        read = (reader(value) for reader, value in zip(self.readers, values, strict=True))
        return torch.cat(
            [
                value if isinstance(reader, nn.Identity) else F.relu(value, inplace=True)
                for reader, value in zip(self.readers, read, strict=True)
            ],
            1,
        )

    def split_heads(self, value: Tensor, heads: int) -> Tensor:
        if self.axis == -1:
            return value.unflatten(-1, (heads, -1)).transpose(1, 2)
        return value.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


class StackedBlock(nn.Module):
    """The same with one convolution, whose output is split before or behind the activation."""

    def __init__(self, block: Block, once: bool) -> None:
        super().__init__()
        self.block, self.once = block, once
        self.entry = stack(list(block.entries))

    def forward(self, x: Tensor) -> Any:
        value = self.entry(x)
        if self.once:
            value = F.relu(value, inplace=True)
        return self.block.read(value.split(self.block.entry.widths, self.block.axis), self.once)


def stack(modules: list[Any]) -> nn.Module:
    """One 1x1 convolution or linear layer with the outputs of several."""
    first, outputs = modules[0], sum(module.weight.shape[0] for module in modules)
    bias = any(module.bias is not None for module in modules)
    if isinstance(first, nn.Linear):
        one: Any = nn.Linear(first.in_features, outputs, bias)
    else:
        one = nn.Conv2d(first.in_channels, outputs, 1, bias=bias)
    one.weight.data = torch.cat([module.weight.data for module in modules])
    if bias:
        one.bias.data = torch.cat(
            [
                module.weight.data.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias.data
                for module in modules
            ]
        )
    return one


def blocks(name: str, full: bool) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    apart = Block(ENTRIES[name], full).eval()
    found = {APART: apart, AGAIN: copy.deepcopy(apart), STACKED: StackedBlock(copy.deepcopy(apart), once=False)}
    if not (full and (apart.entry.heads or not apart.entry.relu)):
        found[ONCE] = StackedBlock(copy.deepcopy(apart), once=True)
    return found


# ------------------------------------------------------------------------------------------------------------- networks
class First(nn.Module):
    """In place of the first of several siblings: computes all, and keeps the others' parts for them."""

    def __init__(self, modules: list[Any], relu: bool) -> None:
        super().__init__()
        self.one, self.relu, self.parts = stack(modules), relu, [Part() for _ in modules[1:]]
        self.axis = -1 if isinstance(self.one, nn.Linear) else 1
        self.widths = [module.weight.shape[0] for module in modules]

    def forward(self, x: Tensor) -> Tensor:
        value = self.one(x)
        if self.relu:
            value = F.relu(value, inplace=True)
        first, *rest = value.split(self.widths, self.axis)
        for part, kept in zip(self.parts, rest, strict=True):
            part.value = kept
        return first


class Part(nn.Module):
    value: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        value, self.value = self.value, None
        assert value is not None, "called before the first of its siblings, or twice"
        return value


@torch.no_grad()
def siblings(model: nn.Module, x: Tensor) -> list[list[str]]:
    """Paths of the 1x1 convolutions and linear layers that read the same tensor, in the order of their calls."""
    calls: dict[tuple[int, int], list[tuple[str, Tensor]]] = {}  # the tensors too: ids of the dead are given anew
    kinds: dict[tuple[int, int], set[type]] = {}

    def hook(path: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            key = id(inputs[0]), inputs[0]._version
            calls.setdefault(key, []).append((path, inputs[0]))
            kinds.setdefault(key, set()).add(type(module))

        return note

    handles = [module.register_forward_pre_hook(hook(path)) for path, module in model.named_modules() if plain(module)]
    model(x)
    for handle in handles:
        handle.remove()
    return [[path for path, _ in found] for key, found in calls.items() if len(found) > 1 and len(kinds[key]) == 1]


def plain(module: nn.Module) -> bool:
    """Whether this is a linear layer, or a convolution of single pixels."""
    if type(module) is nn.Conv2d:
        return (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1), (0, 0), 1)
    return type(module) is nn.Linear


def stack_siblings(model: nn.Module, groups: list[list[str]], once: bool = False) -> nn.Module:
    """A copy with each group stacked; with `once` in place of the convolutions with their activations."""
    model = copy.deepcopy(model)
    for paths in groups:
        first = First([model.get_submodule(path) for path in paths], relu=once)
        for path, made in zip(paths, [first, *first.parts], strict=True):
            model.set_submodule(path.rpartition(".")[0] if once else path, made)
    return model


def with_relu(model: nn.Module, paths: list[str]) -> bool:
    """Whether each is in torchvision's module that runs a convolution, its norm, folded by now, and a ReLU."""
    return all(type(model.get_submodule(path.rpartition(".")[0])).__name__ == "BasicConv2d" for path in paths)


def networks(name: str, image_size: int) -> dict[str, nn.Module]:
    import fxrep

    model = make(name)
    apart = fxrep.reparameterize(model)
    groups = siblings(apart, torch.randn(1, 3, image_size, image_size))
    if not groups:
        fail(f"{name} has no two 1x1 convolutions or linear layers of one tensor")
    found = {APART: apart, AGAIN: copy.deepcopy(apart), STACKED: stack_siblings(apart, groups)}
    if all(with_relu(apart, group) for group in groups):
        found[ONCE] = stack_siblings(apart, groups, once=True)
    return found


# ------------------------------------------------------------------------------------------------------------ measuring
def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--block", nargs="*", default=list(ENTRIES), choices=[*ENTRIES, []], metavar="NAME")
    parser.add_argument("--model", nargs="*", default=MODELS, metavar="NAME", help="of timm, or torchvision:NAME")
    parser.add_argument("--batches", nargs="+", type=positive, metavar="N", help="default: 1 8 32, of models 1 8")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--image-size", type=positive, help="of models (default: 299 for inception_v3, else 224)")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds per block, eight times that per model")
    parser.add_argument("--rounds", type=positive, default=40, help="at most (default 40)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file already has")
    return parser.parse_args(argv)


def cases(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in options.block:
        shared = {"block": name, "device": options.device}
        formats = options.formats if isinstance(ENTRIES[name].size, tuple) else ["contiguous"]
        for readers in ("full", "pointwise"):
            for batch in options.batches or BATCHES:
                for format in formats:
                    yield {**shared, "readers": readers, "batch": batch, "format": format}
    for name in options.model:
        size = options.image_size or (299 if "inception" in name else 224)
        shared = {"model": name, "device": options.device, "image_size": size}
        for batch in options.batches or MODEL_BATCHES:
            for format in options.formats:
                yield {**shared, "batch": batch, "format": format}


def measure(case: dict[str, Any], variants: dict[str, nn.Module], budget: float, rounds: int) -> dict[str, Any]:
    """Seconds of each variant, and how far each is from "apart" in float64."""
    device, format = case["device"], FORMATS[case["format"]]
    torch.manual_seed(1)
    if "model" in case:
        x = torch.randn(case["batch"], 3, case["image_size"], case["image_size"])
    else:
        size = ENTRIES[case["block"]].size
        channels = ENTRIES[case["block"]].channels
        x = torch.randn(case["batch"], *((size, channels) if isinstance(size, int) else (channels, *size)))
    x = (x.contiguous(memory_format=format) if x.ndim == 4 else x).to(device)
    few, error = x[:2], {}
    with torch.inference_mode():
        exact = flat(copy.deepcopy(variants[APART]).to(device).double()(few.double()))
        for name, variant in variants.items():
            same = flat(copy.deepcopy(variant).to(device).double()(few.double()))
            if not (same - exact).abs().max() <= EXACT * exact.abs().max():
                fail(f"{case}: {name} computes something else")
            variant.to(device=device)
            if x.ndim == 4:
                variant.to(memory_format=format)
            error[name] = float((flat(variant(few)).double() - exact).abs().max() / exact.abs().max())
        calls = {name: (lambda variant=variant: variant(x)) for name, variant in variants.items()}
        seconds = alternate(calls, budget=budget, rounds=rounds, device=device)
    ratios = {name: ratio(seconds[APART], seconds[name]) for name in seconds if name != APART}
    return {"seconds": rounded(seconds), "ratio": ratios, "error": error, "load": os.getloadavg()[0]}


def flat(output: Any) -> Tensor:
    return torch.cat([part.flatten() for part in ([output] if isinstance(output, Tensor) else output)])


# --------------------------------------------------------------------------------------------------------------- tables
def cell(seconds: dict[str, list[float]], name: str) -> str:
    if name not in seconds:
        return ""
    low, middle, high = quartiles([a / b for a, b in zip(seconds[APART], seconds[name], strict=True)])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    view = Table(title="how many times as long as each the convolutions apart take (median, quartiles)")
    for heading in ("", "readers", "batch", "format", "apart, ms", STACKED, ONCE, AGAIN, "rounds"):
        view.add_column(
            heading, justify="right" if heading in ("batch", "apart, ms", "rounds") else "left", no_wrap=True
        )
    for row in rows:
        case, seconds = row["case"], row["seconds"]
        view.add_row(
            case.get("block") or case["model"].removeprefix(TORCHVISION),
            case.get("readers", ""),
            str(case["batch"]),
            case["format"].replace("_", "-"),
            f"{1e3 * quartiles(seconds[APART])[1]:.3g}",
            *(cell(seconds, name) for name in (STACKED, ONCE, AGAIN)),
            str(len(seconds[APART])),
        )
    return view


def summary(rows: list[dict[str, Any]]) -> Any:
    """The least, the middle and the largest of the ratios of each kind of case."""
    from rich.table import Table

    view = Table(title="ratios by kind: median (least to largest)")
    for heading in ("", "batch", "format", "cases", STACKED, ONCE, AGAIN):
        view.add_column(heading, no_wrap=True)
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        case = row["case"]
        kind = f"blocks, {case['readers']} readers" if "block" in case else "models"
        key = kind, str(case["batch"]), case["format"].replace("_", "-")
        kinds.setdefault(key, []).append(row["ratio"])
    for key, found in kinds.items():
        ratios = ([each[name] for each in found if name in each] for name in (STACKED, ONCE, AGAIN))
        view.add_row(*key, str(len(found)), *map(spread, ratios))
    return view


def spread(ratios: list[float]) -> str:
    return f"{quartiles(ratios)[1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def main() -> None:
    options = arguments()
    require("timm", "torchvision", "rich")
    from rich.console import Console

    from benchmarks.progress import Progress

    if options.device == "cuda" and not torch.cuda.is_available():
        fail("torch sees no CUDA device here; use --device cpu")
    check(options.model)
    if options.threads:
        torch.set_num_threads(options.threads)

    here = machine(options.device)
    results = Results.open(options.out / f"parallel-{options.device}.json", fresh=options.fresh)
    rows, chosen = [], list(cases(options))
    built: tuple[Any, dict[str, nn.Module]] = None, {}
    with Progress(len(chosen)) as progress:
        for case in chosen:
            progress.start(", ".join(str(value) for value in case.values()))
            row = results.find(case, here)
            if row is None:
                of = case.get("model") or (case["block"], case["readers"])
                if built[0] != of:
                    if "model" in case:
                        built = of, networks(of, case["image_size"])
                    else:
                        built = of, blocks(case["block"], case["readers"] == "full")
                budget = options.budget * (8 if "model" in case else 1)
                row = results.add(case, here, **measure(case, built[1], budget, options.rounds))
            rows.append(row)
    if not rows:
        fail("nothing was measured")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table(rows))
    console.print(summary(rows))
    console.print(f"raw numbers: {results.path}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; what was measured is kept, and the same command goes on from there")
