"""Write a merged model to OUT, in the format of its ending: all of it, or nothing under that name.

Files are written into a folder of their own beside OUT, checked there, and renamed when they are whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..load import load, save
from ..report import Report
from .errors import UserError, first_line, require
from .measure import Inputs
from .models import build
from .saved import Opened, open_file, quiet

ENDINGS = {
    ".safetensors": "weights, and a .json that says how to rebuild the model: fxrep.load(OUT)",
    ".pt2": "torch.export, runs without fxrep",
    ".onnx": "ONNX, for ONNX Runtime and other engines",
    ".pt": "torch.save of the whole module",
}


@dataclass
class Written:
    """Files in the staging folder, and what is worth telling about them."""

    files: list[Path]
    notes: list[str] = field(default_factory=list)
    conv_nodes: int | None = None
    any_batch: bool = False  # an exported graph that says so of itself

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def check_target(out: Path, force: bool) -> None:
    """Say what is wrong with OUT before any work is done.

    Raises:
        UserError: its ending is unknown, its folder is missing, it exists, or an exporter is not installed.
    """
    if out.suffix not in ENDINGS:
        endings = "; ".join(f"{ending} ({what})" for ending, what in ENDINGS.items())
        raise UserError(f"'{out}' has no ending that says what to write: {endings}")
    for target in [out, out.with_suffix(".json")] if out.suffix == ".safetensors" else [out]:
        check_path(target, force)
    if out.suffix == ".safetensors":
        require("safetensors", "cli")
    if out.suffix == ".onnx":
        require("onnx", "export")
        require("onnxscript", "export")


def check_path(path: Path, force: bool) -> None:
    """Say why a file cannot be written there before any work is done.

    Raises:
        UserError: its folder is missing, it exists, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise UserError(f"there is no folder '{path.parent}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a directory")
    if path.exists() and not force:
        raise UserError(f"'{path}' exists; --force replaces it")


def write_text(path: Path, text: str) -> None:
    """Write all of a text under that name, or nothing.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    with staging(path) as folder:
        try:
            (folder / path.name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"'{path}' could not be written: {first_line(error)}") from error
        commit(Written([folder / path.name]), path)


def read_report(path: Path) -> Report:
    """The report in a file that ``fxrep report --json`` printed, or that ``fxrep convert`` wrote beside the weights.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Report.from_dict(content.get("report", content))
    except (ValueError, AttributeError) as error:
        raise UserError(f"'{path}' holds no report of fxrep") from error


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder to write in, on the same disk as OUT; gone afterwards, whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write in '{out.parent}': {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commit(written: Written, out: Path) -> list[Path]:
    """Give finished files their final names, and the permissions that the user's new files have."""
    final = []
    os.umask(mask := os.umask(0))
    for file in written.files:
        file.chmod(0o666 & ~mask)
        os.replace(file, out.parent / file.name)
        final.append(out.parent / file.name)
    return final


def write(folder: Path, out: Path, opened: Opened, deploy: nn.Module, inputs: Inputs) -> Written:
    """Write ``deploy`` into ``folder``, under the name of ``out``.

    Raises:
        UserError: the format cannot hold the model, or the disk is full.
    """
    path = folder / out.name
    try:
        if out.suffix == ".safetensors":
            return _write_safetensors(path, out, opened, deploy, inputs)
        if out.suffix == ".pt2":
            return _write_exported(path, deploy, inputs)
        if out.suffix == ".onnx":
            return _write_onnx(path, deploy, inputs)
        with _patient(path) as file:
            torch.save(deploy, file)
        return Written(
            [path], ["it holds Python objects: load it where you trust it, with torch.load(OUT, weights_only=False)"]
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{out}' could not be written: {first_line(error)}") from error


def reopen(written: Written, opened: Opened) -> nn.Module:
    """The model as somebody else will read it from the files."""
    path = written.files[0]
    if path.suffix != ".safetensors" or opened.spec is None:
        return open_file(path, trust=True).model

    def fresh() -> nn.Module:  # with other weights, so that one that was not stored shows
        return build(opened.spec or "", opened.arguments, seed=1, drawn=False)

    try:
        return load(path, fresh())
    except UserError:
        model = load(path, fresh(), trust=True)
    written.notes.append("a forward calls more than tensor operators: fxrep.load(OUT, trust=True) reads it")
    return model


class _Patient(io.BufferedWriter):
    """A file that keeps what goes wrong to itself: where a write fails, torch's zip writer aborts the whole process."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.failure: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            with self._noted():
                super().write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with self._noted():
            super().flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # an interrupt as well
            self.failure = self.failure or error


@contextlib.contextmanager
def _patient(path: Path) -> Iterator[_Patient]:
    """A file for torch to write to; what went wrong is raised at the end, in the words of the system."""
    file = _Patient(path)
    try:
        yield file
    finally:
        file.close()
        if file.failure:
            raise file.failure


def _write_safetensors(path: Path, out: Path, opened: Opened, deploy: nn.Module, inputs: Inputs) -> Written:
    if opened.spec is None:
        raise UserError(
            "a .safetensors needs words that build the model again, such as timm:NAME or file.py:FACTORY; "
            "from a saved file write a .pt2, .onnx or .pt"
        )
    shapes = [tuple(value.shape) for value in inputs]
    return Written(
        save(
            path,
            opened.model,
            deploy,
            spec=opened.spec,
            arguments=opened.arguments,
            inputs=shapes,
            home=out.parent,
        )
    )


def _export(model: nn.Module, inputs: Inputs) -> tuple[Any, list[str]]:
    """An exported program with any batch size, or, with a note, with this one."""
    # An example batch of one would be taken for a constant.
    double = tuple(torch.cat([value, value]) if value.shape[0] == 1 else value for value in inputs)
    batch = torch.export.Dim("batch")
    try:
        with quiet():
            return torch.export.export(model, double, dynamic_shapes=[{0: batch} for _ in inputs], strict=False), []
    except Exception as error:
        with quiet():
            program = torch.export.export(model, inputs, strict=False)
        return program, [f"the batch size is fixed at {inputs[0].shape[0]}: {first_line(error)}"]


def _write_exported(path: Path, deploy: nn.Module, inputs: Inputs) -> Written:
    program, notes = _export(deploy, inputs)
    with quiet(), _patient(path) as file:
        torch.export.save(program, file)
    return Written([path], notes, any_batch=not notes)


def _write_onnx(path: Path, deploy: nn.Module, inputs: Inputs) -> Written:
    onnx = require("onnx", "export")
    program, notes = _export(deploy, inputs)
    with quiet():
        exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        exported.save(str(path))
    graph = onnx.load(str(path), load_external_data=False)
    graphs = [graph.graph, *graph.functions]
    convs = sum(node.op_type == "Conv" for part in graphs for node in part.node)
    return Written([path, *sorted(path.parent.glob(f"{path.name}.*"))], notes, convs, any_batch=not notes)


def runs_onnx() -> bool:
    """Whether ONNX Runtime is here to check a file with."""
    try:
        require("onnxruntime", "export")
    except UserError:
        return False
    return True
