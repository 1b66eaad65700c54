"""The README's commands are the ones CI runs. Its Python blocks run in test_docs.py."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_ci_runs_the_set_up_commands_literally() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    main_job, tests = (block.strip() for block in commands[:2])
    assert main_job in ci
    assert tests in ci


def test_the_readme_says_what_the_long_runs_found() -> None:
    """Whoever runs them again runs `python -m tests.record` too."""
    pytest.importorskip("rich")
    from tests import record

    found = record.SECTION.search((ROOT / "README.md").read_text())
    assert found is not None
    assert found[0] == record.section()


def test_the_readme_says_what_the_benchmarks_measured() -> None:
    """Whoever measures again runs `python -m benchmarks.readme` too."""
    pytest.importorskip("timm")
    from benchmarks import readme

    found = readme.SECTION.search((ROOT / "README.md").read_text())
    assert found is not None
    assert found[0] == readme.section()
