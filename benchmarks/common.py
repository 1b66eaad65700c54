"""What the benchmarks share: models with random statistics, alternating timing, the machine's description, results."""

import argparse
import difflib
import gc
import importlib.util
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn


def fail(message: str) -> NoReturn:
    """End the program with one line on stderr and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def require(*modules: str) -> None:
    """End the program with one line if a module that an extra brings is missing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        fail(f'this needs {", ".join(missing)}: pip install ".[bench]"')


def check_models(names: Iterable[str]) -> None:
    """End the program with the closest matches if timm has no model of one of these names."""
    import timm

    for name in names:
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            fail(f"timm has no model {name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))


def build(name: str, seed: int = 0) -> nn.Module:
    """A timm model in eval mode, untrained but with random norm statistics."""
    import timm

    torch.manual_seed(seed)
    return randomise_norms(timm.create_model(name, pretrained=False).eval())


@torch.no_grad()
def randomise_norms(model: nn.Module) -> nn.Module:
    """Give every batch norm random statistics and weights. Fresh ones are the identity and prove little."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    return model


def model_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def alternate(
    functions: Mapping[str, Callable[[], Any]],
    *,
    budget: float,
    rounds: int = 50,
    device: str = "cpu",
    sample: float = 0.01,
    collect: bool = False,
    tick: Callable[[float], Any] = lambda fraction: None,
) -> dict[str, list[float]]:
    """Seconds per call of each function, one sample of each in every round, so that drift hits all alike.

    Each function is warmed up first. A sample is as many calls as fill `sample` seconds. The rounds end when `budget`
    seconds are spent, but not before the third, or the first if the warm-up alone took the budget. With `collect`,
    garbage is collected before each sample, outside the clock.
    """

    def measure(function: Callable[[], Any], calls: int) -> float:
        if collect:
            gc.collect()
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronise(device)
        return (time.perf_counter() - start) / calls

    begin = time.perf_counter()
    calls: dict[str, int] = {}
    for name, function in functions.items():
        first = measure(function, 1)
        if first < budget / 10:  # the first call also loads kernels and fills caches
            first = measure(function, max(1, int(min(0.3, budget / 10) / first)))
        calls[name] = max(1, round(sample / first))
    least = 3 if time.perf_counter() - begin < budget else 1
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(rounds):
        spent = time.perf_counter() - begin
        if done >= least and spent > budget:
            break
        tick(min(1.0, max(done / rounds, spent / budget)))
        for name, function in functions.items():
            samples[name].append(measure(function, calls[name]))
    tick(1.0)
    return samples


def quartiles(samples: list[float]) -> tuple[float, float, float]:
    """The 25th percentile, the median and the 75th percentile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def ratio(before: list[float], after: list[float]) -> float:
    """The median over the rounds of before / after: each pair ran back to back."""
    return statistics.median(b / a for b, a in zip(before, after, strict=True))


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions a measurement belongs to."""
    import timm

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that is measured, with `-dirty` if the tree differs from it in more than results."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)benchmarks/results")
        return git("describe", "--always") + ("-dirty" if changed else "") or None
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Results:
    """Rows in a JSON file, one to a line, written after every row: an interrupted run leaves what it measured.

    A row is found again by its `case` and `machine`. A row of another machine is never taken for one of this.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, *, fresh: bool = False) -> "Results":
        try:
            return cls(path, [] if fresh or not path.exists() else json.loads(path.read_text())["rows"])
        except (ValueError, KeyError, TypeError):
            fail(f"{path} is not a results file of this benchmark; move it away or pass --fresh")

    def find(self, case: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["case"] == case and row["machine"] == machine), None)

    def drop(self, row: dict[str, Any]) -> None:
        """Forget a row, which is then measured again."""
        self.rows.remove(row)

    def add(self, case: dict[str, Any], machine: dict[str, Any], **measured: Any) -> dict[str, Any]:
        command = shlex.join(["python", "-m", _main_module(), *sys.argv[1:]])
        row = {"case": case, **measured, "machine": machine, "command": command, "commit": commit()}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text('{"rows": [\n' + ",\n".join(json.dumps(row) for row in self.rows) + "\n]}\n")
        partial.replace(self.path)
        return row


def _main_module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).stem
