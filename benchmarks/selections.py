"""The named selections of cases: each is a few grids, measured one after the other, the telling ones first."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.models import TUTORIAL

REPVGG = ("repvgg_a0", "repvgg_b0", "repvgg_b1", "repvgg_b3", "repvgg_d2se")
MOBILEONE = ("mobileone_s0", "mobileone_s1", "mobileone_s4")
HYBRID = ("fastvit_t8", "fastvit_sa12", "repvit_m0_9", "repghostnet_100", "ghostnetv3_100", "lcnetv2_base")
CONTROLS = ("torchvision:resnet50", "convnext_tiny")
EVERY_MODEL = (*REPVGG, *MOBILEONE, *HYBRID, TUTORIAL, *CONTROLS)
SMALL = (
    *("repvgg_a0", "mobileone_s0", "mobileone_s1", "repvit_m0_9", "repghostnet_100", "ghostnetv3_100", "fastvit_t8"),
    "torchvision:resnet50",
)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Grid:
    """The product of these; the mode `merge` times the passes themselves, once for each model."""

    models: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("float32",)
    formats: tuple[str, ...] = ("contiguous",)
    modes: tuple[str, ...] = ("eager",)

    def with_only(self, **chosen: Sequence[Any] | None) -> "Grid":
        """This grid with the given axes instead of its own."""
        return replace(self, **{axis: tuple(values) for axis, values in chosen.items() if values})


HALF = {"dtypes": ("float16",), "formats": ("channels_last",)}

SELECTIONS: dict[str, tuple[Grid, ...]] = {
    "quick": (Grid(SMALL, modes=("eager", "merge")),),
    "cpu": (
        Grid(EVERY_MODEL, modes=("eager", "merge")),
        Grid(("repvgg_a0", "mobileone_s0", TUTORIAL), batches=(1, 8, 32)),
        Grid(SMALL, modes=("onnxruntime", "openvino")),
        Grid(("repvgg_a0", "mobileone_s0"), modes=("freezing",)),
        Grid(("repvgg_a0",), modes=("compile",)),
        Grid(("repvgg_a0", "torchvision:resnet50"), batches=(8,), dtypes=("bfloat16",), formats=FORMATS),
    ),
    "gpu": (
        Grid(SMALL, batches=(128,), **HALF),
        Grid(SMALL, modes=("cudagraphs",), **HALF),
        Grid(("repvgg_a0", "mobileone_s0", "repghostnet_100"), batches=(1, 32), modes=("eager", "cudagraphs")),
        Grid(("repvgg_a0", "mobileone_s0"), batches=(128,), modes=("compile",), **HALF),
        Grid(("repvgg_a0", "mobileone_s0"), batches=BATCHES, **HALF),
        Grid(("repvgg_a0",), batches=(128,), modes=("freezing", "tensorrt"), **HALF),
        Grid(("repvgg_b1", "mobileone_s4", "fastvit_sa12", TUTORIAL, "convnext_tiny"), batches=(128,), **HALF),
        Grid(("repvgg_a0", "mobileone_s0"), batches=(128,), dtypes=("bfloat16",), formats=FORMATS),
        Grid(("mobileone_s0", "fastvit_t8"), batches=(128,), modes=("freezing", "compile"), **HALF),
    ),
    "full": (
        Grid(EVERY_MODEL, modes=("merge",)),
        Grid(
            EVERY_MODEL,
            *(BATCHES, DTYPES, FORMATS),
            ("eager", "compile", "freezing", "cudagraphs", "onnxruntime", "openvino", "tensorrt"),
        ),
    ),
}


def cases(grids: Sequence[Grid], device: str, image_size: int) -> list[dict[str, Any]]:
    """The cases of the grids, each once and by model, with the rates and the layers that the bounds are made of."""
    every = (one for grid in grids for case in _of(grid, device, image_size) for one in (*_before(case), case))
    return list({tuple(case.items()): case for case in every}.values())


def _of(grid: Grid, device: str, image_size: int) -> Iterator[dict[str, Any]]:
    for model, mode in itertools.product(grid.models, grid.modes):
        if mode == "merge":
            yield {"mode": mode, "model": model}
            continue
        for batch, dtype, memory_format in itertools.product(grid.batches, grid.dtypes, grid.formats):
            if mode in ("onnxruntime", "openvino") and (dtype, memory_format) != ("float32", "contiguous"):
                continue  # these lay the data out as they like, and float32 is what the exported file holds
            size = {"batch": batch, "image_size": image_size}
            yield {"mode": mode, "model": model, **size, "dtype": dtype, "format": memory_format, "device": device}


def _before(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if case["mode"] != "merge":
        yield {"mode": "rates", "dtype": case["dtype"], "device": case["device"]}
        yield {"mode": "layers", "model": case["model"], "image_size": case["image_size"]}
