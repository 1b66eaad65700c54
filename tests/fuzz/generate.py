"""Random programs: parallel branches, and everything that can happen around and between them."""

from __future__ import annotations

import random

from tests.fuzz import modules, operators
from tests.fuzz.builder import Builder, Value
from tests.fuzz.program import Line, Program, Shape

OPERATIONS = [operation for operation, _ in operators.OPERATORS]
WEIGHTS = [weight for _, weight in operators.OPERATORS]
DISTURBING = (operators.write, operators.write, operators.write_view, operators.add)


def generate(seed: int) -> Program:
    """The program of a seed: the same on every machine."""
    rng = random.Random(seed)
    b = Builder(rng, "Model")
    first = b.argument(_input_shape(rng))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        b.argument(rng.choice((first.shape, first.shape, first.shape, _input_shape(rng))))
    _grow(b, rng.randint(6, 36))
    if rng.random() < 0.12:
        _branch_on_values(b)
        _grow(b, len(b.lines) + rng.randint(0, 6))
    model = b.finish(_result(b))
    return Program(seed, (*b.classes, model), rng.random() < 0.2)


def _input_shape(rng: random.Random) -> Shape:
    rank = rng.choice((1, 2, 2, 2, 2, 2, 2, 3))
    most = {1: 11, 2: 8, 3: 5}[rank]
    sizes = [rng.randint(min(5, most - 1), most)] * rank
    if rng.random() < 0.4:
        sizes = [rng.randint(3, most) for _ in range(rank)]
    return (rng.choice((1, 2, 2)), rng.choice((2, 3, 4, 4, 4, 6)), *sizes)


def _grow(b: Builder, lines: int) -> None:
    """Add operators, branches and children until there are so many lines."""
    for _ in range(10 * lines):
        if len(b.lines) >= lines:
            return
        kind = b.rng.random()
        if kind < 0.14:
            _branches(b)
        elif kind < 0.19 and b.depth < 2:
            _child(b)
        else:
            b.rng.choices(OPERATIONS, WEIGHTS)[0](b)


# ----------------------------------------------------------------------------------------------------------- branches
def _branches(b: Builder) -> None:
    """Linear branches of one value that are added up, with now and then something in between that may forbid it."""
    x = b.pick_image()
    if x is None:
        return
    stride = b.choose((1, 1, 1, 1, 2)) if min(x.shape[2:]) > 2 else 1
    out = x.shape[1] if b.chance(0.7) else b.choose((1, 2, 4, 6))
    mode = b.choose(("zeros",) * 6 + ("reflect", "replicate", "circular"))
    disturbed = b.chance(0.35)
    found: list[Value] = []
    for _ in range(b.choose((2, 2, 2, 3, 3, 4))):
        value = _one_branch(b, x, out, stride, mode)
        if value is not None and (not found or value.shape == found[0].shape):
            found.append(value)
        if disturbed and b.chance(0.4):
            b.focus = [x, *found]
            b.choose((*DISTURBING, b.rng.choices(OPERATIONS, WEIGHTS)[0]))(b)
            b.focus = []
    total = _sum(b, found)
    if total is not None and b.chance(0.3):
        total = operators.apply_module(b, total, modules.batch_norm)
    if total is not None and b.chance(0.5):
        operators.apply_module(b, total, modules.activation)


def _one_branch(b: Builder, x: Value, out: int, stride: int, mode: str) -> Value | None:
    """A convolution with or without a norm, a norm alone, or the value itself; scaled, now and then."""
    plain = stride == 1 and out == x.shape[1]
    if plain and b.chance(0.3):
        value: Value | None = x if b.chance(0.5) else operators.apply_module(b, x, modules.batch_norm)
    else:
        start = operators.apply_module(b, x, modules.passing) if b.chance(0.1) else None
        start = start or x
        made = modules.conv_for(b.rng, start.shape, out, stride, mode)
        value = b.call(made[0], [start], made[1])[0] if made else None
        if value is not None and b.chance(0.55):
            value = operators.apply_module(b, value, modules.batch_norm)
    if value is not None and b.chance(0.2):
        b.focus = [value]
        before = len(b.values)
        b.choose((operators.scalar, operators.passing, operators.with_constant))(b)
        b.focus = []
        changed = b.values[before:]
        value = changed[-1] if changed and changed[-1].shape == value.shape else value
    return value


