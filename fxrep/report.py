"""What was merged, what was left alone, why, and what it saves: plain data that prints, saves and shows itself."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from .capture.walk import bytes_of

REPORT = "_fxrep_report"  # where a merged model has it
WIDTH = 100  # of the printed table

KINDS = {"conv": "convolutions", "linear": "linear layers", "norm": "batch norms", "add": "adds"}


@dataclass(frozen=True)
class Figures:
    """What a computation takes.

    ``macs`` are multiply-accumulates; ``bytes``, what its operators read and write of activations, each on its own;
    ``parameters``, the numbers in its weights; ``kernels``, its operators. ``macs`` and ``bytes`` are those of one call
    of the model if the shapes of the inputs are known, else those of one position of the output, or None where there is
    no one output.
    """

    macs: int | None = 0
    parameters: int = 0
    bytes: int | None = 0
    kernels: int = 0


@dataclass(frozen=True)
class Box:
    """An operator or a value in a drawing: ``kind`` is "value", "conv", "norm", "add", "merged" or the like."""

    kind: str
    label: str
    detail: str = ""
    path: str = ""


@dataclass(frozen=True)
class Drawing:
    """A small graph, to be drawn: ``arrows`` are pairs of places in ``boxes``."""

    boxes: tuple[Box, ...] = ()
    arrows: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Merged:
    """One merge: ``name`` is the path of the new convolution; ``error`` is that of its proof, in float64.

    ``positions`` is how many positions its output has in one call of the model: the figures are those of all of them.
    None where the shapes are not known: the figures are those of one position. ``drawings`` show the operators before
    and after; ``place`` is where in the program it is.
    """

    name: str
    operators: dict[str, int]
    convolution: str
    error: float
    calls: int = 1
    before: Figures = Figures()
    after: Figures = Figures()
    positions: int | None = None
    drawings: tuple[Drawing, Drawing] = (Drawing(), Drawing())
    place: int = 0


@dataclass(frozen=True)
class Kept:
    """An operator that is still there: ``path`` is whose code it is in.

    ``kind`` is "conv", "linear", "norm" or "add"; or, of an operator that a rule or a proof has refused, "pool", "pad",
    "scale" (a multiplication) or "other".
    """

    kind: str
    name: str
    reason: str
    path: str = ""
    place: int = 0


@dataclass
class Report:
    """``print`` it for a table; ``to_dict`` for machines; ``to_html`` for a page; a notebook shows the page.

    ``before`` and ``after`` count the operators of each kind in the traced program; ``opaque`` says, by path, which
    modules were not looked into and why. ``total`` holds the figures before and after of all operators that fxrep
    reads; those of the others, such as activations and attention, are the same before and after. ``inputs`` are the
    shapes that the figures are for, if they are known. ``parameters`` and ``weight_bytes`` are those of all weights.
    """

    model: str
    merged: list[Merged] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    parameters: tuple[int, int] = (0, 0)
    weight_bytes: tuple[int, int] = (0, 0)
    total: tuple[Figures, Figures] = (Figures(None, 0, None), Figures(None, 0, None))
    inputs: list[tuple[int, ...]] | None = None

    @property
    def refused(self) -> list[Kept]:
        """What is left of norms, adds, pools and the like, which a merge would have taken in."""
        return [k for k in self.kept if k.kind not in ("conv", "linear")]

    def weigh(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Note what the weights before and after hold."""
        counts = [sum(t.numel() for t in tensors) for tensors in (before, after)]
        sizes = [sum(map(bytes_of, tensors)) for tensors in (before, after)]
        self.parameters, self.weight_bytes = (counts[0], counts[1]), (sizes[0], sizes[1])
        sides = (replace(side, parameters=n) for side, n in zip(self.total, counts, strict=True))
        self.total = next(sides), next(sides)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Report:
        """The report that ``to_dict`` gave, also after it has been through JSON; what it does not know is left out.

        Raises:
            ValueError: this is something else.
        """
        try:
            return _report(saved)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"this is not a report that fxrep saved: {error!r}") from error

    def to_html(self) -> str:
        """One page for a browser, with drawings; it needs nothing but itself."""
        from .web.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from .web.page import frame

        return frame(self)

    def __str__(self) -> str:
        return "\n".join([*self._summary(), "", *self._merges(), *self._left()])

    # ------------------------------------------------------------------------------------------------------- the table
    def _summary(self) -> list[str]:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.inputs or ())
        table: list[tuple[str, ...]] = [("", "before", "after")]
        for kind, name in KINDS.items():
            if kind != "linear" or self.before.get(kind) != self.after.get(kind):
                table.append((name, str(self.before.get(kind, 0)), str(self.after.get(kind, 0))))
        table.append(("parameters", *(f"{n:,}" for n in self.parameters)))
        before, after = self.total
        table.append(("kernels", str(before.kernels), str(after.kernels)))
        if before.macs is not None and after.macs is not None:
            table.append(("MACs", scaled(before.macs), scaled(after.macs)))
        if before.bytes is not None and after.bytes is not None:
            table.append(("bytes", scaled(before.bytes), scaled(after.bytes)))
        return [f"fxrep: {self.model}{f', input {shapes}' if shapes else ''}", "", *_columns(table)]

    def _merges(self) -> list[str]:
        if not self.merged:
            return ["nothing to merge"]
        rows = [_row(m) for m in self.merged]
        heading = (f"merged ({len(rows)}):", "MACs", "parameters", "bytes", "kernels")
        widths = [max(map(len, column)) for column in zip(heading[1:], *(figures for _, figures in rows), strict=True)]
        room = min(max(len(heading[0]), *(len(name) + 2 for name, _ in rows)), WIDTH - sum(widths) - 2 * len(widths))
        lines = [_line(heading[0], heading[1:], room, widths)]
        for merge, (name, figures) in zip(self.merged, rows, strict=True):
            if len(name) + 2 > room:
                lines += [f"  {name}"]
                name = ""
            lines.append(_line(f"  {name}", figures, room, widths))
            lines += _wrapped(f"{say(merge.operators)} -> {merge.convolution}", "    ")
        lines += _wrapped(self._units(), "  ")
        lines.append(f"  each proved in float64; largest relative error {max(m.error for m in self.merged):.1e}")
        return lines

    def _units(self) -> str:
        one = "for one position of the output of each merge" + ("" if self.inputs else ": example_inputs give totals")
        if all(m.positions is None for m in self.merged):
            return f"MACs and bytes are {one}; {UNITS}"
        some = f"; those marked * {one}" if any(m.positions is None for m in self.merged) else ""
        return f"MACs and bytes are for one call of the model{some}; {UNITS}"

    def _left(self) -> list[str]:
        lines: list[str] = []
        if self.refused:
            lines += ["", f"left alone ({len(self.refused)}):"]
            for same in self._refused_alike():
                more = f" and {len(same) - 1} more" if len(same) > 1 else ""
                lines += _wrapped(f"{same[0].name}{more}: {same[0].reason}", "  ")
        if self.opaque:
            lines += ["", f"not looked into ({len(self.opaque)}):"]
            lines += [line for path, why in self.opaque.items() for line in _wrapped(f"'{path}': {why}", "  ")]
        return lines

    def _refused_alike(self) -> list[list[Kept]]:
        """What was left alone; what is not counted, such as gates, together for each reason."""
        groups: dict[object, list[Kept]] = {}
        for i, kept in enumerate(self.refused):
            groups.setdefault(i if kept.kind in KINDS else (kept.kind, kept.reason), []).append(kept)
        return list(groups.values())


