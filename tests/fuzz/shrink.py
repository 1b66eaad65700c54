"""Delta debugging: the smallest program, by steps that each keep the failure.

A step proposes programs; the first that still fails takes the place of the program, and the steps begin again. Whether
a proposal makes sense is not looked into: one that does not run does not fail in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.check import Failure, check
from tests.fuzz.program import Line, Part, Program, Scope, Shape

NUMBER = re.compile(r"(?<![\w.{'])\d+(?![\w.}'])")


def shrink(program: Program, failure: Failure, attempts: int = 1500) -> tuple[Program, Failure]:
    """The smallest program found, in so many attempts, that fails on the same path in the same way."""
    tried: set[str] = set()
    last = failure

    def fails(candidate: Program) -> bool:
        nonlocal last
        text = f"{candidate}{candidate.main.inputs}{candidate.same}"
        if text in tried or len(tried) >= attempts:
            return False
        tried.add(text)
        found = check(candidate, failure.path).failure
        if found is None or found.kind != failure.kind:
            return False
        last = found
        return True

    improved = True
    while improved:
        improved = False
        for step in STEPS:
            found = _first(step, program, fails)
            while found is not None:
                program, improved = found, True
                found = _first(step, program, fails)
    return program, last


def _first(
    step: Callable[[Program], Iterator[Program]], program: Program, fails: Callable[[Program], bool]
) -> Program | None:
    return next((candidate for candidate in step(program) if fails(candidate)), None)


# -------------------------------------------------------------------------------------------------------------- steps
def fewer_results(program: Program) -> Iterator[Program]:
    """Return one value, or all but one."""
    for scope in program.used_scopes():
        names = scope.result.args
        single = scope is program.main and len(names) > 1
        for name in names if single else ():
            yield _replaced(program, scope, result=Line("return {0}", (name,)))
        if single:
            listed = ", ".join(f"{{{i}}}" for i in range(len(names) - 1))
            for i in range(len(names)):
                yield _replaced(program, scope, result=Line(f"return {listed}", names[:i] + names[i + 1 :]))


def fewer_lines(program: Program) -> Iterator[Program]:
    """Drop runs of lines, long ones first, and put other values of the same shape in the place of theirs."""
    for scope in reversed(program.used_scopes()):
        length = len(scope.lines)
        while length:
            for start in range(len(scope.lines) - length, -1, -max(1, length // 2)):
                found = _without(scope, start, start + length)
                if found is not None:
                    yield _replaced(program, scope, lines=found[0], result=found[1])
            length //= 2


def _without(scope: Scope, start: int, end: int) -> tuple[tuple[Line, ...], Line] | None:
    """The scope's lines and result with some lines dropped; None if nothing can stand in for one of their values."""
    shapes: dict[str, Shape] = dict(scope.inputs)
    names: dict[str, str] = {}
    lines: list[Line] = []
    needed = {name for line in (*scope.lines[end:], scope.result) for name in line.args}
    for i, line in enumerate(scope.lines):
        line = replace(line, args=tuple(names.get(name, name) for name in line.args))
        if not start <= i < end:
            lines.append(line)
            shapes |= dict(zip(line.outs, line.shapes, strict=True))
            continue
        for name, shape in zip(line.outs, line.shapes, strict=True):
            earlier = [*line.args, *reversed(shapes)]
            found = next((other for other in earlier if shapes.get(other) == shape), None)
            if found is None and name in needed:
                return None
            names[name] = found or name
    result = replace(scope.result, args=tuple(names.get(name, name) for name in scope.result.args))
    return tuple(lines), result


def other_operands(program: Program) -> Iterator[Program]:
    """Let a line read an input instead of what it reads."""
    for scope in reversed(program.used_scopes()):
        shapes: dict[str, Shape] = dict(scope.inputs)
        for line in scope.lines:
            shapes |= dict(zip(line.outs, line.shapes, strict=True))
        for i, line in enumerate(scope.lines):
            for j, arg in enumerate(line.args):
                for name, shape in scope.inputs:
                    if shape == shapes.get(arg) and name != arg:
                        changed = replace(line, args=(*line.args[:j], name, *line.args[j + 1 :]))
                        yield _replaced(program, scope, lines=(*scope.lines[:i], changed, *scope.lines[i + 1 :]))


def inlined_children(program: Program) -> Iterator[Program]:
    """Do what a child does in the forward that calls it."""
    classes = {scope.name: scope for scope in program.scopes}
    for scope in program.used_scopes():
        for i, line in enumerate(scope.lines):
            call = re.fullmatch(r"[{}o\d, ]+ = self\.(\w+)\(.*\)", line.code)
            part = next((p for p in scope.parts if call and p.name == call[1]), None)
            child = classes.get(part.code.removesuffix("()")) if part is not None else None
            if part is not None and child is not None:
                yield _inline(program, scope, i, part, child)


