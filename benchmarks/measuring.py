"""What one case of the suite measures: the variants of a model in turns in one mode, or what the bounds are made of."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import modes, peers, roofline, usage
from benchmarks.common import alternate, model_bytes
from benchmarks.networks import Network, Networks
from benchmarks.peers import AS_IS, FXREP

MERGE_ROUNDS = 5
Case = dict[str, Any]
Tick = Callable[[float], Any]


def measure(case: Case, networks: Networks, budget: float, tick: Tick) -> dict[str, Any]:
    """What one case adds to the results."""
    if case["mode"] == "rates":
        return roofline.rates(case["device"], getattr(torch, case["dtype"]), budget, tick)
    network = networks[case["model"]]
    if case["mode"] == "layers":
        found = roofline.layers(network.variants[FXREP], network.image)
        ends = network.image.numel() + network.reference.numel()
        return {"layers": [list(asdict(layer).values()) for layer in found], "ends": ends}
    if case["mode"] == "merge":
        model = network.variants[AS_IS]
        calls = {name: (lambda run=run: run(model)) for name, run in peers.merges().items() if name in network.variants}
        seconds = alternate(calls, budget=budget, rounds=MERGE_ROUNDS, collect=True, tick=tick)
        return {"seconds": rounded(seconds), "failed": network.failed}
    return timing(case, network, budget, tick)


@torch.no_grad()
def timing(case: Case, network: Network, budget: float, tick: Tick) -> dict[str, Any]:
    """Seconds, memory, kernels and error of every variant in the mode of the case.

    Raises:
        RuntimeError: the model as it is does not run.
    """
    x, calls = network.input(case), {}
    row: dict[str, Any] = {key: {} for key in ("failed", "error", "kernels", "activation_bytes", "weight_bytes")}
    for label, variant, mode in entrants(case["mode"]):
        if variant in network.failed:
            row["failed"][label] = network.failed[variant]
            continue
        try:
            model = network.placed(variant, case)
            call = modes.MODES[mode].prepare(model, x)
            found = {"error": network.error(call()), "weight_bytes": model_bytes(model)}
            found |= usages(mode, call, case["device"])
        except Exception as error:
            if (variant, mode) == (AS_IS, "eager"):
                raise RuntimeError(f"the model does not run, {peers.reason(error)}") from error
            row["failed"][label] = peers.reason(error)
            continue
        calls[label] = call
        for key, value in found.items():
            row[key][label] = value
    return row | {"seconds": rounded(alternate(calls, budget=budget, device=case["device"], tick=tick))}


def entrants(mode: str) -> list[tuple[str, str, str]]:
    """Who takes turns in a mode: a label, the variant and the mode that it runs in."""
    own = [(variant, variant, mode) for variant in modes.MODES[mode].variants]
    return own if mode == "eager" else own + [(f"{variant}, eager", variant, "eager") for variant in (AS_IS, FXREP)]


def usages(mode: str, call: modes.Call, device: str) -> dict[str, int | None]:
    """Kernels and activation bytes of a call, None where they cannot be counted."""
    engine = modes.MODES[mode].onnx
    generated = device == "cpu" and modes.MODES[mode].compiles  # the operators are in one piece of C++
    return {
        "kernels": None if engine or generated else usage.kernels(call, device),
        "activation_bytes": None if engine or mode == "cudagraphs" else usage.activation_bytes(call, device),
    }


def rounded(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """To six digits, which is finer than any clock here."""
    return {name: [float(f"{value:.6g}") for value in samples] for name, samples in seconds.items()}
