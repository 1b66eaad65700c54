"""Models as people write them: code around the blocks that a trace cannot see, or sees only once.

Every case is run twice before and after, on copies, in float64; outputs, their types and the state of the inputs must
agree.
"""

from __future__ import annotations

import collections
import copy
import heapq
import operator
import pickle
import random
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils._pytree import tree_leaves

import fxrep
from tests.blocks import ConvNorm
from tests.counting import count_ops
from tests.helpers import assert_unchanged, randomize, relative_error, run, snapshot


def assert_same(model: nn.Module, *inputs: Any, call: Callable[..., Any] | None = None) -> nn.Module:
    """``model`` before and after do the same, call after call, and ``model`` is left alone."""
    model, inputs = randomize(model).double(), inputs or (torch.randn(2, 4, 7, 6).double(),)
    run = call or (lambda model, *values: model(*values))
    state, names, before = snapshot(model), [name for name, _ in model.named_modules()], copy.deepcopy(model)
    after = fxrep.reparameterize(model)
    assert_unchanged(model, state)
    assert [name for name, _ in model.named_modules()] == names
    assert isinstance(after, type(model))
    for _ in range(2):
        expected, *found = [], [], []  # type: ignore[var-annotated]
        for each, values in ((before, expected), (model, found[0]), (after, found[1])):
            own = copy.deepcopy(inputs)
            with torch.no_grad():
                values += [run(each, *own), own]
        for values in found:
            _assert_equal(values, expected)
    return after


def _assert_equal(found: Any, expected: Any) -> None:
    assert _types(found) == _types(expected)
    for a, b in zip(_tensors(found), _tensors(expected), strict=False):
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= 1e-9


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Record) else value


def _types(value: Any) -> Any:
    inner = _plain(value)
    if isinstance(inner, dict):
        return type(value), {key: _types(v) for key, v in inner.items()}
    return (type(value), [_types(v) for v in inner]) if isinstance(inner, list | tuple) else type(value)


