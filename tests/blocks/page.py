"""The catalogue as a page in Markdown."""

from __future__ import annotations

from tests.blocks.design import NO_MERGE, ORDER, Design, count
from tests.blocks.sources import Source

INTRODUCTION = """# The catalogue

What fxrep makes of the published block designs. No design is known to the pass; each is written as its authors write it
(`tests/blocks/`), merged in float64 with random norm statistics, compared with what it was (to 1e-9 of its size), and
counted while it runs (`tests/test_catalogue.py`). This page is made by

```bash
python -m tests.blocks.catalogue > docs/catalogue.md
```

`dw` is a depthwise convolution, `pw` and `conv1` a 1x1, `bn` a batch norm in eval mode, `se` squeeze-and-excitation.
What is counted are convolutions, linear layers (and matrix products), batch norms, adds of two tensors,
multiplications, average pools, pads, and writes into slices. *Authors* is what the published merge leaves, where it is
not the same.
"""


def page(families: dict[str, list[Design]]) -> str:
    """The page in Markdown, a table for each family."""
    every = [design for designs in families.values() for design in designs]
    lines = [INTRODUCTION, *_summary(every)]
    for family, designs in families.items():
        lines += [f"## {family}", "", "| design | algebra | before | after | authors |", "|---|---|---|---|---|"]
        lines += [_row(design) for design in designs]
        lines += [""]
        notes: dict[str, list[str]] = {}
        for design in designs:
            if design.note:
                notes.setdefault(design.note, []).append(design.name)
        lines += [f"- {'; '.join(names)}: {note}" for note, names in notes.items()]
        lines += [""] * bool(notes)
    lines += ["## Sources", ""]
    cited = dict.fromkeys(design.source for design in every)
    lines += [_source(source) for source in cited]
    return "\n".join(lines) + "\n"


def _summary(every: list[Design]) -> list[str]:
    behind = [design.name for design in every if design.behind]
    ahead = [design.name for design in every if design.authors and not design.behind]
    without = [design.name for design in every if design.authors == NO_MERGE]
    return [
        f"Of {len(every)} designs, {len(without)} have no published merge. Of the others, {len(ahead)} have less to",
        f"run than after theirs ({'; '.join(ahead)}), and {len(behind)} have more:",
        "",
        *(f"- {name}" for name in behind),
        "",
        "The reasons are below the tables.",
        "",
    ]


def _row(design: Design) -> str:
    before = _counts(count(design.model(), design.inputs()))
    authors = "" if design.authors is None else _counts(design.authors) or "no merge"
    return f"| {design.name} | `{design.algebra}` | {before} | {_counts(design.left)} | {authors} |"


def _source(s: Source) -> str:
    links = ", ".join(f"<{link}>" for link in dict.fromkeys((s.paper, s.code)))
    return f"- {s.authors.rstrip('.')}. *{s.title}*. {s.venue}. {links}"


def _counts(kinds: dict[str, int]) -> str:
    """``{"conv": 2, "add": 1}`` as "2 conv, 1 add"."""
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ORDER if kind in kinds)
