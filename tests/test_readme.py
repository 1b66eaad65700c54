"""The README's commands are the ones CI runs, and its Python blocks and those of the docs run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_ci_runs_the_set_up_commands_literally() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    main_job, tests = (block.strip() for block in blocks(PAGES[0], "bash")[:2])
    assert main_job in ci
    assert tests in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    exec(compile("\n".join(blocks(page, "python")), page.name, "exec"), {"__name__": page.stem})
