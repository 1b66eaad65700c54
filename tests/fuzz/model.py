"""From a program to a model in float64 with random weights and statistics, and to inputs for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.program import Program
from tests.helpers import randomize

HEADER = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"


def build(program: Program) -> nn.Module:
    """The model, in eval mode; the same program gives the same weights."""
    names: dict[str, Any] = {"__name__": "fuzzed"}
    exec(_compiled(HEADER + str(program)), names)
    with _double(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(program.seed)
        return randomize(names[program.main.name](), program.seed)


def make_inputs(program: Program, call: int = 0) -> tuple[Tensor, ...]:
    """The arguments of one call; each call has its own."""
    generator = torch.Generator().manual_seed(program.seed * 10 + call)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _, shape in program.main.inputs]
    if program.same and len(made) > 1 and made[0].shape == made[1].shape:
        made[1] = made[0]
    return tuple(made)


def reproduction(program: Program, path: str) -> str:
    """The program as a file that can be run: the model, its inputs, and what they give before and after."""
    shapes = "".join(f"torch.randn({shape}), " for _, shape in program.main.inputs)
    same = "inputs = (inputs[0], inputs[0], *inputs[2:])\n" if program.same and len(program.main.inputs) > 1 else ""
    return f"""import copy

{HEADER}from tests.fuzz.check import PATHS
from tests.helpers import randomize

torch.set_default_dtype(torch.float64)
torch.manual_seed({program.seed})


{program}


model = randomize({program.main.name}(), {program.seed})
inputs = ({shapes})
{same}before, after = dict(PATHS)["{path}"](model, inputs)
for name, one in (("before", before), ("after", after)):
    one, given = copy.deepcopy(one), copy.deepcopy(inputs)
    with torch.no_grad():
        for call in range(2):
            print(name, "call", call, one(*given), "inputs", given)
"""


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    return compile(source, "<fuzzed>", "exec")


@contextlib.contextmanager
def _double() -> Iterator[None]:
    """Make new tensors in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