def _sum(b: Builder, found: list[Value]) -> Value | None:
    if len(found) < 2:
        return found[0] if found else None
    if len(found) > 2 and b.chance(0.2):
        gaps = ", ".join(f"{{{i}}}" for i in range(len(found)))
        code = b.choose(("sum([{0}])", "torch.stack([{0}]).sum(0)", "torch.stack([{0}], 1).sum(dim=1)"))
        return b.value(code.format(gaps), found, found[0].shape)
    total = found[0]
    for value in found[1:]:
        total = operators.add_two(b, total, value) if b.chance(0.9) else operators.add_two(b, value, total)
    return total


# ----------------------------------------------------------------------------------------------------------- children
def _child(b: Builder) -> None:
    """A module class of its own, and one or two calls of it."""
    args = [value for value in (b.pick_image(), b.pick_writable() if b.chance(0.3) else None) if value]
    if not args or not all(value.writable for value in args):
        return
    child = Builder(b.rng, "", b.depth + 1, b.classes)
    for value in args:
        child.argument(value.shape)
    _grow(child, b.rng.randint(2, 9))
    if b.chance(0.1):
        _branch_on_values(child)
    child.name = f"Child{len(b.classes)}"
    named = [value for value in child.values if value.name.startswith("v")]
    if not named:
        return
    results = [b.choose(named[-3:]) for _ in range(b.choose((1, 1, 1, 1, 2)))]
    gaps = ", ".join(f"{{{i}}}" for i in range(len(results)))
    b.classes.append(child.finish(Line(f"return {gaps}", tuple(value.name for value in results))))
    shapes = tuple(value.shape for value in results)
    b.call(f"{child.name}()", args, *shapes)
    for attribute, given, made in child.callable[:1]:  # code outside may call what is inside
        b.callable.append((attribute.replace("self", f"self.{b.parts[-1].name}"), given, made))
    if b.chance(0.25):
        operators.module_again(b)


def _branch_on_values(b: Builder) -> None:
    """An if on what a value holds: no such forward can be traced."""
    x = b.pick_image()
    y = b.pick(lambda value: x is not None and value.shape == x.shape)
    if x is None or y is None or not x.writable:
        return
    made = modules.conv_for(b.rng, x.shape, x.shape[1], 1)
    if made is None:
        return
    test = b.choose(("{0}.sum() > 0", "{1}.mean() > 0", "float({0}.max()) > 1", "{0}.abs().amax() < 2",
                     "{0}.shape[0] > 1", "{0}.shape[1] % 2 == 0"))  # fmt: skip
    conv, norm = b.part("module", made[0]), b.part("module", modules.batch_norm(b.rng, x.shape)[0])  # type: ignore[index]
    b.emit(b.choose((f"{{o0}} = {norm}({conv}({{0}})) if {test} else {conv}({{1}})",
                     f"{{o0}} = {norm}({{1}})\nif {test}:\n    {{o0}} = {{o0}} + {conv}({{0}})",
                     f"{{o0}} = {norm}({{0}} + {conv}({{0}}))\nif {test}:\n    {{o0}} *= 2")), [x, y],
           x.shape)  # fmt: skip


def _result(b: Builder) -> Line:
    """What the model returns: values that nothing read so far, rather than others."""
    read = {name for line in b.lines for name in line.args}
    unread = [value for value in b.values if value.name not in read] or b.values
    chosen = [b.choose(unread if b.chance(0.8) else b.values) for _ in range(b.choose((1, 1, 2, 3, 4)))]
    if unread[-1] not in chosen:
        chosen.append(unread[-1])
    gaps = [f"{{{i}}}" for i in range(len(chosen))]
    forms = [", ".join(gaps), f"[{', '.join(gaps)}]"]
    forms.append("{{" + ", ".join(f'"{chr(97 + i)}": {gap}' for i, gap in enumerate(gaps)) + "}}")
    forms.append(f"{gaps[0]}, {{{{'rest': ({', '.join(gaps[1:])},)}}}}" if len(gaps) > 1 else gaps[0])
    return Line(f"return {b.choose(forms)}", tuple(value.name for value in chosen))
