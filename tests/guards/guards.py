"""The guards of the pass: what each protects, and how to take it out.

A guard is a check without which the pass would merge what it must not, or break the model. ``GUARDS`` lists them by the
file that they are in; a test sees to it that each snippet is still there, once, and that each ``raise Illegal`` is one
of them or among ``NOT_GUARDS``, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

Edit = tuple[str, str, str]  # file, what is there, what to put in its place

ACCESS = "tests/test_access.py"
ANY = "tests/test_any_model.py"
AROUND = "tests/test_around.py"
APART = "tests/test_apart.py"
BAD = "tests/test_bad_input.py"
BENT = "tests/test_bent.py"
COMPOSED = "tests/test_composition.py"
CONCAT = "tests/test_concat.py"
CONSTANTS = "tests/test_constants.py"
FILLS = "tests/test_fills.py"
DETECTOR = "tests/test_detector.py"
EXAMPLES = "tests/test_example_inputs.py"
EXPORT = "tests/test_export.py"
HAZARDS = "tests/test_hazards.py"
KEPT = "tests/test_kept.py"
LIBRARIES = "tests/test_libraries.py"
MAPS = "tests/test_convmap.py"
OWN = "tests/test_guards.py"
REACH = "tests/test_reach.py"
REGRESSIONS = "tests/test_regressions.py"
RESHAPES = "tests/test_reshape.py"
RESULT = "tests/test_result.py"
SIZES = "tests/test_sizes.py"
SYMBOLS = "tests/test_symbols.py"
TEXT = "tests/test_text.py"
THREADS = "tests/test_threads.py"
TUTORIALS = "tests/test_tutorials.py"
UNTRACED = "tests/test_untraced.py"


@dataclass(frozen=True)
class Guard:
    """``protects`` says what goes wrong without it, ``tests`` where that is likely to be noticed first.

    ``needless`` is the argument why nothing can go wrong, for a guard that says early what another would find out.
    """

    name: str
    protects: str
    file: str
    snippet: str
    replacement: str
    tests: tuple[str, ...] = (OWN, HAZARDS, REGRESSIONS, COMPOSED)
    more: tuple[tuple[str, str], ...] = ()
    needless: str = ""

    @property
    def is_proof(self) -> bool:
        """Whether the proof itself is what is taken out."""
        return self.name.startswith("proof")

    @property
    def edits(self) -> list[Edit]:
        pairs = ((self.snippet, self.replacement), *self.more)
        return [(self.file, old, new) for old, new in pairs]


class Table:
    """Collects the guards of one file after the other."""

    def __init__(self) -> None:
        self.guards: list[Guard] = []

    def of(self, file: str, *hints: str) -> None:
        self.file, self.hints = f"fxrep/{file}", hints

    def __call__(
        self,
        name: str,
        protects: str,
        snippet: str,
        replacement: str | None = None,
        *hints: str,
        tests: tuple[str, ...] = (),
        more: tuple[tuple[str, str], ...] = (),
        needless: str = "",
    ) -> None:
        """Without a ``replacement``, a condition is never true."""
        if replacement is None:
            keyword = snippet.split()[0]
            assert keyword in ("if", "elif"), snippet
            assert snippet.endswith(":"), snippet
            replacement = f"{keyword} False:"
        self.guards.append(
            Guard(
                name,
                protects,
                self.file,
                snippet,
                replacement,
                tests or hints or self.hints or Guard.tests,
                more,
                needless,
            )
        )


guard = Table()

# ------------------------------------------------------------------------------------------------- convmap.py: algebra
guard.of("convmap.py", MAPS, COMPOSED)
guard(
    "sum: ranks",
    "a convolution along one axis is not added to one along two",
    '("spatial ranks", len(self.taps), len(other.taps)),',
    "",
    tests=(f"{MAPS}::test_refusals_say_why",),
)
guard(
    "sum: strides",
    "maps of different strides are not added",
    '("strides", self.stride, other.stride),',
    "",
    tests=(f"{MAPS}::test_refusals_say_why",),
)
guard(
    "sum: extents",
    "maps whose outputs differ in size are not added",
    '("output extents", self.extent, other.extent),',
    "",
    tests=(f"{MAPS}::test_refusals_say_why",),
)
guard(
    "sum: input channels",
    "maps of so many channels are not added to maps of others",
    '("input channels", self.in_channels, other.in_channels),',
    "",
    tests=(f"{MAPS}::test_refusals_say_why",),
)
guard(
    "sum: output channels",
    "maps to so many channels are not added to maps to others: the add broadcasts",
    '("output channels", self.out_channels, other.out_channels),',
    "",
    tests=(f"{MAPS}::test_refusals_say_why",),
)
guard("sum: the grid", "maps are added where stride, extent and channels are the same", "if mine != its:")
guard(
    "sum: padding modes",
    "at the border, reflection and zeros are not the same",
    "if self.mode and other.mode and self.mode != other.mode:",
)
guard(
    "taps that leave the image",
    "a kernel that reaches beyond the border has a padding mode",
    "mode if leaves else None,",
    "None,",
    tests=(f"{COMPOSED}::test_stays", f"{TUTORIALS}::test_original_block_padding_mode"),
)
guard(
    "groups of a sum",
    "the groups of a sum are the common divisor",
    "groups=math.gcd(self.groups, other.groups),",
    "groups=max(self.groups, other.groups),",
    tests=(f"{MAPS}::test_a_grouped_convolution_plus_a_diagonal",),
)
guard(
    "groups of a composition",
    "the groups of a composition are the common divisor",
    "groups = math.gcd(self.groups, outer.groups)",
    "groups = max(self.groups, outer.groups)",
)
guard(
    "sum: transposed",
    "transposed convolutions of different strides are not added",
    '("strides of transposed convolutions", self.up or (1,), other.up or (1,)),',
    "",
    needless="their outputs have one size only where the image has one position, and there no stride counts",
)
guard(
    "diagonal: channels",
    "a scale has one number for each channel",
    "if factor.dim() and len(factor) != channels:",
    needless="a weight and a scale of different lengths do not multiply: computing the kernel raises",
)
guard(
    "scale: channels",
    "a factor has one number for each output channel",
    "if factor.dim() and len(factor) != self.out_channels:",
    needless="a weight and a scale of different lengths do not multiply: computing the kernel raises",
)
guard(
    "composition: channels",
    "a map reads as many channels as the one before it gives",
    "if self.out_channels != outer.in_channels:",
)
guard("composition: ranks", "a map is composed with one of the same rank", "if len(self.taps) != len(outer.taps):")
guard(
    "composition: border",
    "a padded kernel does not read what the first would have computed beyond its border",
    "if not vanishes and any(not self._is_pointwise_along(axis) for axis in outer._leaves):",
)
guard(
    "composition: padding modes",
    "two paddings along different axes have one mode in a convolution",
    "if self.mode and outer.mode and self.mode != outer.mode:",
)
guard(
    "pointwise: stride",
    "a strided 1x1 does not look at the same position",
    "return here and self.stride[axis] == 1 and",
    "return here and",
)
guard(
    "pointwise: extent",
    "a padded or cropped 1x1 has another border",
    "self.stride[axis] == 1 and self.extent[axis] == 0",
    "self.stride[axis] == 1",
)
guard(
    "pointwise: taps",
    "a kernel of several taps looks at several positions",
    "here = self.taps[axis] == Taps(0, 1, 1) and not",
    "here = not",
)
guard(
    "pointwise: transposed",
    "a transposed 1x1 with a stride leaves positions empty",
    " = self.taps[axis] == Taps(0, 1, 1) and not self.up",
    " = self.taps[axis] == Taps(0, 1, 1)",
)
guard(
    "composition: before a transposed one",
    "a transposed convolution spreads out what the first one gives",
    "if outer.up and not self.is_pointwise:",
)
guard(
    "composition: steps after a transposed one",
    "a strided convolution leaves out some of what a transposed one gives",
    "if self.up and set(outer.stride) != {1}:",
    needless="layout() refuses a transposed convolution that takes steps",
)
guard(
    "composition: border of a transposed one",
    "beyond the output of a transposed convolution there are zeros only if it has no padding",
    "<= {1} and not self.up",
    "<= {1}",
    needless="all taps of an unpadded transposed convolution are outside beyond its output: the guard could go",
)
guard(
    "transposed: steps",
    "a transposed convolution takes no steps",
    "if set(self.stride) != {1}:",
    needless="no composition makes one: then() refuses a stride before and after a transposed convolution",
)
guard(
    "transposed: size",
    "nn.ConvTranspose makes no output of any size",
    "if not 0 <= more[-1] < max(up, t.step):",
    tests=(f"{OWN}::test_the_reason_for_an_operator_that_stays[a transposed convolution of an odd size]",),
)
guard(
    "zeros outside: taps",
    "a kernel that reaches into the image from outside gives something there",
    "inside = all(",
    "inside = True or all(",
)
guard(
    "zeros outside: stride",
    "positions between the strides are not zeros",
    "return inside and set(self.stride) <= {1} and",
    "return inside and",
    needless="beyond the last output s n >= H + e, and no tap is below -e: every tap is outside for any stride",
)
guard("uneven padding", "nn.Conv pads both sides alike", "if before == after:", "if True:")
guard(
    "negative padding",
    "nn.Conv does not crop",
    "t | Taps(min(t.first, 0), 1, 1) | Taps(max(t.last, -e), 1, 1)",
    "t",
    tests=(f"{MAPS}::test_uneven_and_negative_padding_becomes_a_plain_convolution",),
)
guard(
    "uneven padding of another mode",
    "zero taps do not stand for an uneven reflection",
    'if self.mode not in (None, "zeros"):',
)
guard("same: stride", '"same" is not for strides', "if set(self.stride) == {1} and before ==", "if before ==")
guard("same: the odd one", '"same" puts the odd one after', "before == tuple(n // 2 for n in spans) and not", "not")
guard("same: extent", '"same" keeps the size', "for n in spans) and not any(self.extent):", "for n in spans):")

# ------------------------------------------------------------------------------------------------- operators: the rules
guard.of("operators/conv.py")
guard(
    "linear: a bias of two axes",
    "addmm adds a matrix of biases, one for each row",
    "if bias is not None and bias.dim() > 1:",
    tests=(f"{OWN}::test_operators[a matrix of biases]",),
    needless="no convolution in the sum has the channels of such a constant, which is refused for that",
)
guard(
    "conv: axes of the weight",
    "F.conv2d takes a weight of four axes",
    "if weight.dim() != rank + 2:",
    needless="conv2d takes no other weight; the rule fails on one, which refuses the call",
)
guard(
    "conv: no batch axis",
    "an image without a batch has its channels elsewhere",
    "if op.program.ranks.get(op.node, rank) != rank:",
    tests=(f"{OWN}::test_an_image_without_a_batch",),
)
guard(
    "conv: computed arguments",
    "a stride that is computed from the input is not known",
    "if not all(isinstance(n, int) for n in numbers) or not isinstance(padding, int | str | tuple | list):",
    needless="building the map with a value in place of a number raises, which refuses the call",
)
guard(
    "conv: computed padding",
    "a padding that is computed from the input is not known",
    "if not all(isinstance(p, int) for p in pads):",
    needless="building the map with a value in place of a number raises, which refuses the call",
)
guard(
    "conv: the odd one of same",
    '"same" pads more after than before',
    "return [(total // 2, total - total // 2) for total in totals]",
    "return [(total - total // 2, total // 2) for total in totals]",
    TUTORIALS,
)
guard(
    "transposed: computed arguments",
    "a stride that is computed from the input is not known",
    "if not all(isinstance(n, int) for n in numbers):",
    needless="building the map with a value in place of a number raises, which refuses the call",
)
guard(
    "linear: axes of the weight",
    "F.linear with a vector gives no channels",
    'if weight.dim() != 2:\n        raise Illegal(f"its weight',
    'if False:\n        raise Illegal(f"its weight',
    needless="a vector has no second axis: building the map raises, which refuses the call",
)
guard(
    "product: axes of the matrix",
    "a product with a vector gives no channels, one with a batch of matrices others for each",
    'if weight.dim() != 2:\n        raise Illegal(f"its second',
    'if False:\n        raise Illegal(f"its second',
    needless="t() raises for more than two axes, and a vector has no second one: both refuse the call",
)

guard.of("operators/norm.py", OWN, HAZARDS, TUTORIALS)
guard(
    "norm: of another axis",
    "a permutation may put another axis in the channels' place",
    "if op.program.ranks.get(value, rank) != rank:",
    tests=(f"{REGRESSIONS}::test_a_norm_of_another_axis_than_the_channels",),
)
guard("norm: training mode", "a norm in training mode depends on its batch", "if norm.training:")
guard("norm: training argument", "F.batch_norm(training=True) depends on its batch", "if training is not False:")
guard(
    "norm: no statistics", "a norm without running statistics depends on its batch", "if mean is None or var is None:"
)
guard(
    "norm: broken statistics",
    "NaN or infinite statistics are named",
    "if not bool(torch.isfinite((factor + shift).sum())):",
)
guard(
    "norm: axis",
    "BatchNorm1d(Linear(x)) may normalise the length",
    "if rank == 0 and op.program.ranks.get(value) != 0 and set(op.source_ranks(form)) != {0}:",
    None,
    COMPOSED,
    OWN,
)

guard.of("operators/passing.py")
guard(
    "leaky: slope",
    "a LeakyReLU is linear only where its slope is 1",
    "if not isinstance(slope, int | float) or slope != 1:",
)
guard("dropout: training mode", "a dropout in training mode drops", "if op.module.training:")
guard("dropout: training argument", "F.dropout(training=True) drops", "if arguments[2] is not False:")
guard(
    "dropout: default",
    "F.dropout(x) drops",
    "default = op.node.target in (",
    "default = op.node.target in () and (",
    needless="F.dropout hands its arguments on by name, so the default is never asked for",
)

guard.of("operators/arithmetic.py", OWN, HAZARDS, TUTORIALS, REGRESSIONS)
guard("rsub: alpha", "rsub subtracts a multiple", "if _number(op, alpha) != 1:")
guard("div: rounding", "a division that rounds is not linear", "if rounding is not None:")
guard(
    "stack: out",
    "stack(out=) writes",
    "if out is not None or not all(map(_reduces, users)):",
    "if not all(map(_reduces, users)):",
    tests=(f"{OWN}::test_an_out_of_another_type[stack]",),
)
guard(
    "stack: readers",
    "a stack is there for more than its sum",
    "if out is not None or not all(map(_reduces, users)):",
    "if out is not None:",
    needless="a stack that something else reads is a value of its own, which a sum does not look into",
)
guard(
    "stack: listed",
    "what is stacked must be a list of values",
    "if not isinstance(values, tuple | list):",
    needless="what is not a list cannot be gone through: the rule raises, which refuses the call",
)
guard(
    "sum: of a stack",
    "a sum over an axis of an image is not a sum of values",
    "if value.target not in STACKS or keepdim",
    "if keepdim",
    needless="the sum asks again, when it is given the form, whether it is a stack",
)
guard("sum: keepdim", "sum(keepdim=True) leaves an axis", "not in STACKS or keepdim or dtype", "not in STACKS or dtype")
guard(
    "sum: dtype",
    "sum(dtype=) gives another type",
    "or dtype is not None or not isinstance(dim, int):",
    "or not isinstance(dim, int):",
)
guard(
    "sum: several axes",
    "a sum over all axes is a number",
    " or not isinstance(dim, int):",
    ":",
    needless="no stack was made along several axes, or along None: the sum of the forms refuses it",
)
guard(
    "sum: axis of the stack",
    "a sum over another axis than the stacked one",
    "if not isinstance(stacked, Stacked) or stacked.dim != dim:",
)
guard(
    "add: out",
    "add(out=) writes",
    'raise Illegal("it writes to out=")\n    minus',
    "pass\n    minus",
    tests=(f"{OWN}::test_an_out_of_another_type[add]",),
)
guard(
    "mul: out",
    "mul(out=) writes",
    'raise Illegal("it writes to out=")\n    value',
    "pass\n    value",
    tests=(f"{OWN}::test_an_out_of_another_type[mul]",),
)
guard(
    "add: tables",
    "a table of constants is not a shift",
    "constant is not None and constant.numel() == max((1, *constant.shape)) else",
    "constant is not None else",
)
guard("add: alpha", "an alpha that is computed is not known", "if constant is None or constant.dim():")
guard(
    "add: zeros that broadcast",
    "adding zeros of more axes makes a value larger",
    "if is_zero(added) and added.dim() == 0:",
    "if is_zero(added):",
    tests=(f"{OWN}::test_operators",),
)
guard(
    "constants: type",
    "a float64 constant makes the result float64",
    "return (dtype,) if dtype is not None else ()",
    "return ()",
)

guard.of("operators/window.py", OWN, COMPOSED)
guard(
    "pad: computed",
    "an amount that is computed from the input is not known",
    "if not all(isinstance(n, int) for n in amounts) or mode not in MODES:",
    tests=(f"{OWN}::test_the_reason_for_an_operator_that_stays[a computed pad]",),
)
guard("pad: value", "a pad with ones is not linear", 'if mode == "zeros" and value not in (None, 0):')
guard(
    "pad: crop and reflect",
    "a pad that crops one side and reflects the other",
    'if mode != "zeros" and min(amounts) < 0:',
    tests=(f"{OWN}::test_operators[a pad that crops and goes around]",),
)
guard("pad: channels", "a pad of the channels is not one of the image", "if len(pairs) > rank:")
guard(
    "pool: computed",
    "a window that is computed from the input is not known",
    "if not all(isinstance(n, int) for n in (*size, *step, *pad)):",
    needless="building the window with a value in place of a number raises, which refuses the call",
)
guard(
    "crop: positions",
    "x[:, :, 0] leaves an axis out",
    "if not all(isinstance(part, slice) or part is Ellipsis for part in given) or given.count(Ellipsis) > 1:",
)
guard(
    "crop: computed",
    "where it cuts is computed from the input",
    "if not all(isinstance(n, int | None) for n in numbers):",
)
guard(
    "crop: axes before the channels'",
    "a slice counts from the front, where there may be more than the batch",
    "several = any(term.through for term in form.terms) or len(given) > rank + 2",
    "several = False",
    tests=(f"{REGRESSIONS}::test_a_slice_of_a_value_with_several_axes_before_the_channels",),
    needless="a cut of the channels that is taken for one of the image leaves too many channels for what reads it",
)
guard(
    "crop: channels",
    "a crop of the channels or the batch is not one of the image",
    "if any(cut != (0, 0, 1) for cut in cuts[: axes - rank]):",
)
guard(
    "crop: from the end",
    "x[:, :, -3:] depends on the size",
    "if start < 0 or stop > 0 or (part.stop == 0):",
    "if stop > 0 or (part.stop == 0):",
)
guard(
    "crop: to a position",
    "x[:, :, :3] depends on the size",
    "if start < 0 or stop > 0 or (part.stop == 0):",
    "if start < 0 or (part.stop == 0):",
)
guard(
    "crop: to nothing",
    "x[:, :, :0] is empty",
    "if start < 0 or stop > 0 or (part.stop == 0):",
    "if start < 0 or stop > 0:",
)
guard("pool: ceil", "ceil_mode leaves out part of a window", "if ceil and set(step) != {1}:")
guard("pool: inside", "count_include_pad=False divides by less at the border", "if any(pad) and not include_pad:")
guard("pool: divisor", "divisor_override divides by another number", "(divisor or ones.numel())", "ones.numel()")

guard.of("analysis/fills.py", FILLS)
guard(
    "fill: steps",
    "a slice with a step leaves out positions of its side",
    "if part.step not in (None, 1) or not all",
    "if not all",
    needless="a step at the end of an index has no stop to compare, and the proof runs the write as it is",
)

guard.of("operators/fill.py", FILLS)
guard(
    "fill: of a pad",
    "a slice of any other value keeps what is around it",
    "if op.node not in op.program.fills:",
    needless="what is no write to a pad has no entry to look up: the rule raises, which refuses the call",
)
guard("fill: the same values", "a border that differs", "if not difference <= TOLERANCE * largest:")
guard(
    "fill: of zeros",
    "a pad that repeats the image, or holds a number, is no pad with zeros",
    "if not isinstance(bordered, Bordered):",
    needless="no other form has sides that are missing: asking for them raises, which refuses it",
)
guard("fill: a side", "a write to more than the border changes the inside", "if side not in bordered.missing:")
guard("fill: channels", "one value for each channel", "if value.dim() and shift.dim() and len(value) != len(shift):",
      needless="the comparison raises for sizes that differ, which refuses the write")  # fmt: skip
guard(
    "fill: all sides",
    "one that reads the padded value before all sides are filled reads zeros",
    "if not goes_into_fill(op):",
    needless="what is filled in part has no form that anything else could read: the reader raises, which refuses it",
)

guard.of("operators/concat.py", CONCAT, OWN, COMPOSED)
guard(
    "cat: out",
    "cat(out=) writes",
    "if out is not None or not isinstance(values,",
    "if not isinstance(values,",
    tests=(f"{OWN}::test_an_out_of_another_type[cat]",),
)
guard(
    "cat: listed",
    "what is joined must be a list of values",
    "not isinstance(values, tuple | list) or not values or",
    "not values or",
    needless="what is not a list cannot be gone through: the rule raises, which refuses the call",
)
guard(
    "cat: of nothing",
    "a list without values is not joined",
    "or not values or not isinstance(dim, int):",
    "or not isinstance(dim, int):",
    needless="torch.cat of an empty list does not run",
)
guard(
    "cat: dim",
    "an axis that is computed is not known",
    "or not values or not isinstance(dim, int):",
    "or not values:",
    needless="an axis that is no number is not the channels', which the form of the join asks",
)
guard("cat: sums", "a sum is more than one convolution", "if len(form.terms) != 1 or form", "if form")
guard("cat: through", "a join of what has other axes than its convolution reads", "or form.terms[0].through:", ":")
guard("cat: values", "a value that is no convolution is not stacked", "if len(maps) < len(terms):")
guard(
    "cat: ranks",
    "values of different rank are not joined",
    "if any(len(map.taps) != rank for map in maps) or dim not in",
    "if dim not in",
    needless="a model that runs joins values with the same axes",
)
guard("cat: axis", "a join along another axis than the channels'", "or dim not in channels:", ":")

guard.of("operators/reshape.py", RESHAPES, OWN, EXPORT)
guard(
    "pool to one position: axes",
    "a pool of two axes leaves the others",
    "if op.rank(form, x) != rank:",
    tests=(f"{REGRESSIONS}::test_rules_that_took_the_channels_to_be_where_they_are_not",),
)
guard(
    "merge of axes: sums",
    "a sum has no one value that is reshaped",
    "if len(form.terms) != 1:",
    tests=(f"{OWN}::test_operators[a flattened sum]",),
)
guard(
    "merge of axes: values",
    "a value that is not merged is no reason to look behind a reshape",
    "if form.source is not None:",
    needless="a map of a value, behind its reshape, is the same map of what the reshape gives: no merge comes of it",
)
guard(
    "merge of axes: channels",
    "a merge of the channels' axis with another",
    'raise Illegal("it merges the channels\' axis with another")',
    "return carried(form, op.node, rank, rank, form.single)",
    tests=(f"{OWN}::test_operators_on_an_example[a constant along the batch]",),
)
guard(
    "merge of axes: which",
    "a merge of the channels' axis with those after",
    "if first > axes - 1 - rank:",
    "if first >= axes - 1 - rank:",
    needless="channels merged with an image are more than a scale has, or have all the scale of the only one",
)
guard(
    "flatten: one position",
    "a flatten of an image with several positions",
    "and last == axes - 1 and form.single:",
    "and last == axes - 1:",
    needless="an image has more positions than a scale has channels, and constants of another length are refused",
)
guard(
    "undo: what",
    "a reshape to another shape than the one before",
    "if last is None or not last.merges or last.node.all_input_nodes[:1] != [other]:",
    "if last is None or not last.merges:",
    tests=(f"{OWN}::test_operators_on_an_example[another shape than before]",),
)
guard(
    "undo: nothing done",
    "a reshape where none was before",
    "if last is None or not last.merges or last.node.all_input_nodes[:1] != [other]:",
    "if last is not None and (not last.merges or last.node.all_input_nodes[:1] != [other]):",
    tests=(f"{OWN}::test_operators_on_an_example[a shape from before nothing]",),
)
guard(
    "undo: another order",
    "a reshape does not turn back what was turned",
    "if last is None or not last.merges or",
    "if last is None or",
)
guard(
    "mean: all axes",
    "a mean over all axes is a number",
    "if not isinstance(dims, list | tuple) or not all(isinstance(d, int) for d in dims):",
)
guard(
    "mean: axes",
    "a mean over some axes of the image, or over channels",
    "if not rank or {d % axes for d in dims} != set(range(axes - rank, axes)):",
)
guard(
    "mean: no axes",
    "a mean over no axes",
    "if not rank or {d % axes",
    "if {d % axes",
    tests=(f"{OWN}::test_operators_on_an_example[a mean over no axes]",),
)
guard(
    "mean: size",
    "a pool to several positions is not a mean over the image",
    "if {*size} != {1} if isinstance(size, list | tuple) else size != 1:",
    needless="a pool to several positions commutes with a scale, too; what reads several as channels has more",
)

guard.of("operators/registry.py", OWN, HAZARDS, REGRESSIONS, COMPOSED, TUTORIALS)
guard(
    "constants: complex",
    "a merged weight is real",
    "if constant.dtype.is_complex:",
    tests=(f"{OWN}::test_operators[a complex factor]",),
    needless="what it is multiplied with has another type, and a region of two types is refused",
)
guard(
    "rules that trip",
    "an unusual call does not stop the pass",
    "except Exception as error:\n        raise Illegal(",
    "except BlockingIOError as error:\n        raise Illegal(",
    tests=(f"{OWN}::test_a_rule_that_trips", f"{REGRESSIONS}::test_a_rule_that_trips_over_a_call_is_a_reason"),
)
guard(
    "rule: unknown arguments",
    "an argument that a rule does not know may change everything",
    "if len(self.node.args) > len(order) or given.keys() - set(order):",
    tests=(f"{OWN}::test_an_out_of_another_type[sum]",),
)
guard(
    "rule: missing arguments",
    "an argument that is not there has no value",
    "if missing:",
    needless="a call without an argument that the operator needs does not run",
)
guard("rule: values", "an operand that is no value of the program", "if not isinstance(argument, fx.Node):")
guard(
    "rule: constants",
    "an operand that is no constant",
    "if constant is None:",
    needless="a rule that reads what is not there trips, which is a refusal, too",
)
guard(
    "rule: unknown rank",
    "the axis of the channels follows from the rank",
    'raise Illegal("the rank of its input is not known; pass example_inputs")\n        return rank',
    "rank = 2\n        return rank",
    tests=(f"{OWN}::test_the_reason_for_an_operator_that_stays[an axis that is not known]",),
)
guard("rule: unknown axes", "where an axis is follows from their number", "if node not in self.program.ranks:")
guard("rule: opaque modules", "a module with hooks does not do what its type says", "if reason:")
guard(
    "rule: written weights",
    "a module whose weights the forward writes to computes something else in each call",
    'if node.op == "call_module" and op.program.writes_weights_of(op.module):',
)
guard(
    "constants: unknown rank",
    "the axis that a constant runs along follows from the rank",
    'raise Illegal("the rank of its input is not known, so neither is the axis that the constant runs along")',
    "rank = 2",
    tests=(f"{OWN}::test_operators[a constant along another axis than a linear layer]",),
    needless="a constant of several axes may widen what has an unknown number of them, and is refused for that",
)
guard(
    "constants: more axes",
    "a constant of more axes makes a value larger",
    "if constant.dim() > most:",
    tests=(f"{OWN}::test_operators[a constant that widens]",),
)
guard(
    "constants: one number of many axes",
    "a constant of one number and five axes makes an image one of five",
    "if constant.numel() == 1 and constant.dim() <= most:",
    "if constant.numel() == 1:",
)
guard(
    "constants: channels", "a constant runs along the channels, and no other axis", "if channels != constant.numel():"
)

guard.of("operators/aten.py", OWN, EXPORT)
guard("aten: transposed", "a transposed convolution is another one", "if not is_transposed:", "if True:")
guard(
    "aten: factors of a product",
    "addmm with beta or alpha is not a linear layer",
    'if (beta, alpha) != (1, 1) or op.constant(b, "bias").dim() != 1:',
    'if op.constant(b, "bias").dim() != 1:',
    tests=(f"{OWN}::test_exported_operators[-a product with a factor and another]",),
)
guard(
    "aten: bias of a product",
    "addmm with a table is not a linear layer",
    'if (beta, alpha) != (1, 1) or op.constant(b, "bias").dim() != 1:',
    "if (beta, alpha) != (1, 1):",
    tests=(f"{OWN}::test_the_reason_for_an_exported_operator_that_stays[a product and a table]",),
)
guard(
    "aten: axes of a product",
    "mm by a table of other axes is not a linear layer",
    "if weight.dim() != 2 or op.program.ranks.get(op.value(x)) != 0:",
    needless="mm takes tables alone",
)
guard(
    "aten: other views",
    "a view that merges no axes, and undoes no merge",
    "and _shape(inputs[0]) == after:\n            return reshape.undo(op, x, inputs[0])\n"
    "        earlier = inputs[0]\n    raise Illegal(",
    ":\n            return reshape.undo(op, x, inputs[0])\n        earlier = inputs[0]\n    raise Illegal(",
    tests=(f"{OWN}::test_exported_operators[as written-a view to another shape]",),
)
guard(
    "aten: shapes of a view",
    "a graph without shapes does not tell what a view does",
    'if value is None:\n        raise Illegal("its shape',
    'if False:\n        raise Illegal("its shape',
    needless="nothing has no shape: the rule raises, which refuses the call",
)
guard(
    "aten: sizes of a view",
    "sizes that may vary are compared by name",
    "size if isinstance(size, int) else str(size) for",
    "size for",
    needless="sizes that may vary compare as the export knows them, which adds no wrong answer",
)
guard(
    "aten: axes of a crop",
    "a graph without shapes does not tell the axes",
    'if value is None:\n        raise Illegal("the number of axes',
    'if False:\n        raise Illegal("the number of axes',
    needless="nothing has no shape: the rule raises, which refuses the call",
)
guard(
    "aten: computed pad",
    "an amount that is computed from the input is not known",
    "if not all(isinstance(n, int) for n in amounts):",
    tests=(f"{OWN}::test_the_reason_for_an_exported_operator_that_stays[a computed pad]",),
)
guard(
    "aten: other results of a norm",
    "a norm whose saved statistics are read stays",
    "if target in TUPLES and any(u.target is not py.getitem or u.args[1] != 0 for u in op.node.users):",
    needless="a norm with another reader is required, and its value is then read as any other",
)
guard("aten: training norm", "a norm that trains depends on its batch", 'if given.get("training", False) is not False:')
guard(
    "aten: items",
    "what a norm returns besides its value is not its value",
    "if index != 0:",
    tests=(f"{OWN}::test_another_result_of_a_norm",),
    needless="the rule of the norm itself is asked, and refuses one of which another item is read",
)
guard(
    "aten: training dropout",
    "a dropout that trains drops",
    "if training is not False:",
    tests=(f"{OWN}::test_exported_operators[as written-a dropout that drops]",),
)
guard(
    "aten: the value of a norm that stays",
    "what a norm returns, all of it, is no value that can be added",
    "return atom(op.node) if form.source is source else form",
    "return form",
    tests=(f"{OWN}::test_the_value_of_a_norm_that_stays",),
)
guard("aten: casts", "a cast to another type is not linear", "if not _alike(before, after):")

# --------------------------------------------------------------------------------------------- analysis: forms, effects
guard.of("analysis/forms.py", RESHAPES)
guard(
    "channels: pointwise",
    "a 3x3 convolution behind a permute does more than to mix the channels",
    "or not outer.is_pointwise:",
    "or False:",
)
guard(
    "channels: as many",
    "a linear layer behind a permute changes how many channels there are before it",
    "if outer.in_channels != outer.out_channels and not fits:",
)
guard(
    "channels: counted",
    "a view is given the number of channels, which a linear layer behind it would change before it",
    "not any(step.counts for step in term.through) and _is_path",
    "_is_path",
    tests=(f"{RESHAPES}::test_a_view_of_so_many_channels_in_an_exported_program",),
)
guard(
    "channels: asked for",
    "code asks for the number of channels of what is computed on the way",
    "if len(node.users) > 1 or not node.all_input_nodes:",
    "if not node.all_input_nodes:",
)
guard(
    "names: shift",
    "a value and a constant are not another name of the value",
    "plain = len(self.terms) == 1 and self.terms[0].is_source and is_zero(self.shift)",
    "plain = len(self.terms) == 1 and self.terms[0].is_source",
    tests=(f"{OWN}::test_what_is_merged[a shift of a value]",),
)
guard(
    "scale of a sum",
    "a factor per channel on a sum with a value that may broadcast",
    "if factor.dim() and len(self.terms) > 1 and any(isinstance(t.map, Scale) for t in self.terms):",
)
guard(
    "shift: channels",
    "a constant of more channels makes a value wider",
    "if isinstance(term.map, ConvMap) and len(constant) != term.map.out_channels:",
    tests=(f"{OWN}::test_operators[a constant that widens one part of a join]",),
)
guard(
    "shift: of a join",
    "a constant along all parts of a join has other channels than each",
    "if constant.dim() and not self.joined else ():",
    "if constant.dim() else ():",
    tests=(f"{OWN}::test_what_is_merged[a shift of a join]",),
)
guard(
    "scale: of a join",
    "a factor has one number for each channel of a join",
    "if len(factor) != sum(self.joined.sizes):",
    needless="a join has two channels or more, and a factor of another length does not broadcast",
)
guard(
    "names: through",
    "what an operator that stays makes of a value is not the value",
    "self.map.factor is None and not self.through",
    "self.map.factor is None",
    tests=(f"{OWN}::test_what_is_merged[a shift that is taken back behind a mean]",),
)
guard("add: joined", "a join and something else are not added part by part", "if a.joined or b.joined:")
guard(
    "add: through",
    "values that went through other operators are not added",
    "if other.source is not term.source or other.through != term.through:",
    "if other.source is not term.source:",
    tests=(f"{OWN}::test_operators[a norm and its mean]",),
)
guard(
    "add: single positions",
    "a sum with an image has several positions",
    "a.single and b.single,",
    "a.single or b.single,",
    needless="values that become one term have one size, and a sum of several terms is not flattened",
)
guard(
    "composition: through",
    "a convolution, a mean and a convolution are not one",
    "if term.through and not isinstance(term.map, Scale):",
    tests=(f"{OWN}::test_operators[a convolution of a transposed one]",),
)
guard(
    "composition: single positions",
    "a convolution of one position may give several",
    "single = form.single and isinstance(outer, ConvMap) and outer.is_pointwise",
    "single = form.single",
    tests=(f"{OWN}::test_operators[a mean that is padded, flattened and scaled]",),
)
guard(
    "add: ranks",
    "values of different rank are not added",
    "if a.rank is not None and b.rank is not None and a.rank != b.rank:",
)
guard(
    "merge: no convolution",
    "two pools of one value are not a convolution",
    'raise Illegal("there is no convolution of the same value to merge it with")',
    "pass",
)
guard(
    "composition: a sum",
    "a map of a sum is not the map of its first part",
    "if len(form.terms) != 1:",
    "if False:",
    more=(("(term,) = form.terms\n    if", "term = form.terms[0]\n    if"),),
    tests=(f"{OWN}::test_operators[a convolution of a sum]",),
)
guard(
    "composition: rank of the value",
    "a linear layer on an image is not a 1x1 convolution",
    "if form.rank is not None and form.rank != len(outer.taps):",
)
guard(
    "shift: place",
    "a shift must not get lost",
    'raise Illegal("no convolution in the sum has the channels of the constant that is added to it")',
    "return -1",
    tests=(f"{OWN}::test_operators[a constant that widens one part of a sum]",),
)
guard(
    "shift: channels of the bias",
    "the bias has the channels of the convolution that takes it",
    "and (form.shift.dim() == 0 or len(form.shift) == term.map.out_channels):",
    ":",
    tests=(f"{OWN}::test_what_is_merged[a bias of one of two sums]",),
)
guard(
    "merge: broadcast",
    "conv8to1(x) + x broadcasts",
    "if conv.in_channels != conv.out_channels:",
    needless="the map of the identity has as many outputs as inputs: the sum of the maps refuses others",
)
guard(
    "composition: bias at the border",
    "a bias before a padded convolution shows at the border",
    'if outer.mode == "zeros":',
)
guard(
    "composition: channels of a shift",
    "a constant is read by as many channels as it has",
    "if shift.dim() and len(shift) != outer.in_channels:",
    tests=(f"{OWN}::test_the_reason_for_an_operator_that_stays[channels that do not fit]",),
)
guard(
    "composition: bias of a transposed one",
    "a bias before a transposed convolution becomes a pattern",
    "if isinstance(outer, ConvMap) and outer.up:",
    tests=(f"{OWN}::test_the_reason_for_an_operator_that_stays[a bias before a transposed convolution]",),
)
guard(
    "constants: lengths",
    "constants of different lengths do not meet",
    "if a.dim() and b.dim() and len(a) != len(b):",
    needless="two constants of different lengths do not broadcast: a model that runs has none along one axis",
)

WRITES = (f"{OWN}::test_a_value_that_is_written_between_two_reads", f"{OWN}::test_constants_that_change",
          f"{HAZARDS}::test_hazards_are_computed_rightly")  # fmt: skip
guard.of("analysis/effects.py", *WRITES)
guard(
    "writes: in-place modules",
    "ReLU(inplace=True) writes",
    'return first if getattr(module, "inplace", False) else []',
    "return []",
)
guard(
    "writes: unknown modules",
    "a module that nobody looks into may write to what it is given",
    "else []\n        return list(iterate((node.args, node.kwargs)))",
    "else []\n        return []",
)
guard(
    "writes: unknown functions",
    "a function that nobody looks into may write to what it is given",
    "if not is_torch(node):",
    tests=(f"{OWN}::test_a_value_that_is_written_in_a_graph[a function of the user's]",),
)
guard("writes: out", "out= is written to", 'out = list(iterate(node.kwargs.get("out")))', "out = []")
guard("writes: by assignment", "x[i] = y writes to x", '{*INPLACE, "__setitem__", "setitem"}', "{*INPLACE}")
guard(
    "writes: operators by name",
    "x += y and x.add_(y) write to x",
    "if name_of(node) in WRITES or _inplace_by_name(node):",
)
guard(
    "writes: methods by name",
    "x.add_(y) writes to x",
    'trailing = name.endswith("_") and not name.endswith("__")',
    "trailing = False",
)
guard(
    "writes: inplace=True",
    "F.relu(x, inplace=True) writes to x",
    'or node.kwargs.get("inplace") is True',
    "",
    tests=(f"{OWN}::test_a_value_that_is_written_between_two_reads",),
)
guard(
    "writes: inplace by position",
    "F.relu(x, True) writes to x",
    "or _positional_inplace(node)",
    "",
    tests=(f"{OWN}::test_a_value_that_is_written_in_a_graph[inplace by position]",),
)
guard(
    "writes: statistics",
    "a norm in training mode updates its running statistics, and few declare it",
    "return [] if mode_of(given) is False else list(",
    "return [] and list(",
    tests=(f"{HAZARDS}::test_a_norm_that_updates_the_statistics_of_another",),
)
guard("writes: by schema", "aten.add_ writes to its operand", "(a.alias_info.is_write or not write)", "not write")
guard(
    "aliases: by schema",
    "aten.dropout in eval mode returns its operand",
    "return declared or (list(iterate((node.args, node.kwargs))) if _may_return_operand(node) else [])",
    "return declared",
    tests=(f"{OWN}::test_a_value_that_is_written_in_a_graph[what a dropout passes on]",),
)
guard(
    "aliases: views",
    "chunk and transpose share memory with what they read",
    "return written\n    return list(iterate((node.args, node.kwargs)))",
    "return written\n    return written",
)
guard(
    "aliases: modules",
    "a module that nobody looks into may return what it is given",
    "if _does_what_it_says(module, FRESH_MODULES) else list(iterate((node.args, node.kwargs)))",
    "",
)
guard(
    "aliases: subclasses",
    "a subclass of a convolution may return what it is given",
    "return written if _does_what_it_says(module, FRESH_MODULES)",
    "return written if isinstance(module, FRESH_MODULES)",
    tests=(f"{OWN}::test_a_value_that_is_written_between_two_reads[-what a class of two returns]",),
)
guard(
    "modules: hooks",
    "a module of torch's with a hook, or another forward, may write, and return what it is given",
    "issubclass(kind, kinds) and why_opaque(module) is None",
    "issubclass(kind, kinds)",
    tests=(AROUND,),
)
guard(
    "modules: what is inside",
    "a part of a module of torch's may have a hook",
    "return known and all(map(_does_what_it_says, inside))",
    "return known",
    tests=(AROUND,),
)
guard(
    "writes: rows kept short",
    "embedding() with max_norm writes to its table",
    'return [] if given.get("max_norm") is None else list(iterate(given.get("weight")))',
    "return []",
    tests=(AROUND,),
)
guard(
    "moved: another type",
    "x.to(y.dtype) is not what x is",
    'n.target is getattr and n.args[1] == "device"',
    "n.target is getattr",
    tests=(CONSTANTS,),
)
guard(
    "updates: out",
    "add(x, y, out=z) does not replace x",
    'if not isinstance(first, fx.Node) or "out" in node.kwargs:',
    "if not isinstance(first, fx.Node):",
    needless="may_write names what is given as out=, which is not the first operand, or is",
)
guard(
    "updates: modules",
    "a module with inplace=True that is not known may return something else",
    "and _does_what_it_says(module, POINTWISE_OR_FRESH)\n",
    "and isinstance(module, POINTWISE_OR_FRESH)\n",
    tests=(AROUND,),
)
guard(
    "updates: one operand",
    "an operator that writes to several values replaces none",
    "return first if inplace and may_write(node, module) == [first] else None",
    "return first if inplace else None",
    tests=(f"{OWN}::test_a_value_that_is_written_between_two_reads[-a wrapped operator that writes to another]",),
)
guard(
    "effects: higher-order operators",
    "an operator that runs a graph of its own may do anything",
    "if isinstance(node.target, torch._ops.HigherOrderOperator):",
    tests=(f"{OWN}::test_a_value_that_is_written_in_a_graph[a graph of its own]",),
)
guard(
    "effects: names of other functions",
    "a function of the user's that is called relu is not torch's",
    'return home.split(".")[0] in ("torch", "_operator", "operator", "math", "builtins")',
    "return True",
    tests=(f"{OWN}::test_a_value_that_is_written_in_a_graph[a function of the user's]",),
)
guard(
    "constants: random",
    "a random number is drawn anew in each call",
    "and name_of(node) not in RANDOM",
    "",
    tests=(f"{OWN}::test_constants_that_change",),
)
guard(
    "constants: in-place",
    "an in-place operator on a parameter is not run while merging",
    'and not name_of(node).endswith("_")',
    "",
    tests=(f"{OWN}::test_constants_that_change",),
    needless="may_write lists the operand for each of these names, and is_written knows",
)
guard(
    "constants: writes",
    "an operator that writes to a parameter is not run while merging",
    "and not may_write(node, None)",
    "",
    tests=(f"{OWN}::test_constants_that_change",),
    needless="is_written knows: the result shares memory with what was written to",
)
guard(
    "constants: out",
    "an operator that writes to a parameter by out= is not run while merging",
    'and "out" not in node.kwargs\n',
    "\n",
    tests=(f"{OWN}::test_constants_that_change",),
    needless="may_write lists what is given as out=",
)

guard.of("analysis/known.py", ANY, OWN, REGRESSIONS)
guard(
    "known: comparisons",
    "a comparison of floats is not a float",
    ' - {"eq", "ge", "gt", "le", "lt", "ne"}',
    " - set()",
    tests=(f"{OWN}::test_operators[a comparison times a number]",),
)
guard(
    "known: observed types",
    "an input that was seen to be of another type is not of this one",
    "if value.dtype == dtype:",
    "if True:",
)
guard(
    "known: types of weights",
    "a convolution in another type gives that type",
    "if weight.dtype == dtype:",
    "if True:",
    tests=(f"{OWN}::test_a_weight_of_a_smaller_type",),
)
guard(
    "known: other operators",
    "a value of an operator that is not known may have any type",
    "if keeps:",
    "if True:",
    tests=(f"{OWN}::test_operators[an integer times a number]",),
)
guard(
    "known: observed channels",
    "an input that was seen to have one channel has no more",
    "return value.shape[-1 - rank] if value.dim() > rank else 1",
    "return None",
)
guard("known: channels", "what a layer gives may be one channel", "if known == channels:", "if known is not None:")
guard(
    "known: transposed weights",
    "a transposed weight has its outputs elsewhere",
    'if name in ("conv1d", "conv2d", "conv3d")',
    'if "conv" in name',
    tests=(f"{OWN}::test_operators[a channel of another convolution's, widened]",),
)
guard(
    "known: other channels",
    "a value of an operator that is not known may have any channels",
    "if same:",
    "if True:",
    tests=(f"{OWN}::test_operators_on_an_example[a height that is widened]",),
)

guard.of("analysis/constants.py", *WRITES)
guard(
    "constants: written parameters",
    "a buffer that is written to is not a constant",
    "return None if tensor is None or self.is_written(node) else tensor",
    "return None if tensor is None else tensor.detach()",
    tests=(f"{OWN}::test_constants_that_change[a buffer that shares memory with one that is written to]",),
)
guard(
    "constants: written values",
    "a value computed from constants and then written to is not a constant",
    "not effects.is_deterministic(node)) or self.is_written(node):",
    "not effects.is_deterministic(node)):",
)
guard(
    "constants: modules",
    "a module that draws random numbers, or has hooks, gives another value in each call",
    "if module is not None and not self.is_function(module):",
    tests=(CONSTANTS,),
)
guard(
    "constants: steps",
    "a constant that jumps does so where the program, in its own type, has the step",
    "if effects.jumps(node) and effects.moved(node) is None:",
    tests=(f"{REGRESSIONS}::test_a_constant_that_jumps",),
)
guard(
    "constants: memory of their own",
    "a merged kernel is scaled in place, in memory that nobody else reads",
    "return result if own else result.clone()",
    "return result",
    tests=(f"{CONSTANTS}::test_computed_weights[a view of a parameter-torch.float64]",),
)
guard(
    "constants: shared ones last",
    "what several operators read is not in memory that the next is computed in",
    "known, spare = {}, []",
    "pass",
    tests=(CONSTANTS,),
)

guard.of("analysis/program.py", *WRITES, f"{OWN}::test_one_tensor_for_two_inputs")
guard(
    "writes: statistics of a module",
    "a module that is a norm in training mode updates its running statistics",
    "self.written |= updated",
    "pass",
    tests=(f"{HAZARDS}::test_a_norm_that_updates_the_statistics_of_another",),
)
guard(
    "writes: statistics of a module that are read by name",
    "a function may normalise by statistics that a module updates",
    "written += [(self.position[node], by_storage[place]) for place in places if place in by_storage]",
    "pass",
    tests=(f"{HAZARDS}::test_statistics_of_a_module_in_training_mode_that_a_function_reads",),
)
guard(
    "aliases: what a method keeps",
    "a method that keeps something may give it twice, or write to what it gave",
    "self._alias.union(by_storage.setdefault(-1, node), node)",
    "pass",
    tests=(APART,),
)
guard(
    "constants: modules that are opaque",
    "a module with hooks does not do what its type says",
    " in effects.FUNCTIONS and module not in self.piece.opaque",
    " in effects.FUNCTIONS",
    tests=(CONSTANTS,),
    needless="a module with a hook is taken to write to what it is given, which is no constant then",
)
guard(
    "constants: weights of modules",
    "what a module makes of a constant changes with its weights",
    "return known and not module.training and not self.writes_weights_of(module)",
    "return known and not module.training",
    tests=(CONSTANTS,),
)
guard(
    "versions of a pad: written through a view",
    "a write through a view reads what it writes to",
    "+ self._through_views.get(node, [])",
    "",
    tests=(FILLS,),
)
guard("aliases: inputs", "a caller may pass one tensor twice", "self._alias.union(inputs[0], node)", "pass")
guard(
    "ranks: no batch axis",
    "a pool of an image without a batch has none either",
    "batched = all(ranks.get(value) != rank - 1 for value in (node, *operands))",
    "batched = True",
    tests=(f"{OWN}::test_an_image_without_a_batch",),
)
guard(
    "aliases: storage",
    "two buffers may share memory",
    "self._alias.union(by_storage.setdefault(place_of(tensor), node), node)",
    "pass",
    tests=(f"{OWN}::test_constants_that_change[a buffer that shares memory with one that is written to]",),
)
guard("aliases: values", "a view is written to through its base", "self._alias.union(other, node)", "pass")
guard(
    "written between",
    "a value that is written between two reads is two values",
    "return self.nodes[writes[i]] if i < len(writes) and writes[i] <= self.position[end] else None",
    "return None",
)
guard(
    "state that tracing made",
    "a tensor made in forward and written to is made anew in each call",
    "return any(self.is_written(node) for node in made)",
    "return False",
    ANY,
)

# ------------------------------------------------------------------------------------------------------------ the cover
guard.of(
    "cover/regions.py",
    f"{OWN}::test_what_is_left",
    *WRITES,
    f"{REGRESSIONS}::test_exact",
    f"{REGRESSIONS}::test_no_false_alarm",
)
guard(
    "region: forms over the same source",
    "the constant of a value is that over the source of the sum's own term",
    "if form.terms[0].key == term.key), None)",
    "), None)",
    tests=(f"{REGRESSIONS}::test_the_constant_of_a_value_with_two_forms",),
)
guard(
    "region: a crop alone",
    "a crop that leaves nothing gives nothing, and a convolution in its place raises an error",
    "if linear.crops and node not in solid:",
    tests=(f"{REGRESSIONS}::test_a_crop_that_leaves_nothing",),
)
guard(
    "required: nobody reads it",
    "a value that nobody reads may be written to",
    "hard = not readers or node in self.barriers",
    "hard = node in self.barriers",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "required: read by others",
    "a value that an operator outside the algebra reads exists",
    "if linear is None or user in self.barriers or node not in (*linear.operands, linear.like):",
)
guard(
    "required: two roots",
    "a value that two roots need is computed once",
    "if hard or (len(reached) > 1 and node in convolves):",
    "if hard:",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "required: sources",
    "the source of a region exists",
    "for term in form.terms:\n                self._require(term.source)",
    "",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "required: sizes",
    "the sizes of what a convolution gives, or a factor makes wider, are not those of its input",
    'if linear is None or linear.kind not in ("norm", ""):',
    "if linear is None:",
    tests=(f"{RESHAPES}::test_the_sizes_of_what_a_convolution_gives_are_its_own",),
    needless="a merge in which code is told the size of another value has no place: `_misleads`",
)
guard(
    "late: kept after all",
    "an interior value that something else reads is not dropped",
    "late = self._kept_after_all() - self.kept",
    "late = set[fx.Node]()",
)
guard("selection: what is left out", "skip= leaves a module alone", "if left is not None:")
guard(
    "selection: norms alone", "norms='keep' keeps the norm behind a convolution", 'if self.selection.norms == "keep":'
)
guard(
    "selection: norms of a region",
    "norms='keep' keeps the norm of what does not merge",
    'if self.selection.norms == "keep" and region.operators("norm") and not region.merges:',
)
guard(
    "region: what it reads",
    "a region does not look through the source of its own terms",
    "if any(self._sees_through(node, sources) for node in sources):",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "joined: readers",
    "what reads a join as a whole is not read part by part",
    "if form is not None and form.joined and linear.kind not in CHANNELWISE:",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "joined: parts",
    "the parts of a join are not values to be added up",
    "if len(form.terms) > 1 and not form.joined:",
    "if len(form.terms) > 1:",
)
guard(
    "reads: written before",
    "an operand that is written to before it is read",
    "if writer is not None and writer is not reader:",
    tests=(f"{OWN}::test_a_value_that_is_written_between_two_reads",),
)
guard(
    "reads: constants",
    "a convolution of constants is not one of the image",
    "if linear.composes and self.program.constant(operand) is not None:",
    tests=(f"{OWN}::test_the_reason_for_what_stays",),
)
guard(
    "interior: names",
    "another name of the source is for others to read as well",
    "if name and form is not None and form.source in sources:",
)
guard(
    "blocks",
    "what two blocks do is not composed: each may be called on its own",
    "if self._blocks.divide(region.nodes, composed):",
    tests=(COMPOSED,),
)
guard(
    "region: shift",
    "a shift has a convolution to go to",
    "biases(form)\n",
    "pass\n",
    needless="building the modules asks the same, and the region is refused there",
)
guard(
    "region: layout",
    "each map of a region is a plain convolution",
    "term.map.layout()",
    "pass",
    needless="building the modules asks the same, and the region is refused there",
)
guard(
    "region: plain multiples",
    "what is added to the convolutions is a value, or a multiple by a number",
    "elif isinstance(term.map, Window) or term.map.value.dim():",
    tests=(f"{OWN}::test_operators",),
)
guard(
    "region: no type",
    "a pool and a norm have no type that a convolution could have",
    "if not dtypes:",
    tests=("tests/test_report.py",),
)
guard(
    "region: types",
    "float32 norms do not turn a half convolution into a float32 one",
    "if len(dtypes) > 1:",
    tests=(ACCESS,),
)
guard(
    "region: layout of a copy",
    "flatten is a copy of a crop, and a view of what takes its place",
    "if program.layout_decides(region.root):",
    tests=(ACCESS,),
)
guard(
    "region: sizes",
    "convolutions of one input with outputs of different size broadcast",
    "if places.setdefault(term.key, place) != place and not form.joined:",
    "if places.setdefault(term.key, place) != place and False:",
    tests=(f"{OWN}::test_the_reason_for_what_stays",),
)
guard(
    "region: types of the source",
    "a factor makes a float of an integer, which a convolution does not",
    "if constants and not has_type(self.program, source, region.dtype):",
)
guard(
    "region: channels of the source",
    "a factor widens one channel to many, which a convolution does not",
    "if wider and not has_channels(self.program, source, conv.in_channels, rank):",
)
guard(
    "region: axis of the source's channels",
    "before a mean or a permute the channels are on another axis",
    "source, rank = term.source, term.through[0].rank if term.through else len(conv.taps)",
    "source, rank = term.source, len(conv.taps)",
    tests=(f"{RESHAPES}::test_a_factor_widens_the_axis_of_the_channels",),
)
guard(
    "region: size of the input",
    "a convolution's input is not added to an output of another size",
    "if not isinstance(term.map, ConvMap) and (set(stride) - {1} or any(extent)):",
    tests=(f"{OWN}::test_the_reason_for_what_stays",),
)
guard(
    "region: writes outside",
    "an in-place operator that writes to what lives on is kept",
    "if outside is not None:",
    tests=(f"{OWN}::test_a_value_that_is_written_between_two_reads",),
)
guard(
    "region: inputs live on",
    "an input or a parameter lives on outside of the merge",
    'if n.op not in ("placeholder", "get_attr") and n.users and',
    "if n.users and",
    tests=(f"{ANY}::test_code_around_a_join",),
)
guard("region: written sources", "a source is not written to before the merge reads it", "if writer is not None:")

guard.of("cover/usage.py", OWN, HAZARDS, REGRESSIONS, ANY)
guard(
    "sharing: calls",
    "a module that is called twice is not replaced",
    "alone = self.times[module] == twins and ",
    "alone = ",
)
guard(
    "sharing: weights",
    "a module whose weights are read elsewhere is not replaced",
    " and self.read.isdisjoint(map(id, tensors(module)))",
    "",
)
guard(
    "sharing: unseen code",
    "a module that code which could not be traced may call is not replaced",
    "return alone and not self.pinned(join(piece.path, str(node.target)))",
    "return alone",
)
guard(
    "sharing: several names",
    "unseen code may call a module under another name",
    "self.names.get(path, (path,))",
    "(path,)",
)
guard(
    "twins: what they do",
    "two calls of one module that take different branches are not alike",
    "return call.module, self.ordinal[node], does, given",
    "return call.module, self.ordinal[node], given",
    tests=(f"{OWN}::test_forwards[a child that takes one of two branches]",),
)
guard(
    "twins: what they are given",
    "a module that is handed one value twice does not do what it does with two",
    "return call.module, self.ordinal[node], does, given",
    "return call.module, self.ordinal[node], does",
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard(
    "unseen code: numbers",
    "code reaches the entries of a list by number",
    "sum(not step.isdigit() and step not in",
    "sum(step not in",
)
guard(
    "unseen code: made names",
    "code that uses getattr makes names at run time",
    "return others <= made and loads",
    "return not others and loads",
)
guard(
    "unseen code: walks",
    "code that walks over all modules reaches each",
    "if not self.names.isdisjoint(WALKS):",
    tests=(ACCESS,),
)
guard(
    "unseen code: items",
    "code that goes through a part, or hands it on, comes by what is in it",
    "self.loaded.issuperset(items)",
    "False",
    tests=(ACCESS,),
)

guard.of("cover/blocks.py", COMPOSED)
guard(
    "blocks: more than a convolution",
    "an encoder whose last layer would go into the decoder",
    "return block is not None and (self.operators[block] > operators[block] or convolutions[block] > 1)",
    "return block is not None and convolutions[block] > 1",
)
guard(
    "blocks: several convolutions",
    "a block of two branches, all of which would go into the next",
    "return block is not None and (self.operators[block] > operators[block] or convolutions[block] > 1)",
    "return block is not None and self.operators[block] > operators[block]",
)
guard(
    "blocks: convolutions",
    "a backbone whose last layer would go into the classifier",
    "if does_more(_around(one, other, lines)) or does_more(_around(other, one, lines)):",
    "if False:",
)
guard(
    "blocks: norms that leave",
    "a norm at the end of a backbone would go into the classifier",
    "if does_more(block):",
    "if False:",
)
guard(
    "blocks: norms that enter",
    "a norm at the start of a head would go into the backbone",
    "if has_others(block) and has_others(_around(reader, node, lines)):",
    "if False:",
)
guard.of("cover/placement.py", OWN, HAZARDS, REGRESSIONS, ANY)
guard(
    "placement: forwards of classes",
    "code that cannot be traced runs the forward of a class that was rewritten",
    "if any(usage.run_by_class(call.module) for call in _rewritten(placement)):",
    tests=(UNTRACED,),
    needless="the forward of a class that is named is gone through as well, so the parts that it mentions stay",
)
guard(
    "placement: sizes of values that are passed on",
    "an assertion of the size of a value between two convolutions is told that of another",
    "if any(there <= at if before else there > at for there in resizing):",
    tests=(f"{REGRESSIONS}::test_an_assertion_of_the_size_of_a_value_in_a_merge",),
)
guard(
    "placement: looked at",
    "code that looks at a norm, and does not call it, finds an identity",
    "if usage.looked and any(_module(piece, n) in usage.looked for n in placement.swapped):",
    tests=(f"{REGRESSIONS}::test_code_that_asks_for_the_class_of_a_norm",),
)
guard(
    "placement: classes of what is called",
    "type(self.norm) is another one of an identity",
    "if any(usage.asks_for_types(call.module) for call in callers):",
    tests=(f"{REGRESSIONS}::test_code_that_takes_the_class_of_a_norm",),
)
guard(
    "placement: how values lie in memory",
    "a copy that a view needs",
    "if any(map(effects.lays_out, dies)) and any(map(effects.needs_layout, region.program.nodes)):",
    tests=(REGRESSIONS,),
)
guard(
    "place: one region each",
    "two regions do not take the place of one operator",
    "if inside[p.site] <= (p.site is not r.root)]",
    "]",
    tests=(f"{OWN}::test_operators",),
    needless="a value that two regions compute has no convolution before it, and one behind it gives another size: "
    "`_misleads` sees that the other region reads it",
)
guard(
    "in place: replaceable",
    "a convolution that somebody else calls does not take the merged weights",
    "if not all(usage.replaceable(piece, n, twins) for n in in_place):",
)
guard(
    "in place: ways in",
    "a method that runs the convolution without its norm",
    "if not all(ways):",
    tests=(TEXT,),
)
guard(
    "bent: forwards",
    "a forward may do more between a convolution and its norm than it did when it was traced",
    "if each not in rewritten and _is_bent(each, placement)]",
    "if False]",
    tests=(BENT,),
)
guard(
    "bent: values that are handed on",
    "a module may do more with its argument than what is merged into it",
    "handed = not set(before).isdisjoint(iterate((call.args, call.kwargs)))",
    "handed = False",
    tests=(BENT,),
)
guard(
    "bent: values that are returned",
    "a forward may return the value on the way",
    'allowed |= set() if ends else {"return"}',
    'allowed |= {"return"}',
    tests=(BENT,),
)
guard(
    "in place: values on the way",
    "a method that reads what the convolution gives, and goes on with its norm",
    "return all(readers_of(kind, step) <= steps for step in inner)",
    "return True",
    tests=(TEXT,),
)
guard(
    "in place: items",
    "a method that goes through the parts of a Sequential one by one",
    'return any(not all(f"{path}.".startswith(f"{item}.") for path in paths) for item in items)',
    "return False",
    tests=(TEXT,),
)
guard(
    "in place: bias",
    "code that asks for the bias of a convolution does not see the merged one",
    'if "bias" in call.absent:',
    tests=(f"{REGRESSIONS}::test_code_that_asks_for_a_bias",),
)
guard(
    "swapped: replaceable",
    "a norm that somebody else calls does not become a pass-through",
    "placement.swapped = [n for n in leaves if usage.replaceable(piece, n, twins)]",
    "placement.swapped = leaves",
)
guard(
    "swapped: ways in",
    "a method that runs a norm without the join before it",
    "placement.swapped = [n for n in placement.swapped if not _on_its_own(str(n.target), around, call)]",
    "pass",
)
guard(
    "in place: functions",
    "a method that runs a convolution without the function that scales it",
    "if placement.in_place and functions and _is_entered(call, placement.site):",
    tests=(TEXT,),
)
guard(
    "unseen code: parts",
    "code that cannot be traced calls a part of what is merged on its own",
    "if any(usage.called(join(piece.path, call.path)) for call in changed):",
    tests=(UNTRACED,),
)
guard(
    "unseen code: what a part hands out",
    "a value on the way is what somebody else gets of a module",
    " or not interior.isdisjoint(iterate(call.output))]",
    "]",
    tests=(f"{UNTRACED}::test_is_right[what a part hands out-False]",),
)
guard(
    "unseen code: modules that it looks at",
    "code that cannot be traced hooks, sets or resets a module that is merged",
    'if any(usage.touches(join(piece.path, str(n.target))) for n in placement.region.nodes if n.op == "call_module"):',
    tests=(UNTRACED,),
)
guard(
    "methods: parts",
    "another method calls a part of what is merged on its own",
    "if any(_is_run_alone(call, placement, usage) for call in changed):",
    tests=(UNTRACED,),
)
guard(
    "unseen code: types",
    "code that asks for the class of a module would see another one",
    "if any(usage.told_apart(join(piece.path, call.path)) for call in _rewritten(placement)):",
)
guard(
    "traced code: lists",
    "code that goes through children would meet the merged one",
    "if not placement.in_place and piece.call_of[placement.site].module in usage.walked:",
    tests=(REGRESSIONS,),
)
guard(
    "unseen code: lists",
    "code that goes through children would meet the merged one",
    "if not placement.in_place and usage.listed(join(piece.path, owner.path), owner.module):",
)
guard(
    "unseen code: the holder stays",
    "the merged one goes into a norm that stays",
    "if not stays or usage.listed(path, _module(piece, site)):",
    "if usage.listed(path, _module(piece, site)):",
)
guard(
    "unseen code: lists of the holder",
    "code that goes through the children of a norm",
    "if not stays or usage.listed(path, _module(piece, site)):",
    "if not stays:",
    tests=(f"{ANY}::test_tops_that_cannot_be_traced[a count of the children of a norm]", ANY),
)
guard(
    "place: operators that stay",
    "an operator that stays reads a convolution that is not there",
    "if any(region.linear[n].composes or len(region.linear[n].operands) > 1 for n in stay):",
    tests=(RESHAPES, OWN, REGRESSIONS),
)
guard(
    "place: undone views",
    "a view is undone that was not done",
    "if any(region.linear[n].like in before for n in after):",
    tests=(f"{RESHAPES}::test_is_merged",),
)
guard(
    "place: reads",
    "two terms read two values",
    "if site in reads.values() or len({*reads.values()}) < len(reads):",
    needless="what a convolution computes is not there for it to read: building the forward refuses it; and of two "
    "terms behind one operator one sees through the source of the other, which the proof refuses",
)
guard(
    "place: before and after",
    "a convolution after the site reads what went through an operator there",
    "if late and any(region.linear[n].convolves for n in after):",
)
guard(
    "new forwards: calls",
    "a module that is called in another way keeps its forward",
    "return all(usage.times[call.module] == twins and not _is_missed(call, placement) for call in rewritten)",
    "return all(not _is_missed(call, placement) for call in rewritten)",
)
guard(
    "new forwards: ways in",
    "a method that runs a block whose norm is in the head now",
    "return all(usage.times[call.module] == twins and not _is_missed(call, placement) for call in rewritten)",
    "return all(usage.times[call.module] == twins for call in rewritten)",
    tests=(TEXT,),
)
guard(
    "chain: stack",
    "a stack of one goes with the sum that undoes it",
    "if len(operands) != 1 or _is_stack(operands[0]):",
    "if len(operands) != 1:",
)
guard("join: stack", "a stack goes with the sum that undoes it", " or _is_stack(follow):", ":")

guard.of("cover/flat.py", OWN, EXPORT)
guard(
    "flat: names of modules",
    "a convolution that another node calls keeps its weights",
    'if node.op == "call_module" and node.target == path and node is not conv:',
    tests=(f"{OWN}::test_a_flat_graph_that_calls_a_module_twice",),
)
guard(
    "flat: names of weights",
    "weights that another node reads keep their names",
    'if node.op == "get_attr" and str(node.target).startswith(f"{path}.") and not set(region.nodes) >= {*node.users}:',
)
guard(
    "flat: shared weights",
    "regions of the same operators on other weights do not share merged ones",
    "return str(node.target)\n        if region",
    'return "weight"\n        if region',
    tests=(f"{OWN}::test_exported_operators",),
)

guard.of("cover/liveness.py", OWN, HAZARDS, REGRESSIONS, ANY, RESULT)
guard("removal: used", "a module that still runs is not taken out", " or self._is_used(module):", ":")
guard(
    "removal: unseen code",
    "a module that unseen code may call is not taken out",
    "if owner is not None and not stays(owner, path) and not named(owner, path):",
    "if owner is not None and not named(owner, path):",
    tests=(UNTRACED, ANY),
)
guard(
    "removal: inside of what stays",
    "what a module needs that unseen code may call stays with it",
    "return any(pinned(p) for p in (path, *_prefixes(path)) if len(p) > len(owner))",
    "return pinned(path)",
    tests=(f"{UNTRACED}::test_a_method_that_calls_a_part",),
)
guard(
    "removal: other methods",
    "a module that a method beside forward calls is not taken out",
    "names[owner] = names[owner].union(*entry_points(type(rewritten[owner])))",
    "pass",
)
guard(
    "removal: forwards that stay",
    "a module that a forward which is not rewritten calls is not taken out",
    "gone = node in edits.gone and (call in vanished or call.module in anew)",
    "gone = node in edits.gone",
    tests=(f"{REGRESSIONS}::test_a_forward_that_stays_calls_what_nothing_else_reads",),
)
guard(
    "removal: calls by forwards that stay",
    "what is in a module that such a forward calls is not taken out",
    "if call.parent in dead or (made_anew and some and",
    "if call.parent in dead or (some and",
    tests=(f"{REGRESSIONS}::test_a_forward_that_stays_calls_what_nothing_else_reads",),
)
guard(
    "removal: names",
    "a module whose name other code mentions is not taken out",
    "if owner is not None and not stays(owner, path) and not named(owner, path):",
    "if owner is not None and not stays(owner, path):",
    tests=(f"{ANY}::test_several_ways_in[a method beside forward: the first of two convolutions]", ANY),
)
guard(
    "removal: live tensors",
    "a parameter that is still read is not taken out",
    "if key not in self.live_tensors and not pinned(path)]",
    "if not pinned(path)]",
    tests=(f"{ANY}::test_several_ways_in",),
)
guard(
    "removal: tensors of unseen code",
    "a parameter that unseen code may read is not taken out",
    "if key not in self.live_tensors and not pinned(path)]",
    "if key not in self.live_tensors]",
    needless="a module whose forward stays keeps its tensors, and in one that gets another forward that is asked of "
    "whatever is inside of it",
)
guard(
    "removal: named tensors",
    "a parameter that other code mentions is not taken out",
    "for p, owner in owners.items() if owner is None or not (stays(owner, p) or named(owner, p))]",
    "for p, owner in owners.items()]",
    tests=(f"{ANY}::test_several_ways_in",),
)
guard(
    "copy: live tensors",
    "only tensors that are dropped are shared with the caller's model",
    "return [tensor for tensor in found if id(tensor) not in kept]",
    "return found",
    tests=(f"{OWN}::test_a_weight_that_stays_is_not_the_callers",),
)

# ----------------------------------------------------------------------------------------------- plan, weights, rewrite

guard.of("plan.py", OWN, HAZARDS, REGRESSIONS, ANY, EXPORT)
guard(
    "plan: copies",
    "a write to a value does not go to a copy of it",
    " and not program.is_copy_to_write(node, source):",
    ":",
    tests=(f"{REGRESSIONS}::test_a_write_to_what_a_child_hands_a_copy_of",),
)
guard(
    "plan: gradients",
    "a forward that differentiates sees which branches are detached",
    "if any(effects.differentiates(node) for node in program.nodes):",
    tests=(f"{REGRESSIONS}::test_a_forward_that_differentiates[_through_a_child]",),
    needless="a detached branch stays, and a weight that is read keeps its convolution: no gradient is another one",
)
guard(
    "plan: methods of modules farther out",
    "a module that a method calls is not taken out",
    " or bool(usage.ways_to(path))",
    "",
    tests=(f"{UNTRACED}::test_a_method_that_calls_a_part",),
)
guard(
    "plan: tensors that others write",
    "one part of a model writes to what another folds",
    "unseen.union(*(other.written for other in programs if other is not program))",
    "unseen",
)
guard("plan: state", "a forward that writes to a tensor that it makes is left alone", "if program.keeps_state():")
guard(
    "conditions: written parameters",
    "a condition on a parameter that the forward writes to may hold in one call and not in the next",
    "if any(program.is_written(n) for n in program.nodes if n.op",
    "if False and any(program.is_written(n) for n in program.nodes if n.op",
    tests=(CONSTANTS,),
)
guard(
    "plan: autocast in a graph",
    "a graph that sets autocast is left alone",
    'if any(effects.name_of(node) == "_enter_autocast" for node in program.nodes):',
)
guard(
    "plan: modes in a forward",
    "a forward that sets autocast or no_grad, or asks for them, is not rewritten",
    "if modes:",
)
guard(
    "plan: modes of children",
    "a child that is not called any more had its modes, too",
    "for replaced in scope.replaced:",
    "for replaced in scope.replaced[:1]:",
    tests=(f"{OWN}::test_a_forward_that_sets_autocast",),
)
guard(
    "plan: modes in code of its own",
    "a hook or a function on one instance may set a mode",
    "if has_own_code(module):",
    tests=(f"{REACH}::test_one_of_a_class_holds_code_that_asks_for_a_mode",),
)
guard(
    "plan: names",
    "a merged convolution does not take the name of something else",
    "n not in used and not _has(owner, n))",
    "n not in used)",
    tests=(f"{OWN}::test_forwards[a name that is taken]",),
)
guard(
    "plan: names of others",
    "a wrapper that asks the wrapped model first gives that one's merged convolution for its own",
    "if any(map(_answers, modules)):",
    tests=(ACCESS,),
)
guard(
    "plan: needed values",
    "a value that a merged convolution reads is computed",
    "if node in edits.gone or node in needed or",
    "if node in edits.gone or",
)
guard(
    "plan: read values",
    "a value that something else reads is computed",
    "unread = all(user in recomputed for user in node.users)",
    "unread = True",
    needless="who reads it gets what it passes on, or the merge is refused",
)
guard(
    "plan: read constants",
    "a constant that something else reads is computed",
    "unread = all(user in recomputed or edits.passing.get(user, node) is not node for user in node.users)",
    "unread = True",
    tests=(f"{OWN}::test_a_constant_that_something_else_reads",),
)

guard.of("weights.py", OWN, HAZARDS, REGRESSIONS, RESULT)
guard(
    "proof",
    "a merge that gives another result is not applied",
    "if not region.error <= TOLERANCE:\n        size",
    "if False:\n        size",
    "tests/test_fuzz.py::test_a_wrong_rule_is_stopped_by_the_proof_and_noticed",
    OWN,
)
guard(
    "proof: that cannot be run",
    "a proof that raises is no proof",
    'return f"the check could not be run: {type(error).__name__}: {error}"',
    "raise",
)
guard(
    "cancelling norm",
    "a norm whose mean is much larger than its deviation is not folded",
    "if lossy is not None:",
    tests=(f"{OWN}::test_a_mean_that_is_large_for_the_type",),
)
guard(
    "underflow",
    "a channel too small for float16 is not cast to it",
    'if dtype is torch.float16 and name == "weight" and _vanishes(value, cast, bias):',
    tests=(f"{OWN}::test_a_channel_that_vanishes",),
)
guard(
    "overflow",
    "a weight that the model's type cannot hold is not cast to it",
    "if cast.numel() and not all(math.isfinite(extreme) for extreme in torch.aminmax(cast)):",
    tests=(f"{OWN}::test_a_bias_that_overflows",),
)
guard(
    "caller's weights",
    "the merge does not write to the model's own float64 weights",
    "return double.clone() if double.data_ptr() == tensor.data_ptr() else double",
    "return double",
    tests=(f"{OWN}::test_the_callers_weights_are_not_written_to",),
)
guard(
    "weights: views",
    "two views of one weight are two weights",
    "return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()",
    "return tensor.data_ptr(), tensor.dtype, tensor.shape",
    tests=(f"{OWN}::test_two_views_of_one_weight",),
)
guard("weights: workspace", "the workspace holds one weight at a time", "self.largest = None  # only once", "pass  #")

guard.of("validate.py", OWN, HAZARDS, REGRESSIONS)
guard(
    "proof: sources",
    "an in-place operator does not write to the proof's input",
    "return value.clone() if node in self.samples else value",
    "return value",
    tests=(f"{OWN}::test_what_is_left",),
)
guard(
    "proof: constants",
    "a constant that a convolution reads is itself to an addition",
    "constant = n in self.samples and n not in region.linear[node].operands",
    "constant = False",
    tests=(CONSTANTS,),
)
guard("proof: shapes", "results of different shapes differ", "if expected.shape != found.shape:")
guard(
    "proof: not finite",
    "NaN is no agreement",
    "return error if math.isfinite(error) and math.isfinite(whole) else math.inf",
    "return 0.0 if error != error else error",
)
guard(
    "proof: every position",
    "a kernel that reads computed values needs all of them",
    "whole = region.composes or through or any(map(self._is_transposed, region.nodes))",
    "whole = through or any(map(self._is_transposed, region.nodes))",
    tests=(f"{COMPOSED}::test_is_one",),
)

guard(
    "proof: every position of a transposed one",
    "every position of a transposed convolution has other taps",
    "whole = region.composes or through or any(map(self._is_transposed, region.nodes))",
    "whole = region.composes or through",
    tests=("tests/test_transposed.py",),
)
guard.of("rewrite.py", OWN, HAZARDS, REGRESSIONS, ANY)
guard(
    "rewrite: arguments by name",
    "an identity's argument has another name",
    " and not _is_called_by_name(piece, call):",
    ":",
    tests=(f"{REGRESSIONS}::test_a_child_that_is_called_by_the_name_of_its_argument",),
)
guard(
    "rewrite: several names",
    "a module is replaced under all of its names",
    "for parent, name in places[old]:",
    "for parent, name in places[old][:1]:",
    tests=(f"{REGRESSIONS}::test_a_module_under_two_names",),
)
guard(
    "rewrite: settings",
    "what is read off a module besides its weights is there",
    "for key, value in _extras(old, module).items():",
    "for key, value in ():",
    tests=(f"{COMPOSED}::test_settings_of_a_module_that_is_composed_away_can_still_be_read",),
)
guard(
    "rewrite: entries of a list",
    "in a list the others keep their places",
    "elif isinstance(owner, nn.Sequential | nn.ModuleList):",
    tests=(f"{OWN}::test_the_entries_of_a_list_keep_their_places",),
)
guard(
    "rewrite: pass-throughs with weights",
    "a module that somebody reads weights of is not a pass-through",
    " and not _has_weights(module)",
    "",
    tests=(f"{OWN}::test_a_pass_through_whose_weights_are_read",),
)

guard.of("rewrite_flat.py", OWN, EXPORT)
guard(
    "flat: assertions",
    "assertions on what stays are kept",
    " and _reads_only(n, edits)]",
    "]",
    tests=(f"{OWN}::test_an_assertion_on_what_stays",),
)
guard(
    "flat: names of results",
    "a signature finds its results",
    'if site in program.piece.kept or any(user.op == "output" for user in total.users):',
)

guard.of("api.py", OWN, EXAMPLES, BAD, RESULT)
guard("examples: compared", "outputs that differ on the example inputs are refused", "if not result.ok:")
guard("examples: undone", "an error leaves the model as it was", "undo.restore()", "pass")
guard(
    "examples: inputs",
    "the example inputs are not written to",
    "output = model(*copy.deepcopy(inputs, given))",
    "output = model(*inputs)",
    tests=(f"{EXAMPLES}::test_inputs_are_not_changed",),
)
guard(
    "examples: buffers",
    "a run on the example inputs does not change the model's buffers",
    "return owning_copy(model, except_for=_computed(model))",
    "return model",
)
guard("examples: NaN", "two NaNs are no agreement", '.nan_to_num(nan=float("inf"))', ".nan_to_num(nan=0.0)")
guard(
    "examples: shapes",
    "outputs of other shapes are not compared",
    "if [t.shape for t in expected] != [t.shape for t in found]:",
)
guard(
    "caller's model",
    "tracing runs a copy of the model, not the model",
    "plan = make_plan(structural_copy(model), model, policy, observed, progress, selection=selection)",
    "plan = make_plan(model, model, policy, observed, progress, selection=selection)",
)

# -------------------------------------------------------------------------------------------------------------- capture
guard.of("capture/checks.py", BAD, EXPORT)
guard("input: training mode", "a model in training mode is refused", "if model.training:")
guard("input: TorchScript", "TorchScript is refused", "if isinstance(model, ScriptModule):")
guard("input: lazy", "a lazy parameter is refused", "if is_lazy(tensor):")
guard("input: meta", "a tensor without values is refused", "if tensor.is_meta or isinstance(tensor, FakeTensor):")
guard(
    "input: exported in training mode",
    "a program exported in training mode is refused",
    "if training and all(mode for _, mode in training):",
)

guard(
    "input: norms that normalise by the batch in either mode",
    "a program with a norm that has no statistics may come from a model in eval mode",
    "if norm and all(given.get(statistic) is None for statistic in STATISTICS):",
    tests=(f"{EXPORT}::test_a_norm_without_statistics_is_no_training_mode",),
)

guard.of("capture/code.py", OWN, HAZARDS, REGRESSIONS, ANY, RESULT)
guard(
    "reach: defaults",
    "a function goes on with a default of its arguments",
    "*(function.__defaults__ or ()),",
    "",
    tests=(LIBRARIES,),
)
guard(
    "reach: defaults of keywords",
    "a function goes on with a default of its keywords",
    "*(function.__kwdefaults__ or {}).values(),",
    "",
    tests=(LIBRARIES,),
)
guard(
    "reach: attributes of objects",
    "a function may be held by an object",
    "if own := _own_space(value):",
    "if own := {}:",
    tests=(LIBRARIES,),
)
guard(
    "reach: slots",
    "an object may hold it in a slot",
    "{name: getattr(value, name) for name in slots if hasattr(value, name)}",
    "{}",
    tests=(LIBRARIES,),
)
guard(
    "reach: enumerations",
    "a member of an enumeration may be a function",
    "return (value.value,)",
    "return ()",
    tests=(LIBRARIES,),
    needless="the constructor of an enumeration, which is looked into, mentions where the value is",
)
guard(
    "reach: attrgetter",
    "an attrgetter has names in it",
    "return (_looks_up(value),)",
    "return ()",
    tests=(LIBRARIES,),
)
guard(
    "reach: classes of classes",
    "calling a class may run the code of its own class",
    "for holder in (value, type(value)) if isinstance(value, ModuleType | type) else (type(value),):",
    "for holder in (value,) if isinstance(value, ModuleType | type) else (type(value),):",
    tests=(LIBRARIES,),
)
guard(
    "reach: variables by their names",
    'globals()["f"] is f',
    'strings_in(function.__code__) if "globals" in mentioned or RUNNING & mentioned else set()',
    "set()",
    tests=(LIBRARIES,),
)
guard(
    "reach: texts",
    "code may look a part up by a text",
    "*(strings_in(f.__code__) for f in left))",
    ")",
    tests=(LIBRARIES,),
)
guard(
    "reach: imports to come",
    "a file that is not loaded yet may reach anything",
    'if not paths and would_run_users(name, space.get("__file__")):',
    tests=(LIBRARIES,),
)
guard(
    "reach: what is read off a user's file",
    "a name that is read off a file of the user's is one of the user's",
    "(isinstance(value, type | ModuleType) and not is_users(value))",
    "isinstance(value, type | ModuleType)",
    tests=(LIBRARIES,),
)
guard(
    "removal: hooks",
    "what a hook mentions is not taken out",
    "found = forward, reachable_from([forward, *hooks], module)",
    "found = forward, reachable_from([forward], module)",
)
guard(
    "removal: tables of helpers",
    "what a helper in a table mentions is not taken out",
    "return _items(value)  # a table of helpers, say",
    "return ()",
    tests=(f"{ANY}::test_tops_that_cannot_be_traced",),
)
guard(
    "removal: names made at run time",
    "a method that is called by a name of parts counts calls",
    "for kind in kinds if beginnings else ():",
    "for kind in ():",
    tests=(REACH,),
)
guard(
    "removal: what an object holds",
    "a function that counts calls is held by an object",
    "reached.spaces += [vars(module), *own]",
    "reached.spaces += [vars(module)]",
    tests=(REACH,),
    needless="what an object holds is looked into where the object is found",
)

guard.of("capture/state.py", ANY)
guard(
    "state: random numbers",
    "a draw from a generator of the module's own is no constant",
    "or any(not _is_alike(stream[0](), before) for stream, before in self.streams.values())",
    "",
    tests=(f"{REGRESSIONS}::test_random_numbers_from_a_generator_of_its_own",),
)
guard(
    "state: objects",
    "a counter in an object, a list in a list",
    "not all(_same(_content(value), content)",
    "not all(True",
    tests=(f"{ANY}::test_code_around_a_join[a feature kept in a dictionary]",),
)
guard(
    "state: functions",
    "a counter in a variable around a function, in a default or on the function",
    "return list(found.values()), [function for function in functions if _kept_by(function)]",
    "return list(found.values()), []",
    tests=(KEPT,),
)
guard(
    "state: functions that a module holds",
    "a counter in a variable around a function that a module holds",
    "return _kept_by(value) or None if users_function(value) else None",
    "return None",
    tests=(KEPT,),
)
guard(
    "state: partials",
    "a partial holds a table that is counted in",
    'return {"function": value.func, "arguments": value.args, "keywords": value.keywords}',
    "return None",
    tests=(REACH,),
)
guard(
    "state: bound methods",
    "an object that is counted in",
    'return {"self": value.__self__}',
    "return None",
    tests=(REACH,),
)
guard(
    "state: namespaces",
    "the names of a file are not restored: Python's own are among them",
    "if kind in FIXED or id(value) in self.held or (kind is dict and not NAMESPACES.isdisjoint(value)):",
    "if kind in FIXED or id(value) in self.held:",
    needless="nothing but a trace changes what such a dictionary holds meanwhile, and there is one at a time; "
    "but to clear Python's own names would be the end of the process",
    tests=("tests/test_threads.py",),
)
guard(
    "state: iterators",
    "an iterator is moved on, and does not say so",
    "self.iterates = self.iterates or _iterates(kind)",
    "pass",
    tests=(KEPT,),
)
guard("state: globals", "a counter in a global", "any(space.get(name) is not value", "any(False")
guard.of("capture/watch.py", ANY)
guard(
    "watch: writes to weights",
    "code that is traced writes to the caller's weights",
    "if func._schema.is_mutable:",
    tests=(UNTRACED,),
)
guard(
    "watch: weights that are replaced",
    "code that is traced puts other numbers into a parameter",
    "if _address(tensor) != _address(data) or tensor.dtype != data.dtype or tensor.shape != data.shape:",
    tests=(UNTRACED,),
)
guard(
    "watch: frozen weights",
    "code that is traced freezes the caller's parameters",
    "if tensor.requires_grad != requires_grad:",
    tests=(UNTRACED,),
)
guard(
    "watch: tables",
    "code that is traced puts a symbol among the buffers of another module",
    "if [*own] != [*before] or any(own[name] is not value for name, value in before.items()):",
    tests=(UNTRACED,),
)
guard(
    "watch: types of elements",
    "whether a tensor is a DoubleTensor is not known",
    "if any(type(k) is type(torch.FloatTensor) for k in kinds):",
    tests=(SYMBOLS,),
)
guard(
    "watch: isinstance()",
    "a symbol is a tensor",
    "return issubclass(self._kind(value), kinds)",
    "return isinstance(value, kinds)",
    tests=(SYMBOLS,),
)
guard(
    "watch: modes",
    "a mode of torch's is entered under another name",
    "tracer.current.modes.add(name)",
    "pass",
    tests=(REACH,),
)
guard(
    "watch: files of helpers",
    "a symbol is a tensor, wherever the code is",
    "files.update({id(names): names for names in own})",
    "pass",
    tests=(SYMBOLS,),
)
guard(
    "watch: hasattr()",
    "a symbol has attributes of every name",
    "return hasattr(self._kind(value), name) if isinstance(value, InplaceMixin) else hasattr(value, name)",
    "return hasattr(value, name)",
    tests=(SYMBOLS,),
)
guard(
    "watch: getattr() with a default",
    "a symbol has attributes of every name",
    "absent = default and isinstance(value, InplaceMixin) and not hasattr(self._kind(value), name)",
    "absent = False",
    tests=(SYMBOLS,),
)
guard(
    "watch: callable()",
    "a symbol can be called",
    "return self._is_of(value, (Callable,)) if isinstance(value, InplaceMixin) else callable(value)",
    "return callable(value)",
    tests=(SYMBOLS,),
)
guard(
    "watch: is_tensor()",
    "a symbol is a tensor",
    "names[name] = self.is_tensor",
    "pass",
    tests=(SYMBOLS,),
)
guard(
    "watch: type()",
    "type(x) of a symbol is that of a tensor",
    "return arguments[0].kind() if one else type(*arguments, **keywords)",
    "return type(*arguments, **keywords)",
    tests=(SYMBOLS,),
)
guard(
    "state: other modules",
    "code sets an attribute of a child",
    "if call is not None and module is not call.module and not tracer.is_elsewhere():",
    "if False:",
)
guard.of("capture/changes.py", ANY)
guard(
    "changes: lists",
    "xs[0] = y changes a list",
    "if what < DICTS and other:",
    "if what < DICTS:",
    tests=(DETECTOR,),
)
guard(
    "changes: sets",
    "x -= y changes a set",
    "isinstance(value, list | tuple) else SETS",
    "True else SETS",
    tests=(DETECTOR,),
)
guard(
    "changes: dictionaries",
    'xs["a"] = y changes a dictionary',
    "own = DICTS if isinstance(value, dict) else LISTS",
    "own = LISTS",
    tests=(ANY, SYMBOLS),
)
guard(
    "changes: objects",
    "x.a = y changes a dataclass",
    "return ANY if holds_container(value) else LISTS",
    "return LISTS",
    tests=(ANY, SYMBOLS),
)
guard(
    "changes: one new list of two",
    "of a, b = [], x the second is x",
    "return together and all(step.name in FRESH and step.value == 0 for step in steps[start:made])",
    "return together",
    tests=(DETECTOR,),
)
guard(
    "changes: dataclasses",
    "untraced code may change a dataclass that it is given",
    "return dataclasses.is_dataclass(value) and not isinstance(value, type)",
    "return False",
)
guard("changes: in tuples", "untraced code may change a list in a tuple", "if isinstance(value, tuple):")
guard(
    "changes: code that is not seen",
    "a forward that is C code may change a list",
    "_is_unseen(m) or may_change_any(functions_of(m), what)",
    "may_change_any(functions_of(m), what)",
    tests=(f"{ANY}::test_a_list_is_changed_by_c_code",),
)
guard("changes: stores", "xs[0] = y changes a list", "if step.name in STORES:")
guard("changes: methods", "xs.append(y) changes a list", "return not (method and _loads(before, own))", "return False")
guard("changes: in place", "xs += [y] changes a list", "if operator not in INPLACE.values():", "if True:")
guard(
    "changes: another name",
    "xs = given or [] may be what is given",
    "made = at > 0 and not step.reached and (_makes(",
    "made = at > 0 and (_makes(",
)
guard(
    "changes: parameters",
    "a parameter is not a list that was made on the spot, if it was replaced by one",
    "return {name for name, made in fresh.items() if made}.difference(parameters)",
    "return {name for name, made in fresh.items() if made}",
)
guard(
    "changes: assigned attributes",
    "traced code reads an attribute that untraced code assigns",
    "rebound = name in stored and id(owner) in owners",
    "rebound = False",
)
guard(
    "changes: attributes assigned by name",
    "traced code reads an attribute that untraced code assigns by setattr",
    'if words & {"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"}:',
)

guard.of("capture/writes.py", ANY)
guard(
    "writes: rows kept short by others",
    "untraced code that calls embedding() with max_norm writes to the table",
    'w in ("out", "max_norm")',
    'w == "out"',
    tests=(LIBRARIES,),
)
guard(
    "writes: what is read off something unknown",
    "a property may give any part",
    "if not of or of in unknown}",
    "if not of}",
    tests=(LIBRARIES,),
)
guard(
    "writes: texts",
    "code may look a parameter up by a text",
    '| {("", text) for text in _texts(function)}',
    "",
    tests=(LIBRARIES,),
)
guard(
    "writes: items",
    "an item of a list of modules is one of its parts",
    "yield from inside(space[name])",
    "pass",
    tests=(LIBRARIES,),
)
guard(
    "writes: tensors",
    "a scale that another module writes to is no constant",
    "held += _read(things, functions)",
    "pass",
    tests=(f"{ANY}::test_untraced_code_writes_to_a_tensor_that_traced_code_reads",),
)
guard(
    "writes: tensors that are replaced",
    "another module may assign another weight",
    "held += (value for thing in things for value in _attributes(thing, names))",
    "pass",
    tests=(LIBRARIES,),
)
guard(
    "writes: every tensor",
    "for p in m.parameters(): p.mul_(2) names none of them",
    "if writes and any(_walks(",
    "if False and any(_walks(",
    tests=(f"{ANY}::test_untraced_code_writes_to_every_tensor",),
)
guard(
    "writes: statistics by a norm",
    "F.batch_norm in untraced code may update the statistics of a norm that is merged",
    "if norms:",
    "if False:",
    tests=(f"{ANY}::test_untraced_code_updates_the_statistics_of_a_norm[_by_a_norm]",),
)
guard(
    "writes: statistics by a module",
    "a norm in training mode that untraced code calls updates its statistics",
    "held: list[Any] = [t for m in things if isinstance(m, nn.Module) for t in updated_tensors(m)]",
    "held: list[Any] = []",
    tests=(f"{ANY}::test_untraced_code_updates_the_statistics_of_a_norm[_by_a_module]",),
)
guard(
    "writes: in place",
    "w /= 2 writes to a tensor, though no container has it",
    "or inplace_operator(step):",
    'or inplace_operator(step) in ("+=", "*="):',
    tests=(LIBRARIES,),
)

guard.of("capture/apart.py", APART)
guard(
    "apart: shared names",
    "a method that keeps something shares no list or tensor with the forward that calls it",
    "any(not mentioned.isdisjoint(reach.names) for reach in reaches.values())",
    "False",
    needless="what the trace reads of it, `shared` finds as well",
)
guard(
    "apart: what the forward changes",
    "the forward around such a method changes nothing that the method may read",
    "may_change_any(around)",
    "False",
)
guard(
    "apart: bases",
    "the code of a base that the forward goes through is not looked at",
    "any(map(_runs_a_base, around))",
    "False",
)
guard(
    "apart: shared tensors",
    "such a method gets at no memory that traced code reads",
    "if not (storages.isdisjoint(reach.storages) and containers.isdisjoint(reach.containers))",
    "if not containers.isdisjoint(reach.containers)",
)
guard(
    "apart: shared containers",
    "such a method gets at no list or dictionary that traced code reads",
    "if not (storages.isdisjoint(reach.storages) and containers.isdisjoint(reach.containers))",
    "if not storages.isdisjoint(reach.storages)",
)
guard(
    "apart: attributes by code",
    "a class that makes attributes up may hand out anything",
    "any(name in vars(base) for base in _own_classes(module) for name in ATTRIBUTES)",
    "False",
)
guard(
    "apart: properties",
    "a property runs code that nobody looked at",
    'if any(hasattr(own.get(name), "__get__") for own in classes):',
)
guard(
    "apart: what every module has",
    "self._parameters[name] = y replaces a parameter",
    'if name in INHERITED and name != "training":',
    needless="they are found in the module alone, where their tensors and the modules in them count as any other's",
)
guard(
    "apart: itself",
    "a method that hands self on",
    '"LOAD_METHOD"):\n                return None',
    '"LOAD_METHOD"):\n                continue',
)
guard(
    "apart: objects",
    "such a method gets at no module",
    "elif not reach.take(name, _value(module, name)):",
    tests=("tests/test_apart.py::test_norms_around_a_cached_bias_are_merged",),
)
guard(
    "apart: a state of its own",
    "a default or what is around a function is kept between calls",
    "if code.co_flags & LAZY or function.__closure__ or vars(function) or not all(map(_is_data, defaults)):",
    needless="what is kept in a default or around a function is compared, and code that changes it is not traced",
)
guard(
    "apart: other state",
    "a method that assigns attributes, or calls what may give None",
    "if any(s.name in OTHER_STATE or (type(s.value) is str and s.value in CHANGING | MAY_GIVE_NONE) for s in steps):",
)
guard(
    "apart: None",
    "the forward asks whether the method gave something",
    'return all("BUILD_SLICE" in (s.name for s in steps[at + 1 : at + 3]) for at in nones)',
    "return True",
)
guard(
    "apart: None as an attribute",
    "what is None now may be what the method gives",
    "return value is not None and type(value) in DATA",
    "return type(value) in DATA",
)
guard(
    "apart: globals",
    "a method that reads a table of its file's",
    "elif not _is_stateless(value):",
    needless="a table that changes while it is traced is seen by then, and one that does not is read at each call",
)
guard.of("capture/running.py", SYMBOLS)
guard(
    "running: questions",
    "what runs behind untraced code may ask whether that gave None",
    "if any(any(asks_for_none(code)) for code in running):",
)
guard(
    "running: what waits",
    "the function that called it goes on behind it",
    "running.update(self._outer(sys._getframe(1)))",
    "pass",
)
guard(
    "running: what is called",
    "a function that is called behind it may ask",
    'if event == "call" and _is_users(frame):',
    tests=(DETECTOR,),
)
guard(
    "running: profilers",
    "somebody else watches what runs",
    "if not self.watching and sys.getprofile() is not None:",
    tests=(DETECTOR,),
)
guard.of("capture/libraries.py", LIBRARIES)
guard(
    "libraries: the user's",
    "a file of the user's may do anything without importing torch",
    "if package in FOR_TORCH or not _is_installed(path):",
)
guard("libraries: for torch", "a library for torch may do anything to modules", "if found * FEW >= len(files):")
guard(
    "libraries: files beside",
    "a file beside may be imported later",
    'if beside.is_dir() or beside.with_suffix(".py").exists():',
)
guard(
    "libraries: files elsewhere",
    "another file may be imported later",
    "return found is not None and not _is_installed(",
    "return False and (",
)
guard.of("capture/results.py", APART, SYMBOLS)
guard(
    "parts: channels",
    "into how many parts a batch or an image goes depends on its size",
    'if given.get("dim") == 1 else None',
    "",
    tests=(DETECTOR,),
)
guard(
    "parts: activations",
    "GLU halves the channels",
    "if kind.__module__ != nn.ReLU.__module__ or kind in (nn.GLU, nn.MultiheadAttention):",
    tests=(DETECTOR,),
)
guard(
    "apart: what it gives later",
    "a merged forward was made for a method that gives a tensor",
    "if not isinstance(result, VALUES):",
    tests=(APART,),
)
guard(
    "results: modules that are not traced",
    "what code that cannot be traced gives may be anything",
    'if kind is None or "forward" in vars(module) or module._forward_hooks:',
    "if kind is None: return SINGLE\n    if False:",
    tests=(SYMBOLS,),
)
guard(
    "results: items",
    "an item of what may be anything may be anything",
    "return SINGLE if several == SINGLE or (several == SEVERAL and isinstance(index, int)) else UNKNOWN",
    "return SINGLE",
    tests=(SYMBOLS,),
)
guard(
    "results: methods",
    "a dictionary has methods, too, of other results",
    'return _by_schema(str(node.target)) if known and not node.kwargs.get("as_tuple") else UNKNOWN',
    'return _by_schema(str(node.target)) if not node.kwargs.get("as_tuple") else UNKNOWN',
    tests=(SYMBOLS,),
)
guard(
    "results: lists",
    "a list and a tensor in another are a list",
    "if any(isinstance(argument, list | tuple | dict) for argument in n.args):",
    tests=(SYMBOLS,),
    needless="what can be added to a list is no tensor, which the next condition finds",
)
guard(
    "results: operators",
    "the sum of a list is a list",
    "elif n is node or _gives(n, root) != SINGLE:",
    "elif n is node:",
    tests=(SYMBOLS,),
)
guard(
    "results: attributes",
    "the data of what may be anything may be anything",
    "return SINGLE if name in PARTS and isinstance(whole, fx.Node) and _gives(whole, root) == SINGLE else UNKNOWN",
    "return SINGLE",
    tests=(SYMBOLS,),
)
guard(
    "results: pass-throughs",
    "an identity gives what it is given",
    "if kind is nn.Identity or issubclass(kind, nn.modules.dropout._DropoutNd):",
    tests=(SYMBOLS,),
)
guard(
    "results: other modules of torch's",
    "a recurrent layer gives a tuple",
    'if _is_annotated(kind.forward) or getattr(module, "return_indices", None) is False:',
    "if True:",
    tests=(SYMBOLS,),
)
guard(
    "results: other functions",
    "a function of the user's may give anything",
    'if (getattr(function, "__module__", None) or "torch").split(".")[0] != "torch":',
    tests=(SYMBOLS,),
)
guard(
    "results: numbers",
    "item() gives a number",
    'if not returns or not {"Tensor", "List[Tensor]"}.issuperset(itertools.chain(*returns)):',
    tests=(SYMBOLS,),
)
guard(
    "results: several",
    "chunk() gives a tuple",
    'return SINGLE if all(types == ["Tensor"] for types in returns) else SEVERAL',
    "return SINGLE",
    tests=(SYMBOLS,),
)

guard.of("capture/bytecode.py", SYMBOLS)
guard(
    "bytecode: questions that no symbol hears",
    "builtins.isinstance",
    'if step.opname in READS and step.argval == "isinstance":',
)
guard(
    "bytecode: gradients",
    "a symbol has a gradient",
    "if step.opname in READS and step.argval in GRADIENTS and _asks_next(steps, at):",
)
guard(
    "bytecode: None that is an argument",
    "forward asks whether its argument is None",
    "arguments |= given & sources",
    "pass",
)
guard(
    "bytecode: None that was computed",
    "forward asks whether a result is None",
    'result = result or "" in sources',
    "pass",
)
guard(
    "bytecode: giving None",
    "code may give None",
    'if _is_none(step) and code.co_name != "__init__":',
)

guard.of("capture/code.py", SYMBOLS)
guard(
    "code: None in what is made",
    "a field of an object, or an item that is looked up, is None",
    "return any(gives_none(function.__code__) or _makes_object(function) for function in functions)",
    "return any(gives_none(function.__code__) for function in functions)",
)
guard(
    "code: overridden methods",
    "a method goes on with the one that it overrides",
    'if "super" in new:  # a method goes on with one that it overrides',
    "if False:",
    tests=(REACH,),
)
guard(
    "code: imports in functions",
    "a function imports a file",
    "self.hold(sys.modules[path])",
    "pass",
    tests=(REACH,),
)
guard("code: properties", "reading a property runs code", "return (value.fget,)", "return ()", tests=(REACH,))
guard(
    "code: partials",
    "what a partial is of",
    "return value.func, *value.args, *value.keywords.values()",
    "return ()",
    tests=(REACH,),
)
guard(
    "code: bound methods",
    "the object of a method",
    "return value.__func__, value.__self__",
    "return ()",
    tests=(REACH,),
)
guard("code: wrappers", "what a cache or a decorator is around", "return (wrapped,)", "return ()", tests=(REACH,))
guard(
    "code: methods that go on",
    "another method of the module goes on with branches by a private one",
    "ways = [_from(cls, method, but) for method in _entry_methods(cls)]",
    "ways = [[method] for method in _entry_methods(cls)]",
    tests=(REACH,),
)
guard(
    "code: other parts",
    "an attribute that is no part of what is merged may be another function by then",
    "and mentions_in(own)[0] <= parts",
    "",
    tests=(BENT,),
)
guard(
    "code: conditions",
    "forward with a condition in it does not do the same in every call",
    "alone = not branches and not others",
    "alone = not others",
    tests=(BENT,),
)
guard(
    "code: more than one way",
    "code that goes through parts without their names may do something else between them",
    'return {""} if branches or value[0] == "(" else set()',
    "return set()",
    tests=(BENT,),
)
guard(
    "code: what an overridden forward returns",
    "who calls it may do more with it",
    'if reader == "return" and code is not codes[0]:',
    "if False:",
    tests=(BENT,),
)
guard(
    "code: who calls an overridden forward",
    "its text does not say, and may do anything with the value",
    'for each in then)) if then else {""}',
    "for each in then)) if then else set()",
    tests=(BENT,),
)
guard(
    "code: values that others go on with",
    "a method gives a convolution's value to whoever calls it",
    'if reader != "return" or not goes_on}',
    'if reader != "return"}',
    tests=(TEXT,),
)
guard(
    "code: None in helpers",
    "a function that is handed the value asks whether it is None",
    "other = other or any(any(asks_for_none(f.__code__)) for f in helpers)",
    "pass",
)
guard(
    "code: modes that are held",
    "what a module holds under the name of a mode may be the mode",
    "return isinstance(value, nn.Module) or (type(value) in DATA and value is not None)",
    "return True",
    tests=(REACH,),
)
guard(
    "code: forwards of classes",
    "code that cannot be traced runs the forward of a class that was rewritten",
    "return frozenset(v for v in named if isinstance(v, type) and issubclass(v, nn.Module) and is_users(v))",
    "return frozenset()",
    tests=(UNTRACED,),
    needless="what the forward of a class mentions is found by the same walk, and stays",
)

guard.of("capture/text.py", TEXT)
guard(
    "text: another file",
    "a file that was edited since it was read",
    'if code.co_name == "<lambda>" or [code.co_name] == [getattr(node, "name", None) for node in tree.body]:',
    "if True:",
)
guard(
    "text: none",
    "a method without its text may do anything with a value",
    'return {name: {""} for name in names_in(code)}',
    "return {}",
)
guard(
    "text: other readers",
    "a value that is kept beside being handed on",
    'if part is not None and isinstance(outer, ast.Call) and value in outer.args else {""}',
    "if part is not None and isinstance(outer, ast.Call) and value in outer.args else set()",
)
guard(
    "text: one branch",
    "a variable that is another one on one way only",
    "elif self.block[self.around[use]] == block:  # whatever way is taken between the two",
    "else:",
)

guard(
    "text: loops",
    "a variable that is read the next time that a loop is gone through",
    "return found if loop is None else found + ",
    "return found or ",
    tests=(BENT,),
)

guard.of("capture/kinds.py", OWN, ANY, HAZARDS, REGRESSIONS)
guard(
    "statistics: rows kept short",
    "a table with max_norm is written to when it is read",
    "if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None:",
    tests=(AROUND,),
)
guard(
    "statistics: instance norms in eval mode",
    "an instance norm that does not use its statistics updates them all the same",
    'if getattr(m, "training", False) or _ignores_mode(m):',
    'if getattr(m, "training", False):',
    tests=(f"{HAZARDS}::test_an_instance_norm_that_updates_what_it_does_not_use",),
)
guard(
    "opaque: forwards on the instance",
    "a forward that was replaced on the instance",
    "if replaced is not None:",
    "if False:",
    tests=(
        f"{ANY}::test_modules_that_somebody_changed",
        f"{REGRESSIONS}::test_a_convolution_that_was_changed_after_it_was_built",
    ),
)
guard(
    "opaque: hooks",
    "a hook changes what a call does",
    'if hooks:\n            return f"{name}',
    'if False:\n            return f"{name}',
)
guard(
    "opaque: hooks on every module",
    "a hook changes what a call does",
    'if hooks:\n            return f"the hook',
    'if False:\n            return f"the hook',
    tests=(f"{REGRESSIONS}::test_a_hook_on_every_module",),
)
guard(
    "opaque: parametrized",
    "a parametrization is not a Sequential of torch's",
    'return "it is parametrized"',
    "return None",
    needless="torch has no such Sequential: a ParametrizationList is a ModuleList",
)
guard(
    "opaque: TorchScript",
    "TorchScript is not traced",
    'return "it is TorchScript"',
    "return None",
    tests=(f"{OWN}::test_a_flat_graph_that_calls_a_script",),
)
guard(
    "subclasses",
    "a subclass with a forward of its own does not do what its base does",
    "return base if same and plain else None",
    "return base if plain else None",
)
guard(
    "subclasses: _conv_forward",
    "a subclass with a _conv_forward of its own does not do what its base does",
    'CALL = ("forward", "_conv_forward",',
    'CALL = ("forward",',
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard("subclasses: changed later", "a class may get another forward between two merges", "_BUILTIN.clear()", "pass")

guard.of("capture/tracer.py", OWN, ANY, HAZARDS, REGRESSIONS)
guard(
    "trace: hooks on the whole",
    "a hook on a module that is traced by itself may write to its weights",
    "if hook:  # it stays around the forward, and what it does to the model counts",
    "if False:",
    tests=(AROUND,),
)
guard(
    "trace: modes that change functions",
    "a mode may change what a module's call does",
    "if entered_modes() > self.modes:",
    tests=(AROUND,),
)
guard(
    "trace: not seen",
    "code asks whether fx traces",
    "            is_not_seen()\n",
    "            pass\n",
    tests=(AROUND,),
)
guard(
    "trace: the way that an example takes",
    "a string, a boolean and None decide which way a forward takes",
    "if i < len(given) and _says_how(given[i]) and not (required and self.inner):",
    tests=(EXAMPLES,),
)
guard(
    "trace: optional arguments of an example",
    "the model is called with what the example gives",
    "not is_graph and i >= len(given):",
    "not is_graph:",
    tests=(EXAMPLES,),
)
guard(
    "trace: other threads",
    "what another thread runs is no part of the graph",
    "return threading.get_ident() != self.thread",
    "return False",
    tests=(THREADS,),
)
guard(
    "trace: weights",
    "what a forward did to weights while it was traced it does not do in the graph",
    "if kept.changed:",
    tests=(UNTRACED,),
)
guard(
    "trace: identity",
    "a symbol of a type is no type",
    "if self.asks(module).identity:",
    tests=(SYMBOLS,),
)
guard(
    "trace: arguments that may be None",
    "what code that cannot be traced gives is None, and another forward asks",
    "if any(map(self._may_be_none, iterate(asked))):",
    tests=(SYMBOLS,),
)
guard(
    "trace: inputs that may be None",
    "code that is not traced gives None to a module that is traced on its own",
    "if self.inner and (name in asks.nones or asks.handed):",
    tests=(SYMBOLS,),
)
guard(
    "trace: inputs of any kind",
    "code that is not traced gives a list to a module that is traced on its own",
    "proxy.node.meta[ANYTHING] = True",
    "pass",
    tests=(SYMBOLS,),
)
guard(
    "trace: results that may be None",
    "what code that cannot be traced gives is None, and its caller asks",
    "if self.asks(self.current.module).results and not self.running.note(self.current, name):",
    tests=(SYMBOLS,),
)
guard(
    "trace: functions that may give None",
    "a function that is not traced gives None, and the code asks",
    "if may_give_none(target):",
    tests=(SYMBOLS,),
)
guard(
    "trace: items that may be None",
    "an item of what code that cannot be traced gives is None",
    "whole = node.args[0] if node.target in (operator.getitem, getattr) else None",
    "whole = None",
    tests=(SYMBOLS,),
)
guard(
    "trace: iterators",
    "a trace would move an iterator of the caller's on",
    "if state.iterates:",
    tests=(KEPT,),
)
guard(
    "trace: arguments with defaults",
    "code that is not traced passes an argument that the graph has for a constant",
    "if inside and may_pass(caller, name, required, optional):",
    tests=(UNTRACED,),
)
guard(
    "trace: guesses of the whole",
    "a forward that catches an error of the tracer's is not traced",
    "if self.calls[0].guessed:",
)
guard("trace: guesses of a part", "a module that catches an error of the tracer's is not traced", "if call.guessed:")
guard(
    "trace: state of the whole",
    "a forward that changes the module is not traced",
    "if state.changed(but=set(self.tensor_attrs.values()) - state.attributes.keys()):",
)
guard("trace: state of a part", "a module that changes itself is not traced", "if state.changed():")
guard(
    "trace: random numbers",
    "a random number is drawn anew in each call",
    "no_random(type(root).__name__), ",
    "",
    tests=(f"{ANY}::test_code_around_a_join",),
)
guard(
    "trace: random numbers of a part",
    "only the module that draws random numbers is not traced",
    "with no_random(path) if self.watch_random else contextlib.nullcontext():",
    "with contextlib.nullcontext():",
    tests=(f"{ANY}::test_only_the_part_that_draws_random_numbers_is_not_traced",),
)
guard(
    "trace: calls of their own",
    "a module whose __call__ does more than its forward",
    "if type(m).__call__ is not nn.Module.__call__:",
    tests=(f"{REGRESSIONS}::test_a_call_of_its_own",),
)
guard(
    "trace: what untraced code is given",
    "a list that code which is not traced may change",
    "if holds_container(given) and may_change(code, given):",
)
guard(
    "trace: what wrapped functions are given",
    "a list that a function which is not traced may change",
    "self._keep_out(target, target.__name__, args, kwargs)",
    "pass",
)
guard(
    "trace: what methods are given",
    "a method that is called as it is gets numbers only, and gives a tensor",
    "if not numbers or not self._gives_tensor(module, method, args, kwargs):",
    "if False:",
    tests=(APART,),
)
guard(
    "capture: attributes that untraced code changes",
    "a module that reads a list which code that is not traced may change is not traced either",
    "if not found:\n            return pieces, opaque",
    "if True:\n            return pieces, opaque",
)
guard(
    "capture: attributes that untraced code changes, of the whole",
    "a graph of the whole model holds no list that code which is not traced may change",
    "if not found:\n            return piece\n",
    "if True:\n            return piece\n",
)
guard(
    "trace: keyword-only arguments",
    "an input that can only be given by name",
    "if parameter.kind is parameter.KEYWORD_ONLY:",
    needless="a proxy that is passed by position raises, and the model is not traced either",
)
guard(
    "trace: copies that are the original",
    "a module that refuses to be copied is left alone",
    "seen: set[nn.Module] = set(copied_not)",
    "seen: set[nn.Module] = set()",
    more=(('opaque = dict.fromkeys(copied_not, "its copy is itself")', "opaque = {}"),),
)
guard(
    "trace: forwards on the instance, of the whole",
    "a forward that was replaced on the instance",
    'raise TypeError("its forward is replaced on the instance")',
    "pass",
    tests=(AROUND, f"{ANY}::test_a_forward_on_the_instance_of_the_whole"),
    needless="the module counts as code that is not traced, and what the forward of its class names stays as it is",
)

guard.of("capture/watch.py", SIZES)
guard(
    "trace: the largest by a key",
    "max(h, w, key=...) is recorded without its key",
    "if symbols and not kwargs and all(",
    "if symbols and all(",
)
guard(
    "trace: the larger of two tensors",
    "whether a tensor is larger is not known while tracing",
    " and all(is_number(a.node) for a in symbols):",
    ":",
)

guard.of("capture/symbols.py", OWN, ANY, HAZARDS, REGRESSIONS)
guard(
    "symbols: keys",
    "a size is a key by its value",
    "if self._is_metadata() and not self.tracer.trying:",
    tests=(SYMBOLS,),
)
guard(
    "symbols: texts",
    "the text of a symbol is not that of a value",
    'if home not in ("torch", "fxrep") and not self.tracer.trying and MESSAGES.isdisjoint(frame.f_code.co_names):',
    tests=(SYMBOLS,),
)
guard(
    "symbols: classes",
    "a value is a tensor, wherever the code is",
    "return self._number() if is_number(self.node) else self._result()",
    "return type(self)",
    tests=(SYMBOLS,),
)
guard(
    "symbols: match",
    "match asks for the class of a symbol",
    "return asks_for_class(frame.f_code, frame.f_lasti)",
    "return False",
    tests=(SYMBOLS,),
)
guard(
    "symbols: types of numbers",
    "a size is an int, and half of it a float",
    "if node.target is operator.truediv:",
    tests=(SYMBOLS,),
)
guard(
    "symbols: types of other numbers",
    "a reciprocal is a float, and a list is no number",
    "return known or self.tracer.refuse(type)",
    "return known or int",
    tests=(SYMBOLS,),
)
guard(
    "symbols: what has a size",
    "what code that cannot be traced gives may have a shape of its own kind",
    "known = number_type(self.node) if reads_tensors(self.node, self.tracer.root) else None",
    "known = number_type(self.node)",
    tests=(SYMBOLS,),
)
guard(
    "trace: in-place operators",
    "x += y changes what other names of x see",
    "for _name in INPLACE:",
    "for _name in ():",
    tests=(f"{OWN}::test_a_trace_of_an_operator_in_place",),
)
guard(
    "trace: numbers",
    "size += 1 makes a new number",
    "if is_number(self.node):",
    tests=(f"{ANY}::test_code_around_a_join",),
)
guard(
    "trace: assigned attributes",
    "x.data = y changes x",
    'if name not in ("node", "tracer", "root", "attr", "_node", "_tensor"):',
)

guard.of("capture/scopes.py", OWN, ANY, HAZARDS, REGRESSIONS)
guard(
    "forward: ordered dictionaries",
    "a dictionary that is ordered has more methods than another",
    "if type(value) is OrderedDict:",
    tests=(BENT,),
)
guard(
    "forward: arguments that were given",
    "what code does without an argument the graph does not do",
    "if found.results or name in found.nones)",
    "if False)",
    tests=(EXAMPLES,),
)
guard(
    "forward: arguments that something is asked of",
    "what code goes through may ask whether an argument is None",
    "if found.results or name in found.nones)",
    "if name in found.nones)",
    tests=(EXAMPLES,),
)
guard(
    "forward: names that mean something",
    "a child that is called 'class' cannot be mentioned",
    "if keyword.iskeyword(name) or any(letter in name for letter in '\"\\\\\\n'):",
    tests=(f"{REGRESSIONS}::test_names_that_python_reads_as_something_else",),
)
guard("forward: changed arguments", "a graph leaves the list as it was that the code changed", "if self.call.changes:")
guard(
    "forward: results",
    "a forward that returns an object of its own class is not rewritten",
    "if not _is_plain(self.call.output):",
)
guard(
    "forward: arguments that do not fit",
    "a decorated forward may take other arguments",
    "raise Illegal(f\"the arguments of '{self.call.path}' do not fit its forward: {error}\") from None",
    "raise",
)
guard(
    "forward: one value twice",
    "a forward for one value given twice is not one for two values",
    "if len(set(handed)) < len(handed):",
)
guard(
    "forward: *args",
    "a forward that takes any number of arguments is not rewritten",
    "if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):\n                raise",
    "if False:\n                raise",
)
guard(
    "forward: defaults",
    "a default that cannot be written down is not rewritten",
    "raise Illegal(f\"forward of '{self.call.path}' has an argument {parameter}\")",
    "outer = self.graph.placeholder(name)",
)
guard(
    "forward: other values of arguments",
    "a forward for one value of a flag refuses another",
    "self.scope.guards[name] = value",
    "pass",
)
guard(
    "forward: entered from outside",
    "a node of another module's forward is not part of this one",
    "if owner.parent is None:",
    needless="the nodes of a call are consecutive, so all of them are inside of it",
)
guard(
    "forward: half of a child",
    "a child of which another part is used is still called",
    "if any(edits.gone[n] is self.call for n in vanishing):",
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard(
    "forward: modules of others",
    "a module that is not inside this one cannot be called by name",
    "if module not in self.modules:",
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard(
    "forward: objects",
    "an object that a graph refers to cannot be held by a module",
    "if not isinstance(value, Tensor):",
    tests=(f"{OWN}::test_an_object_that_a_graph_refers_to",),
)
guard(
    "forward: values of others",
    "a value that is not handed to a module is not there",
    "raise Illegal(f\"a value that '{self.call.path or 'the model'}' needs is not handed to it\")",
    "return None",
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard(
    "pass-throughs: what they return",
    "a forward that returns something else is no pass-through",
    "return inputs == [node]",
    "return bool(inputs)",
    tests=(f"{OWN}::test_forwards[a _conv_forward of its own]",),
)
guard(
    "pass-throughs: children",
    "a forward that calls a child is no pass-through",
    "if not isinstance(module_at(module, str(node.target)), nn.Identity):",
    tests=(f"{OWN}::test_forwards[a module behind what is merged]",),
)

guard.of("capture/forward.py", OWN, REGRESSIONS, ANY)
guard(
    "forward: slices",
    "a slice of a chain with a forward of its own has that one, and the merged modules",
    "if own and args and isinstance(args[0], OrderedDict):",
    tests=(UNTRACED,),
)
guard(
    "forward: other values of attributes",
    "a forward for one value of an attribute refuses another",
    "guards = guards | {_attribute(path, name): value for (path, name), value in reads.items()}",
    "guards = guards",
)
guard(
    "forward: types of values",
    "True is not 1",
    'kind += [f"isinstance({name}, bool)"] if type(value) is int else []',
    "pass",
    tests=(f"{RESULT}::test_torchscript_of_code_that_reads_settings",),
)
guard(
    "forward: values that are not equal to themselves",
    "NaN is NaN",
    'f"{name} != {base.__repr__(value)}" if value == value else f"{name} == {name}"',
    'f"{name} != {base.__repr__(value)}"',
    tests=(UNTRACED,),
)
guard(
    "forward: arguments that are no tensors",
    "a number where the code asked whether it is a tensor",
    'checks = "".join(map(_tensor_guard, tensors))',
    'checks = ""',
    tests=(UNTRACED,),
)
guard(
    "forward: lengths",
    "a list of more values has values that the graph does not read",
    'f"len({name}) != {len(value)}", ',
    "",
    tests=(UNTRACED,),
)
guard(
    "forward: entries",
    "a list of other numbers",
    'return [*([] if list(iterate(value)) else kind), f"len({name}) != {len(value)}", *inner]',
    'return [*([] if list(iterate(value)) else kind), f"len({name}) != {len(value)}"]',
    tests=(UNTRACED,),
)
guard(
    "forward: entries of dictionaries",
    "a dictionary of other numbers",
    'return [*kind, f"list({name}) != {list(value)!r}", *inner]',
    "return kind",
    tests=(UNTRACED,),
)
guard(
    "forward: members of enumerations",
    "another member of an enumeration",
    'return [f"{name} is not {known}.{value.name}"] if known else []',
    "return []",
    tests=(UNTRACED,),
)
guard(
    "forward: functions and classes",
    "another function",
    'return [f"{name} is not {known}"] if known else []',
    "return []",
    tests=(UNTRACED,),
)

guard.of("capture/observe.py", OWN, ANY)
guard(
    "observed: calls that differ",
    "a module that was called with several shapes has none",
    "len(alike) == 1 and isinstance(values[0], Tensor)",
    "isinstance(values[0], Tensor)",
    tests=(f"{OWN}::test_a_child_that_is_seen_with_one_channel_and_with_four",),
)

guard.of("capture/clone.py", OWN, ANY, RESULT)
guard(
    "copy: compiled calls",
    "the copy of a compiled module does not run the original",
    'copied.pop("_compiled_call_impl", None)',
    "pass",
)
guard(
    "copy: caches with gradients",
    "a tensor with a gradient that forward left behind refuses a copy",
    "if t.grad_fn is not None}",
    "if False}",
    needless="what refuses to be copied is shared; the forward that left the tensor behind puts another in its place",
)
guard(
    "copy: classes that copy in their own way",
    "a class with a __deepcopy__ of its own is left to use it",
    "all(getattr(kind, name, None) is ours for name, ours in PROTOCOL.items())",
    "True",
)

guard.of("capture/exported.py", OWN, EXPORT)
guard(
    "exported: buffers that are written to",
    "a program writes to a buffer that it never reads",
    "dead = self.used - read - self.written",
    "dead = self.used - read",
    tests=(EXPORT,),
)
guard(
    "export: gradients", "a program that computes gradients is refused", "if signature.backward_signature is not None:"
)
guard(
    "export: written buffers",
    "a program that writes to a buffer goes on doing so",
    "if spec.kind in mutations and isinstance(value, fx.Node) and spec.target in attributes:",
    tests=(f"{OWN}::test_exported_operators",),
)
guard(
    "export: preserved signatures",
    "values that a preserved signature names are kept",
    "piece.kept = {n for n in self.graph.nodes if n.name in named}",
    "piece.kept = set()",
)
guard(
    "export: modules",
    "a module that the graph calls is not looked into",
    "if reason:",
    tests=(f"{OWN}::test_a_flat_graph_that_calls_a_module_with_a_hook",),
)
guard(
    "export: taken names",
    "a merged weight does not take the name of something else",
    "piece.taken = self._taken()",
    "piece.taken = set()",
    tests=(f"{OWN}::test_exported_operators",),
)

GUARDS: list[Guard] = guard.guards

# Refusals without which nothing would be wrong: the file, how the message begins, and why.
NOT_GUARDS: dict[tuple[str, str], str] = {
    (
        "operators/norm.py",
        "the program computes the eps",
    ): "arithmetic with a node raises an error, which is a refusal, too",
    ("convmap.py", "the kernel of the two together"): "memory: an exact kernel that is too large to be worth it",
    ("convmap.py", "the kernel of all of them"): "memory: an exact kernel that is too large to be worth it",
    ("analysis/forms.py", "merging would cost more"): "cost: exact, but slower",
    ("operators/concat.py", "as one convolution they would cost more"): "cost: exact, but slower",
    ("operators/registry.py", "{op.program.describe(node)} is not linear"): "says that an operator has no rule",
}

# Lets a rule that trips stop the pass, which it must not do to a user: a guard that is out is noticed by that.
TRIPS: Edit = (
    "fxrep/operators/registry.py",
    "return _ask(self.combine, *operands)",
    "return self.combine(*operands)",
)

# What lets every merge pass unproved where the environment says so.
UNPROVED = "FXREP_UNPROVED"
NO_PROOF: list[Edit] = [
    (
        "fxrep/weights.py",
        "check = Check(region, device)",
        f"""if {UNPROVED!r} in __import__("os").environ:
            modules, weights = _convolutions(region, doubles.take, device)
            raise ArithmeticError
        check = Check(region, device)""",
    ),
    (
        "fxrep/weights.py",
        'return f"the check could not be run: {type(error).__name__}: {error}"',
        """if type(error) is not ArithmeticError:
            return f"the check could not be run: {type(error).__name__}: {error}"
        region.error = 0.0""",
    ),
]
