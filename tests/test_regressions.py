"""Every bug that was found by the property tests, the zoo or a user, as the smallest program that shows it."""

from __future__ import annotations

import gc
import random
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests.helpers import assert_merged, randomize, relative_error, run


class Program(nn.Module):
    """Three convolutions, one to a single channel, a norm, and a body."""

    def __init__(self, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 4, 1)
        self.one, self.two = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 1)
        self.plain = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.table = nn.Parameter(torch.randn(1, 4, 5, 5))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def image() -> Tensor:
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))


def other_source_first(m: Program, x: Tensor) -> Tensor:
    t = m.c(x.relu())
    t += m.a(x)
    t += m.b(x)
    return t


def in_place_on_what_an_identity_passes_on(m: Program, x: Tensor) -> Tensor:
    t = F.dropout(m.c(x.relu()), training=False)
    t += m.a(x)
    return t + m.b(x)


EXACT: dict[str, tuple[Callable[..., Tensor], tuple[int, int, int]]] = {
    # the stack stayed while the sum that undoes it went
    "a stack of one": (lambda m, x: torch.stack([m.bn(m.a(x))]).sum(0), (1, 0, 0)),
    # the bias of a term that became a value of its own was counted twice
    "the shift of a separated term": (lambda m, x: (m.a(x) + m.c(x.relu())) + m.b(x), (2, 0, 1)),
    # the two parts are one object, and both were left out of the rest
    "a value added to itself": (lambda m, x: (lambda t: t + t)(m.a(x)), (1, 0, 0)),
    # the proof stacked what the program broadcasts
    "a broadcast in the sum": (lambda m, x: m.one(x) + m.two(x) + x, (1, 0, 1)),
    # the write to a value that only the region reads need not happen
    "another source first, in place": (other_source_first, (2, 0, 1)),
    "another source, negated": (lambda m, x: m.a(x) - (m.b(x) + x.relu()), (1, 0, 1)),
    "another source, in a mean": (lambda m, x: torch.stack([m.a(x), x.relu(), m.b(x)]).mean(0), (1, 0, 1)),
    # only the value right before the write was known to be of no use to others
    "another source first, through a no-op": (in_place_on_what_an_identity_passes_on, (2, 0, 1)),
    # a value that is scaled by channel stood in the way of the others once the sum was scaled
    "a norm of another source, in a mean": (
        lambda m, x: torch.stack([m.a(x) + m.bn(x.relu()), m.b(x)]).mean(0),
        (1, 1, 1),
    ),
    # no operator read a constant that is not one number per channel
    "a table of constants in the sum": (lambda m, x: m.a(x) + (m.b(x) + m.table), (1, 0, 1)),
    "a norm over two sources": (lambda m, x: m.bn(m.a(x) + m.b(x.relu())), (2, 0, 1)),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact(case: str) -> None:
    body, (convs, norms, adds) = EXACT[case]
    assert_merged(randomize(Program(body)), image(), convs=convs, norms=norms, adds=adds)


def test_a_list_of_which_every_entry_goes() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])

        def forward(self, x: Tensor) -> Tensor:
            return self.m[2](self.m[0](x) + self.m[1](x))

    after = assert_merged(randomize(Listed()), image(), convs=1)
    assert [name for name, _ in after.named_children()] == ["merged"]


def assert_right(model: nn.Module) -> None:
    model, x = randomize(model).double(), image().double()
    assert relative_error(run(fxrep.reparameterize(model), x), run(model, x)) <= 1e-9


class Louder(nn.Conv2d):
    """A convolution whose call does more than its forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) + 1


def test_a_call_of_its_own() -> None:
    assert_right(nn.Sequential(Louder(4, 4, 3), nn.BatchNorm2d(4)))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = Louder(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) + x

    assert_right(Around())


def test_code_that_asks_for_a_bias() -> None:
    """The merged convolution has one, the original had none."""

    def body(m: Program, x: Tensor) -> Tensor:
        y = m.bn(m.plain(x))
        return y if m.plain.bias is None else y * m.plain.bias.view(1, -1, 1, 1)

    assert_right(Program(body))


class Helper:
    """Not a module: what it calls is seen only by who reads its code."""

    def finish(self, branch: nn.Module, x: Tensor) -> Tensor:
        return branch.conv(x)  # type: ignore[no-any-return, operator]


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


TABLE = {"finish": Helper()}


@pytest.mark.parametrize("table", [False, True])
def test_untraced_code_that_reaches_in_through_a_helper(table: bool) -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.helper = Branch(), Helper()

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e30:
                return x
            if table:
                return self.branch(x) * TABLE["finish"].finish(self.branch, x)
            return self.branch(x) * self.helper.finish(self.branch, x)

    assert_right(Top())


def test_a_weight_that_is_also_read_as_a_tensor() -> None:
    """The functional convolution is merged away, the module with the same weight is not."""

    def body(m: Program, x: Tensor) -> Tensor:
        y = m.plain(x)
        y[:, :1] = 0
        return y * (torch.conv2d(x, m.plain.weight, padding=1) + m.b(x))

    assert_right(Program(body))


def test_two_views_of_one_weight() -> None:
    """Same address, same shape, other strides."""

    def body(m: Program, x: Tensor) -> Tensor:
        w = m.plain.weight
        return torch.conv2d(x, w, padding=1) + torch.conv2d(x, w.transpose(2, 3), padding=1)

    assert_merged(randomize(Program(body)), image(), convs=1)


def test_a_cache_in_a_dictionary_of_a_module_that_is_called_twice() -> None:
    """Tracing leaves a symbol in the cache, and the second call finds it there."""

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bias, self.cache = nn.Conv2d(4, 4, 1), nn.Parameter(torch.randn(4, 1, 1)), {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.cache:
                self.cache["bias"] = self.bias * 2
            return self.conv(x) + self.cache["bias"]

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cached, self.norm = Cached(), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.cached(self.cached(x).relu()))

    assert_right(Twice())


# ---------------------------------------------------------------------------------------------- found by the fuzzer
class Added(nn.Module):
    """Two branches on one input, and another input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)).relu() + y


