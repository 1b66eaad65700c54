"""What a random line can do: one short function per family of operators, each adding lines to a ``Builder``.

A function that finds no value it fits does nothing. ``OPERATORS`` says how often each is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.fuzz import modules
from tests.fuzz.builder import MOST_CHANNELS, MOST_NUMBERS, Builder, Value, numbers, shape_text
from tests.fuzz.program import Shape

SCALARS = ("2", "0.5", "-1", "1.5", "-0.25", "1", "3.0")


# ------------------------------------------------------------------------------------------------------------ modules
def module_call(b: Builder) -> None:
    """A new torch.nn module on an image."""
    x = b.pick_image()
    if x is not None:
        apply_module(b, x, b.choose((modules.conv,) * 4 + (modules.batch_norm,) * 3 + (
            modules.activation, modules.activation, modules.other_norm, modules.passing, modules.passing,
            modules.pool, modules.sequential, modules.sequential)))  # fmt: skip


def transposed(b: Builder) -> None:
    """One or two transposed convolutions, with a norm behind."""
    x = b.pick_image()
    y = apply_module(b, x, modules.transposed) if x is not None else None
    if x is None or y is None:
        return
    z = apply_module(b, x, modules.transposed) if b.chance(0.5) else None
    if z is not None and z.shape == y.shape:
        y = add_two(b, y, z)
    apply_module(b, y, modules.batch_norm)


def head(b: Builder) -> None:
    """A norm, the mean over the image, and a linear layer or two."""
    x = b.pick_image()
    n = apply_module(b, x, modules.batch_norm) if x is not None else None
    if x is None or n is None:
        return
    c, axes = x.shape[1], tuple(range(2, 2 + x.rank))
    code = b.choose((f"{{0}}.mean({axes})", f"F.adaptive_avg_pool{x.rank}d({{0}}, 1).flatten(1)",
                     f"{{0}}.mean({axes}, keepdim=True).flatten(1)"))  # fmt: skip
    pooled = b.value(code, [n], x.shape[:2])
    layers = [b.call(f"nn.Linear({c}, 3)", [pooled], (x.shape[0], 3))[0] for _ in range(b.choose((1, 2)))]
    if len(layers) > 1:
        add_two(b, *layers)


def side_by_side(b: Builder) -> None:
    """Convolutions of one value or two along the channels, and a norm behind."""
    x = b.pick_image()
    y = b.pick(lambda value: x is not None and value.shape == x.shape)
    if x is None or y is None:
        return
    made = [modules.conv_for(b.rng, v.shape, b.choose((1, 2, 4)), 1) for v in (x, y)]
    if all(made):
        parts = [b.call(m[0], [v], m[1])[0] for m, v in zip(made, (x, y), strict=True) if m]
        whole = (x.shape[0], parts[0].shape[1] + parts[1].shape[1], *x.shape[2:])
        joined = b.value(b.choose(("torch.cat([{0}, {1}], 1)", f"torch.cat(({{0}}, {{1}}), dim={-1 - x.rank})")), parts,
                         whole)  # fmt: skip
        apply_module(b, joined, modules.batch_norm)


def apply_module(b: Builder, x: Value, maker: modules.Maker) -> Value | None:
    """Call a new module on ``x``; None if there is none that fits."""
    made = maker(b.rng, x.shape)
    if made is None or ("inplace=True" in made[0] and not x.writable):
        return None
    return b.call(made[0], [x], made[1])[0]


def module_again(b: Builder) -> None:
    """A module that was called before, on another value or the same."""
    if not b.callable:
        return
    attribute, given, made = b.choose(b.callable)
    args = [b.pick(lambda value, shape=shape: value.shape == shape and value.writable) for shape in given]
    if all(args):
        b.call_again(attribute, [a for a in args if a], made)


def module_list(b: Builder) -> None:
    """Modules in a list, one after the other."""
    x = b.pick_image()
    if x is None or not x.writable:
        return
    kind = b.choose(("conv", "block"))
    made = [modules.conv_for(b.rng, x.shape, x.shape[1], 1) for _ in range(b.choose((2, 3)))]
    codes = [made_one[0] for made_one in made if made_one]
    if kind == "block":
        codes = [f"nn.Sequential({code}, nn.BatchNorm{x.rank}d({x.shape[1]}))" for code in codes]
    held = b.part("module", f"nn.ModuleList([{', '.join(codes)}])")
    loop = b.choose(("{{o0}} = {{0}}\nfor part in {0}:\n    {{o0}} = part({{o0}})",
                     "{{o0}} = sum([part({{0}}) for part in {0}])",
                     "{{o0}} = {{0}}\nfor part in {0}:\n    {{o0}} = {{o0}} + part({{0}})",
                     "{{o0}} = torch.stack([part({{0}}) for part in {0}]).sum(0)"))  # fmt: skip
    b.emit(loop.format(held), [x], x.shape)


def shared(b: Builder) -> None:
    """A module under a second name, in a dictionary, or as part of a sequence that others do not see."""
    if not b.callable:
        return
    attribute, given, made = b.choose(b.callable)
    args = [b.pick(lambda value, shape=shape: value.shape == shape and value.writable) for shape in given]
    if not all(args) or len(made) != 1:
        return
    if len(args) == 1 and len(made[0]) > 2 and b.chance(0.4):
        name = b.part("module", f"nn.Sequential({attribute}, nn.BatchNorm{len(made[0]) - 2}d({made[0][1]}))")
    elif b.chance(0.5):
        name = b.part("module", f'nn.ModuleDict({{"a": {attribute}}})') + '["a"]'
    else:
        name = b.part("module", attribute)
    b.call_again(name, [a for a in args if a], made)


def weight_read(b: Builder) -> None:
    """What a convolution or norm holds, used by the forward itself."""
    x = b.pick_image()
    convs = [part for part in b.parts if part.code.startswith(("nn.Conv", "nn.BatchNorm")) and "False" not in part.code]
    if x is None or not convs:
        return
    part = b.choose(convs)
    held = f"self.{part.name}.{b.choose(('weight', 'bias'))}"
    options = [f"{{0}} * {held}.mean()", f"{{0}} + {held}.sum()", f"{{0}} + {held}.flatten()[0]"]
    if part.code.startswith(f"nn.BatchNorm{x.rank}d({x.shape[1]}"):
        view = f".view(-1{', 1' * x.rank})"
        options += [f"{{0}} * {held}{view}", f"{{0}} - self.{part.name}.running_mean{view}"] * 2
    if part.code.startswith(f"nn.Conv{x.rank}d({x.shape[1]}, {x.shape[1]}, 1, bias") or part.code == (
        f"nn.Conv{x.rank}d({x.shape[1]}, {x.shape[1]}, 1)"
    ):
        options += [f"F.conv{x.rank}d({{0}}, self.{part.name}.weight)"] * 4
    b.value(b.choose(options), [x], x.shape)


# ------------------------------------------------------------------------------------------------- functional modules
def functional_conv(b: Builder) -> None:
    x = b.pick_image()
    if x is None:
        return
    c, size = x.shape[1], b.choose((1, 1, 3))
    groups = b.choose((1, 1, 1, c))
    weight = b.parameter((c, c // groups, *[size] * x.rank))
    weight = b.choose((weight, weight, weight, f"({weight} * 0.5)", f"({weight} - {weight}.mean())"))
    bias = b.choose((f", {b.parameter((c,))}", "", f", bias={b.parameter((c,))}", ", None"))
    padding = b.choose((f"padding={size // 2}", "padding='same'", f"padding={(size // 2,) * x.rank}"))
    name = b.choose(("F", "torch"))
    b.value(f"{name}.conv{x.rank}d({{0}}, {weight}{bias}, {padding}, groups={groups})", [x], x.shape)


def functional_norm(b: Builder) -> None:
    """Batch norm as a function, or by hand."""
    x = b.pick_image()
    if x is None:
        return
    c, ones = x.shape[1], (1, x.shape[1], *[1] * x.rank)
    mean, scale = b.parameter((c,)), b.parameter((c,))
    variance = b.part("buffer", f"torch.rand({c}) + 0.5")
    if b.chance(0.5):
        b.value(b.choose((f"F.batch_norm({{0}}, {mean}, {variance}, {scale}, None, False, 0.1, 1e-5)",
                          f"F.batch_norm({{0}}, {mean}, {variance}, bias={scale})",
                          f"torch.batch_norm({{0}}, {scale}, None, {mean}, {variance}, False, 0.1, 1e-5, False)")),
                [x], x.shape)  # fmt: skip
        return
    view = f".view({shape_text(ones)})"
    centred = f"({{0}} - {mean}{view})"
    root = b.choose((f"/ torch.sqrt({variance}{view} + 1e-5)", f"* ({variance}{view} + 1e-5).rsqrt()"))
    b.value(f"{centred} {root} * {scale}{view}", [x], x.shape)


def activation(b: Builder) -> None:
    x = b.pick()
    if x is not None:
        b.value(b.choose(("F.relu({0})", "torch.sigmoid({0})", "{0}.tanh()", "F.gelu({0})", "F.silu({0})",
                          "F.leaky_relu({0}, 0.1)", "torch.relu({0})", "{0}.abs()", "{0}.clamp(-1, 1)",
                          "{0}.clamp(min=0)", "torch.sin({0})", "F.softmax({0}, 1)", "{0}.square()",
                          "torch.where({0} > 0, {0}, 0.1 * {0})")), [x], x.shape)  # fmt: skip


def passing(b: Builder) -> None:
    """The same value under another name, or a copy of it."""
    x = b.pick()
    if x is None:
        return
    b.view(b.choose(("{0}", "{0}", "{0}.contiguous()", "{0}.clone()", "{0}.detach()", "+{0}", "torch.clone({0})",
                     "F.dropout({0}, 0.5, self.training)", "F.dropout({0}, 0.5, False, True)", "{0} + 0", "{0} * 1",
                     "{0}.to({0}.dtype)", "{0}.double()", "{0}.view_as({0})", "{0}[...]", "0 + {0}")), x,
           x.shape)  # fmt: skip


def pool(b: Builder) -> None:
    x = b.pick_image()
    if x is None or min(x.shape[2:]) < 3:
        return
    axes = tuple(range(2, 2 + x.rank))
    whole, size = (*x.shape[:2], *[1] * x.rank), x.rank
    code, shape = b.choose(
        (
            (f"F.avg_pool{size}d({{0}}, 3, 1, 1)", x.shape),
            (f"F.max_pool{size}d({{0}}, 3, 1, 1)", x.shape),
            (f"F.adaptive_avg_pool{size}d({{0}}, 1)", whole),
            (f"{{0}}.mean({axes}, keepdim=True)", whole),
            (f"{{0}}.mean({axes})", x.shape[:2]),
            ("{0}.sum(1, keepdim=True)", (x.shape[0], 1, *x.shape[2:])),
            ("{0}.amax(-1)", x.shape[:-1]),
            ("{0}.mean(0, keepdim=True)", (1, *x.shape[1:])),
        )
    )
    b.value(code, [x], shape)


# --------------------------------------------------------------------------------------------------------- arithmetic
def add(b: Builder) -> None:
    """The sum or difference of two values of one shape."""
    x = b.pick()
    y = b.pick(lambda value: x is not None and value.shape == x.shape)
    if x is not None and y is not None:
        add_two(b, x, y)


def add_two(b: Builder, x: Value, y: Value) -> Value:
    """``x + y``, or a difference, in one of the spellings; ``x`` may be written to."""
    code = b.choose(("{0} + {1}", "{0} + {1}", "{0} + {1}", "torch.add({0}, {1})", "{0}.add({1})", "{0} - {1}",
                     "torch.add({0}, {1}, alpha=0.5)", "torch.sub({0}, {1}, alpha=2)", "sum([{0}, {1}])",
                     "torch.stack([{0}, {1}]).sum(0)", "torch.stack([{0}, {1}], 1).mean(1)", "0 + {0} + {1}",
                     "torch.stack(({0}, {1}), dim=0).sum(dim=0)", "{0} - 0.5 * {1}", "-{0} + {1}", "{0} + {1} / 2",
                     "torch.rsub({0}, {1})", "torch.add(other={1}, input={0})", "{0}.sub({1}, alpha=0.5)",
                     "torch.stack([{0}, {1}], -1).sum(-1)", "torch.sum(torch.stack([{0}, {1}]), 0)",
                     "torch.stack([{0}, {1}]).mean(0)", "{1} + {0}", "sum([{0}, {1}, {0}])", "{0}.__radd__({1})",
                     "+=", "+=", "+=", "-=", ".add_(", ".sub_("))  # fmt: skip
    if code.endswith(("=", "_(")):
        if not x.writable:
            return b.value("{0} + {1}", [x, y], x.shape)
        return write_with(b, code, x, y)
    return b.value(code, [x, y], x.shape)


def write_with(b: Builder, code: str, x: Value, y: Value) -> Value:
    """``x += y`` or ``x.add_(y)``: as a statement, or with the result under a new name."""
    if code.endswith("="):
        b.statement(f"{{0}} {code} {{1}}", [x, y])
        return x
    options = b.choose((")", ")", ", alpha=0.5)"))
    if b.chance(0.5):
        b.statement(f"{{0}}{code}{{1}}{options}", [x, y])
        return x
    return b.value(f"{{0}}{code}{{1}}{options}", [x, y], x.shape)


def product(b: Builder) -> None:
    x = b.pick()
    y = b.pick(lambda value: x is not None and value.shape == x.shape)
    if x is not None and y is not None:
        b.value(b.choose(("{0} * {1}", "{0} * torch.sigmoid({1})", "torch.maximum({0}, {1})",
                          "torch.where({0} > {1}, {0}, {1})", "{0} / (1 + {1}.abs())", "torch.lerp({0}, {1}, 0.3)")),
                [x, y], x.shape)  # fmt: skip


def scalar(b: Builder) -> None:
    """With a number."""
    x = b.pick()
    if x is None:
        return
    number = b.choose(SCALARS)
    code = b.choose(("{{0}} * {0}", "{0} * {{0}}", "{{0}} / {0}", "{{0}} + {0}", "{0} - {{0}}", "-{{0}}", "{{0}}.neg()",
                     "torch.mul({{0}}, {0})", "torch.add({{0}}, {0})", "torch.div({{0}}, {0})", "{{0}} - {0}",
                     "{{0}} + 1 * {{0}}", "{{0}} * ({0} + 1) - {{0}}"))  # fmt: skip
    b.value(code.format(number), [x], x.shape)


def constant_shapes(shape: Shape) -> list[Shape]:
    """Shapes of constants that broadcast to ``shape`` without changing it."""
    ones = (1,) * (len(shape) - 2)
    shapes: list[Shape] = [(), (1,), (shape[-1],), shape[1:], (1, *shape[1:])]
    if len(shape) > 2:
        shapes += [(1, shape[1], *ones), (shape[1], *ones), (1, shape[1], *ones), (shape[1], *ones)]
        shapes += [(1, 1, *shape[2:]), shape[2:], (1, 1, *ones), (1, 1, *ones, 1)[: len(shape)], (shape[0], 1, *ones)]
    return shapes


def _constant(b: Builder, x: Value) -> str:
    """An expression of parameters, buffers and numbers that broadcasts to the shape of ``x``."""
    if x.rank > 0 and b.chance(0.3):
        c = b.parameter((x.shape[1],))
        ones = ", 1" * x.rank
        return b.choose((f"{c}.view(-1{ones})", f"{c}[:{', None' * x.rank}]", f"{c}.reshape(1, -1{ones})",
                         f"{c}.view(1, {x.shape[1]}{ones}).exp()", f"{c}{'.unsqueeze(-1)' * x.rank}"))  # fmt: skip
    shape = b.choose(constant_shapes(x.shape))
    if b.chance(0.15):
        return b.choose((f"torch.ones({shape})", f"torch.full({shape}, 0.5)", "torch.tensor(2.0)",
                         f"torch.arange({float(x.shape[-1])})", "torch.tensor([0.5])"))  # fmt: skip
    c = b.parameter(shape)
    return b.choose((c, c, c, f"({c} * 0.5)", f"{c}.abs()", f"({c} + 1)", f"({c} * {c})", f"{c}.clone()"))


def with_constant(b: Builder) -> None:
    """With a parameter or buffer that broadcasts, in place or not."""
    x = b.pick()
    if x is None:
        return
    c = _constant(b, x)
    code = b.choose(("{{0}} * {0}", "{{0}} + {0}", "{{0}} + {0}", "{0} + {{0}}", "{0} * {{0}}", "{{0}} - {0}",
                     "{0} - {{0}}", "{{0}} / ({0}.abs() + 1)", "torch.addcmul({{0}}, {{0}}, {0})", "*=", "+=", "-=",
                     ".mul_", ".add_"))  # fmt: skip
    if not code.endswith(("=", "_")):
        b.value(code.format(c), [x], x.shape)
    elif x.writable:
        b.statement(f"{{0}} {code} {c}" if code.endswith("=") else f"{{0}}{code}({c})", [x])


def broadcast(b: Builder) -> None:
    """Of two values whose shapes differ."""
    x, y = b.pick(), b.pick()
    if x is None or y is None or x.shape == y.shape:
        return
    shape = broadcast_shape(x.shape, y.shape)
    if shape is not None and numbers(shape) <= MOST_NUMBERS:
        b.value(b.choose(("{0} + {1}", "{0} + {1}", "{0} * {1}", "{0} - {1}", "{0} * torch.sigmoid({1})")), [x, y],
                shape)  # fmt: skip


def broadcast_shape(a: Shape, b: Shape) -> Shape | None:
    length = max(len(a), len(b))
    pairs = list(zip((1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b, strict=True))
    return tuple(map(max, pairs)) if all(i == j or 1 in (i, j) for i, j in pairs) else None


def parameter(b: Builder) -> None:
    """A parameter or buffer as a value of its own."""
    x = b.pick()
    if x is not None:
        shape = b.choose([s for s in (x.shape, x.shape, *constant_shapes(x.shape)) if s])
        kind = b.choose(("parameter", "buffer"))
        b.value(b.part(kind, f"torch.randn({shape})"), [], shape, writable=kind == "buffer")


# -------------------------------------------------------------------------------------------------------------- views
def view(b: Builder) -> None:
    """Another look at the same memory, or a copy where there is none."""
    x = b.pick(lambda value: len(value.shape) > 1)
    if x is None:
        return
    s, last = x.shape, len(x.shape) - 1
    i, j = sorted((b.rng.randrange(len(s)), b.rng.randrange(len(s))))
    swapped = list(s)
    swapped[i], swapped[j] = s[j], s[i]
    order = list(range(len(s)))
    b.rng.shuffle(order)
    options = [
        (f"{{0}}.transpose({i}, {j})", tuple(swapped)),
        (f"{{0}}.permute({shape_text(order)})", tuple(s[k] for k in order)),
        (f"{{0}}.permute({shape_text(order)}).contiguous()", tuple(s[k] for k in order)),
        (f"{{0}}.flatten({last - 1})", (*s[:-2], s[-2] * s[-1])),
        (f"{{0}}.reshape({shape_text(s)})", s),
        (f"{{0}}.reshape({{0}}.shape[0], {shape_text(s[1:])})", s),
        (f"{{0}}.reshape({s[0]}, -1).view({shape_text(s)})", s),
        (f"{{0}}.unsqueeze({i}).squeeze({i})", s),
        (f"{{0}}.flip({i})", s),
        (f"{{0}}.roll(1, {i})", s),
        ("{0}.unsqueeze(0)" if len(s) < 5 else "{0}[None]", (1, *s)),
    ]
    b.view(*_with(x, b.choose(options)))


def cut(b: Builder) -> None:
    """A part of a value."""
    x = b.pick(lambda value: len(value.shape) > 1)
    if x is None:
        return
    axis = b.rng.randrange(len(x.shape))
    size = x.shape[axis]
    before, after = ":, " * axis, x.shape[axis + 1 :]
    options = [(f"{{0}}[{before}:{size}]", x.shape)]
    options += [(f"{{0}}[{before}0]", (*x.shape[:axis], *after))] if len(x.shape) > 2 else []
    if size > 1:
        start = b.rng.randrange(size - 1)
        length = b.rng.randrange(1, size - start)
        part = (*x.shape[:axis], length, *after)
        options += [
            (f"{{0}}[{before}{start}:{start + length}]", part),
            (f"{{0}}.narrow({axis}, {start}, {length})", part),
            (f"{{0}}[{before}::2]", (*x.shape[:axis], (size + 1) // 2, *after)),
        ]
    if x.is_image and min(x.shape[2:]) > 2:
        inner = (*x.shape[:2], *(size - 2 for size in x.shape[2:]))
        options += [(f"{{0}}[:, :{', 1:-1' * x.rank}]", inner), (f"F.pad({{0}}, {[-1] * 2 * x.rank})", inner)]
    b.view(*_with(x, b.choose(options)))


def split(b: Builder) -> None:
    """Two halves."""
    x = b.pick(lambda value: len(value.shape) > 1 and value.shape[1] % 2 == 0)
    if x is None:
        return
    half = x.shape[1] // 2
    code = b.choose(("{{0}}.chunk(2, 1)", "{{0}}.split({0}, 1)", "torch.chunk({{0}}, 2, dim=1)",
                     "torch.split({{0}}, [{0}, {0}], 1)"))  # fmt: skip
    shape = (x.shape[0], half, *x.shape[2:])
    b.emit("{o0}, {o1} = " + code.format(half), [x], shape, shape, writable=x.writable)


def pad(b: Builder) -> None:
    x = b.pick_image()
    if x is None or numbers(x.shape) > MOST_NUMBERS or max(x.shape[2:]) > 9:
        return
    pads = [b.choose((0, 1)) for _ in range(2 * x.rank)]
    grown = [size + pads[-2 * i - 2] + pads[-2 * i - 1] for i, size in enumerate(x.shape[2:])]
    options = b.choose(("", "", ", value=0.5", ", mode='replicate'"))
    b.value(f"F.pad({{0}}, {pads}{options})", [x], (*x.shape[:2], *grown))


def cat(b: Builder) -> None:
    x = b.pick_image()
    y = b.pick(lambda value: x is not None and value.is_image and value.shape[2:] == x.shape[2:]
               and value.shape[0] == x.shape[0])  # fmt: skip
    if x is None or y is None or x.shape[1] + y.shape[1] > MOST_CHANNELS:
        return
    shape = (x.shape[0], x.shape[1] + y.shape[1], *x.shape[2:])
    b.value(b.choose(("torch.cat([{0}, {1}], 1)", "torch.cat(({0}, {1}), dim=1)")), [x, y], shape)


def _with(x: Value, option: tuple[str, Shape]) -> tuple[str, Value, Shape]:
    return option[0], x, option[1]


# ------------------------------------------------------------------------------------------------------------- writes
def write(b: Builder) -> None:
    """In place, by an operator on the whole value; the result has a name, or not."""
    x = b.pick_writable()
    if x is None:
        return
    code = b.choose(("F.relu({0}, inplace=True)", "F.relu({0}, True)", "{0}.relu_()", "torch.relu_({0})",
                     "{0}.mul_(0.5)", "{0}.clamp_(-1, 1)", "{0}.neg_()", "{0}.add_(0.5)", "{0}.sigmoid_()",
                     "{0}.zero_()", "F.silu({0}, inplace=True)", "F.leaky_relu({0}, 0.2, True)",
                     "{0}.copy_({0} * 2)", "F.hardtanh({0}, -1.0, 1.0, True)", "{0}.div_(2)",
                     "torch.neg({0}, out={0})", "{0} *= 0.5", "{0} /= 2", "{0} += 1",
                     "{0}[:] = {0}.tanh()"))  # fmt: skip
    if "= " in code.replace("out=", "") or b.chance(0.5):
        b.statement(code, [x])
    else:
        b.value(code, [x], x.shape)


def write_view(b: Builder) -> None:
    """Through a view, which a graph has no edge for."""
    x = b.pick(lambda value: value.writable and len(value.shape) > 1)
    if x is None:
        return
    y = b.pick(lambda value: value.shape == x.shape)
    args = [x, y or x]
    b.statement(b.choose(("{0}[:, 0] = 1.0", "{0}[:, :1] += 1", "{0}[..., 0] = 0.5", "{0}[:, :1].mul_(2)",
                          "{0}.transpose(0, 1).add_(1.0)", "{0}.unbind(1)[0].zero_()", "{0}.detach().mul_(0.5)",
                          "torch.chunk({0}, {0}.shape[1], 1)[0].neg_()", "{0}[:, -1:] = {1}[:, :1] * 2",
                          "{0}.view_as({0}).neg_()", "{0}[0] *= 0.5", "{0}.select(1, 0).copy_({1}[:, -1].clone())",
                          "F.relu({0}[:, :1], inplace=True)", "{0}[{0} > 1] = 1.0", "{0}.data.add_(0.25)",
                          "{0}.transpose(0, 1)[0] = 2.0", "{0}.masked_fill_({1} > 1, 0.0)",
                          "torch.mul({1}, 2, out={0})", "{0}.copy_({1})")), args)  # fmt: skip


def write_buffer(b: Builder) -> None:
    """To a buffer, which the forward or the next call then reads."""
    x = b.pick()
    scaled = x is not None and x.is_image and b.chance(0.6)
    if x is not None and scaled:
        x = apply_module(b, x, modules.conv)
    if x is None:
        return
    whole, channel = x.shape, (1, x.shape[1], *[1] * x.rank) if x.is_image else x.shape
    shape = b.choose((whole, channel, channel))
    held = b.part("buffer", f"torch.randn({shape})")
    reads = (f"{{0}} + {held}", f"{{0}} * {held}", f"{{0}} - {held}.abs()")
    if scaled or b.chance(0.3):
        x = b.value(b.choose(reads), [x], x.shape)
    writes = [f"{held}.add_(1)", f"{held}.neg_()", f"{held}[:1] = 0.5", f"{held} += 1", f"{held}.view(-1).mul_(0.5)"]
    if shape == whole:
        writes += [f"{held}.copy_({{0}})", f"{held}.mul_(0.5).add_({{0}})"]
    b.statement(b.choose(writes), [x])
    if b.chance(0.6):
        b.value(b.choose(reads), [x], x.shape)


def look(b: Builder) -> None:
    """At the shape, without computing anything."""
    x = b.pick()
    if x is not None:
        size = b.rng.randrange(len(x.shape))
        b.statement(b.choose((f"assert {{0}}.shape[{size}] == {x.shape[size]}", f"assert {{0}}.dim() == {len(x.shape)}",
                              f"torch._assert({{0}}.shape[{size}] == {x.shape[size]}, 'size')",
                              "n, *_ = {0}.shape", "assert isinstance({0}, torch.Tensor)")), [x])  # fmt: skip


Operation = Callable[[Builder], None]
OPERATORS: Sequence[tuple[Operation, int]] = (
    (module_call, 24),
    (module_again, 4),
    (module_list, 2),
    (shared, 2),
    (weight_read, 2),
    (functional_conv, 2),
    (functional_norm, 2),
    (activation, 4),
    (passing, 6),
    (pool, 3),
    (add, 12),
    (product, 3),
    (scalar, 5),
    (with_constant, 8),
    (broadcast, 4),
    (parameter, 1),
    (view, 4),
    (cut, 4),
    (split, 2),
    (pad, 2),
    (cat, 2),
    (write, 4),
    (write_view, 3),
    (write_buffer, 2),
    (look, 1),
    (transposed, 2),
    (head, 2),
    (side_by_side, 2),
)
