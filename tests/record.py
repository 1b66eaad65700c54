"""What the long runs found, for the README: ``python -m tests.record`` writes it there from their records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.fuzz.run import RECORD
from tests.guards.__main__ import RESULTS
from tests.guards.guards import GUARDS
from tests.zoo import table

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(?<=<!-- tests: begin -->\n).*?(?=<!-- tests: end -->)", re.DOTALL)


def section() -> str:
    """The lines between the marks."""
    return f"""| command | what it runs | what it found |
|---|---|---|
| `python -m tests.zoo` | {_zoo()} |
| `python -m tests.fuzz` | {_fuzz()} |
| `python -m tests.guards` | {_guards()} |

Each can be stopped and started again, and does again what was done with other sources if it is asked to; the
[table of models](tests/zoo/results/ZOO.md) and the [table of guards](tests/guards/TABLE.md) have a row for each, the
[fuzzer's records](tests/fuzz/results) the state of the sources that they are of.
"""


def _zoo() -> str:
    rows = list(table.read().values())
    norms = [sum(row["norms"][after] for row in rows if "norms" in row) for after in (0, 1)]
    failing = sum(bool(row["failures"]) for row in rows)
    return (
        f"every timm model up to 60 M parameters, and one of each family above; every torchvision model: {len(rows):,} "
        f"models, beside float64 | {failing or 'no'} failures; {sum(bool(row.get('merges')) for row in rows):,} have a "
        f"merge; {norms[0]:,} batch norms run before, {norms[1]:,} after, each for a reason in its report"
    )


def _fuzz() -> str:
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(RECORD.parent.glob("*.json"))]
    programs, merged = (sum(record[key] for record in records) for key in ("programs", "merged"))
    wrong = [each for record in records for each in record["failures"] if "proof:" not in each["failure"]]
    refused = sum(record["failed"] for record in records) - len(wrong)
    wrong_now = f"{len(wrong)} wrong, mended since, with a test" if wrong else "none wrong"
    late = f"; in {refused} the proof refused what a rule should have" if refused else ""
    return (
        f"random programs of some {records[0]['lines_per_program']:.0f} lines, through every way into the pass: "
        f"{programs:,}, of which {merged / programs:.0%} had a merge | {wrong_now}; none crashed{late}"
    )


def _guards() -> str:
    rows = json.loads(RESULTS.read_text())["guards"]
    rows = {guard.name: (guard, rows[guard.name]) for guard in GUARDS if guard.name in rows}
    noticed = sum(bool(row["alone"] or row["unproved"]) for _, row in rows.values())
    needless = sum(bool(guard.needless) and not (row["alone"] or row["unproved"]) for guard, row in rows.values())
    alive = len(rows) - noticed - needless
    return (
        f"each of the {len(GUARDS)} conditions under which the pass merges, taken out | {noticed} noticed by a test or "
        f"by the proof, {needless} that only save time or say why, {alive or 'no'} survivors"
    )


def main() -> None:
    README.write_text(SECTION.sub(lambda _: section(), README.read_text()))


if __name__ == "__main__":
    main()