def _inline(program: Program, scope: Scope, at: int, part: Part, child: Scope) -> Program:
    line = scope.lines[at]
    names = {name: arg for (name, _), arg in zip(child.inputs, line.args, strict=True)}
    names |= {name: f"{part.name}{name}_{at}" for inner in child.lines for name in inner.outs}
    number = max(int(p.name[1:]) for p in scope.parts) + 1
    renamed = {p.name: f"{p.name[0]}{number + i}" for i, p in enumerate(child.parts)}
    lines = [
        Line(
            re.sub(r"self\.([mpb]\d+)", lambda m: f"self.{renamed[m[1]]}", inner.code),
            tuple(names[a] for a in inner.args),
            tuple(names[o] for o in inner.outs),
            inner.shapes,
        )
        for inner in child.lines
    ]
    results = [names[arg] for arg in child.result.args]
    lines += [Line("{o0} = {0}", (r,), (o,), (s,)) for r, o, s in zip(results, line.outs, line.shapes, strict=True)]
    parts = (*scope.parts, *(replace(p, name=renamed[p.name]) for p in child.parts))
    return _replaced(program, scope, parts=parts, lines=(*scope.lines[:at], *lines, *scope.lines[at + 1 :]))


def simpler_code(program: Program) -> Iterator[Program]:
    """Without an option of a module, or without names for what is the same."""
    for scope in program.used_scopes():
        for i, part in enumerate(scope.parts):
            for option in re.findall(r", \w+=(?:\([^()]*\)|[^,()]+)", part.code):
                code = part.code.replace(option, "", 1)
                yield _replaced(
                    program, scope, parts=(*scope.parts[:i], replace(part, code=code), *scope.parts[i + 1 :])
                )
        for i, line in enumerate(scope.lines):
            if line.code == "{o0} = {0}":
                names = {line.outs[0]: line.args[0]}
                rest = [_renamed(other, names) for other in scope.lines[i + 1 :]]
                yield _replaced(
                    program, scope, lines=(*scope.lines[:i], *rest), result=_renamed(scope.result, names)
                )  # fmt: skip


def smaller_numbers(program: Program) -> Iterator[Program]:
    """Put 1, 2 or 3 in the place of a larger number, everywhere or in one place."""
    texts = [text for scope in program.used_scopes() for text in _texts(scope)]
    found = sorted({int(n) for text in texts for n in NUMBER.findall(text)}, reverse=True)
    for old in found:
        for new in range(1, min(old, 4)):
            yield _renumbered(program, old, new)
    for scope in program.used_scopes():
        for i, part in enumerate(scope.parts):
            for match in NUMBER.finditer(part.code):
                for new in range(1, min(int(match[0]), 4)):
                    code = f"{part.code[: match.start()]}{new}{part.code[match.end() :]}"
                    changed = (*scope.parts[:i], replace(part, code=code), *scope.parts[i + 1 :])
                    yield _replaced(program, scope, parts=changed)


def fewer_inputs(program: Program) -> Iterator[Program]:
    """Without an input that nobody reads, or with inputs of their own."""
    main = program.main
    read = {name for line in (*main.lines, main.result) for name in line.args}
    kept = tuple(item for item in main.inputs if item[0] in read) or main.inputs[:1]
    if kept != main.inputs:
        yield _replaced(program, main, inputs=kept)
    if program.same:
        yield replace(program, same=False)


STEPS = (fewer_results, fewer_lines, fewer_inputs, inlined_children, other_operands, simpler_code, smaller_numbers)


# ------------------------------------------------------------------------------------------------------------ helpers
def _replaced(program: Program, scope: Scope, **changes: object) -> Program:
    changed = replace(scope, **changes)  # type: ignore[arg-type]
    return replace(program, scopes=tuple(changed if s is scope else s for s in program.scopes))


def _renamed(line: Line, names: dict[str, str]) -> Line:
    return replace(line, args=tuple(names.get(name, name) for name in line.args))


def _texts(scope: Scope) -> list[str]:
    return [
        *(str(shape) for _, shape in scope.inputs),
        *(part.code for part in scope.parts),
        *(line.code for line in scope.lines),
    ]


def _renumbered(program: Program, old: int, new: int) -> Program:
    def text(code: str) -> str:
        return NUMBER.sub(lambda m: str(new) if int(m[0]) == old else m[0], code)

    def shape(sizes: Shape) -> Shape:
        return tuple(new if size == old else size for size in sizes)

    def scope(one: Scope) -> Scope:
        return replace(
            one,
            inputs=tuple((name, shape(sizes)) for name, sizes in one.inputs),
            parts=tuple(replace(part, code=text(part.code)) for part in one.parts),
            lines=tuple(
                replace(line, code=text(line.code), shapes=tuple(map(shape, line.shapes))) for line in one.lines
            ),
        )

    return replace(program, scopes=tuple(map(scope, program.scopes)))
