"""The README's commands are the ones CI runs, and its Python blocks run."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_ci_runs_the_set_up_commands_literally() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    main_job, tests = (block.strip() for block in blocks("bash")[:2])
    assert main_job in ci
    assert tests in ci


def test_python_blocks_run() -> None:
    exec(compile("\n".join(blocks("python")), "README.md", "exec"), {"__name__": "readme"})
