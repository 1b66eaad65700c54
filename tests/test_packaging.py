"""What is published with a version says the same version everywhere."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fxrep

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Without torch: what is asked is that the package is whole, and that its metadata and syntax suit this Python.
INSTALLED = """
import ast, importlib.metadata as metadata, pathlib, sys
about = metadata.distribution("fxrep")
files = [pathlib.Path(about.locate_file(file)) for file in about.files]
assert {"py.typed", "page.html"} <= {file.name for file in files}, files
sources = [file for file in files if file.suffix == ".py"]
for file in sources:
    compile(file.read_text(), str(file), "exec", ast.PyCF_ONLY_AST)
scripts = [entry.value for entry in about.entry_points if entry.group == "console_scripts"]
print(about.version, len(sources), *scripts)
"""


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == fxrep.__version__
    newest = re.search(r"^## \[(.*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == fxrep.__version__


def test_what_a_package_carries_is_there() -> None:
    package = Path(fxrep.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "web" / "page.html").is_file()


def _pythons() -> dict[str, str]:
    """The supported versions of Python on this machine: on the path, of pyenv, and the one that runs this."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for version in VERSIONS:
        managed = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
        named = [path] if (path := shutil.which(f"python{version}")) else []
        for python in (*managed, *named):
            if subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
                found.setdefault(version, python)
    return {version: found[version] for version in VERSIONS if version in found}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_package_builds_and_installs(kind: str, tmp_path: Path) -> None:
    """In a clean environment of every supported Python that is here, without what it depends on."""
    suffix = ".whl" if kind == "wheel" else ".tar.gz"
    if kind == "wheel":
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    else:
        pytest.importorskip("hatchling", reason="pip install hatchling builds the sdist")
        build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, check=True, cwd=ROOT)
    (package,) = tmp_path.glob(f"fxrep-*{suffix}")
    modules = len([*(ROOT / "fxrep").rglob("*.py")])
    if kind == "wheel":
        assert sum(name.endswith(".py") for name in zipfile.ZipFile(package).namelist()) == modules
    for version, python in _pythons().items():
        place = tmp_path / version
        subprocess.run([python, "-m", "venv", str(place)], check=True)
        subprocess.run([place / "bin" / "pip", "install", "-q", "--no-deps", str(package)], check=True)
        done = subprocess.run([place / "bin" / "python", "-c", INSTALLED], capture_output=True, text=True)
        assert done.returncode == 0, f"Python {version}: {done.stderr}"
        assert done.stdout.split() == [fxrep.__version__, str(modules), "fxrep.cli:main"], version
        print(f"Python {version}: {package.name} installs")
