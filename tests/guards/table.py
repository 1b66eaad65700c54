"""The page of results: each guard, and what noticed that it was out."""

from __future__ import annotations

import itertools
import re
from typing import Any

from tests.guards.guards import GUARDS, NOT_GUARDS, Guard

KINDS = (  # how a failure begins, and what was looked at
    (r"relative error|.*differs by|assert \(?(nan|inf|[\d.e+-]+)\)? <=?|Tensor-likes|assert \d.*<=? 1e-", "numbers"),
    (r"output:|input:|buffer:|structure:", "numbers"),
    (r"proof:", "the proof, which refused a wrong merge"),
    (r"the result raises", "the result raises"),
    (r"the pass raises", "the pass raises"),
    (
        r"(AssertionError: )?\{'conv'|assert \(\d+, \d+|.*instead of the predicted|.*(convs|counted)\(",
        "operators counted",
    ),
    (r"Failed: DID NOT RAISE", "an error that does not come"),
    (r".*(Kept\(|reason|report)", "the report"),
)


def looked_at(found: dict[str, str]) -> str:
    """What a failure is about: numbers, operators counted, the report, or an error."""
    for pattern, kind in KINDS:
        if re.match(pattern, found["why"]):
            return kind
    error = re.match(r"[\w.]*?(\w+(Error|Exception|Illegal))\b", found["why"])
    return f"raises {error[1]}" if error and error[1] != "AssertionError" else "an assertion"


def _cell(found: dict[str, str] | None) -> str:
    if not found:
        return "nothing"
    return f"{looked_at(found)}: `{found['by'].removeprefix('tests/')}`"


def verdict(guard: Guard, row: dict[str, Any]) -> str:
    """The cell that says who noticed that the guard alone was out."""
    if row.get("alone"):
        return _cell(row["alone"])
    if row.get("unproved"):
        return "the proof"
    if guard.needless:
        return f"nothing can: {guard.needless}"
    return "**no test in which it counts**" if row.get("reached") == 0 else "**nothing, in the tests that were tried**"


def _unfinished(rows: dict[str, Any]) -> list[str]:
    run = sum(guard.name in rows for guard in GUARDS)
    if run == len(GUARDS):
        return []
    return ["", f"**Not finished: {run} of {len(GUARDS)} guards were taken out so far; `not run` marks the others.**"]


def page(rows: dict[str, Any]) -> str:
    """TABLE.md."""
    lines = [
        "# The guards, and what notices that one is missing",
        "",
        "Written by `python -m tests.guards`. Each guard of the pass was taken out: alone, and together with the proof",
        "that refuses a merge whose result differs. `the proof` means that no test failed while it was there, and that",
        "one did without it. In bold is what is open: what nothing noticed. A guard counts in a test if the line that",
        "it is on does something else without it; the eight quickest of these tests were tried.",
        *_unfinished(rows),
    ]  # fmt: skip
    for file, guards in itertools.groupby(GUARDS, key=lambda guard: guard.file):
        lines += ["", f"## {file}", "", "| guard | without it | out | out, and no proof |", "|---|---|---|---|"]
        for guard in guards:
            row = rows.get(guard.name)
            cells = (verdict(guard, row), _cell(row.get("unproved"))) if row else ("not run", "not run")
            lines.append(f"| {guard.name} | {guard.protects} | {' | '.join(cells)} |".replace("||", "|"))
    lines += ["", "## Refusals that are no guards", "", "| file | refusal | why |", "|---|---|---|"]
    lines += [f"| {file} | {message} | {why} |" for (file, message), why in NOT_GUARDS.items()]
    return "\n".join(lines) + "\n"