class Calls(nn.Module):
    def __init__(self, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.child, self.body = Added(), body

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.body(self.child, x, y)


@pytest.mark.parametrize("twice", [True, False])
def test_a_child_that_is_handed_one_value_twice(twice: bool) -> None:
    """Its merged forward took the second for the first, in every call."""
    body = (lambda m, x, y: m(x, x) + m(x, y)) if twice else (lambda m, x, y: m(x, x))
    model = randomize(Calls(body)).double()
    x, y = image().double(), image().double().flip(3)
    merged = fxrep.reparameterize(model)
    for call in (lambda m: m(x, y), lambda m: m.child(x, y)):
        assert relative_error(call(merged), call(model)) < 1e-9


def test_a_module_whose_weight_is_read_stays() -> None:
    model = Program(lambda m, x: (m.a(x) + m.bn(x)) * m.bn.weight.sum())
    assert_right(model)


def test_two_convolutions_of_one_sum() -> None:
    """Both took the place of the sum."""
    assert_right(Program(lambda m, x: (lambda y: m.a(y).relu() * m.b(y))(x + x + x)))


def test_a_branch_on_a_constant() -> None:
    """The constant was dropped, as if all that read it were gone."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.norm, self.conv = (
                nn.Parameter(torch.randn(1, 4, 1, 1)),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(self.norm(self.token))

    assert_right(Token())


PROVED: dict[str, Callable[..., Any]] = {
    "a value that is needed after it was looked through": lambda m, x: (
        lambda a: (x + a + m.b(x)).sub(0.5) * m.plain(a)
    )(m.bn(x)),
    "a constant that is convolved and added": lambda m, x: x + (m.bias - 0.5 * m.b(m.bias)),
    "nothing is left": lambda m, x: (lambda y: y - y)(m.a(x) + m.b(x)),
}


@pytest.mark.parametrize("case", PROVED)
def test_no_false_alarm(case: str) -> None:
    """The proof found a difference where there was none, and the merge was refused."""
    model = Program(PROVED[case])
    model.register_buffer("bias", torch.randn(1, 4, 1, 1))
    model = randomize(model).double()
    merged = fxrep.reparameterize(model)
    torch.testing.assert_close(run(merged, image().double()), run(model, image().double()))
    assert not [kept for kept in fxrep.report(merged).kept if "the check" in kept.reason]


def test_a_module_under_two_names() -> None:
    """It was replaced under the first name alone, and called under the second."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 1)
            self.stem = nn.Sequential(self.first, nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x)

    after = assert_merged(randomize(Twice()), image(), convs=1)
    assert after.first is after.stem[0]


def test_a_module_under_two_names_of_which_unseen_code_calls_one() -> None:
    class Unseen(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else self.conv(-x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
            self.unseen = Unseen(self.stem[0])

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) * self.unseen(x)

    assert_right(Model())


def test_branches_of_which_one_needs_the_value_that_the_others_could_see_through() -> None:
    """Behind a norm, 1x1 convolutions can take it in; one that pads cannot, and then all read what the norm gives."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(4)
            self.parts = nn.ModuleList([nn.Conv2d(4, 4, k, padding="same") for k in (1, 1, 3)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(x)
            return torch.stack([part(x) for part in self.parts]).sum(0)

    assert_merged(randomize(Model()), image(), convs=1, norms=1)


def test_a_child_that_hands_a_source_on() -> None:
    """The Identity in the child was taken for a part of the merge around it."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
            self.side = nn.Sequential(nn.SyncBatchNorm(4), nn.Identity())

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + (self.b(x) + self.side(y))

    assert_merged(randomize(Joined()), (image(), image().flip(3)), convs=1, norms=1, adds=1)


def test_weights_that_are_computed_in_each_call_are_computed_once() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, self.stride, self.padding)

    after = assert_merged(randomize(nn.Sequential(Standardised(4, 4, 3), nn.ReLU())), image(), convs=1)
    assert fxrep.report(after).merged


class Scaled(nn.Module):
    """A factor for each channel, before a convolution that would read what the factor makes wider."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv = nn.Parameter(torch.randn(4, 1, 1)), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.scale)


@pytest.mark.parametrize(
    "x", [torch.randn(1, 4, 5, 5), torch.randn(1, 1, 5, 5).double()], ids=["narrow", "one channel"]
)
def test_a_constant_that_makes_a_value_wider(x: Tensor) -> None:
    """The multiplication makes float64 of float32, and four channels of one; a convolution would raise an error."""
    model = randomize(Scaled()).double()
    after = fxrep.reparameterize(model, (x,))
    assert relative_error(run(after, (x,)), run(model, (x,))) <= 1e-9


def test_a_constant_that_makes_wider_what_is_turned() -> None:
    """The one row of the image is on the axis of the channels, of which the factor makes four."""

    class Turned(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.first(x).transpose(1, 2))

    model, x = randomize(Turned()).double(), torch.randn(1, 4, 1, 5).double()
    assert relative_error(run(fxrep.reparameterize(model), (x,)), run(model, (x,))) <= 1e-9


def test_a_constant_before_a_convolution_of_a_known_value() -> None:
    assert_merged(randomize(Scaled()), image(), convs=1, example_inputs=(image().double(),))
    assert fxrep.report(fxrep.reparameterize(Scaled().eval(), (image(),))).merged


def test_computed_weights_of_a_convolution_that_cannot_be_replaced() -> None:
    """Refused once, it was found again, for ever."""

    Result = namedtuple("Result", "value")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x: Tensor) -> Any:
            return Result(F.conv2d(x, self.weight * self.weight))

    model = Model().eval()
    after = fxrep.reparameterize(model)
    assert torch.equal(after(image()).value, model(image()).value)


def test_code_that_unpacks_a_sequential_which_would_get_one_more() -> None:
    """The convolution's bias is read as well, so the merged one would be a third child."""

    class Unpacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            conv, _ = self.both
            out: Tensor = torch.relu(self.both(x)) + conv.bias.view(1, -1, 1, 1)
            return out

    assert_merged(randomize(Unpacked()), image(), convs=1, norms=1, adds=1)


def test_a_forward_that_writes_to_the_weights_of_a_module() -> None:
    """Each call convolves with other weights than the one before."""

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            self.conv.weight.mul_(2.0)
            out: Tensor = self.norm(self.conv(x))
            return out

    model = randomize(Growing()).double()
    after, x = fxrep.reparameterize(model), image().double()
    for _ in range(2):
        assert relative_error(run(after, x), run(model, x)) <= 1e-9


class Standardized(nn.Conv2d):
    """Its code normalises the weights, so the convolution is in the code of a module."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.flatten(1)[None], None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


class PassesOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class Down(nn.Module):
    """A convolution behind what hands its input on, which its forward calls."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool, self.conv = pool, Standardized(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.pool(x))
        return out


@pytest.mark.parametrize("pool", [nn.Identity, PassesOn])
def test_a_forward_that_stays_calls_what_nothing_else_reads(pool: type[nn.Module]) -> None:
    """It was taken out, since the forward around it was another one."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.down = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), Down(pool())

        def forward(self, x: Tensor) -> Tensor:
            return (self.a(x) + self.b(x)).relu().mean() + self.down(x).sin()

    assert_merged(randomize(Block()), image(), convs=2, adds=1)


class Handing(nn.Module):
    """A scale in the code around two modules that it is handed to, as in the first block of NFNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.last = (
            nn.Conv2d(4, 4, 1),
            Standardized(4, 4, 3),
            Down(nn.Identity()),
            Down(nn.Identity()),
        )

    def scaled(self, x: Tensor) -> Tensor:
        return self.first(x).relu() * 0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.scaled(x)
        a = F.pad(self.a(h).relu(), (1, 1, 1, 1))
        return self.last(a) * 0.2 + self.b(h)


def test_a_scale_that_is_handed_to_two_modules() -> None:
    """Neither can take it in; what is in them is merged, and so is what was refused because of them."""
    merged = assert_merged(randomize(Handing()), image(), convs=4, adds=1)
    operators = [sorted(m.operators) for m in fxrep.report(merged).merged]
    assert sorted(operators) == [["conv"], ["conv"], ["conv", "pad", "scale"]]


def test_a_norm_that_is_handed_to_two_modules() -> None:
    """It goes into the convolution before it."""

    class Model(Handing):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def scaled(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.first(x))
            return out

    assert_merged(randomize(Model()), image(), convs=4, adds=1)


def test_a_scale_that_is_handed_to_a_module_which_is_called_twice() -> None:
    class Model(Handing):
        def forward(self, x: Tensor) -> Tensor:
            h = self.scaled(x)
            return self.b(h * 3.0).sin() + self.b(h.cos() * 2.0).sin() + self.b.conv(h)

    assert_merged(randomize(Model()), image(), convs=4, adds=2)


class WritesToWhatItGets(nn.Module):
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return y.sub_(x, alpha=0.5)


def test_a_child_writes_to_a_value_that_its_caller_goes_on_with() -> None:
    """The sum was done in the child, and the caller returned what the child had not written to."""

    def body(m: Any, x: Tensor) -> Tensor:
        y = m.b(x) + m.c(x)
        m.child(y, x)
        return y  # type: ignore[no-any-return]

    model = Program(body)
    model.child = WritesToWhatItGets()
    assert_right(model)


class Slicing(nn.Module):
    """A layer, and a slice of what a function makes of its value."""

    def __init__(self, layer: nn.Module, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.cut = layer, cut

    def forward(self, x: Tensor) -> Tensor:
        return self.cut(self.layer(x)) * 2


@pytest.mark.parametrize(
    ("layer", "cut", "shape"),
    [
        (nn.Linear(4, 4), lambda y: y[:, :, ::2], (2, 5, 4)),
        (nn.Linear(4, 4), lambda y: y[:, :, :], (2, 5, 4)),
        (nn.BatchNorm2d(4), lambda y: y.permute(3, 0, 1, 2)[:, :, :, ::2], (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 1), lambda y: y.permute(0, 2, 1, 3)[:, :, ::2], (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 1), lambda y: y.permute(0, 2, 1, 3)[:, ::2, :, 1:], (2, 4, 5, 6)),
    ],
)
def test_a_slice_of_a_value_with_several_axes_before_the_channels(
    layer: nn.Module, cut: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """A slice counts its axes from the front, and there is more than the batch before the channels."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = randomize(Slicing(layer, cut)).double()
    for policy in ("default", "kernels"):
        merged = fxrep.reparameterize(model, policy=policy)  # type: ignore[call-overload]
        assert relative_error(run(merged, x), run(model, x)) < 1e-12


def test_a_rule_that_trips_over_a_call_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stopped the pass where the rule did so only when it met what comes before."""

    def trip(*_: object) -> None:
        raise ZeroDivisionError("the rule")

    monkeypatch.setattr("fxrep.operators.window.compose", trip)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3)).eval()
    kept = [item.reason for item in fxrep.report(fxrep.reparameterize(model)).kept if item.kind == "pad"]
    assert kept == ["it is called in a way that fxrep does not know: the rule"]


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.bn(m.a(x)) * m.number.flatten(),
        lambda m, x: m.bn(m.a(x)) * torch.flatten(m.number, 0, -1),
        lambda m, x: m.bn(m.a(x)) + (m.b(x).view(torch.int64) > 0),
    ],
)
def test_calls_that_rank_inference_stumbled_over(body: Callable[..., Tensor]) -> None:
    """The pass raised an error for a single number that is flattened, and for a view as another type."""
    model = Program(body)
    model.number = nn.Parameter(torch.tensor(2.0))
    assert_right(model)


