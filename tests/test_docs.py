"""The code of the README and the docs runs, each page from top to bottom, and prints what the page says it prints.

    python -m tests.test_docs     # writes what is printed into the pages

A `text` block right below a `python` block is its output.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n\n^```text\n(?P<output>.*?)^```$)?", re.DOTALL | re.MULTILINE)
ROUNDING = re.compile(r"\d(\.\d+)?e-(0[6-9]|1\d)")


def rendered(page: Path) -> str:
    """The text of ``page`` with every output as it is now."""
    text = page.read_text()
    namespace: dict[str, Any] = {"__name__": page.stem}

    def run(block: re.Match[str]) -> str:
        code, output = block["code"], block["output"]
        above = "\n" * text.count("\n", 0, block.start("code"))  # so that a traceback has the page's line numbers
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(above + code, str(page), "exec"), namespace)
        if output is None:
            return block[0]
        return f"```python\n{code}```\n\n```text\n{printed.getvalue()}```"

    return BLOCK.sub(run, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path) -> None:
    assert ROUNDING.sub("0", rendered(page)).splitlines() == ROUNDING.sub("0", page.read_text()).splitlines()


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "latency-cpu.png").is_file()
    assert 'src="../results/latency-cpu.png"' in (tmp_path / "why" / "index.html").read_text()


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(rendered(each))
