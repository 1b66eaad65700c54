"""The table against timm, as a page in Markdown, made of its JSON file and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.against import COMPARED, TIMM, behind, norms_left, wrong
from benchmarks.peers import AS_IS, FXREP
from benchmarks.tables import table

Row = dict[str, Any]
NAMES = {"conv": "convs", "batch norm": "batch norms", "norm": "other norms", "add": "adds", "mul": "muls",
         "linear": "linears", "pad": "pads", "other": "others"}  # fmt: skip
HEAD = """# Against timm's own merge

Made by `python -m benchmarks.against_timm`: every model up to 60 M parameters, one of each architecture, of the
families for which timm has a merge of its own, or that a merge could shorten. Random weights and norm statistics,
float32, eval mode, batch of one.

Numbers are the operators that one call runs, counted at the dispatcher: in the model as it is / after
`timm.utils.model.reparameterize_model` / after `fxrep.reparameterize(model)`; one number where all three are the same.
Adds are additions and subtractions, muls multiplications, divisions and negations; both also of a tensor and a number.
Linears are matrix products with a weight; a matrix product of two values is among the others, as is everything else
that computes something. Views are not counted. **Bold** is where fxrep runs more convolutions, norms, elementwise
operators (adds and muls), linears, pads or operators in all than timm, or leaves a batch norm.
"""


def page(rows: list[Row]) -> str:
    """The whole page."""
    rows = sorted(rows, key=lambda row: (row["family"], row.get("parameters", 0), row["case"]["model"]))
    measured = [row for row in rows if "counts" in row]
    body = [[row["case"]["model"], *map(str, _cells(row)), remarks(row)] for row in measured]
    parts = [HEAD, f"{summary(rows)} {_versions(rows)}\n", table(["model", *NAMES.values(), "all", "error", ""], body)]
    parts += [*_reasons(measured), *_failures(rows), *_same(rows)]
    return "\n".join(parts) + "\n"


def summary(rows: list[Row]) -> str:
    """How many models there are, and of how many fxrep is behind, ahead, or leaves a norm."""
    measured = [row for row in rows if "counts" in row]
    counts = {
        "behind in": sum(bool(behind(row)) for row in measured),
        "with fewer operators than timm in": sum(_all(row, FXREP) < _all(row, TIMM) for row in measured),
        "leaves a batch norm in": sum(norms_left(row) > 0 for row in measured),
        "wrong in": sum(map(wrong, measured)),
    }
    return f"{len(measured)} models: fxrep is " + ", ".join(f"{text} {n}" for text, n in counts.items()) + "."


def remarks(row: Row) -> str:
    """What there is to complain about."""
    found = [f"more {what}" for what in behind(row)]
    found += ["leaves batch norms"] if norms_left(row) else []
    found += ["wrong"] if wrong(row) else []
    found += ["timm's merge fails"] if "failed" in row else []
    return ", ".join(found)


def _versions(rows: list[Row]) -> str:
    stamps = sorted({tuple(row["machine"].items()) for row in rows})
    return "; ".join(", ".join(f"{name} {value}" for name, value in stamp) for stamp in stamps) + "."


def _all(row: Row, variant: str) -> int:
    return sum(row["counts"].get(variant, row["counts"][AS_IS]).values())


def _cells(row: Row) -> Iterator[str]:
    bold = {kind for what in behind(row) if what != "operators" for kind in COMPARED[what]}
    bold |= {"batch norm"} if norms_left(row) else set()
    for kind in NAMES:
        yield _cell([row["counts"].get(name, {}).get(kind) for name in (AS_IS, TIMM, FXREP)], kind in bold)
    yield _cell([_all(row, name) for name in (AS_IS, TIMM, FXREP)], _all(row, FXREP) > _all(row, TIMM))
    yield f"{row['errors'][FXREP]:.0e}"


def _cell(numbers: list[int | None], bold: bool) -> str:
    texts = ["–" if n is None else str(n) for n in numbers]
    texts = texts[:1] if len(set(texts)) == 1 else texts
    return " / ".join([*texts[:-1], f"**{texts[-1]}**" if bold else texts[-1]])


def _reasons(rows: list[Row]) -> Iterator[str]:
    titles = {
        "kept_norms": "Why batch norms are left",
        "kept_adds": "Why adds that timm removes are left",
        "opaque": "What is not looked into",
    }
    for field, title in titles.items():
        places: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row in rows:
            for key, value in row.get(field, {}).items():
                why, count, first = (value, 1, key) if field == "opaque" else (key, *value)
                places[why].append((count, f"`{row['case']['model']}` {first}"))
        if places:
            yield f"\n## {title}\n\n| operators | models | reason | for example |\n|---:|---:|---|---|"
        for why, found in sorted(places.items(), key=lambda item: -len(item[1])):
            yield f"| {sum(n for n, _ in found)} | {len(found)} | {_plain(why)} | {_plain(found[0][1])} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _failures(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        why = row.get("error") or (row.get("failed") and f"timm's merge fails: {row['failed']}")
        if why:
            yield f"\n* `{row['case']['model']}`: {_plain(why)}"


def _same(rows: list[Row]) -> Iterator[str]:
    pairs = [f"`{row['case']['model']}` (as `{row['as']}`)" for row in rows if "as" in row]
    if pairs:
        yield f"\nOf the same modules, and not measured: {', '.join(pairs)}."
