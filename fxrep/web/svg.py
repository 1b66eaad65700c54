"""A drawing as inline SVG: boxes in columns from left to right, arrows between them.

A box stands one column behind the last of those that it reads. An arrow that passes by columns keeps a place free in
each, so that no arrow runs through a box. Colours come from the page, by the class of a box.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ..report import Box, Drawing

GAP, ROW, PAD, TAIL = 34, 14, 10, 26  # between columns; between rows; inside of a box; behind the last box
LONGEST = 26  # characters of a line


@dataclass
class _Cell:
    """A box in its place, or, without one, the place where an arrow passes by."""

    box: int | None
    lines: list[tuple[str, str]]
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 8


def svg(drawing: Drawing, label: str, within: str = "") -> str:
    """The drawing; ``label`` says it in words, paths are shown as seen from ``within``."""
    columns, steps = _columns(drawing, within)
    width, height = _place(columns)
    marks = [_arrow(*step) for step in steps]
    read = {start for start, _ in drawing.arrows}
    shown = [cell for column in columns for cell in column if cell.box is not None]
    marks += [_arrow_out(cell) for cell in shown if cell.box not in read]
    boxes = [_box(drawing.boxes[cell.box], cell) for cell in shown if cell.box is not None]
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg role="img" aria-label="{escape(label)}" {size}>{"".join(marks)}{"".join(boxes)}</svg>'


def _columns(drawing: Drawing, within: str) -> tuple[list[list[_Cell]], list[tuple[_Cell, _Cell]]]:
    """The cells by column, each column in the order of what it reads, and the arrows from one column to the next."""
    depth = [0] * len(drawing.boxes)
    for start, end in sorted(drawing.arrows, key=lambda arrow: arrow[1]):  # a box comes after all that it reads
        depth[end] = max(depth[end], depth[start] + 1)
    columns: list[list[_Cell]] = [[] for _ in range(max(depth, default=0) + 1)]
    cells = [_Cell(i, _lines(box, within)) for i, box in enumerate(drawing.boxes)]
    behind: dict[int, list[_Cell]] = {id(cell): [] for cell in cells}
    steps: list[tuple[_Cell, _Cell]] = []
    for cell, column in zip(cells, depth, strict=True):
        columns[column].append(cell)
    for start, end in dict.fromkeys(drawing.arrows):
        last = cells[start]
        for column in range(depth[start] + 1, depth[end] + 1):
            cell = cells[end] if column == depth[end] else _Cell(None, [])
            if cell.box is None:
                columns[column].append(cell)
            behind.setdefault(id(cell), []).append(last)
            steps.append((last, cell))
            last = cell
    for column in range(1, len(columns)):
        row = {id(cell): i for i, cell in enumerate(columns[column - 1])}
        before = {id(cell): [row[id(b)] for b in behind[id(cell)]] for cell in columns[column]}
        columns[column].sort(key=lambda cell: sum(before[id(cell)]) / max(1, len(before[id(cell)])))
    return columns, steps


def _place(columns: list[list[_Cell]]) -> tuple[float, float]:
    """Give every cell its place; returns the size of the whole."""
    for cell in (cell for column in columns for cell in column if cell.box is not None):
        cell.width = max(7.1 * len(text) if kind == "label" else 6.1 * len(text) for kind, text in cell.lines) + 2 * PAD
        cell.height = 15 * len(cell.lines) + PAD
    tall = max(sum(cell.height + ROW for cell in column) for column in columns)
    x = 1.0
    for column in columns:
        widest = max(cell.width for cell in column)
        y = 1 + (tall - sum(cell.height + ROW for cell in column)) / 2 + ROW / 2
        for cell in column:
            cell.x, cell.y = x, y
            cell.width = widest if cell.box is None else cell.width
            cell.x += (widest - cell.width) / 2
            y += cell.height + ROW
        x += widest + GAP
    return x - GAP + TAIL + 2, tall + 2


def _lines(box: Box, within: str) -> list[tuple[str, str]]:
    inside = bool(within) and f"{box.path}.".startswith(f"{within}.")
    path = box.path[len(within) + 1 :] if inside else box.path
    shown = ".".join(path.split(".")[-2:]) if inside else path  # the title has all of it
    lines = [("label", box.label), ("detail", box.detail), ("path", shown)]
    return [(kind, text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}") for kind, text in lines if text]


def _box(box: Box, cell: _Cell) -> str:
    title = ", ".join(text for text in (box.label, box.detail, box.path) if text)
    middle = cell.x + cell.width / 2
    text = "".join(
        f'<text class="{kind}" x="{middle:.1f}" y="{cell.y + PAD / 2 + 15 * i + 11:.1f}">{escape(line)}</text>'
        for i, (kind, line) in enumerate(cell.lines)
    )
    shape = f'x="{cell.x:.1f}" y="{cell.y:.1f}" width="{cell.width:.1f}" height="{cell.height:.1f}" rx="6"'
    kind = escape(box.kind.replace(" ", "-"))
    return f'<g class="box {kind}"><title>{escape(title)}</title><rect {shape}/>{text}</g>'


def _arrow(start: _Cell, end: _Cell) -> str:
    x1, y1 = start.x + start.width, start.y + start.height / 2
    x2, y2 = end.x, end.y + end.height / 2
    bend = (x1 + x2) / 2
    curve = f"M{x1 - (start.width if start.box is None else 0):.1f} {y1:.1f}H{x1:.1f}C{bend:.1f} {y1:.1f} {bend:.1f} "
    head = "" if end.box is None else _head(x2, y2)
    return f'<path class="arrow" d="{curve}{y2:.1f} {x2:.1f} {y2:.1f}"/>{head}'


def _arrow_out(cell: _Cell) -> str:
    x, y = cell.x + cell.width, cell.y + cell.height / 2
    return f'<path class="arrow" d="M{x:.1f} {y:.1f}H{x + TAIL - 2:.1f}"/>{_head(x + TAIL, y)}'


def _head(x: float, y: float) -> str:
    return f'<path class="head" d="M{x:.1f} {y:.1f}l-7 -3.5v7z"/>'
