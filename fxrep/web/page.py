"""The page: a summary, and the model block by block with a drawing of each merge before and after.

Everything is in the text that ``page`` gives; it opens and closes without JavaScript, which adds the search. Whatever
comes from the report is escaped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape
from importlib.resources import files

from ..report import KINDS, Box, Drawing, Kept, Merged, Report, say, scaled
from .svg import svg

Item = Merged | Kept


def page(report: Report) -> str:
    """The whole page."""
    template = (files(__package__) / "page.html").read_text(encoding="utf-8")
    parts = {
        "title": escape(report.model),
        "inputs": _inputs(report),
        "summary": _summary(report),
        "units": escape(_units(report)),
        "blocks": _blocks(report),
        "opaque": _opaque(report),
        "counts": escape(f"{len(report.merged)} merged, {len(report.refused)} left alone"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def frame(report: Report) -> str:
    """The page inside of another page, such as a notebook, whose styles do not reach it."""
    look = "width:100%;height:640px;border:1px solid #8884;border-radius:8px"
    return f'<iframe title="fxrep" sandbox="allow-scripts" style="{look}" srcdoc="{escape(page(report))}"></iframe>'


# ---------------------------------------------------------------------------------------------------------- the summary
def _inputs(report: Report) -> str:
    shapes = ", ".join("×".join(map(str, shape)) for shape in report.inputs or ())
    return f"for an input of {escape(shapes)}" if shapes else "for inputs of any size"


def _summary(report: Report) -> str:
    tiles = [
        _tile(name, report.before.get(kind, 0), report.after.get(kind, 0))
        for kind, name in KINDS.items()
        if report.before.get(kind) or report.after.get(kind)
    ]
    before, after = report.total
    tiles.append(_tile("kernels", before.kernels, after.kernels))
    tiles.append(_tile("parameters", *report.parameters))
    tiles.append(_tile("memory of the weights", *report.weight_bytes, unit="B"))
    if before.macs is not None and after.macs is not None:
        tiles.append(_tile("multiply-accumulates", before.macs, after.macs))
    if before.bytes is not None and after.bytes is not None:
        tiles.append(_tile("memory traffic", before.bytes, after.bytes, unit="B"))
    return "".join(tiles)


def _tile(name: str, before: int, after: int, unit: str = "") -> str:
    numbers = [scaled(n, unit) if unit or n >= 10_000 else f"{n:,}" for n in (before, after)]
    share = 100 * after / max(before, 1)
    exact = f"{before:,} before, {after:,} after"
    return (
        f'<div class="tile" title="{escape(exact)}"><dt>{escape(name)} {_change(before, after)}</dt>'
        f"<dd>{numbers[0]} <span>→</span> <b>{numbers[1]}</b></dd>"
        f'<div class="bar"><i style="width:{min(share, 100):.1f}%"></i></div></div>'
    )


def _change(before: int, after: int) -> str:
    percent = 100 * (after - before) / before if before else 0.0
    if abs(percent) < 0.05:
        return ""
    way = "less" if percent < 0 else "more"
    sign = "−" if percent < 0 else "+"
    return f'<em class="{way}">{sign}{abs(percent):.{0 if abs(percent) >= 1 else 1}f} %</em>'


def _units(report: Report) -> str:
    """What the numbers count."""
    counted = (
        "Kernels, multiply-accumulates and traffic are those of the convolutions, linear layers, norms, sums, scales, "
        "pads and average pools that fxrep reads; all else in the model is the same before and after. Traffic is what "
        "each operator reads and writes of activations, weights not counted."
    )
    if report.inputs:
        return counted
    return f"{counted} The shapes are not known: the numbers of a merge are those of one position of its output."


# ----------------------------------------------------------------------------------------------------------- the blocks
def _blocks(report: Report) -> str:
    blocks: dict[str, list[Item]] = defaultdict(list)
    items: list[Item] = [*report.merged, *report.kept]
    for item in sorted(items, key=lambda item: item.place):
        blocks[_block_of(item)].append(item)
    parts, heading = [], ""
    for path, members in blocks.items():
        stage = path.rpartition(".")[0]
        if stage != heading:
            heading = stage
            parts.append(f"<h3>{escape(stage)}</h3>" if stage else '<h3 class="rule"></h3>')
        parts.append(_block(path, members))
    return "".join(parts) or "<p>There is no convolution, norm or sum in this model that fxrep could look at.</p>"


def _block_of(item: Item) -> str:
    """The path of the block that something belongs to: up to the last number in it."""
    path = item.name.rpartition(".")[0] if isinstance(item, Merged) else item.path
    steps = path.split(".")
    numbers = [i for i, step in enumerate(steps) if step.isdigit()]
    return ".".join(steps[: numbers[-1] + 1]) if numbers else path


def _block(path: str, items: list[Item]) -> str:
    merged = [item for item in items if isinstance(item, Merged)]
    kept = [item for item in items if isinstance(item, Kept)]
    refused = [k for k in kept if k.kind not in ("conv", "linear")]
    kinds = " ".join(kind for kind, found in (("merged", merged), ("refused", refused)) if found)
    boxes = [box for m in merged for drawing in m.drawings for box in drawing.boxes if box.kind != "value"]
    words = [path, *(m.name for m in merged), *(f"{box.label} {box.detail} {box.path}" for box in boxes)]
    words += [f"{k.kind} {k.name} {k.reason}" for k in kept]
    badges = [f'<span class="badge merged">{len(merged)} merged</span>'] if merged else []
    badges += [f'<span class="badge refused">{len(refused)} left alone</span>'] if refused else []
    summary = (
        f'<span class="name">{escape(path or "the model")}</span>'
        f'<span class="change">{_operators(merged, kept)}</span>'
        f'<span class="macs">{_macs(merged)}</span><span class="badges">{"".join(badges)}</span>'
    )
    body = "".join(_merge(item, path) if isinstance(item, Merged) else _left(item, path) for item in items)
    search = escape(" ".join(dict.fromkeys(words)).lower())
    head = '<div class="sides"><span>before</span><span>after</span></div>'
    return (
        f'<details class="block" data-kinds="{kinds}" data-search="{search}"><summary>{summary}</summary>'
        f'<div class="body">{head}{body}</div></details>'
    )


def _operators(merged: list[Merged], kept: list[Kept]) -> str:
    """The operators of a block before and after, in words."""
    before: dict[str, int] = defaultdict(int)
    after: dict[str, int] = defaultdict(int)
    for k in kept:
        before[k.kind] += 1
        after[k.kind] += 1
    for m in merged:
        for kind, n in m.operators.items():
            before[kind] += n * m.calls
        for box in m.drawings[1].boxes:
            if box.kind != "value":
                made = "linear" if box.label == "linear" else "conv"
                after[made if box.kind == "merged" else box.kind] += m.calls
    same = say(before) == say(after)
    return escape(say(before)) if same else f"{escape(say(before))} <span>→</span> <b>{escape(say(after))}</b>"


def _macs(merged: list[Merged]) -> str:
    if not merged:
        return ""
    before, after = (sum(side.macs or 0 for side in sides) for sides in zip(*((m.before, m.after) for m in merged),
                     strict=True))  # fmt: skip
    unit = "MACs" if all(m.positions is not None for m in merged) else "MACs per position"
    return f"{scaled(before)} <span>→</span> {scaled(after)} {unit} {_change(before, after)}"


def _merge(merge: Merged, within: str) -> str:
    before, after = merge.drawings
    words = f"{merge.name}: {say(merge.operators)} before, one convolution of {merge.convolution} after"
    return (
        f'<section class="item"><h4>{escape(_from(merge.name, within))}</h4><div class="pair">'
        f'<div class="side">{svg(before, f"before: {say(merge.operators)}", within)}</div>'
        f'<div class="side">{svg(after, f"after: {merge.convolution}", within)}</div></div>'
        f'<p class="figures" aria-label="{escape(words)}">{_figures(merge)}</p></section>'
    )


def _figures(merge: Merged) -> str:
    before, after = merge.before, merge.after
    where = "" if merge.positions is not None else " per position"
    pairs = [
        (f"MACs{where}", before.macs or 0, after.macs or 0, ""),
        ("parameters", before.parameters, after.parameters, ""),
        (f"traffic{where}", before.bytes or 0, after.bytes or 0, "B"),
        ("kernels", before.kernels, after.kernels, ""),
    ]
    cells = [
        f"<span>{escape(name)} {scaled(a, unit)} → <b>{scaled(b, unit)}</b> {_change(a, b)}</span>"
        for name, a, b, unit in pairs
    ]
    cells.append(f"<span>proved in float64, error {float(merge.error):.0e}</span>")
    if merge.calls > 1:
        cells.append(f"<span>called {int(merge.calls)} times</span>")
    return "".join(cells)


def _left(kept: Kept, within: str) -> str:
    """What is the same before and after, and why."""
    refused = kept.kind not in ("conv", "linear")
    called = re.fullmatch(r"(\S+) (?:in )?'(.+)'", kept.name)
    label, path = called.groups() if called else (kept.name, "")
    drawn = svg(Drawing((Box("refused" if refused else "kept", label, path=path),)), kept.name, within)
    kind = "refused" if refused else "kept"
    return (
        f'<section class="item {kind}"><div class="pair"><div class="side">{drawn}</div>'
        f'<div class="side">{drawn}</div></div><p class="reason">{escape(kept.reason)}</p></section>'
    )


def _opaque(report: Report) -> str:
    if not report.opaque:
        return ""
    rows = "".join(f"<li><code>{escape(path)}</code> {escape(reason)}</li>" for path, reason in report.opaque.items())
    return f'<section class="opaque"><h2>Not looked into</h2><ul>{rows}</ul></section>'


def _from(path: str, within: str) -> str:
    return path[len(within) + 1 :] if within and path.startswith(f"{within}.") else path
