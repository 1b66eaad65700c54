"""How a merged model differs from the one it was made from, as plain data, and back.

The pass decides by the weights, too: an all-zero shift needs no bias. So a saved model holds what was decided, and
``apply`` carries it out on a freshly built model without running the pass: new layers, forwards, and what is gone.
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import skip_init

from ..capture.forward import Forward, Rewritten, install
from ..capture.walk import walk_paths
from ..rewrite import places_of, replace
from .errors import UserError
from .restricted import CONSTANTS, MODULES, allowed_function, check_forward

CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
# The layers that the pass makes, and the arguments that make them.
LAYERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), CONV),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), (*CONV, "output_padding")),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), NORM),
    "Linear": ("in_features", "out_features"),
    "Identity": (),
}


def describe(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """What ``apply`` needs to turn ``before``, with any weights, into the structure of ``after``.

    Raises:
        UserError: they differ by more than layers of torch.nn and forwards.
    """
    old_modules, new_modules = dict(walk_paths(before)), dict(walk_paths(after))
    layers: dict[str, Any] = {}
    forwards: dict[str, Any] = {}
    removed: list[str] = []
    for path, new in new_modules.items():
        old = old_modules.get(path)
        if isinstance(new, fx.GraphModule) and new is not old:
            raise UserError("a GraphModule cannot be rebuilt from a .safetensors; write a .pt2 or a .pt")
        if old is None or _class(old) is not _class(new) or _layer(old) != _layer(new):
            layers[path] = _require_layer(path, new)
        else:
            removed += [_join(path, name) for name in _children(old) if name not in _children(new)]
        if isinstance(new, Rewritten) and not (isinstance(old, Rewritten) and old._fxrep_forward == new._fxrep_forward):
            forwards[path] = _encode(new._fxrep_forward)
    return {"layers": layers, "forwards": forwards, "removed": removed}


def apply(model: nn.Module, structure: dict[str, Any], *, trust: bool = False) -> None:
    """Give ``model`` the layers and forwards in ``structure``. The weights of new layers have no values yet.

    Raises:
        UserError: the model has another structure, or a forward does more than compute and ``trust`` is not given.
    """
    for path in structure["removed"]:
        _remove(model, path)
    for path, layer in structure["layers"].items():
        _put(model, path, _make(path, layer))
    for path, encoded in structure["forwards"].items():
        module = _module(model, path)
        forward = _decode(path, encoded, module, trust)
        install(module, forward)


def _class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before its forward was rewritten."""
    return getattr(type(module), "_fxrep_base", type(module))


def _layer(module: nn.Module) -> dict[str, Any] | None:
    """The words that make a layer of torch.nn; None if it is something else."""
    kind = type(module)
    if kind.__name__ not in LAYERS or getattr(nn, kind.__name__) is not kind:
        return None
    options = {name: getattr(module, name) for name in LAYERS[kind.__name__]}
    if "bias" in module._parameters and not kind.__name__.startswith("BatchNorm"):
        options["bias"] = module._parameters["bias"] is not None
    if any(True for _ in module.parameters()) and not any(p.requires_grad for p in module.parameters()):
        options["frozen"] = True
    return {"type": kind.__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}}


def _require_layer(path: str, module: nn.Module) -> dict[str, Any]:
    layer = _layer(module)
    if layer is None:
        raise UserError(
            f"'{path}' became a {type(module).__name__}, which a .safetensors cannot describe; write a .pt2 or a .pt"
        )
    return layer


def _make(path: str, layer: dict[str, Any]) -> nn.Module:
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in layer.items() if k not in ("type", "frozen")}
    if layer.get("type") not in LAYERS:
        raise UserError(f"'{path}' is said to be a '{layer.get('type')}', which fxrep does not make")
    kind: Any = getattr(nn, layer["type"])
    blank: Any = skip_init  # its weights come from the file
    made: nn.Module = blank(kind, **options) if options else kind()
    return made.eval().requires_grad_(not layer.get("frozen", False))


def _children(module: nn.Module) -> list[str]:
    """The names of what a module holds: modules, parameters and buffers."""
    tables: tuple[dict[str, Any], ...] = (module._modules, module._parameters, module._buffers)
    return [name for table in tables for name, value in table.items() if value is not None]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise UserError(f"the model has no module '{path}'") from None


def _remove(model: nn.Module, path: str) -> None:
    parent, _, name = path.rpartition(".")
    owner = _module(model, parent)
    if name in owner._modules:
        del owner._modules[name]
    for table in (owner._parameters, owner._buffers):
        if name in table:
            table[name] = None


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    owner = _module(model, parent)
    if not name:
        raise UserError("the model as a whole became one layer; write a .pt2 or a .pt")
    if name in owner._modules:
        replace(model, path, layer, places_of(model))
    else:
        owner.add_module(name, layer)


def _encode(forward: Forward) -> dict[str, Any]:
    """A forward as text, with the functions it calls by name."""
    used = {node.id for node in ast.walk(ast.parse(forward.code)) if isinstance(node, ast.Name)}
    names = {}
    for name, value in forward.names:
        if name in used and name not in CONSTANTS:
            place = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
            if _find(place) is not value:
                raise UserError(f"a forward uses '{name}', which has no name of its own; write a .pt2 or a .pt")
            names[name] = place
    imports = {alias: module for alias, module in forward.imports if alias in used}
    return {"code": forward.code, "names": names, "imports": imports}


def _decode(path: str, encoded: dict[str, Any], module: nn.Module, trust: bool) -> Forward:
    """The forward, checked: a file must not bring more than arithmetic unless it is trusted."""
    code, imports = encoded["code"], dict(encoded["imports"])
    if not trust and (unknown := [name for name in imports.values() if name not in MODULES]):
        raise UserError(f"'{path}' imports '{unknown[0]}'; if you trust the file, load it with trust")
    names = dict(CONSTANTS)
    try:
        for name, place in encoded["names"].items():
            names[name] = _find(place, trust)
        if not trust:
            modules = {alias: importlib.import_module(name) for alias, name in imports.items()}
            check_forward(code, {**names, **modules}, module)
    except UserError as error:
        raise UserError(f"'{path}' would run more than tensor operators ({error}); load it only with trust") from None
    return Forward(code, tuple(names.items()), tuple(imports.items()))


def _find(place: str, trust: bool = True) -> Any:
    """The function that ``module:name`` stands for; None if there is none."""
    home, _, name = place.partition(":")
    if not trust and home.split(".")[0] not in ("torch", "operator", "_operator", "math"):
        raise UserError(f"it calls {place}")
    try:
        found: Any = importlib.import_module(home)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    if not trust and not allowed_function(found):
        raise UserError(f"it calls {place}")
    return found


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by every name, those that ``state_dict`` leaves out as well."""
    found: dict[str, Tensor] = {}
    for path, module in walk_paths(model):
        for own in (module._parameters, module._buffers):
            found |= {_join(path, name): tensor for name, tensor in own.items() if tensor is not None}
    return found