@pytest.mark.parametrize(
    ("constant", "shape"), [((1, 4), (4,)), ((1, 1), (4,)), ((1, 4), (2, 4)), ((1, 1, 4), (2, 3, 4)), ((1, 1, 4), (4,))]
)
@pytest.mark.parametrize("shown", [False, True])
def test_a_constant_with_more_axes_than_a_vector(
    constant: tuple[int, ...], shape: tuple[int, ...], shown: bool
) -> None:
    """It went into the linear layer, and the axis that it brings to a single vector was gone."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = Slicing(nn.Linear(4, 4), lambda y: y + model.constant)  # type: ignore[operator]
    model.constant = nn.Parameter(torch.randn(constant))
    model.double().eval()
    merged = fxrep.reparameterize(model, (x,) if shown else None)
    assert relative_error(run(merged, x), run(model, x)) < 1e-12
    assert len(fxrep.report(merged).merged) == int(shown and len(constant) <= len(shape))


def convolves_otherwise() -> nn.Module:
    """A convolution that wraps around along one axis alone, as images that tile are made."""

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1)), weight, bias)

    conv = nn.Conv2d(4, 4, 3, padding=1)
    conv._conv_forward = forward  # type: ignore[method-assign, assignment]
    return conv


def padded_as_built() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    conv.padding = (0, 0)
    return conv


@pytest.mark.parametrize("make", [convolves_otherwise, padded_as_built])
def test_a_convolution_that_was_changed_after_it_was_built(make: Callable[[], nn.Module]) -> None:
    """Its forward calls a method of the instance, and pads by what was made of the padding when it was built."""
    assert_right(nn.Sequential(make(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)))


@pytest.mark.parametrize(
    ("layer", "cut", "shape"),
    [
        (nn.Linear(4, 4), lambda y: torch.cat([y, y]), (2, 4)),
        (nn.Linear(4, 4), lambda y: torch.cat([y, y], 0), (2, 3, 4)),
        (nn.Conv2d(4, 4, 1), lambda y: F.adaptive_avg_pool2d(y.permute(0, 2, 1, 3), 1), (2, 4, 4, 5)),
        (nn.Linear(4, 4), lambda y: F.adaptive_avg_pool1d(y, 1), (2, 4, 4)),
    ],
)
def test_rules_that_took_the_channels_to_be_where_they_are_not(
    layer: nn.Module, cut: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """Only the proof found out."""
    assert_refused_by_a_rule(Slicing(layer, cut), shape)


def test_a_norm_of_another_axis_than_the_channels() -> None:
    """Only the proof found out that a permutation put another axis in their place."""

    class Permuted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self[1](self[0](x).permute(0, 2, 1, 3))
            return out

    assert_refused_by_a_rule(Permuted(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), (2, 4, 4, 5))


def assert_refused_by_a_rule(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    randomize(model).double()
    for given in (None, (x,)):
        merged = fxrep.reparameterize(model, given, policy="kernels")
        assert relative_error(run(merged, x), run(model, x)) < 1e-12
        reasons = [item.reason for item in fxrep.report(merged).kept]
        assert not any("the check" in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    "step",
    [
        lambda p: (p * 3.0 > 0.3).to(torch.float32),
        lambda p: torch.round(p * 5) + 1,
        lambda p: (p * 10.0).floor(),
        lambda p: torch.div(p * 3, 0.3, rounding_mode="trunc"),
    ],
)
def test_a_constant_that_jumps(step: Callable[[Tensor], Tensor]) -> None:
    """It was computed in float64, on the other side of the step than the program is in its own type."""

    def body(m: Any, x: Tensor) -> Tensor:
        return m.a(x) * step(m.level).view(4, 1, 1) + m.b(x)  # type: ignore[no-any-return]

    model = Program(body)
    model.level = nn.Parameter(torch.tensor([0.1, 0.3, 0.7, 0.9]))
    randomize(model)
    x = image()
    assert relative_error(run(fxrep.reparameterize(model), x), run(model, x)) < 1e-5


class Parallel(nn.Module):
    """Two branches, each with a norm, and what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm_a(self.a(x)) + self.norm_b(self.b(x))
        return out


