"""From MODEL to a module: ``timm:NAME``, ``torchvision:NAME``, ``path/to/file.py:factory``, ``package.module:factory``.

What comes back is in eval mode. Random weights are drawn from a fixed seed, so that the same words give the same model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import UserError, did_you_mean, first_line, require

SHIPPED = ("timm", "torchvision")
# Arguments of timm's and torchvision's own that read files or the network: that is what --checkpoint and --pretrained
# are for, and a saved model must not bring them along.
RESERVED = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "weights_backbone"}
DRAWING = {"normal_", "uniform_", "kaiming_uniform_"}


def build(
    spec: str, arguments: dict[str, Any], *, pretrained: bool = False, seed: int = 0, drawn: bool = True
) -> nn.Module:
    """The model that ``spec`` names, in eval mode.

    With ``drawn=False`` a model of timm or torchvision saves itself the time to draw parameters at random: for those
    who give it all of its parameters next.

    Raises:
        UserError: there is no such model, or it cannot be built.
    """
    family, _, name = spec.partition(":")
    if family in SHIPPED:
        if reserved := sorted(RESERVED & set(arguments)):
            raise UserError(f"'{reserved[0]}' cannot be given as an argument; use --checkpoint FILE or --pretrained")
        make = _timm(name, pretrained) if family == "timm" else _torchvision(name, pretrained)
    elif pretrained:
        raise UserError(f"--pretrained is for timm and torchvision; for '{spec}' use --checkpoint FILE")
    else:
        make = _own(spec)
    with _seeded(seed), contextlib.nullcontext() if drawn or family not in SHIPPED else _Undrawn():
        try:
            model = make if isinstance(make, nn.Module) else make(**arguments)
        except (Exception, SystemExit) as error:
            raise UserError(f"'{spec}' could not be built: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"'{spec}' returns an object of type {type(model).__name__}, not an nn.Module")
    return model.eval()


def names(family: str) -> list[str]:
    """Every model that timm or torchvision can build."""
    if family == "timm":
        found: list[str] = require("timm", "timm").list_models()
    else:
        found = require("torchvision.models", "timm").list_models()
    return found


def input_shapes(model: nn.Module, arguments: dict[str, Any]) -> list[tuple[int, ...]] | None:
    """The shape of an input with a batch of one, where the model says it, as timm's do."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    if not size or len(size) != 3:
        return None
    channels, height, width = size
    image = arguments.get("img_size", (height, width))
    height, width = (image, image) if isinstance(image, int) else image
    return [(1, int(arguments.get("in_chans", channels)), int(height), int(width))]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class _Undrawn(TorchFunctionMode):
    """What would be filled with random numbers is filled with one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWING:
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).fill_(0.01)
        return func(*args, **kwargs)


def _timm(name: str, pretrained: bool) -> Callable[..., Any]:
    timm = require("timm", "timm")
    base = name.split(".")[0]
    if not name.startswith(("hf-hub:", "hf_hub:")) and not timm.is_model(base):
        raise UserError(f"timm has no model '{name}'" + did_you_mean(base, timm.list_models(), "timm:"))
    return lambda **arguments: timm.create_model(name, pretrained=pretrained, **arguments)


def _torchvision(name: str, pretrained: bool) -> Callable[..., Any]:
    models = require("torchvision.models", "timm")
    known = models.list_models()
    if name not in known:
        raise UserError(f"torchvision has no model '{name}'" + did_you_mean(name, known, "torchvision:"))
    weights: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        weights["weights_backbone"] = None  # or it is downloaded
    return lambda **arguments: models.get_model(name, **weights, **arguments)


def _own(spec: str) -> Any:
    """A factory of the user's own, or a model that their module holds."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise UserError(_unknown(spec))
    module = _from_file(Path(place)) if place.endswith(".py") or os.sep in place else _from_package(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise UserError(f"'{place}' has no '{name}'" + did_you_mean(part, known))
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"'{spec}' is a {type(found).__name__}, not something that returns a model when it is called")
    return found


def _unknown(spec: str) -> str:
    if Path(spec).exists():
        what = "is a directory" if Path(spec).is_dir() else "is not a file that fxrep can read as a model"
        hint = f"; name the function in it: {spec}:FACTORY" if spec.endswith(".py") else ""
        return f"'{spec}' {what}{hint}"
    if Path(spec).suffix:
        return f"there is no file '{spec}'"
    for family in SHIPPED:
        if importlib.util.find_spec(family) and (hint := did_you_mean(spec, names(family), f"{family}:")):
            return f"'{spec}' does not say where the model comes from{hint}"
    return (
        f"'{spec}' is not a model: use timm:NAME, torchvision:NAME, file.py:FACTORY, package.module:FACTORY or a file"
    )


def _from_file(path: Path) -> ModuleType:
    """Run a file as ``python file.py`` would find it: its folder first on the path, under its own name."""
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    path = path.resolve()
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if loaded is not None or importlib.util.find_spec(name) is not None:  # never stand in for another module
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle looks for the classes
    with _on_path(path.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise UserError(f"'{path}' could not be run: {first_line(error)}") from error
    return module


def _from_package(name: str) -> ModuleType:
    with _on_path(Path.cwd()):
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
            reason = "there is no such module" if missing else first_line(error)
            raise UserError(f"'{name}' could not be imported: {reason}") from error


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Let the model's code import what lies beside it, while it is built and later."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    yield
