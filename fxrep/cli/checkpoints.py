"""Checkpoints as training leaves them: find the weights, take wrappers' prefixes off, and load them strictly."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError, first_line, require, shortened

# Where training scripts put the weights, the ones they deploy first.
KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "state_dict", "model_state_dict", "model",
        "module", "net", "network", "weights")  # fmt: skip
# What wrappers put in front of every name: DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema_model.")


def load_checkpoint(model: nn.Module, path: Path, *, trust: bool = False, key: str | None = None) -> list[str]:
    """Load the weights in ``path`` into ``model``; returns what the user should know about how.

    Raises:
        UserError: it is no checkpoint, needs ``trust``, or does not fit; ``model`` is then not changed.
    """
    content = read(path, trust=trust)
    state, used = _weights(content, path, key)
    state, prefix = _fit_names(state, set(model.state_dict()))
    _require_fit(model, state, path)
    model.load_state_dict(state)
    notes = [f"used '{used}' of {path.name}"] if used else []
    others = [k for k in KEYS if used and "." not in used and k != used and isinstance(content.get(k), Mapping)]
    if others and key is None:
        notes[0] += f" (--key takes another: {shortened(others)})"
    if prefix:
        notes.append(f"took '{prefix}' off the names")
    return notes


def read(path: Path, *, trust: bool) -> Any:
    """What a checkpoint file holds."""
    if not path.exists():
        raise UserError(f"there is no checkpoint '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a directory, not a checkpoint")
    if path.suffix == ".safetensors":
        safetensors = require("safetensors.torch", "cli")
        try:
            return safetensors.load_file(path)
        except Exception as error:
            raise UserError(f"'{path}' is not a complete safetensors file: {first_line(error)}") from error
    _require_pickle(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:
        if not trust and isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f" ({found.group(1)})" if found else ""
            raise UserError(
                f"'{path}' holds Python objects{what}, not only tensors; reading them runs the code they bring. "
                "If you trust where the file comes from, add --trust"
            ) from None
        if isinstance(error, ImportError | AttributeError):
            raise UserError(f"'{path}' needs Python code that is not on the path here: {first_line(error)}") from error
        raise UserError(f"'{path}' is damaged, or no checkpoint: {first_line(error)}") from error


def _require_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80":  # the format before torch 1.6
        return
    if start != b"PK":
        raise UserError(f"'{path}' is not a checkpoint: neither safetensors nor written by torch.save")
    if not zipfile.is_zipfile(path):
        raise UserError(f"'{path}' is damaged: its end is missing")


def _weights(content: Any, path: Path, key: str | None) -> tuple[dict[str, Tensor], str]:
    """The state dict inside, and under which key it was found."""
    used: list[str] = []
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            known = shortened(map(str, content)) if isinstance(content, Mapping) else "nothing by name"
            raise UserError(f"'{path}' has no '{key}'; it holds {known}")
        content, used = content[key], [key]
    while True:
        if isinstance(content, nn.Module):  # read with --trust
            return content.float().state_dict(), ".".join(used)
        if not isinstance(content, Mapping):
            raise UserError(f"'{path}' holds a {type(content).__name__}, not weights by name")
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((k for k in KEYS if isinstance(content.get(k), Mapping | nn.Module)), None)
        if inner is None:
            if not tensors:
                raise UserError(f"'{path}' holds no weights; it has {shortened(map(str, content)) or 'nothing'}")
            return tensors, ".".join(used)
        content = content[inner]
        used.append(inner)


def _fit_names(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], str]:
    """Take prefixes off that all names have and the model does not know."""
    taken = ""
    if "n_averaged" not in wanted:  # the counter of torch.optim.swa_utils.AveragedModel
        state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while not wanted & set(state):
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
        taken += prefix
    return state, taken


def _require_fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    problems = []
    if missing := [name for name in own if name not in state]:
        problems.append(f"{len(missing)} missing ({shortened(missing)})")
    if unexpected := [name for name in state if name not in own]:
        problems.append(f"{len(unexpected)} unexpected ({shortened(unexpected)})")
    if shapes := [
        f"{name} is {_shape(state[name])} and should be {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]:
        problems.append(f"{len(shapes)} of another shape ({shortened(shapes, 2)})")
    if problems:
        hint = "; arguments of the model go in with -a, such as -a num_classes=10" if shapes else ""
        raise UserError(f"'{path}' does not fit {type(model).__name__}: {'; '.join(problems)}{hint}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
