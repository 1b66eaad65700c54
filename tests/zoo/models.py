"""The models of the zoo: which there are, how large they are, how to build one and what to call it with."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers import randomize

RESULTS = Path(__file__).parent / "results"
SIZES = RESULTS / "sizes.json"
LARGE = 60_000_000
SIDES = (96, 128, 160, 192, 224, 256)
TINY = 1e-3  # a layer scale below this hides its branch
Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One model: ``family`` is the module file that defines it, ``parameters`` its size (0: not known)."""

    library: str
    name: str
    family: str
    parameters: int = 0

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"


# ------------------------------------------------------------------------------------------------------------ catalogue
def catalogue() -> list[Case]:
    """Every torchvision model; every timm model up to 60 M parameters, and of each family the smallest above.

    Breadth first: the smallest model of each family, then the second of each, and so on.
    """
    families: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in (*_torchvision_cases(), *_timm_cases()):
        families[case.library, case.family].append(case)
    ranked = []
    for (library, _), cases in families.items():
        cases.sort(key=lambda case: (case.parameters, case.name))
        if library == "timm":
            small = [case for case in cases if case.parameters <= LARGE]
            cases = cases[: len(small) + 1]
        ranked += [(rank, case.library != "timm", case.family, case) for rank, case in enumerate(cases)]
    return [case for *_, case in sorted(ranked, key=lambda entry: entry[:3])]


def _torchvision_cases() -> Iterator[Case]:
    from torchvision import models

    sizes = _sizes("torchvision", models.list_models(), lambda name: models.get_model_builder(name)(**no_weights(name)))
    for name, size in sizes.items():
        yield Case("torchvision", name, models.get_model_builder(name).__module__.split("models.")[-1], size)


def _timm_cases() -> Iterator[Case]:
    import timm
    from timm.models import _registry

    for name, size in _sizes("timm", timm.list_models(), timm.create_model).items():
        yield Case("timm", name, _registry._model_to_module[name], size)


def _sizes(library: str, names: Iterable[str], build: Callable[[str], nn.Module]) -> dict[str, int]:
    """The parameters of each model, found on the meta device and remembered in a file."""
    known: dict[str, dict[str, int]] = json.loads(SIZES.read_text()) if SIZES.exists() else {}
    sizes, changed = known.setdefault(library, {}), False
    for name in names:
        if name not in sizes:
            sizes[name], changed = _size(name, build), True
    if changed:
        SIZES.parent.mkdir(parents=True, exist_ok=True)
        SIZES.write_text(json.dumps({key: dict(sorted(known[key].items())) for key in sorted(known)}, indent=0) + "\n")
    return {name: sizes[name] for name in names}