class Chained(Parallel):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm_a(self.a(x))
        return out


@pytest.mark.parametrize("block", [Parallel, Chained])
@pytest.mark.parametrize(
    "asks",
    [
        lambda block: hasattr(block, "norm_a"),
        lambda block: isinstance(block.norm_a, nn.BatchNorm2d),
        lambda block: getattr(block, "norm_a", None) is not None,
    ],
)
def test_code_around_a_module_that_looks_at_what_is_in_it(
    block: type[nn.Module], asks: Callable[[nn.Module], bool]
) -> None:
    """It found no norm any more, and took the other way."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.block(x) if asks(self.block) else x
            return out

    assert_right(Model())


def test_code_that_gets_a_parameter_by_its_path() -> None:
    """It cannot be traced, and the norm that it names in a string was taken out."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Parallel()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.block(x) * self.get_buffer("block.norm_a.running_var").sum()
            return out + self.get_parameter("block.norm_b.weight").sum()

    assert_right(Model())


@pytest.mark.parametrize("policy", ["default", "kernels"])
def test_branches_that_are_made_contiguous_for_a_view(policy: Any) -> None:
    """The convolution in their place gave its value in the layout of its input, and the view raised an error."""

    def body(m: Any, x: Tensor) -> Tensor:
        return (m.a(x).contiguous() + m.b(x).contiguous()).view(2, -1)  # type: ignore[no-any-return]

    model, x = randomize(Program(body)), image().to(memory_format=torch.channels_last)
    merged = fxrep.reparameterize(model, policy=policy)
    with torch.no_grad():
        assert relative_error(merged(x), model(x)) < 1e-5