def _tensors(value: Any) -> list[Tensor]:
    leaves = [_plain(leaf) for leaf in tree_leaves(value)]
    return [t for leaf in leaves for t in (tree_leaves(leaf)) if isinstance(t, Tensor)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Join(nn.Module):
    """Two branches that ``both`` adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvNorm(4, 4, padding=1), ConvNorm(4, 4, 1)

    def both(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)


class Top(nn.Module):
    """Two blocks and a chain under a forward of the case's own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Join(), Join()])
        self.chain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.norm = ConvNorm(4, 4, 1)


def made(base: type[nn.Module], forward: Callable[..., Any], **attributes: Any) -> nn.Module:
    """An instance of ``base`` with another forward and more attributes."""
    model: nn.Module = type("Made", (base,), {"forward": forward})()
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            model.register_buffer(name, value)
        else:
            setattr(model, name, value)
    return model


# --------------------------------------------------------------------------- what a forward does beside its computation
class Record:
    """Holds what its subclasses declare."""


@dataclass
class Data(Record):
    a: Any
    b: Any = None


class Pair(NamedTuple):
    a: Any
    b: Any = None


def _keep(m: Any, x: Tensor) -> Tensor:
    m.kept = m.both(x)
    return m.kept * 2


def _keep_in_dict(m: Any, x: Tensor) -> Tensor:
    m.kept["x"] = m.both(x)
    return m.kept["x"] * 2


def _count(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return m.both(x) * m.count


def _assign(m: Any, x: Tensor) -> Tensor:
    m.count = m.count + 1
    return m.both(x) * m.count


def _made_and_written(m: Any, x: Tensor) -> Tensor:
    table = torch.ones(6, dtype=torch.float64)
    table.add_(x[0, 0, 0])
    table[0] = 3
    return m.both(x) + table


def _data(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    a.data = m.b(x)
    return a + x


def _guess(m: Any, x: Tensor) -> Tensor:
    try:
        size = int(x.shape[2])
    except TypeError:
        size = 1
    return m.both(x) * size


def _no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.both(x)


def _into_buffer(m: Any, x: Tensor) -> Tensor:
    total = m.total.add_(m.a(x))
    return total.add_(m.b(x)) * 1.0  # type: ignore[no-any-return]


def _into_input(m: Any, x: Tensor) -> Tensor:
    h = x.exp()
    x.add_(m.a(h))
    x.add_(m.b(h))
    return x.relu()


def _larger(m: Any, x: Tensor) -> Tensor:
    size = x.shape[2]
    size += 1
    return m.both(x) * size  # type: ignore[no-any-return]


def _with_grad(m: nn.Module, x: Tensor) -> Any:
    with torch.enable_grad():
        out = m(x)
    return out.detach(), out.requires_grad + 0.0, torch.tensor(float(out.requires_grad))


def _seeded(m: nn.Module, x: Tensor) -> Tensor:
    random.seed(1)
    random.random()
    return m(x)


AROUND: dict[str, tuple[Callable[..., Any], dict[str, Any], Any]] = {
    "a feature kept on the module": (_keep, {"kept": None}, lambda m, x: (m(x), m.kept)),
    "a feature kept in a dictionary": (_keep_in_dict, {"kept": {}}, lambda m, x: (m(x), m.kept["x"])),
    "a counter": (_count, {"count": 0}, None),
    "buffer assigned": (_assign, {"count": torch.zeros(())}, lambda m, x: (m(x), m.count.clone())),
    "a buffer counts": (_count, {"count": torch.zeros(())}, lambda m, x: (m(x), m.count.clone())),
    "a buffer is added to": (_into_buffer, {"total": torch.ones(2, 4, 7, 6)}, lambda m, x: (m(x), m.total.clone())),
    "the input is added to": (_into_input, {}, None),
    "a size is counted up": (_larger, {}, None),
    "a tensor made, written and added": (_made_and_written, {}, None),
    "x.data is replaced": (_data, {}, None),
    "random numbers of Python": (lambda m, x: m.both(x) * random.random(), {}, _seeded),
    "isinstance of the input": (lambda m, x: m.both(x) * (2 if isinstance(x, Tensor) else 1), {}, None),
    "hasattr of the input": (lambda m, x: m.both(x) * (2 if hasattr(x, "tensors") else 1), {}, None),
    "what cannot be traced is guessed": (_guess, {}, None),
    "the grad mode": (lambda m, x: m.both(x) * (2 if torch.is_grad_enabled() else 1), {}, _with_grad),
    "gradients off inside": (_no_grad, {}, _with_grad),
    "gradients off by a decorator": (torch.no_grad()(lambda m, x: m.both(x)), {}, _with_grad),
    "more arguments than named": (lambda m, x, *rest: m.both(x) + sum(rest), {}, lambda m, x: (m(x), m(x, x))),
    "more keywords than named": (lambda m, x, **r: m.both(x) + sum(r.values()), {}, lambda m, x: (m(x), m(x, z=x))),
    "a default that is not None": (lambda m, x, s=(1, 2): m.both(x) * s[0], {}, lambda m, x: (m(x), m(x, (3, 4)))),
    "the output is an OrderedDict": (lambda m, x: collections.OrderedDict(y=m.both(x), x=x), {}, None),
    "the output is a dataclass": (lambda m, x: Data(m.both(x), 3), {}, None),
    "the output is a NamedTuple": (lambda m, x: Pair(m.both(x), x), {}, None),
    "the output is a dictionary with numbers for keys": (lambda m, x: {0: m.both(x), (1, 2): x}, {}, None),
    "the output has sizes and None": (lambda m, x: (m.both(x), None, "y", x.shape, x.shape[0], x.dtype), {}, None),
}


@pytest.mark.parametrize("case", AROUND)
def test_code_around_a_join(case: str) -> None:
    forward, attributes, call = AROUND[case]
    assert_same(made(Join, forward, **attributes), call=call)


def _fill(m: Any, x: Tensor, outs: list[Tensor]) -> Tensor:
    outs.append(F.relu(m.both(x)))
    return outs[-1]


def _filled(m: Any, x: Tensor) -> Tensor:
    outs: list[Tensor] = []
    return m.other(m.child(x, outs), outs) + sum(outs)


def _through(m: Any, x: Tensor) -> Tensor:
    out = m.child(x)
    return F.relu(out.a) + out.b


def _through_dict(m: Any, x: Tensor) -> Tensor:
    out = m.child(x)
    return F.relu(out["y"]) + sum(out.values())


def _direct(m: Any, x: Tensor) -> Any:
    return m(x), m.child(x)


CHILDREN: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "a child's output is a NamedTuple": (lambda m, x: Pair(m.both(x), x), _through, _direct),
    "a child's output is a dataclass": (lambda m, x: Data(m.both(x), 3), _through, _direct),
    "a child's output is an OrderedDict": (AROUND["the output is an OrderedDict"][0], _through_dict, _direct),
    "a child fills its caller's list": (_fill, _filled, None),
    "a feature kept on the child": (_keep, lambda m, x: F.relu(m.child(x)), lambda m, x: (m(x), m.child.kept)),
}


@pytest.mark.parametrize("case", CHILDREN)
def test_what_passes_between_modules(case: str) -> None:
    inner, outer, call = CHILDREN[case]
    assert_same(made(nn.Module, outer, child=made(Join, inner), other=made(Join, inner)), call=call)


class Changes(nn.Module):
    """Changes the list that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ConvNorm(4, 4, 3, padding=1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        xs[0] = self.norm(xs[0]).relu()
        return xs[0] + xs[1]


class Reads(Changes):
    """Makes a list of its own."""

    def forward(self, xs: list[Tensor]) -> Tensor:
        outs = []
        for x in xs:
            outs.append(self.norm(x).relu())  # noqa: PERF401
        outs[1] = xs[1]
        count = len(outs)
        count += 1
        return outs[0] + outs[1]


@pytest.mark.parametrize("changes", [False, True])
def test_untraced_code_is_given_a_list(changes: bool) -> None:
    """What is done around it is merged, unless it may change the list."""

    def forward(m: Any, x: Tensor) -> Tensor:
        xs = [x, x]
        y = m.stage(xs)
        return m.both(y) + xs[0]

    inner = Changes() if changes else Reads()
    inner.register_forward_hook(lambda *_: None)
    after = assert_same(made(Join, forward, stage=nn.Sequential(inner)))
    convs = 1 + 2 if changes else 2 + 1
    assert count_ops(after, torch.randn(2, 4, 8, 8).double())["conv"] == convs
    assert ("Made" in fxrep.report(after).opaque) == changes


@pytest.mark.parametrize("reads", [False, True])
def test_a_traced_module_changes_a_list_that_it_is_given(reads: bool) -> None:
    """It keeps its forward, and so does whoever reads the list afterwards; the rest is merged."""

    def forward(m: Any, x: Tensor) -> Tensor:
        xs = [x, x]
        y = m.stage(xs)
        return m.both(y) + (xs[0] if reads else x)

    def inner(m: Any, xs: list[Tensor]) -> Tensor:
        xs[0] = m.changes(xs) + 1
        return m.both(xs[0]).relu()

    child = made(Join, inner, changes=Changes())
    after = assert_same(made(Join, forward, stage=nn.Sequential(child)))
    assert count_ops(after, torch.randn(2, 4, 8, 8).double())["conv"] == 1 + 2 + (2 if reads else 1)
    assert not fxrep.report(after).opaque


def _given(give: Callable[[Tensor], Any], read: Callable[[Any], Any]) -> Callable[..., Any]:
    """A forward that hands its child a container, under one name or another, and reads it afterwards."""

    def forward(m: Any, x: Tensor) -> Tensor:
        container = give(x)
        y = m.child(x, container) if m.child is m.other else m.child(x, to=container)
        return m.both(y) + read(container)

    return forward


def _set_first(x: Tensor, to: Any) -> None:
    to[0] = x


def _add_to(x: Tensor, to: Any) -> None:
    to += [x]


def _set_field(x: Tensor, to: Any) -> None:
    to.b = x


def _delete(x: Tensor, to: Any) -> None:
    del to[0]


def _slice(x: Tensor, to: Any) -> None:
    to[:1] = [x]


def _alias(x: Tensor, to: Any) -> None:
    outs = to or []
    outs.append(x)


def _replaced(x: Tensor, to: Any) -> None:
    to.append(x)
    to = []
    to.append(x)


def _item_of_own(x: Tensor, to: Any) -> None:
    own = [to]
    own[0].append(x)


GIVEN: dict[str, tuple[Callable[[Tensor], Any], Callable[..., None], Callable[[Any], Any]]] = {
    "a list grows": (lambda x: [], lambda x, to: to.append(x), sum),
    "an entry of a list": (lambda x: [x], _set_first, sum),
    "a list shrinks": (lambda x: [x, x], lambda x, to: to.pop(), sum),
    "an entry is deleted": (lambda x: [x, x], _delete, sum),
    "a slice": (lambda x: [x * 2, x], _slice, sum),
    "a list in place": (lambda x: [x], _add_to, sum),
    "a list by another name": (lambda x: [x], _alias, sum),
    "a list whose name is used again": (lambda x: [x], _replaced, sum),
    "a list in a list of its own": (lambda x: [x], _item_of_own, sum),
    "the length of a list": (lambda x: [x], lambda x, to: to.append(x), len),
    "a dictionary": (lambda x: {"a": x}, lambda x, to: to.update(b=x), lambda d: sum(d.values())),
    "a default": (lambda x: {}, lambda x, to: to.setdefault("a", x), lambda d: sum(d.values())),
    "an OrderedDict": (lambda x: collections.OrderedDict(a=x), lambda x, to: to.clear(), len),
    "a list in a tuple": (lambda x: (x, [x]), lambda x, to: to[1].append(x), lambda t: sum(t[1])),
    "a list in a dictionary": (lambda x: {"a": [x]}, lambda x, to: to["a"].insert(0, x), lambda d: sum(d["a"])),
    "a dataclass": (lambda x: Data(x, x), _set_field, lambda d: d.b),
    "by an operator": (lambda x: [x], lambda x, to: operator.setitem(to, 0, x), sum),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("case", GIVEN)
def test_untraced_code_changes_what_it_is_given(case: str, named: bool) -> None:
    give, change, read = GIVEN[case]

    def inner(m: Any, x: Tensor, to: Any) -> Tensor:
        y = m.both(x)
        if not unseen(y):
            change(y * 2, to)
        return F.relu(y)  # type: ignore[no-any-return]

    child = made(Join, inner)
    assert_same(made(Join, _given(give, read), child=child, other=made(Join, inner) if named else child))


def test_a_module_hands_on_what_untraced_code_changes() -> None:
    """Neither the one that hands it on nor the one that it is from can be traced, and all three are merged inside."""

    def inner(m: Any, x: Tensor, to: list[Tensor]) -> Tensor:
        y = m.both(x)
        if not unseen(y):
            to.append(y * 2)
        return y  # type: ignore[no-any-return]

    middle = made(Join, lambda m, x, to: F.relu(m.child(x, to)), child=made(Join, inner))
    after = assert_same(made(Join, _given(lambda x: [], sum), child=middle, other=None))
    assert set(fxrep.report(after).opaque) == {"Made", "child", "child.child"}


def _append_to(m: Any, x: Tensor, to: list[Tensor]) -> Tensor:
    to.append(x * 2)
    return F.relu(m.both(x))


def _replace_forward(model: Any) -> None:
    model.forward = types.MethodType(_append_to, model)


UNSEEN_CHANGES: dict[str, Callable[[Any], Any]] = {
    "a forward on the instance": _replace_forward,
    "a pre-hook": lambda m: m.register_forward_pre_hook(lambda _, args: args[1].append(args[0])),
    "a pre-hook that is an object": lambda m: m.register_forward_pre_hook(Hook()),
}


class Hook:
    def __call__(self, _: nn.Module, args: Any) -> None:
        args[1].append(args[0])


@pytest.mark.parametrize("case", UNSEEN_CHANGES)
def test_a_list_is_changed_beside_the_forward(case: str) -> None:
    child = made(Join, lambda m, x, to: F.relu(m.both(x)))
    UNSEEN_CHANGES[case](child)
    assert_same(made(Join, _given(lambda x: [], sum), child=child, other=child))


class Pushes(nn.Module):
    """Its forward is C code, which nobody can look into."""

    forward = staticmethod(heapq.heappush)


def test_a_list_is_changed_by_c_code() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        xs: list[Tensor] = []
        m.child(xs, x.sin())  # a value of its own: it may write to what it is given
        return m.both(x) + sum(xs)

    child = Pushes()
    child.register_forward_hook(lambda *_: None)
    assert_same(made(Join, forward, child=child))


@torch.fx.wrap
def fills(x: Tensor, to: list[Tensor]) -> Tensor:
    for _ in range(len(x)):
        to.append(x * 2)  # noqa: PERF401
    return F.relu(x)


def test_a_wrapped_function_changes_a_list() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        xs: list[Tensor] = []
        y = F.relu(m.both(fills(x, xs)))
        return y + sum(xs)

    assert_same(made(Join, forward))


def _append(m: Any, x: Tensor) -> Tensor:
    y = m.both(x)
    if not unseen(y):
        m.kept.append(y * 2)
    return y  # type: ignore[no-any-return]


def _rebind(m: Any, x: Tensor) -> Tensor:
    y = m.both(x)
    m.kept = 1 if unseen(y) else 2
    return y  # type: ignore[no-any-return]


def _rebind_by_name(m: Any, x: Tensor) -> Tensor:
    y = m.both(x)
    setattr(m, "kept", 1 if unseen(y) else 2)  # noqa: B010
    return y  # type: ignore[no-any-return]


def _read_before(m: Any, x: Tensor) -> Tensor:
    kept = m.kept
    y = m.child(x)
    return m.both(y) + sum(kept)  # type: ignore[no-any-return]


def _read_by_another(m: Any, x: Tensor) -> Tensor:
    return m.reader(m.child(x))  # type: ignore[no-any-return]


KEPT: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any, tuple[str, ...]]] = {
    "a list of the caller's": (_append, lambda m, x: m.both(m.child(x)) + sum(m.kept), [], ("child", "")),
    "a list of the child's": (_append, lambda m, x: m.both(m.child(x)) + sum(m.child.kept), [], ("child",)),
    "a list that was read before": (_append, _read_before, [], ("child", "")),
    "a list that another module reads": (_append, _read_by_another, [], ("child", "reader")),
    "a number": (_rebind, lambda m, x: m.both(m.child(x)) * m.child.kept, 1, ("child",)),
    "a number by name": (_rebind_by_name, lambda m, x: m.both(m.child(x)) * m.child.kept, 1, ("child",)),
    "a tensor": (_rebind, lambda m, x: m.both(m.child(x)) * m.child.kept, "tensor", ("child",)),
}


@pytest.mark.parametrize("case", KEPT)
def test_untraced_code_changes_what_traced_code_reads(case: str) -> None:
    inner, outer, kept, owners = KEPT[case]
    model = made(Join, outer, child=made(Join, inner))
    model.reader = made(Join, lambda m, x: m.both(x) + sum(m.kept))
    kept = torch.tensor(1.0) if isinstance(kept, str) else copy.copy(kept)
    for owner in owners:
        object.__setattr__(model.get_submodule(owner), "kept", kept)
    assert_same(model)
    if "reader" in owners:
        fxrep.trace(model)  # it is a leaf
    else:
        with pytest.raises(RuntimeError, match=r"it reads \.kept"):
            fxrep.trace(model)


def test_a_tensor_made_on_the_device_of_another() -> None:
    """In torch 2.5 the factories do not take a symbol for a device."""

    def forward(m: Any, x: Tensor) -> Tensor:
        makers = (torch.zeros, torch.empty, torch.ones)
        zeros, _, ones = (make((x.shape[0], 4, 1, 1), device=x.device, dtype=x.dtype) for make in makers)
        full = torch.full((1,), 2.0, device=x.device, dtype=x.dtype)
        return (m.both(x) + zeros) * (ones + full + torch.arange(4, device=x.device)[:, None, None])

    model, x = randomize(made(Join, forward)).double(), torch.randn(2, 4, 8, 8).double()
    zeros, deploy = torch.zeros, fxrep.reparameterize(model)
    with torch.no_grad():
        assert relative_error(deploy(x), model(x)) <= 1e-9
    assert count_ops(deploy, x)["conv"] == 1
    assert torch.zeros is zeros
    assert not fxrep.report(deploy).opaque


def test_a_list_is_stacked_and_summed() -> None:
    """The number of values in a stack is not known where the list comes from outside."""
    model = made(Join, lambda m, xs: m.a.conv(torch.stack(xs).sum(0)))
    x = torch.randn(2, 4, 5, 5).double()
    assert_same(model, [x, x])


# ------------------------------------------------------------------------------------------------ code that is not seen
def unseen(x: Tensor) -> bool:
    """Control flow on a value, which no symbolic trace goes past."""
    return bool(x.sum() > 1e12)


class Settings:
    """An object, and a class, that code counts on."""

    n = 0


COUNTS: list[int] = []
COUNTED: dict[str, int] = {}


def _kept(change: Callable[[Any], Any], read: Callable[[Any], Any]) -> Callable[..., Any]:
    def forward(m: Any, x: Tensor) -> Tensor:
        change(m.kept)
        return m.both(x) * read(m.kept)  # type: ignore[no-any-return]

    return forward


def _increase(kept: Any) -> None:
    kept["n"] = kept.get("n", 0) + 1


def _increase_attribute(kept: Any) -> None:
    kept.n += 1


def _global_list(m: Any, x: Tensor) -> Tensor:
    COUNTS.append(1)
    return m.both(x) * len(COUNTS)  # type: ignore[no-any-return]


def _helper() -> int:
    COUNTED["n"] = COUNTED.get("n", 0) + 1
    return COUNTED["n"]


def _class(m: Any, x: Tensor) -> Tensor:
    Settings.n += 1
    return m.both(x) * Settings.n  # type: ignore[no-any-return]


def _own_class(m: Any, x: Tensor) -> Tensor:
    type(m).n = getattr(type(m), "n", 0) + 1
    return m.both(x) * type(m).n  # type: ignore[no-any-return]


def _child_attribute(m: Any, x: Tensor) -> Tensor:
    m.child.kept = m.child.kept + 1
    return m.both(x) + m.child(x) * m.child.kept  # type: ignore[no-any-return]


def _child_list(m: Any, x: Tensor) -> Tensor:
    m.child.kept.append(1)
    return m.both(x) + m.child(x) * len(m.child.kept)  # type: ignore[no-any-return]


STATES: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "a deque": (_kept(lambda k: k.append(1), len), collections.deque),
    "an OrderedDict": (_kept(_increase, lambda k: k["n"]), collections.OrderedDict),
    "a defaultdict": (_kept(_increase, lambda k: k["n"]), lambda: collections.defaultdict(int)),
    "an object": (_kept(_increase_attribute, lambda k: k.n), Settings),
    "a namespace": (_kept(_increase_attribute, lambda k: k.n), lambda: types.SimpleNamespace(n=0)),
    "a list in a list": (_kept(lambda k: k[0].append(1), lambda k: len(k[0])), lambda: [[]]),
    "a set in a tuple": (_kept(lambda k: k[0].add(len(k[0])), lambda k: len(k[0])), lambda: (set(),)),
    "a list in an object": (_kept(lambda k: k.n.append(1), lambda k: len(k.n)), lambda: types.SimpleNamespace(n=[])),
    "a global list": (_global_list, int),
    "a global dictionary, in a helper": (lambda m, x: m.both(x) * _helper(), int),
    "a class": (_class, int),
    "its own class": (_own_class, int),
    "an attribute of a child": (_child_attribute, lambda: 0),
    "a list of a child": (_child_list, list),
}


@pytest.mark.parametrize("case", STATES)
def test_traced_code_counts_its_calls(case: str) -> None:
    """What was there while it was traced is not there the next time."""
    forward, make = STATES[case]

    def reset() -> None:
        COUNTS.clear()
        COUNTED.clear()
        Settings.n = type(model).n = 0

    model = made(Join, forward, child=made(Join, lambda m, x: m.both(x)))
    model, x = randomize(model).double(), torch.randn(2, 4, 8, 8).double()
    for owner in (model, model.child):
        owner.kept = make()
    reset()
    deploy = fxrep.reparameterize(model)
    assert not COUNTS
    assert not COUNTED
    assert Settings.n == type(model).n == 0
    expected = [run(model, x) for _ in range(3)]
    reset()
    assert all(relative_error(run(deploy, x), each) <= 1e-9 for each in expected)


WRITES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda m: m.kept.add_(1),
    "an item": lambda m: m.kept.__setitem__(0, 3.0),
    "out": lambda m: torch.mul(m.kept, 2, out=m.kept),
    "replaced": lambda m: setattr(m, "kept", m.kept * 2),
    "through data": lambda m: m.kept.data.mul_(2),
    "in a list": lambda m: m.held[0].add_(1),
    "of a norm": lambda m: m.b.bn.running_mean.add_(1),
}


@pytest.mark.parametrize("case", WRITES)
def test_untraced_code_writes_to_a_tensor_that_traced_code_reads(case: str) -> None:
    def inner(m: Any, x: Tensor) -> Any:
        WRITES[case](m)
        return m.both(x if unseen(x) else -x)

    child = made(Join, inner, kept=torch.ones(4, 1, 1))
    model = made(Join, lambda m, x: m.both(m.child(x)) * m.child.kept + m.child.b(x), child=child)
    model, x = randomize(model).double(), torch.randn(2, 4, 8, 8).double()
    child.held = [child.kept]
    deploy = fxrep.reparameterize(model)
    assert fxrep.report(deploy).merged
    for _ in range(2):
        assert relative_error(run(deploy, x), run(model, x)) <= 1e-9


def _by_a_norm(m: Any, x: Tensor) -> Any:
    F.batch_norm(x, m.mean, m.var, training=True)
    return m.a(x if unseen(x) else -x)


def _by_a_module(m: Any, x: Tensor) -> Any:
    m.held[0](x)
    return m.a(x if unseen(x) else -x)


@pytest.mark.parametrize("inner", [_by_a_norm, _by_a_module])
def test_untraced_code_updates_the_statistics_of_a_norm(inner: Any) -> None:
    child = made(Join, inner)
    model = made(Join, lambda m, x: m.child(x.sin()) + m.both(x), child=child)
    model, x = randomize(model).double(), torch.randn(2, 4, 8, 8).double()
    child.mean, child.var = model.b.bn.running_mean, model.b.bn.running_var
    if inner is _by_a_module:
        child.held = [nn.BatchNorm2d(4).double()]  # no part of it, which would be looked at as such
        child.held[0].running_mean, child.held[0].running_var = child.mean, child.var
        del child.mean, child.var
    deploy = fxrep.reparameterize(model)
    before = copy.deepcopy(model)
    for _ in range(2):
        assert relative_error(run(deploy, x), run(before, x)) <= 1e-9


def test_untraced_code_writes_to_every_tensor() -> None:
    """And names none of them."""

    def inner(m: Any, x: Tensor) -> Any:
        y = x if unseen(x) else -x  # a trace ends here
        for tensor in m.parameters():
            tensor.mul_(1.5)
        return y

    child = made(nn.Module, inner)
    child.register_parameter("kept", nn.Parameter(torch.ones(4, 1, 1)))
    model = made(Join, lambda m, x: m.both(m.child(x)) * m.child.kept, child=child)
    model, x = randomize(model).double(), torch.randn(2, 4, 8, 8).double()
    deploy = fxrep.reparameterize(model)
    assert fxrep.report(deploy).merged
    for _ in range(2):
        assert relative_error(run(deploy, x), run(model, x)) <= 1e-9


def test_one_part_writes_to_a_tensor_that_another_reads() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.reads(m.writes(x if unseen(x) else -x))

    count = torch.ones(())
    writes = made(Join, lambda m, x: m.both(x) * m.count.add_(1), count=count)
    reads = made(Join, lambda m, x: m.both(x) * m.count, count=count)
    model, x = made(nn.Module, forward, writes=writes, reads=reads), torch.randn(2, 4, 8, 8).double()
    model = randomize(model).double()
    reads._buffers["count"] = writes._buffers["count"]
    deploy = fxrep.reparameterize(model)
    assert len(fxrep.report(deploy).merged) == 2
    for _ in range(2):
        assert relative_error(run(deploy, x), run(model, x)) <= 1e-9


def _by_index(m: Any, x: Tensor) -> Any:
    for i in range(len(m.blocks)):
        x = m.blocks[i](x)
    return x if unseen(x) else (x, m.norm(x), m.norm.conv.stride)


def _by_getattr(m: Any, x: Tensor) -> Tensor:
    out = getattr(m, "norm")(x)  # noqa: B009
    return out if unseen(x) else out + getattr(m.norm, "".join(["co", "nv"]))(x)


def _attributes(m: Any, x: Tensor) -> Any:
    number = 0
    for child in m.chain:
        x, number = child(x), number + child.i
    return x if unseen(x) else (x, number)


def _by_type(m: Any, x: Tensor) -> Tensor:
    for child in m.chain:
        x = child(x) * (2 if isinstance(child, nn.BatchNorm2d) else 1)
    return x if unseen(x) else x * 1


def _by_class(m: Any, x: Tensor) -> Tensor:
    for child in m.blocks:
        x = child(x) * (2 if type(child) is Join else 1)
    return x if unseen(x) else x * 1


def _all_modules(m: Any, x: Tensor) -> Tensor:
    out = m.blocks[0](x)
    return out if unseen(x) else out + sum(c(x) for c in m.modules() if isinstance(c, nn.Conv2d))


def _count(m: Any, x: Tensor) -> Tensor:
    out = m.chain(x)
    return out if unseen(x) else out + m.chain[0](x) * (1 + len([*m.chain[1].children()]))


def _early_exit(m: Any, x: Tensor) -> Any:
    features = []
    for block in m.blocks:
        x = block(x)
        if unseen(x):
            break
        features.append(m.norm(x))
    return features, m.chain(x)


HELPERS = {"mean": lambda m: m.functional.wide.mean()}

UNSEEN: dict[str, Callable[..., Any]] = {
    "children by index, and their attributes": _by_index,
    "a name made at run time": _by_getattr,
    "a child's attribute for each block of a list": _attributes,
    "a norm told by its type": _by_type,
    "a __class__ check in untraced code": _by_class,
    "loops over modules()": _all_modules,
    "a count of the children of a norm": _count,
    "a loop over parameters()": lambda m, x: m.blocks[0](x) + sum(p.sum() for p in m.parameters()),
    "early exits": _early_exit,
    "slices of a Sequential": lambda m, x: m.chain[2:](m.chain[:2](x)),
    "weights read by a helper in a table": lambda m, x: x if unseen(x) else m.functional(x) * HELPERS["mean"](m),
    "weights read by untraced code": lambda m, x: x if unseen(x) else m.functional(x) * m.functional.wide.mean(),
}


class Functional(nn.Module):
    """Branches without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.wide, padding=1) + F.conv2d(x, self.point)

    def penalty(self) -> Tensor:
        return self.wide.square().sum()


class Read(Functional):
    """Reads a weight once more, in forward and beside it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu() * self.wide.mean()

    def raw(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.point)


class ReadBeside(Functional):
    def raw(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.wide)


@pytest.mark.parametrize("case", UNSEEN)
def test_tops_that_cannot_be_traced(case: str) -> None:
    model: Any = made(Top, UNSEEN[case])
    model.functional = Functional()
    for i, child in enumerate(model.chain):
        child.i = i
    assert_same(model)


def _two_ways(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.norm(m.conv(x)) + m.point(x))


def _chain(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.norm(m.conv(x)))


class Entries(nn.Module):
    """More ways in than ``forward``, which does not call them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.point = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.valid = nn.Conv2d(4, 4, 3)

    def raw(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def head(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def joined(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x) + self.point(x))

    def embed(self, x: Tensor) -> Tensor:
        return self.point(x)

    def parts(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.point(x)


ENTRIES: dict[str, tuple[nn.Module, Any]] = {
    "a method beside forward: the conv of a chain": (made(Entries, _chain), lambda m, x: (m(x), m.raw(x))),
    "a method beside forward: the chain itself": (made(Entries, _chain), lambda m, x: (m(x), m.features(x))),
    "a method beside forward: the parts of a join": (made(Entries, _two_ways), lambda m, x: (m(x), m.parts(x))),
    "a method beside forward: what follows a join": (
        made(Entries, lambda m, x: m.norm(m.conv(x) + m.point(x))),
        lambda m, x: (m(x), m.head(x)),
    ),
    "a method beside forward: the join and what follows it": (
        made(Entries, lambda m, x: m.joined(x)),
        lambda m, x: (m(x), m.joined(x)),
    ),
    "a method beside forward: the first of two convolutions": (
        made(Entries, lambda m, x: m.valid(m.point(x))),
        lambda m, x: (m(x), m.embed(x)),
    ),
    "a method that forward calls": (made(Entries, lambda m, x: m.parts(x)), lambda m, x: (m(x), m.parts(x))),
    "a method beside forward: a weight": (ReadBeside(), lambda m, x: (m(x), m.raw(x))),
    "a weight that forward reads once more": (Read(), lambda m, x: (m(x), m.raw(x))),
    "a head and a block on their own": (
        made(Top, lambda m, x: m.norm(m.blocks[1](m.blocks[0](x)))),
        lambda m, x: (m(x), m.norm(x), m.blocks[0](x)),
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_several_ways_in(case: str) -> None:
    model, call = ENTRIES[case]
    assert_same(model, call=call)


def test_a_method_that_reads_a_weight() -> None:
    """It is not there any more, which is an error and no other number."""
    model = randomize(Functional())
    assert model.penalty().isfinite()
    with pytest.raises(AttributeError):
        fxrep.reparameterize(model).penalty()


# --------------------------------------------------------------------------------------------- what changes afterwards
class Switched(Join):
    """What it computes depends on its own attributes and on those of what it holds."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.switch, self.factor, self.sizes, self.note = False, 1.0, (1, 2), "unread"
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        out = self.both(x) + self.branch(x)
        return out * -1 if self.switch else out * self.factor * self.sizes[0]


class Scaled(nn.Module):
    def __init__(self, nonlinear: bool) -> None:
        super().__init__()
        self.conv, self.factor, self.nonlinear = nn.Conv2d(4, 4, 1), 2.0, nonlinear

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return (out.relu() if self.nonlinear else out) * self.factor


@pytest.mark.parametrize(("name", "value"), [("switch", True), ("factor", 2.0), ("sizes", (2, 2)), ("switch", 0)])
def test_an_attribute_that_a_merged_forward_read_is_changed(name: str, value: Any) -> None:
    after: Any = assert_same(Switched(Scaled(nonlinear=False)))
    x = torch.randn(1, 4, 5, 5).double()
    assert count_ops(after, x) == {"conv": 1}
    after.note = "changed"
    after(x)
    setattr(after, name, value)
    with pytest.raises(ValueError, match=rf"for self\.{name}=.*; merge it again"):
        after(x)


def test_an_attribute_of_a_module_that_keeps_its_forward_is_changed() -> None:
    model: Any = Switched(Scaled(nonlinear=True))
    after: Any = assert_same(model)
    x = torch.randn(1, 4, 5, 5).double()
    for each in (model, after):
        each.branch.factor = 3.0
    assert count_ops(after, x) == {"conv": 2, "add": 1}
    assert relative_error(after(x), model(x)) <= 1e-9


# --------------------------------------------------------------------------------------------------- changes to modules
def _hook(model: Any) -> None:
    model.a.register_forward_hook(lambda m, args, out: out * m.conv.weight.mean())


def _instance_forward(model: Any) -> None:
    model.a.forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 2, model.a)


def _conv_forward(model: Any) -> None:
    model.a.conv.forward = types.MethodType(lambda self, x: nn.Conv2d.forward(self, x) * 2, model.a.conv)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a hook that reads a child": _hook,
    "a hook that returns more": lambda m: m.register_forward_hook(lambda _, args, out: (out, args[0])),
    "a hook with keywords": lambda m: m.a.register_forward_hook(lambda _, a, k, out: out * 2, with_kwargs=True),
    "a pre-hook": lambda m: m.b.conv.register_forward_pre_hook(lambda _, args: (args[0] * 2,)),
    "a backward hook": lambda m: m.a.register_full_backward_hook(lambda *_: None),
    "a forward on the instance": _instance_forward,
    "a forward on the instance of a convolution": _conv_forward,
    "spectral norm": lambda m: nn.utils.spectral_norm(m.a.conv),
    "spectral norm by parametrization": lambda m: parametrizations.spectral_norm(m.a.conv),
    "an orthogonal weight": lambda m: parametrizations.orthogonal(m.a.conv),
    "a mask made permanent": lambda m: prune.remove(prune.l1_unstructured(m.a.conv, "weight", 0.5), "weight"),
    "a script inside": lambda m: setattr(m, "b", torch.jit.script(m.b.double())),
    "a compiled part": lambda m: setattr(m, "b", torch.compile(m.b, backend="eager")),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_modules_that_somebody_changed(case: str) -> None:
    model = randomize(Join())
    CHANGES[case](model)
    assert_same(model)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("change", [nn.utils.weight_norm, lambda c: prune.l1_unstructured(c, "weight", 0.5)])
def test_weights_with_a_gradient_graph(change: Any) -> None:
    """Old weight norm and pruning leave a computed weight on the module, which ``deepcopy`` refuses."""
    model, x = randomize(Join()).double(), torch.randn(1, 4, 5, 5).double()
    change(model.a.conv)
    expected = model(x)
    expected.sum().backward()
    after = fxrep.reparameterize(model)
    assert relative_error(after(x), expected) <= 1e-9
    assert relative_error(model(x), expected) == 0


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)  # type: ignore[no-any-return]


def test_a_forward_on_the_instance_of_the_whole() -> None:
    model = made(Sum, Sum.forward)
    model.forward = types.MethodType(lambda self, x: self.a(x) - self.b(x), model)  # type: ignore[method-assign]
    assert_same(model)


def test_only_the_part_that_draws_random_numbers_is_not_traced() -> None:
    child = made(Join, lambda m, x: m.both(x) * random.random())
    after = assert_same(made(Join, lambda m, x: m.both(x) * m.child(x), child=child), call=_seeded)
    assert set(fxrep.report(after).opaque) == {"child"}


# ------------------------------------------------------------------------------------------------------------- wrappers
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": lambda m: nn.DataParallel(m).eval(),
    "compiled": lambda m: torch.compile(m, backend="eager"),  # type: ignore[return-value]
    "traced": fxrep.trace,
    "GraphModule": torch.fx.symbolic_trace,
    "a GraphModule with a leaf": lambda m: torch.fx.GraphModule(m, Leafy().trace(m)),
    "merged before": fxrep.reparameterize,
}


class Leafy(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return isinstance(m, Join) or super().is_leaf_module(m, name)


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrapped_models(case: str) -> None:
    model, x = randomize(nn.Sequential(Join(), nn.ReLU(), Join())).double(), torch.randn(1, 4, 5, 5).double()
    wrapped = WRAPPERS[case](model)
    expected, state = model(x), snapshot(wrapped)
    after = fxrep.reparameterize(wrapped)
    assert_unchanged(wrapped, state)
    assert relative_error(wrapped(x), expected) <= 1e-9
    assert relative_error(after(x), expected) <= 1e-9
    assert relative_error(copy.deepcopy(after)(x), expected) <= 1e-9
    if case in ("traced", "GraphModule", "a GraphModule with a leaf"):
        assert relative_error(pickle.loads(pickle.dumps(after))(x), expected) <= 1e-9
    assert count_ops(after, x) == {"conv": 2}


def test_the_result_of_a_model_compiled_in_place_is_its_own() -> None:
    model, x = randomize(nn.Sequential(Join())).double(), torch.randn(1, 4, 5, 5).double()
    model.compile(backend="eager")
    after = fxrep.reparameterize(model)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.zero_()
    assert not after(x).any()


def test_a_module_that_is_its_own_copy() -> None:
    """What ``deepcopy`` shares belongs to the caller too, and may not be rewritten."""
    model = nn.Sequential(type("Shared", (Join,), {"__deepcopy__": lambda self, memo: self})())
    assert_same(model)


def test_a_graph_module_with_a_default() -> None:
    graph = torch.fx.symbolic_trace(randomize(made(Join, lambda m, x, scale=2.0: m.both(x) * scale)).double())
    x = torch.randn(1, 4, 5, 5).double()
    assert relative_error(fxrep.reparameterize(graph)(x, 3.0), graph(x, 3.0)) <= 1e-9


def test_a_class_that_registers_its_subclasses() -> None:
    def once(cls: type, tag: str) -> None:
        pass

    base = type("Base", (Join,), {"__init_subclass__": classmethod(once)})
    assert_same(types.new_class("Registered", (base,), {"tag": "x"})())


@pytest.mark.parametrize("size", [(0, 4, 5, 5), (2, 4, 1, 1), (4, 5, 6)])
def test_unusual_sizes(size: tuple[int, ...]) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.a(x) + self.b(x) + x)

    assert_same(Plain(), torch.randn(*size).double())


def test_frozen_parts_stay_frozen() -> None:
    model = randomize(nn.Sequential(Join(), Join()))
    model[0].requires_grad_(False)
    after: Any = fxrep.reparameterize(model)
    assert [all(p.requires_grad for p in part.parameters()) for part in after] == [False, True]


def test_a_tensor_that_is_no_buffer() -> None:
    """It does not keep the model from being traced."""
    model: Any = made(Join, lambda m, x: m.both(x) * m.scale)
    model.scale = torch.tensor(2.0, dtype=torch.float64)
    assert not fxrep.report(assert_same(model)).opaque


def test_a_tensor_that_is_no_buffer_is_replaced() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.kept = m.both(x) * m.kept.mean()
        return m.kept * 2  # type: ignore[no-any-return]

    model: Any = made(Join, forward)
    model.kept = torch.tensor(2.0, dtype=torch.float64)
    assert_same(model)


def test_a_constant_made_in_forward() -> None:
    assert_same(made(Join, lambda m, x: m.both(x) * torch.tensor(2.0, dtype=torch.float64)))


def test_a_chain_that_untraced_code_goes_through() -> None:
    """It gets its convolution where a loop, a slice or an index does not meet it."""
    model: Any = made(Top, lambda m, x: (m.chain(x), m.chain[2:](m.chain[:2](x)), len(m.chain), unseen(x)))
    assert_same(model)
    merged = fxrep.reparameterize(model.double())
    assert [type(m) for m in merged.chain] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    with torch.no_grad():
        assert count_ops(merged.chain, torch.randn(1, 4, 5, 5).double()) == {"conv": 1}


class Slotted:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0

    def __getitem__(self, _: int) -> int:
        return self.n

    def __setitem__(self, _: int, value: int) -> None:
        self.n = value


class OwnCopy(dict[int, int]):
    def copy(self) -> dict[int, int]:
        return self


class Times(nn.Module):
    """A block times a number that ``factor`` computes from what ``held`` is."""

    def __init__(self, held: Any, factor: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.factor, self.block = held, (factor,), ConvNorm(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * self.factor[0](self.held)


def _next(held: Any) -> float:
    held[0] += 1
    return float(held[0])


@pytest.mark.parametrize(
    ("held", "factor"),
    [
        (lambda: [0] * 1, _next),
        (Slotted, _next),
        (lambda: OwnCopy({0: 0}), _next),
        (lambda: torch.zeros(1).double(), _next),
    ],
    ids=["list", "slots", "own copy", "tensor"],
)
def test_what_the_next_call_finds_in_an_object_is_no_constant(
    held: Callable[[], Any], factor: Callable[[Any], Any]
) -> None:
    assert_same(Times(held(), factor))


STEPS = types.ModuleType("steps")


class CountsElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = ConvNorm(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        STEPS.n += 1
        return self.block(x) * STEPS.n


def test_a_global_of_another_file_is_no_constant() -> None:
    STEPS.n = 0  # type: ignore[attr-defined]
    model = randomize(CountsElsewhere()).double()
    after, x = fxrep.reparameterize(model), torch.randn(1, 4, 6, 6).double()
    assert STEPS.n == 0
    one, two = run(after, x), run(after, x)
    assert relative_error(one * 2, two) <= 1e-9


class Refuses(dict[str, int]):
    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("it is frozen")

    __setitem__ = update = clear = pop = setdefault = _refuse  # type: ignore[assignment]
    __getattr__ = dict.__getitem__


def test_a_dictionary_that_cannot_be_copied_is_shared() -> None:
    after = assert_copyless(Times(Refuses(n=2), lambda held: held["n"]))
    assert count_ops(after, torch.randn(1, 4, 6, 6).double())["norm"] == 0


def assert_copyless(model: nn.Module) -> nn.Module:
    model, x = randomize(model).double(), torch.randn(1, 4, 6, 6).double()
    after = fxrep.reparameterize(model)
    assert relative_error(run(after, x), run(model, x)) <= 1e-9
    return after
