"""The examples in the docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fxrep
from fxrep.cli.app import app

ROOT = Path(fxrep.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if ">>>" in path.read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``fxrep convert`` wrote what an example loads."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples(file: Path, folder: Path) -> None:
    if file.name == "load.py":
        made = CliRunner().invoke(app, ["convert", "timm:repvgg_a0", "-o", str(folder / "repvgg_a0.safetensors")])
        assert made.exit_code == 0, made.output
    name = ".".join(("fxrep", *file.with_suffix("").parts)).removesuffix(".__init__")
    failed, tried = doctest.testmod(importlib.import_module(name), verbose=False)
    assert tried
    assert not failed


def test_every_public_function_has_an_example() -> None:
    functions = [getattr(fxrep, name) for name in fxrep.__all__ if name[0].islower()]
    assert not [function.__name__ for function in functions if ">>>" not in function.__doc__]