def test_a_model_that_gives_nan_for_its_example_inputs() -> None:
    """The outputs were said to differ, although both were NaN at the same places."""

    def body(m: Any, x: Tensor) -> Tensor:
        return (m.a(x) + m.b(x)).clamp(min=-0.1).sqrt()  # type: ignore[no-any-return]

    model, x = randomize(Program(body)), image()
    merged = fxrep.reparameterize(model, (x,))
    assert len(fxrep.report(merged).merged) == 1
    torch.testing.assert_close(run(merged, x), run(model, x), equal_nan=True)
    assert run(model, x).isnan().any()


def asking(asks: Callable[[Any], bool]) -> nn.Module:
    """A model that takes another way where its norm is not what it asks for."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            return x if asks(self) else x * 2

    return randomize(Model())


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, (nn.BatchNorm1d, nn.BatchNorm2d), nn.Identity])
def test_code_that_asks_for_the_class_of_a_norm(kind: Any) -> None:
    """The identity in its place was another class, and the other way was taken."""
    assert_merged(asking(lambda m: isinstance(m.norm, kind)), image(), convs=1)


@pytest.mark.parametrize(
    "asks", [lambda m: type(m.norm) is nn.BatchNorm2d, lambda m: m.norm.__class__ in (nn.BatchNorm2d,)]
)
def test_code_that_takes_the_class_of_a_norm(asks: Callable[[Any], bool]) -> None:
    """Without ``isinstance`` nobody is seen to ask, but the code that calls the norm says so."""
    model = asking(asks)
    assert relative_error(run(fxrep.reparameterize(model), image()), run(model, image())) < 1e-5


def test_classes_are_let_go_of() -> None:
    """Those of a notebook, defined over and over, all stayed, and each patch of ``nn.Module`` went through them."""

    def define(number: int) -> type[nn.Module]:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()  # which makes its methods refer to the class
                self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

            def forward(self, x: Tensor) -> Tensor:
                super().extra_repr()
                return (self.a(x) + self.b(x)) * (number + 1.0)  # type: ignore[no-any-return]

        return Model

    seen = []
    for number in range(150):
        kind = define(number)
        seen.append(weakref.ref(kind))
        assert fxrep.report(fxrep.reparameterize(kind().eval())).merged
    del kind
    gc.collect()
    assert sum(each() is not None for each in seen) <= 129


def test_a_stride_of_one_number_for_both_axes() -> None:
    """The rule takes it, as the convolution does, and the proof stumbled."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    model[0].stride, model[0].dilation = (2,), (1,)  # type: ignore[assignment]
    assert_merged(randomize(model), image(), convs=1)