UNITS = "bytes are activations read and written by its operators (kernels), weights not counted"


def scaled(number: int, unit: str = "") -> str:
    """A number with three digits and a prefix.

    >>> scaled(7), scaled(1234), scaled(13_400_000, "B")
    ('7', '1.23k', '13.4 MB')
    """
    value, prefixes = float(number), ["", "k", "M", "G", "T", "P"]
    while value >= (1000 if not prefixes[0] else 999.5) and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    digits = 0 if not prefixes[0] or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{' ' if unit else ''}{prefixes[0]}{unit}"


def say(operators: dict[str, int]) -> str:
    """Counts by kind in words: "2 conv + 1 add"."""
    order = [*KINDS]
    kinds = sorted(operators, key=lambda kind: order.index(kind) if kind in order else len(order))
    return " + ".join(f"{operators[kind]} {kind}" for kind in kinds)


def _row(merge: Merged) -> tuple[str, tuple[str, ...]]:
    """The name of a merge, and its figures before and after."""
    before, after = merge.before, merge.after
    mark = "*" if merge.positions is None else ""
    return merge.name, (
        f"{scaled(before.macs or 0)} -> {scaled(after.macs or 0)}{mark}",
        f"{scaled(before.parameters)} -> {scaled(after.parameters)}",
        f"{scaled(before.bytes or 0)} -> {scaled(after.bytes or 0)}{mark}",
        f"{before.kernels} -> {after.kernels}",
    )


def _line(first: str, rest: Sequence[str], room: int, widths: Sequence[int]) -> str:
    cells = (cell.rjust(width) for cell, width in zip(rest, widths, strict=True))
    return "  ".join((first.ljust(room), *cells)).rstrip()


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


# ------------------------------------------------------------------------------------------------------------- and back
def _plain(value: Any) -> Any:
    """The same with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _known(kind: Any, saved: dict[str, Any]) -> dict[str, Any]:
    return {f.name: saved[f.name] for f in dataclasses.fields(kind) if f.name in saved}


def _report(saved: dict[str, Any]) -> Report:
    known = _known(Report, saved)
    inputs = known.get("inputs")
    return Report(
        **{
            **known,
            "merged": [_merged(merge) for merge in known["merged"]],
            "kept": [Kept(**_known(Kept, kept)) for kept in known["kept"]],
            "parameters": tuple(known["parameters"]),
            "weight_bytes": tuple(known["weight_bytes"]),
            "total": tuple(Figures(**_known(Figures, side)) for side in known["total"]),
            "inputs": inputs if inputs is None else [tuple(shape) for shape in inputs],
        }
    )


def _merged(saved: dict[str, Any]) -> Merged:
    known = _known(Merged, saved)
    sides = {side: Figures(**_known(Figures, known[side])) for side in ("before", "after")}
    before, after = map(_drawing, known["drawings"])
    return Merged(**{**known, **sides, "drawings": (before, after)})


def _drawing(saved: dict[str, Any]) -> Drawing:
    boxes = tuple(Box(**_known(Box, box)) for box in saved["boxes"])
    arrows = tuple((int(start), int(end)) for start, end in saved["arrows"])
    if any(not 0 <= i < len(boxes) for arrow in arrows for i in arrow):
        raise ValueError("an arrow leads nowhere")
    return Drawing(boxes, arrows)