def _size(name: str, build: Callable[[str], nn.Module]) -> int:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                model = build(name)
        except Exception:  # some read values while they are built
            try:
                model = build(name)
            except Exception:
                return 0
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------------- build
def build(case: Case) -> nn.Module:
    """The model with random weights, in eval mode."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.library == "timm":
            import timm

            return timm.create_model(case.name, pretrained=False).eval()
        from torchvision import models

        small = {"min_size": 128, "max_size": 160} if _is_resizing_detector(case) else {}
        model: nn.Module = models.get_model_builder(case.name)(**no_weights(case.name), **small)
        return model.eval()


def no_weights(name: str) -> dict[str, Any]:
    from torchvision import models

    module = models.get_model_builder(name).__module__
    parts = {"weights": None}
    if ".detection." in module or ".segmentation." in module:
        parts["weights_backbone"] = None
    return parts


def _is_resizing_detector(case: Case) -> bool:
    return case.family.startswith("detection.") and "ssd" not in case.name


def possible_inputs(case: Case, model: nn.Module) -> Iterator[tuple[str, Callable[[int], Inputs]]]:
    """Ways to call the model, smallest first: a shape in words, and the arguments for a seed."""

    def images(*shape: int, count: int = 1) -> tuple[str, Callable[[int], Inputs]]:
        def make(seed: int) -> Inputs:
            generator = torch.Generator().manual_seed(seed)
            return tuple(torch.randn(shape, generator=generator) for _ in range(count))

        return "x".join(map(str, shape)), make

    if case.library == "timm":
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
        channels, *sides = config.get("input_size") or (3, 224, 224)
        if not config.get("fixed_input_size"):
            least = max(config.get("min_input_size") or (3, 0, 0))
            yield from (images(1, channels, side, side) for side in SIDES if side >= least)
        yield images(1, channels, *sides)
    elif case.family.startswith("detection."):
        side = 320 if "ssdlite" in case.name else 300 if "ssd" in case.name else 128
        shape, make = images(3, side, side)
        yield shape, lambda seed: ([*make(seed)],)
    elif case.family.startswith("optical_flow."):
        yield images(1, 3, 128, 128, count=2)
    elif case.family.startswith("video."):
        yield from (images(1, 3, *size) for size in ((8, 64, 64), (8, 112, 112), (16, 224, 224)))
    else:
        yield from (images(1, 3, side, side) for side in (*SIDES, 299))


# --------------------------------------------------------------------------------------------------------------- values
def calibrated_values(model: nn.Module, run: Callable[[], Any]) -> None:
    """What training would give: norm statistics near those of the activations, so that a deep model neither amplifies
    rounding nor forgets its input, and no scale so near to zero that it hides its branch."""
    random_values(model, run)
    generator = torch.Generator().manual_seed(4)

    def calibrate(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        mean, var, x = module.running_mean, module.running_var, arguments[0]
        values = x.transpose(0, 1).reshape(len(mean), -1)
        if values.shape[1] < 8 or not values.isfinite().all():
            return
        spread = values.var(1)
        spread.clamp_(min=float(spread.mean())).add_(1e-6)  # do not amplify a channel that hardly moves
        var.copy_(spread * (0.7 + 0.7 * torch.rand(var.shape, generator=generator)))
        mean.copy_(values.mean(1) + 0.2 * var.sqrt() * torch.randn(var.shape, generator=generator))

    hooks = [m.register_forward_pre_hook(calibrate) for m in model.modules() if _has_statistics(m)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


def random_values(model: nn.Module, run: Callable[[], Any]) -> None:
    """Norm statistics that have nothing to do with the activations."""
    randomize(model)
    _wake(model)


def mild_values(model: nn.Module, run: Callable[[], Any]) -> None:
    """As ``random_values`` with a fifth of its spread."""
    random_values(model, run)
    for module in filter(_has_statistics, model.modules()):
        module.running_mean.mul_(0.2)
        module.running_var.lerp_(torch.ones_like(module.running_var), 0.8)
        if isinstance(getattr(module, "weight", None), Tensor):
            module.weight.lerp_(torch.ones_like(module.weight), 0.8)
        if isinstance(getattr(module, "bias", None), Tensor):
            module.bias.mul_(0.2)


VALUES = (calibrated_values, random_values, mild_values)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


def _wake(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() and 0 < float(parameter.abs().max()) < TINY:
            parameter.copy_(0.1 + 0.2 * torch.rand(parameter.shape, generator=generator))


# -------------------------------------------------------------------------------------------------------------- outputs
def outputs(case: Case, model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
    """What is compared: every tensor that a call returns; of detectors the values before boxes are selected, since the
    selection jumps for the least difference."""
    if not case.family.startswith("detection."):
        return _tensors(model(*inputs))
    images, _ = model.transform(*inputs)
    features = model.backbone(images.tensors)
    maps = [*features.values()] if isinstance(features, dict) else [features]
    found = [*maps]
    if hasattr(model, "rpn"):
        generator = torch.Generator().manual_seed(3)

        def crops(side: int) -> Tensor:
            return torch.randn(2, maps[0].shape[1], side, side, generator=generator, dtype=torch.float64).to(dtype)

        heads = model.roi_heads
        found += _tensors(model.rpn.head(maps))
        found += _tensors(heads.box_predictor(heads.box_head(crops(7))))
        if heads.has_mask():
            found += _tensors(heads.mask_predictor(heads.mask_head(crops(14))))
        if heads.has_keypoint():
            found += _tensors(heads.keypoint_predictor(heads.keypoint_head(crops(14))))
    else:
        found += _tensors(model.head(maps))
    return found


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = [*value.values()]
    elif not isinstance(value, list | tuple):
        value = [*vars(value).values()] if hasattr(value, "__dict__") else []
    return [tensor for item in value for tensor in _tensors(item)]