@pytest.mark.parametrize(
    ("cut", "merged"),
    [
        (lambda m, x: m.linear(m.bn(F.pad(x, [-1] * 4)).mean((2, 3))), False),
        (lambda m, x: m.linear(m.bn(x[:, :, 1:-1, 1:-1]).mean((2, 3))), True),  # the norm alone
        (lambda m, x: m.bn(m.b(x[:, :, 1:-1, 1:-1])), True),
        (lambda m, x: m.bn(m.b(x)[:, :, ::2, ::2]), True),
    ],
)
def test_a_crop_that_leaves_nothing(cut: Callable[..., Tensor], merged: bool) -> None:
    """Without a convolution in the program, the mean of nothing is NaN; the one that was made of it raised an error."""
    model = Program(cut)
    model.linear = nn.Linear(4, 4)
    randomize(model)
    found = fxrep.reparameterize(model, policy="kernels")
    assert bool(fxrep.report(found).merged) == merged
    assert relative_error(run(found, image()), run(model, image())) < 1e-5
    small = torch.randn(2, 4, 2, 2)
    try:
        expected = run(model, small)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            run(found, small)
    else:
        torch.testing.assert_close(run(found, small), expected, equal_nan=True)


def test_a_forward_that_writes_to_a_parameter_and_example_inputs() -> None:
    """The run with the example inputs wrote to the caller's."""

    def body(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.table.sigmoid_()
        return m.bn(m.b(x))  # type: ignore[no-any-return]

    model = randomize(Program(body))
    before = model.table.clone()
    fxrep.reparameterize(model, (image(),))
    assert torch.equal(model.table, before)


class Subtracting(nn.Module):
    """What it is given, without what a convolution makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.conv, self.norm = nn.Dropout(0.5), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 4, 1)

    def forward(self, a: Tensor) -> Tensor:
        dropped = self.drop(a)
        result = torch.rsub(self.norm(self.conv(dropped)), a)
        self.side(dropped)
        return result


def test_two_calls_of_one_module_that_become_something_else() -> None:
    """What they were given had other aliases, and a name was missing for a summand of one of the two."""

    def body(m: Any, x: Tensor) -> Tensor:
        x.add_(x)
        m.child(x)
        m.child(x)
        return F.avg_pool2d(x, 1)

    model = Program(body)
    model.child = Subtracting()
    randomize(model)
    merged = fxrep.reparameterize(model, policy="kernels")
    assert relative_error(run(merged, image()), run(model, image())) < 1e-5


class Turned(nn.Module):
    """A transposed convolution and a crop, which go into the convolutions around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, 4, 1, 2, 1, 1)

    def forward(self, a: Tensor) -> Tensor:
        return self.conv(a)[:, :, 1:-1, 1:-1]  # type: ignore[no-any-return]


def test_a_child_that_is_called_by_the_name_of_its_argument() -> None:
    """An identity took its place, which has no such argument."""

    def body(m: Any, x: Tensor) -> Tensor:
        return m.b(m.child(a=m.padded(x)))  # type: ignore[no-any-return]

    model = Program(body)
    model.padded, model.child = nn.Conv2d(4, 4, 1, padding=1), Turned()
    randomize(model)
    for policy in ("default", "macs", "kernels"):
        merged = fxrep.reparameterize(model, policy=policy)  # type: ignore[call-overload]
        assert relative_error(run(merged, image()), run(model, image())) < 1e-5


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x, look: m.narrow(look(m.widen(x))),
        lambda m, x, look: m.valid(look(F.pad(x, (1, 1, 1, 1)))),
        lambda m, x, look: m.turn(look(0 + x + x)),
        lambda m, x, look: m.bn(look(m.narrow(m.widen(x)))),
    ],
)
@pytest.mark.parametrize("policy", ["default", "kernels"])
def test_an_assertion_of_the_size_of_a_value_in_a_merge(body: Callable[..., Tensor], policy: Any) -> None:
    """It was told the size of another value: of what the merged convolution reads, or of what it gives."""
    sizes = []

    def look(value: Tensor) -> Tensor:
        if sizes:
            torch._assert(value.shape[1] == sizes[0][1], "channels")
            torch._assert(value.shape[2] == sizes[0][2], "height")
        return value

    model = Program(lambda m, x: body(m, x, look))
    model.widen, model.narrow = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
    model.valid, model.turn = nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 2, 1)
    randomize(model)
    run(Program(lambda m, x: body(model, x, lambda v: sizes.append(v.shape) or v)), image())
    merged = fxrep.reparameterize(model, policy=policy)
    assert fxrep.report(merged).merged
    assert relative_error(run(merged, image()), run(model, image())) < 1e-5


