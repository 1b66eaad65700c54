"""What is published with a version says the same version everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import fxrep

ROOT = Path(__file__).parent.parent


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
