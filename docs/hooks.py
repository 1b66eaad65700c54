"""For mkdocs: the pages link to files outside of docs/, as they must on GitHub; the site carries the plots along."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def on_files(files: Files, config: Any) -> Files:
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Plots are shown from the site; a link to anything else outside of docs/ becomes its text."""
    markdown = markdown.replace("](../benchmarks/results/", "](results/")
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