def test_the_error_of_a_merge_that_is_planned_anew() -> None:
    """Where another merge was refused, those that stayed had no error in the report."""
    model = Program(lambda m, x: m.bn(m.first(x)) + m.far(m.second(x)).relu())
    model.first, model.second, model.far = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    randomize(model)
    with torch.no_grad():
        model.second.weight.fill_(1e30)
        model.far.weight.fill_(1e30)  # their product does not fit into float32, as is found when it is computed
    merged = fxrep.reparameterize(model)
    assert len(fxrep.report(merged).merged) == 1
    assert all(item.error < 1e-9 for item in fxrep.report(merged).merged)


def test_the_constant_of_a_value_with_two_forms() -> None:
    """There is a form over what is written to later, and one over the convolution: the other one's was taken off."""

    def body(m: Any, x: Tensor) -> Tensor:
        part, other = x.split(2, 1)
        first = m.first(other)[...]
        other.masked_fill_(other > 1, 0.0)
        return torch.stack([first, 1 - m.bn(m.second(other))], 1).mean(1) + part.mean()

    model = Program(body)
    model.first, model.second = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
    merged = fxrep.reparameterize(randomize(model))
    assert not any("check failed" in item.reason for item in fxrep.report(merged).kept)
    assert relative_error(run(merged, image()), run(model, image())) < 1e-5


def test_a_hook_on_every_module() -> None:
    """It was not looked at, as hooks on one module are."""
    model, x = randomize(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))), image()
    double = nn.modules.module.register_module_forward_hook(lambda m, inputs, out: out * 2)
    try:
        merged = fxrep.reparameterize(model)
        assert not fxrep.report(merged).merged
        assert "is on every module" in str(fxrep.report(merged))
        assert relative_error(run(merged, x), run(model, x)) < 1e-5
    finally:
        double.remove()


@pytest.mark.parametrize("name", ["class", "None", 'x"y', "x\\y", "x y", "0a"])
@pytest.mark.parametrize("kind", ["child", "list", "buffer", "parameter"])
def test_names_that_python_reads_as_something_else(kind: str, name: str) -> None:
    """The pass raised a SyntaxError, where it wrote the name into a forward."""

    def body(m: Any, x: Tensor) -> Tensor:
        y = m.a(x) + m.b(x)
        if kind in ("child", "list"):
            return getattr(m, name)(y) if kind == "child" else m.held[name](y)  # type: ignore[no-any-return]
        return y.relu() + getattr(m, name)  # type: ignore[no-any-return]

    model: Any = Program(body)
    if kind == "child":
        model.add_module(name, nn.PReLU(4))
    elif kind == "list":
        model.held = nn.ModuleDict({name: nn.PReLU(4)})
    elif kind == "buffer":
        model.register_buffer(name, torch.ones(4, 1, 1))
    else:
        model.register_parameter(name, nn.Parameter(torch.ones(4, 1, 1)))
    randomize(model)
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, image()), run(model, image())) < 1e-5


@pytest.mark.parametrize("inplace", [False, True])
def test_a_merge_in_inference_mode(inplace: bool) -> None:
    """Its weights were made for inference alone, and a plain call of the model raised an error."""
    model, x = randomize(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), image()
    expected = model(x)
    with torch.inference_mode():
        merged = fxrep.reparameterize(model, inplace=inplace)
    assert relative_error(merged(x).detach(), expected.detach()) < 1e-5


def _forces(m: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    energy = m.a(x).detach() + m.b(x)
    return torch.autograd.grad(energy.pow(2).sum(), x)[0]


def _by_a_weight(m: Any, x: Tensor) -> Tensor:
    energy = m.a(x) + m.b(x)
    return torch.autograd.grad(energy.pow(2).sum(), m.a.weight)[0].sum() * x


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).detach() + self.b(x)  # type: ignore[no-any-return]


def _through_a_child(m: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(m.child(x).pow(2).sum(), x)[0]


@pytest.mark.parametrize("body", [_forces, _by_a_weight, _through_a_child])
def test_a_forward_that_differentiates(body: Callable[..., Tensor]) -> None:
    """To the gradient it matters which branch is detached, and which weight it is for."""
    model, x = Program(body), image()
    model.child = Detached()
    merged = fxrep.reparameterize(randomize(model))
    assert relative_error(merged(x), model(x)) < 1e-5


@pytest.mark.parametrize(
    ("asks", "mode"),
    [
        (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.autocast("cpu", torch.bfloat16)),
        (torch.is_inference_mode_enabled, torch.inference_mode),
    ],
)
def test_code_that_asks_for_a_mode(asks: Callable[[], bool], mode: Callable[[], Any]) -> None:
    """The answer was that of the trace."""
    model, x = randomize(AsksForMode(asks)), image()
    merged = fxrep.reparameterize(model)
    with mode(), torch.no_grad():
        assert relative_error(merged(x).float(), model(x).float()) < 0.02


class AsksForMode(nn.Module):
    def __init__(self, asks: Callable[[], bool]) -> None:
        super().__init__()
        self.a, self.b, self.inference = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), asks is torch.is_inference_mode_enabled

    def forward(self, x: Tensor) -> Tensor:
        mode = torch.is_inference_mode_enabled() if self.inference else torch.is_autocast_enabled("cpu")
        y: Tensor = self.a(x) + self.b(x)
        return y * 2 if mode else y


