"""The registry: which rule reads which operator, and what a rule gets to see and says.

A rule is one short function. It takes an ``Operator`` (one node of the graph), and returns a ``Linear``: the operands
whose forms it combines, and how. It raises ``Illegal``, with a sentence for the report, where the operator is not
linear as called. ``docs/operators.md`` shows how to add one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from ..analysis.cost import Policy
from ..analysis.forms import Form, add
from ..analysis.program import Program
from ..capture.kinds import builtin_type
from ..convmap import Illegal
from ..deferred import Deferred, Weight


@dataclass(frozen=True)
class Stacked:
    """The forms of ``torch.stack(values, dim)``, which only a sum over ``dim`` can use."""

    forms: tuple[Form, ...]
    dim: int


@dataclass(frozen=True)
class Bordered:
    """A pad of ``form + shift``, of which only writes to its border can make something.

    ``form`` is padded with zeros; the shift is inside, and in the border once the sides that are ``missing`` (the axis
    after the channels', whether at its end, the width) hold it.
    """

    form: Form
    shift: Tensor
    missing: frozenset[tuple[int, bool, int]]


Value = Form | Stacked | Bordered
"""What can be told of a node's value."""

T = TypeVar("T")
W = TypeVar("W", bound=Weight)


def _ask(rule: Callable[..., T], *arguments: Any) -> T:
    """What a rule answers; one that trips over an unusual call must not stop the pass."""
    try:
        return rule(*arguments)
    except Illegal:
        raise
    except Exception as error:
        raise Illegal(f"it is called in a way that fxrep does not know: {error}") from error


@dataclass(frozen=True)
class Linear:
    """What a rule says of a node: its form is ``combine(*forms of operands)``.

    ``composes``: it may be cheaper to take the operand as a value of its own than to look into it (the input of a
    convolution). ``dtypes`` are the types that take part in the result's type. ``kind`` is what the report calls it, ""
    for what needs no mention. ``cancels``: how many times larger than its value are those whose difference it is once
    it is a scale and a shift. ``like`` is a value of which it reads the shape. ``crops``: of a small image it may leave
    nothing.
    """

    operands: tuple[fx.Node, ...]
    combine: Callable[..., Value]
    composes: bool = False
    dtypes: tuple[torch.dtype, ...] = ()
    kind: str = ""
    cancels: Callable[[], float] | None = None
    like: fx.Node | None = None
    crops: bool = False

    @property
    def convolves(self) -> bool:
        """Whether it has a kernel of its own, which a merge may change."""
        return self.kind in ("conv", "linear")

    def of(self, *operands: Value) -> Value:
        """What ``combine`` makes of the operands.

        Raises:
            Illegal: the forms do not fit.
        """
        return _ask(self.combine, *operands)


@dataclass(frozen=True)
class Operator:
    """One node as a rule sees it."""

    node: fx.Node
    program: Program
    policy: Policy

    @property
    def module(self) -> Any:
        return self.program.module(self.node)

    def arguments(self, names: str, **defaults: Any) -> list[Any]:
        """The call's arguments in the order of ``names``, positional or by keyword."""
        order = names.split()
        given = dict(zip(order, self.node.args, strict=False)) | dict(self.node.kwargs)
        if len(self.node.args) > len(order) or given.keys() - set(order):
            raise Illegal("it is called with arguments that fxrep does not know")
        missing = [name for name in order if name not in given and name not in defaults]
        if missing:
            raise Illegal(f"it is called without '{missing[0]}'")
        return [given.get(name, defaults.get(name)) for name in order]

    def value(self, argument: Any) -> fx.Node:
        """``argument`` as a value of the program."""
        if not isinstance(argument, fx.Node):
            raise Illegal("its operand is not a tensor of the program")
        return argument

    def constant(self, argument: Any, what: str) -> Tensor:
        """``argument`` as a constant tensor."""
        weight = self.weight(argument, what)
        return weight.compute() if isinstance(weight, Deferred) else weight

    def weight(self, argument: Any, what: str) -> Weight:
        """``argument`` as a constant tensor of which the shape alone may be needed."""
        return _usable(self.program.weight(argument), what)

    def rank(self, form: Form, node: fx.Node) -> int:
        """The number of axes of ``form``, the form of ``node``, after the channels'."""
        rank = self.known_rank(form, node)
        if rank is None:
            raise Illegal("the rank of its input is not known; pass example_inputs")
        return rank

    def axes(self, node: fx.Node) -> int:
        """The number of axes of ``node``."""
        if node not in self.program.ranks:
            raise Illegal("the rank of its input is not known; pass example_inputs")
        return self.program.ranks[node] + 2

    def known_axes(self, node: fx.Node) -> int | None:
        """As ``axes``; None if it is not known."""
        return self.program.ranks[node] + 2 if node in self.program.ranks else None

    def known_rank(self, form: Form, node: fx.Node) -> int | None:
        """As ``rank``; None if it is not known."""
        if form.rank is not None:
            return form.rank
        sources = {rank for rank in self.source_ranks(form) if rank is not None}
        return self.program.ranks.get(node, sources.pop() if len(sources) == 1 else None)

    def source_ranks(self, form: Form) -> list[int | None]:
        return [self.program.ranks.get(term.source) for term in form.terms]


def _usable(constant: W | None, what: str) -> W:
    if constant is None:
        raise Illegal(f"its {what} is computed from the input or written to")
    if constant.dtype.is_complex:
        raise Illegal(f"its {what} is complex")
    return constant


Rule = Callable[[Operator], Linear]

MODULES: dict[type[nn.Module], Rule] = {}
FUNCTIONS: dict[Any, Rule] = {}
METHODS: dict[str, Rule] = {}


def operator(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a rule for module types, functions and (as strings) tensor methods."""

    def register(rule: Rule) -> Rule:
        for target in targets:
            if isinstance(target, str):
                METHODS[target] = rule
            elif isinstance(target, type) and issubclass(target, nn.Module):
                MODULES[target] = rule
            else:
                FUNCTIONS[target] = rule
        return rule

    return register


def read(op: Operator) -> Linear:
    """Look up the rule for a node and ask it.

    Raises:
        Illegal: there is none, or the operator as called is not linear; the message says why.
    """
    node = op.node
    rule: Rule | None = None
    if node.op == "call_module":
        reason = op.program.piece.opaque.get(op.module)
        if reason:
            raise Illegal(reason)
        kind = builtin_type(op.module)
        rule = MODULES.get(kind) if kind is not None else None
    elif node.op == "call_function":
        rule = _function(node.target)
    elif node.op == "call_method":
        rule = METHODS.get(str(node.target))
    if rule is None:
        raise Illegal(f"{op.program.describe(node)} is not linear")
    linear = _ask(rule, op)  # which has more to say of a norm that writes to its own
    if node.op == "call_module" and op.program.writes_weights_of(op.module):
        raise Illegal("the forward writes to its weights")
    return linear


def _function(target: Any) -> Rule | None:
    try:
        return FUNCTIONS.get(target)
    except TypeError:  # an unhashable callable
        return None


def fixed(form: Form, rank: int | None) -> Form:
    """The form, of which it is now known which axis the channels are on."""
    return form if form.rank is not None else replace(form, rank=rank)


def align(constant: Tensor, rank: int | None, axes: int | None = None) -> Tensor:
    """A broadcast constant as one number, or one per channel: shape () or (channels,), in float64.

    The channel is the axis before the ``rank`` spatial ones. There are ``axes`` in all, if that is known; if not, an
    image is taken to be one of a batch, and a value without spatial axes may be a single vector.
    """
    constant = constant.double()
    most = axes if axes is not None else rank + 2 if rank else 1
    if constant.numel() == 1 and constant.dim() <= most:
        return constant.reshape(())
    if rank is None:
        raise Illegal("the rank of its input is not known, so neither is the axis that the constant runs along")
    if constant.dim() > most:
        may = "widens" if axes is not None or rank else "may widen"
        known = "" if axes is not None or rank else "; pass example_inputs"
        raise Illegal(f"a constant of shape {_shape(constant)} {may} a value with {rank} spatial axes{known}")
    channels = constant.shape[-1 - rank] if constant.dim() > rank else 1
    if channels != constant.numel():
        raise Illegal(f"a constant of shape {_shape(constant)} is not one number per channel")
    return constant.reshape(channels)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def fold(op: Operator, forms: tuple[Form, ...]) -> Form:
    """The sum of several forms."""
    return functools.reduce(lambda a, b: add(a, b, op.policy), forms)
