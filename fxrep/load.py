"""Read a merged model back in a fresh process: build the model, give it the merged structure and the weights.

A merged model is two files: ``model.safetensors`` holds the weights, ``model.json`` how to build the model and what the
pass changed. ``fxrep convert`` writes them with ``save``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .report import REPORT, Report

FORMAT = 1


def load(path: str | os.PathLike[str], model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """The merged model that ``fxrep convert MODEL -o path`` wrote, in eval mode on the CPU.

    Args:
        path: the ``.safetensors`` file; the ``.json`` of the same name lies beside it.
        model: the model as it was before the merge, with any weights, to build on; it is changed. Needed where the
            saved file does not say how to build it, or where you would rather not let it.
        trust: allow code that the files name: a factory of your own, which is imported and called, and forwards that
            call functions other than torch's. Models of timm and torchvision do not need it.

    Raises:
        ValueError: the files are missing, damaged, do not fit each other or the model, or need ``trust``.
        ImportError: safetensors is not installed.

    >>> deploy = load("repvgg_a0.safetensors")
    """
    from .cli.errors import UserError
    from .cli.structure import apply

    path = Path(path)
    saved = read_sidecar(path)
    weights = _read_weights(path)
    built = _build(saved, path, trust) if model is None else model.eval()
    try:
        apply(built, saved["structure"], trust=trust)
        _fill(built, weights, saved["weights"])
        if "report" in saved:
            vars(built)[REPORT] = _report(saved["report"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path.with_suffix('.json')}' was not written by fxrep, or is damaged: {error!r}") from error
    except UserError as error:
        raise UserError(
            f"'{path}' was merged from '{saved['model']}' by fxrep {saved['fxrep']}; this model does not give the same "
            f"structure: {error}"
        ) from None
    return built


def save(
    path: Path,
    before: nn.Module,
    after: nn.Module,
    *,
    spec: str,
    arguments: dict[str, Any],
    inputs: list[tuple[int, ...]] | None,
    home: Path | None = None,
) -> list[Path]:
    """Write ``after``, merged from ``before``, for ``load``; returns the files. ``home`` is their folder in the end.

    Raises:
        UserError: the difference between the models cannot be written down.
    """
    from . import __version__
    from .cli.errors import require
    from .cli.structure import describe, tensors

    safetensors = require("safetensors.torch", "cli")
    stored, same = _untied(tensors(after))
    persistent = after.state_dict()
    sidecar = {
        "format": FORMAT,
        "fxrep": __version__,
        "torch": torch.__version__,
        "model": _relative(spec, home or path.parent),
        "arguments": arguments,
        "input": inputs,
        "weights": {"same": same, "buffers": [name for name in (*stored, *same) if name not in persistent]},
        "structure": describe(before, after),
    }
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", _one_line, json.dumps(sidecar, indent=1))
    if REPORT in vars(after):
        text = f'{text[:-2]},\n "report": {json.dumps(vars(after)[REPORT].to_dict())}\n}}'
    safetensors.save_file(stored, path, metadata={"format": "pt"})
    path.with_suffix(".json").write_text(text + "\n")
    return [path, path.with_suffix(".json")]


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the JSON beside ``path`` says."""
    from .cli.errors import UserError

    sidecar = path.with_suffix(".json")
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    if not sidecar.is_file():
        raise UserError(f"'{path}' has no '{sidecar.name}' beside it, which says how to build the model")
    try:
        saved: dict[str, Any] = json.loads(sidecar.read_text())
        version = saved["format"]
        complete = {"model", "arguments", "weights", "structure", "fxrep"} <= set(saved)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{sidecar}' was not written by fxrep") from None
    if version != FORMAT or not complete:
        raise UserError(f"'{sidecar}' is of format {version}; this fxrep reads format {FORMAT}")
    return saved


def _build(saved: dict[str, Any], path: Path, trust: bool) -> nn.Module:
    from .cli.errors import UserError
    from .cli.models import SHIPPED, build

    spec = str(saved["model"])
    if spec.partition(":")[0] not in SHIPPED and not trust:
        raise UserError(
            f"'{path}' is built by '{spec}', code that loading would run: if you trust it, say "
            "fxrep.load(path, trust=True), or --trust; or hand the model in: fxrep.load(path, model)"
        )
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        spec = f"{path.parent / place}:{name}"
    return build(spec, saved["arguments"], seed=1, drawn=False)


def _relative(spec: str, home: Path) -> str:
    """A factory's file as seen from the saved model, so that both can move together."""
    place, _, name = spec.rpartition(":")
    if not place.endswith(".py"):
        return spec
    try:
        return f"{Path(os.path.relpath(Path(place).resolve(), home.resolve())).as_posix()}:{name}"
    except ValueError:  # on another drive
        return f"{Path(place).resolve().as_posix()}:{name}"


def _one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers.group(1).split())}]"


def _untied(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, each once, and the other names that some of them have."""
    first: dict[int, str] = {}
    stored: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    storages: set[int] = set()
    for name, tensor in found.items():
        if id(tensor) in first:
            same[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        value = tensor.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        stored[name] = value.clone() if storage in storages else value  # a file has no views
        storages.add(storage)
    return stored, same


def _report(saved: Any) -> Report:
    """The report of the merge; ``fxrep.report`` gives it."""
    try:
        return Report.from_dict(saved)
    except ValueError as error:
        raise TypeError(error) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    from .cli.errors import UserError, first_line, require

    safetensors = require("safetensors.torch", "cli")
    try:
        weights: dict[str, Tensor] = safetensors.load_file(path)
    except Exception as error:
        raise UserError(f"'{path}' is not a complete safetensors file: {first_line(error)}") from error
    return weights


def _fill(model: nn.Module, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Put the stored tensors in place, strictly; types come from the file."""
    from .cli.errors import UserError, shortened
    from .cli.structure import tensors

    values = weights | {name: weights[first] for name, first in about["same"].items()}
    extra = [name for name in about["buffers"] if name in values]
    own = tensors(model)
    wanted = {name for name in own if name in model.state_dict() or name in extra}
    if missing := sorted(wanted - set(values)):
        raise UserError(f"the file lacks {shortened(missing)}")
    if unknown := sorted(set(values) - wanted - set(extra)):
        raise UserError(f"the model lacks {shortened(unknown)}")
    for name, value in values.items():
        if name in own and own[name].shape != value.shape:
            raise UserError(f"'{name}' is {tuple(own[name].shape)} and not {tuple(value.shape)}")
    holds: dict[int, str] = {}  # by parameter, the first name of its value
    untied: dict[str, nn.Parameter] = {}
    for name, value in values.items():
        parent, _, leaf = name.rpartition(".")
        owner, first = model.get_submodule(parent), about["same"].get(name, name)
        parameter = owner._parameters.get(leaf)
        if parameter is None:
            owner.register_buffer(leaf, value, persistent=name not in extra)
        elif holds.setdefault(id(parameter), first) == first:
            parameter.data = value
        else:  # tied in the model as it was built, not after the merge
            owner._parameters[leaf] = untied.setdefault(first, nn.Parameter(value, parameter.requires_grad))
