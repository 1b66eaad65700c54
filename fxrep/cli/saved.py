"""Open whatever MODEL is: something to build, or a saved file, each as an ``nn.Module`` in eval mode."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..load import load, read_sidecar
from .checkpoints import load_checkpoint
from .checkpoints import read as read_pickle
from .errors import UserError, first_line, require
from .models import SHIPPED, build, input_shapes

SUFFIXES = (".safetensors", ".pt2", ".onnx", ".pt", ".pth", ".ckpt", ".bin")


@dataclass
class Opened:
    """A model, the words that build it (none for a file of its own), its inputs' shapes, and what to tell the user."""

    model: nn.Module
    spec: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: list[tuple[int, ...]] | None = None
    notes: list[str] = field(default_factory=list)


def open_model(
    spec: str,
    arguments: dict[str, Any] | None = None,
    *,
    checkpoint: Path | None = None,
    key: str | None = None,
    pretrained: bool = False,
    trust: bool = False,
) -> Opened:
    """The model that the words on the command line stand for.

    Raises:
        UserError: there is none, or its weights do not fit.
    """
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES and ":" not in path.name:
        if checkpoint or arguments or pretrained:
            raise UserError(
                f"'{spec}' is a saved model with weights of its own: --checkpoint, -a and --pretrained do not apply"
            )
        return open_file(path, trust=trust)
    arguments = arguments or {}
    model = build(spec, arguments, pretrained=pretrained, drawn=checkpoint is None)
    opened = Opened(model, spec, arguments, input_shapes(model, arguments))
    if checkpoint is not None:
        opened.notes += load_checkpoint(model, checkpoint, trust=trust, key=key)
    elif not pretrained and spec.partition(":")[0] in SHIPPED:
        opened.notes.append("the weights are random: --checkpoint FILE or --pretrained gives it trained ones")
    return opened


def open_file(path: Path, *, trust: bool = False) -> Opened:
    """A model that was saved, by the ending of its file."""
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        saved = read_sidecar(path)
        shapes = [tuple(shape) for shape in saved.get("input") or ()] or None
        return Opened(load(path, trust=trust), None, inputs=shapes)
    if ending == ".pt2":
        return _open_exported(path)
    if ending == ".onnx":
        model = OnnxModel(path)
        return Opened(model, None, inputs=model.shapes)
    return _open_pickle(path, trust)


class OnnxModel(nn.Module):
    """An ONNX file that ONNX Runtime runs, called like a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot read '{path}': {first_line(error)}") from error
        self.names = [value.name for value in self.session.get_inputs()]
        self.eval()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The inputs' shapes, with 1 for what may vary."""
        inputs = self.session.get_inputs()
        return [tuple(n if isinstance(n, int) else 1 for n in value.shape) for value in inputs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs) != len(self.names):
            raise ValueError(f"the file takes {len(self.names)} inputs, not {len(inputs)}")
        feed = {name: value.numpy() for name, value in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in self.session.run(None, feed))


def _open_exported(path: Path) -> Opened:
    try:
        with quiet():
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:
        raise UserError(f"'{path}' is not a complete torch.export file: {first_line(error)}") from error
    for part in module.modules():
        part.training = False  # an exported module refuses eval(): its mode is fixed, in the graph
    shapes = [tuple(value.shape) for value in (program.example_inputs or ((), {}))[0] if isinstance(value, Tensor)]
    return Opened(module, None, inputs=shapes or None)


def _open_pickle(path: Path, trust: bool) -> Opened:
    if not trust and zipfile.is_zipfile(path) and _is_torchscript(path):
        raise UserError(f"'{path}' is TorchScript, which torch.fx cannot trace; give the model that it was made from")
    content = read_pickle(path, trust=trust)
    if not isinstance(content, nn.Module):
        raise UserError(
            f"'{path}' holds weights, not a model; give the model that they are for: MODEL --checkpoint {path}"
        )
    return Opened(content.eval(), None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print, warn and log about themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
