"""The README's commands are the ones CI runs. Its Python blocks run in test_docs.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_ci_runs_the_set_up_commands_literally() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    main_job, tests = (block.strip() for block in commands[:2])
    assert main_job in ci
    assert tests in ci