def test_a_seed_that_holds_for_one_call() -> None:
    """The draw was kept, and its seed was not."""

    def body(m: Any, x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            noise = torch.rand_like(x)
        return m.a(x) + m.b(x) + noise  # type: ignore[no-any-return]

    model = randomize(Program(body))
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, image()), run(model, image())) < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.Generator().manual_seed(0),
        lambda: np.random.default_rng(0),
        lambda: np.random.RandomState(0),
        lambda: random.Random(0),
    ],
)
def test_random_numbers_from_a_generator_of_its_own(make: Callable[[], Any]) -> None:
    """One of them became a constant, and the caller's generator went on."""

    def body(m: Any, x: Tensor) -> Tensor:
        own = m.generator
        drawn = torch.rand((), generator=own).item() if isinstance(own, torch.Generator) else draw(own)
        return (m.a(x) + m.b(x)) * drawn  # type: ignore[no-any-return]

    def draw(own: Any) -> float:
        return float(own.rand() if isinstance(own, np.random.RandomState) else own.random())

    model = randomize(Program(body))
    model.generator = make()
    merged = fxrep.reparameterize(model)
    model.generator, merged.generator = make(), make()
    for _ in range(2):
        assert relative_error(run(merged, image()), run(model, image())) < 1e-5


def test_a_crop_that_two_merges_share_before_a_mean() -> None:
    """The convolution with the stride of the crop went behind the mean."""

    def body(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = m.bn(x[:, :, :, ::2]).mean((2, 3), keepdim=True).flatten(1)
        return m.first(pooled), m.second(pooled)

    model: Any = Program(body)
    model.first, model.second, model.bn = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm2d(4)
    randomize(model)
    merged = fxrep.reparameterize(model, policy="kernels")
    for found, expected in zip(run(merged, image()), run(model, image()), strict=True):
        assert relative_error(found, expected) < 1e-5


class HandsOutACopy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("less", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x -= self.less[:, None, None]
        return torch.clone(x)


def test_a_write_to_what_a_child_hands_a_copy_of() -> None:
    """What the parent writes to afterwards was written to the copy, which has the same value."""

    def body(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([x[:, :2], x[:, 2:]], 1)
        copied = m.child(both)
        both -= m.less[:, None, None]
        return copied, m.b(both) + m.c(both)

    model: Any = Program(body)
    model.child = HandsOutACopy()
    model.register_buffer("less", torch.ones(1))
    randomize(model)
    merged = fxrep.reparameterize(model)
    for found, expected in zip(run(merged, image()), run(model, image()), strict=True):
        assert relative_error(found, expected) < 1e-5


# As blocks spell it: the name is in the code.
FLAGS: dict[str, Any] = {
    "inference_mode": lambda self, x: self.merged(x) if self.inference_mode else self.a(x) + self.b(x) + self.norm(x),
    "no_grad": lambda self, x: self.merged(x) if self.no_grad else self.a(x) + self.b(x) + self.norm(x),
    "autocast": lambda self, x: self.merged(x) if self.autocast else self.a(x) + self.b(x) + self.norm(x),
    "backward": lambda self, x: self.merged(x) if self.backward else self.a(x) + self.b(x) + self.norm(x),
    "deploy": lambda self, x: self.merged(x) if self.deploy else self.a(x) + self.b(x) + self.norm(x),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_the_blocks_own_has_the_name_of_a_mode_of_torchs(flag: str) -> None:
    class Block(nn.Module):
        forward = FLAGS[flag]

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            setattr(self, flag, False)

    model = randomize(Block()).double().eval()
    merged, x = fxrep.reparameterize(model), torch.randn(2, 4, 5, 5).double()
    assert sum(isinstance(module, nn.Conv2d) for module in merged.modules()) == 1
    assert relative_error(merged(x), model(x)) <= 1e-9


def test_a_mode_of_torchs_that_a_module_holds_is_none_of_its_flags() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.no_grad = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), torch.no_grad

        def forward(self, x: Tensor) -> Any:
            with self.no_grad():
                return self.a(x) + self.b(x)

    merged = fxrep.reparameterize(randomize(Block()).double().eval())
    assert not merged(torch.randn(2, 4, 5, 5).double()).requires_grad


def test_a_graph_keeps_the_defaults_of_its_arguments() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor, factor: float = 2.0, mask: Tensor | None = None) -> Any:
            return self.norm(self.conv(x)) * factor

    graph = torch.fx.symbolic_trace(randomize(Scaled()).double().eval())
    x = torch.randn(2, 4, 5, 5).double()
    for traced in (fxrep.trace(graph), fxrep.reparameterize(fxrep.trace(graph))):
        for arguments in ((x,), (x, 3.0), (x, 2.0, None)):
            assert relative_error(traced(*arguments), graph(*arguments)) <= 1e-9
