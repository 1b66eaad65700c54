"""What must not be merged, or only with care: other sources, writes in place, sharing, hooks, broadcasts, statistics.

Where a predicted number of operators is given, the merge is illegal and must not happen; the others may be merged or
not, but must compute what the original computes.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests import blocks
from tests.helpers import assert_merged, assert_unchanged, randomize, relative_error, run, snapshot


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def image(channels: int = 4, size: tuple[int, ...] = (7, 6)) -> Tensor:
    return torch.randn(2, channels, *size)


def assert_right(model: nn.Module, *inputs: Tensor, **options: Any) -> nn.Module:
    """Whatever is merged, the output is that of the original, twice, and the original is left alone."""
    model = model.double()
    inputs = tuple(x.double() for x in inputs) or (image().double(),)
    state, expected = snapshot(model), run(model, inputs)
    after = fxrep.reparameterize(model, **options)
    assert relative_error(run(after, inputs), expected) <= 1e-9
    assert relative_error(run(after, inputs), expected) <= 1e-9, "the second time"
    assert_unchanged(model, state)
    assert relative_error(run(model, inputs), expected) == 0
    return after


class Illegal(nn.Module):
    """Two branches that look like a block; ``body(self, x)`` is what makes them not one."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 1)
        self.n = nn.BatchNorm2d(4)
        self.one = nn.Conv2d(4, 1, 1)
        self.wide = nn.Conv2d(4, 4, 1, padding=1)
        self.valid = nn.Conv2d(4, 4, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _write_between(m: Illegal, x: Tensor) -> Tensor:
    x = x * 1.5 + x.abs()
    a = m.a(x)
    x.relu_()
    return a + m.b(x)


def _write_through_a_view(m: Illegal, x: Tensor) -> Tensor:
    x = x.abs() + x
    a = m.a(x)
    x[:, 0] = 3.0
    return a + m.b(x)


def _read_after_iadd(m: Illegal, x: Tensor) -> Tensor:
    a = m.a(x)
    z = a
    a += m.b(x)
    return z * a


def _add_to_the_source(m: Illegal, x: Tensor) -> Tensor:
    x = x.abs() + x
    res = x
    x += m.b(x)
    return m.a(x) + res


def _einsum_view(m: Illegal, x: Tensor) -> Tensor:
    h = m.a(x)
    a = m.a(h)
    torch.einsum("bchw->bcwh", h).relu_()  # a pure permutation is a view
    return a + m.b(h)


def _unused_result(m: Illegal, x: Tensor) -> Tensor:
    a = m.a(x)
    a.add_(m.b(x))
    F.relu(a, inplace=True)
    return a


def _second_user(m: Illegal, x: Tensor) -> Tensor:
    a = m.a(x)
    return torch.cat([F.relu(a), a + m.b(x)], 1)


def _written_after_the_sum(m: Illegal, x: Tensor) -> Tensor:
    a = m.n(m.a(x))
    y = a + m.b(x)
    a.mul_(2)
    return y * a


ILLEGAL: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "a ReLU in one branch": (lambda m, x: F.relu(m.a(x)) + m.b(x), (2, 0, 1)),
    "broadcast channels": (lambda m, x: m.one(x) + x, (1, 0, 1)),
    "a biased map before a padded conv": (lambda m, x: m.a(m.b(x)), (2, 0, 0)),
    "a norm before a padded conv": (lambda m, x: m.a(m.n(F.relu(x))), (1, 1, 0)),
    "the input is written between the branches": (_write_between, (2, 0, 2)),
    "the input is written through a view": (_write_through_a_view, (2, 0, 2)),
    "the source is added to in place": (_add_to_the_source, (2, 0, 1)),
}
HAZARDS: dict[str, Any] = {
    "an alias is read after +=": _read_after_iadd,
    "in place, with results not used": _unused_result,
    "a view by einsum": _einsum_view,
    "a second user": _second_user,
    "a branch is written after the sum": _written_after_the_sum,
    "one conv, called twice": lambda m, x: F.relu(m.n(m.a(x))) + m.a(x),
    "a conv on its own output": lambda m, x: m.b(m.b(x)) + m.b(x),
    "channels against the width": lambda m, x: m.b(x) * torch.arange(4.0, dtype=x.dtype) + x[..., :4],
    "a transposed identity": lambda m, x: m.b(x) + x.transpose(2, 3),
    "a permuted map": lambda m, x: m.n(m.a(x).permute(0, 2, 1, 3).contiguous()[:, :4]),
    "negative padding by slices": lambda m, x: m.valid(x) + x[:, :, 1:-1, 1:-1],
    "a detour over the padded 1x1": lambda m, x: m.valid(m.wide(x)) + x,
    "the same tensor twice": lambda m, x: m.a(x) + m.a(x) + x + x,
    "nothing left": lambda m, x: m.b(x) - m.b(x) + x,
    "the input written first": lambda m, x: m.a(x.relu_()) + m.b(x),
    "an integer detour": lambda m, x: m.b(x).round() + m.a(x),
    "a view of the branch is returned too": lambda m, x: torch.cat([m.a(x), m.a(x) + m.b(x)], 0),
    "out argument": lambda m, x: torch.add(m.a(x), m.b(x), out=torch.empty_like(x)),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_neighbours_stay(case: str) -> None:
    body, (convs, norms, adds) = ILLEGAL[case]
    model = randomize(Illegal(body))
    assert_merged(model, image(size=(4, 4)), convs=convs, norms=norms, adds=adds, policy="kernels")


@pytest.mark.parametrize("case", HAZARDS)
@pytest.mark.parametrize("policy", ["default", "kernels"])
def test_hazards_are_computed_rightly(case: str, policy: str) -> None:
    """Whatever is merged here, the output is that of the original, and the original is left alone."""
    assert_right(randomize(Illegal(HAZARDS[case])), image(size=(4, 4)), policy=policy)


def test_hooks_stay_in_force() -> None:
    """A forward hook says something the module's type does not; it must still count after the pass."""
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    model.rbr_1x1.conv.register_forward_hook(lambda module, args, output: output * 3)
    x = image().double()
    expected = run(model, x)
    assert relative_error(run(fxrep.reparameterize(model), x), expected) <= 1e-9


def test_a_conv_subclass_with_its_own_forward() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    model.rbr_dense.conv = Standardised(4, 4, 3, padding=1, dtype=torch.float64)
    x = image().double()
    assert relative_error(run(fxrep.reparameterize(model), x), run(model, x)) <= 1e-9


def test_a_parametrized_weight() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    nn.utils.parametrizations.weight_norm(model.rbr_dense.conv)
    with torch.no_grad():
        model.rbr_dense.conv.parametrizations.weight.original0.mul_(1.7)
    x = image().double()
    state, expected = snapshot(model), run(model, x)
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), expected) <= 1e-9
    assert fxrep.report(merged).after["conv"] == 1
    assert_unchanged(model, state)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_old_style_weight_norm() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    nn.utils.weight_norm(model.rbr_dense.conv)
    with torch.no_grad():
        model.rbr_dense.conv.weight_g.mul_(1.7)
    x = image().double()
    expected = run(model, x)
    assert relative_error(run(fxrep.reparameterize(model), x), expected) <= 1e-9


@pytest.mark.parametrize("statistic", [float("nan"), float("inf")])
def test_broken_statistics_do_not_count_as_agreement(statistic: float) -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4))
    model.rbr_dense.bn.running_mean[1] = statistic
    x = image()
    expected = run(model, x)
    after = fxrep.reparameterize(model)
    torch.testing.assert_close(run(after, x), expected, equal_nan=True)
    assert any(entry.kind == "norm" and "rbr_dense.bn" in entry.name for entry in fxrep.report(after).kept)


def test_a_norm_in_training_mode_inside_an_eval_model_stays() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    model.rbr_1x1.bn.train()
    x = image().double()
    expected = run(copy.deepcopy(model), x)
    state = snapshot(model)
    after = fxrep.reparameterize(model)
    assert_unchanged(model, state)
    assert relative_error(run(after, x), expected) <= 1e-9
    (entry,) = (e for e in fxrep.report(after).kept if e.kind == "norm")
    assert "rbr_1x1.bn" in entry.name
    assert "eval" in entry.reason


class Updates(nn.Module):
    """Another norm than that of the branch has its statistics: what ``body`` does with them."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.a, self.b, self.n = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.norm, self.instances = nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)
        for other in (self.norm, self.instances):
            other.running_mean, other.running_var = self.n.running_mean, self.n.running_var
        self.body = body

    def forward(self, x: Tensor, trains: bool = True) -> tuple[Tensor, Tensor]:
        return self.body(self, x, self.n.running_mean, self.n.running_var, trains).relu(), self.n(self.a(x)) + self.b(x)


aten = torch.ops.aten
UPDATES: dict[str, Any] = {
    "F.batch_norm": lambda m, x, mean, var, t: F.batch_norm(x, mean, var, training=t),
    "F.batch_norm by position": lambda m, x, mean, var, t: F.batch_norm(x, mean, var, None, None, t),
    "torch.batch_norm": lambda m, x, mean, var, t: torch.batch_norm(x, None, None, mean, var, t, 0.1, 1e-5, True),
    "torch.native_batch_norm": lambda m, x, mean, var, t: (
        torch.native_batch_norm(x, None, None, mean, var, t, 0.1, 1e-5)[0]),
    "aten.batch_norm": lambda m, x, mean, var, t: (
        aten.batch_norm.default(x, None, None, mean, var, t, 0.1, 1e-5, True)),
    "aten.native_batch_norm": lambda m, x, mean, var, t: (
        aten.native_batch_norm.default(x, None, None, mean, var, t, 0.1, 1e-5)[0]),
    "an operator of several overloads": lambda m, x, mean, var, t: (
        aten.native_batch_norm(x, None, None, mean, var, t, 0.1, 1e-5)[0]),
    "aten._native_batch_norm_legit": lambda m, x, mean, var, t: (
        aten._native_batch_norm_legit.default(x, None, None, mean, var, training=t, momentum=0.1, eps=1e-5)[0]),
    "F.instance_norm": lambda m, x, mean, var, t: F.instance_norm(x, mean, var, use_input_stats=t),
    "a module": lambda m, x, mean, var, t: m.norm(x),
    "an instance norm": lambda m, x, mean, var, t: m.instances(x),
}  # fmt: skip


@pytest.mark.parametrize("way", ["as written", "flat", "exported"])
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("case", UPDATES)
def test_a_norm_that_updates_the_statistics_of_another(case: str, trains: bool, way: str) -> None:
    body = UPDATES[case]
    model = randomize(Updates(lambda m, x, mean, var, _: body(m, x, mean, var, trains))).double()
    for other in (model.norm, model.instances):  # a cast takes them apart
        other.running_mean, other.running_var = model.n.running_mean, model.n.running_var
        other.train(trains)
    x, given = image().double(), model
    if way == "flat":
        given = torch.fx.symbolic_trace(copy.deepcopy(model))
    elif way == "exported":
        if torch.__version__ < "2.6":
            pytest.skip("torch 2.5 exports no model whose parts share a buffer that is written to")
        given = torch.export.export(copy.deepcopy(model), (x,)).module()
    after, before = fxrep.reparameterize(given), copy.deepcopy(given)
    assert (fxrep.report(after).after["conv"] == 1) is not trains
    for _ in range(2):
        for found, wanted in zip(run(after, x), run(before, x), strict=True):
            assert relative_error(found, wanted) <= 1e-9


def test_statistics_of_a_module_in_training_mode_that_a_function_reads() -> None:
    class Functional(Updates):
        def forward(self, x: Tensor, trains: bool = True) -> tuple[Tensor, Tensor]:
            n = self.n
            return n(x).relu(), F.batch_norm(self.a(x), n.running_mean, n.running_var) + self.b(x)

    model = randomize(Functional(None)).double()
    model.n.train()
    after, before, x = fxrep.reparameterize(model), copy.deepcopy(model), image().double()
    for _ in range(2):
        assert all(relative_error(a, b) <= 1e-9 for a, b in zip(run(after, x), run(before, x), strict=True))


def test_an_instance_norm_that_updates_what_it_does_not_use() -> None:
    model = randomize(Updates(lambda m, x, *_: m.instances(x))).double()
    model.instances.running_mean, model.instances.running_var = model.n.running_mean, model.n.running_var
    model.instances.track_running_stats = False
    after, before, x = fxrep.reparameterize(model), copy.deepcopy(model), image().double()
    for _ in range(2):
        assert all(relative_error(a, b) <= 1e-9 for a, b in zip(run(after, x), run(before, x), strict=True))


def test_a_norm_without_statistics_stays() -> None:
    model = randomize(blocks.OriginalRepVGGBlock(4, 4)).double()
    model.rbr_1x1.bn = nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    x = image().double()
    after = fxrep.reparameterize(model)
    assert relative_error(run(after, x), run(model, x)) <= 1e-9
    (entry,) = (e for e in fxrep.report(after).kept if e.kind == "norm")
    assert "rbr_1x1.bn" in entry.name
    assert entry.reason


def test_tied_weights_stay_right() -> None:
    """One weight in two branches, and one conv in two blocks with different norms."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.twin = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.twin.weight = self.conv.weight

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(self.conv(x)) + x)
            x = F.relu(self.second(self.conv(x)) + x)
            return self.first(self.twin(x)) + x

    assert_merged(randomize(Tied()), image(), convs=3)


# ------------------------------------------------------------------------------------- modules that are used elsewhere
class Custom(nn.Module):
    """A conv, its norm, and a 1x1 branch; ``body(self, x)`` says what happens."""

    def __init__(self, body: Any, cin: int = 4, cout: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)
        self.bn = nn.BatchNorm2d(cout)
        self.point = nn.Conv2d(cin, cout, 1)
        self.c = nn.Parameter(torch.randn(4, 1, 1))
        self.block = blocks.ConvNorm(cin, cout, padding=1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _untraceable(m: Custom, x: Tensor) -> Tensor:
    y = m.block(x)
    if y.sum() > 1e9:
        return y
    return y * m.block.conv(x)


USED_ELSEWHERE: dict[str, Any] = {
    "its weight in F.conv2d": lambda m, x: m.bn(m.conv(x)) * F.conv2d(x, m.conv.weight, padding=1),
    "its bias as a constant": lambda m, x: m.bn(m.conv(x)) * m.conv.bias.view(1, -1, 1, 1),
    "a weight decay term": lambda m, x: m.bn(m.conv(x)) + m.conv.weight.square().sum(),
    "the statistics of the norm": lambda m, x: F.relu(m.bn(m.conv(x))) * m.bn.running_var.view(-1, 1, 1),
    "its conv called again": lambda m, x: F.relu(m.block(x)) * m.block.conv(x),
    "its norm called again": lambda m, x: F.relu(m.block(x)) * m.block.bn(x.abs()),
    "the block called twice": lambda m, x: F.relu(m.block(F.relu(m.block(x)))),
    "its conv called by code that is not traced": _untraceable,
}


@pytest.mark.parametrize("case", USED_ELSEWHERE)
@pytest.mark.parametrize("inplace", [False, True])
def test_used_elsewhere(case: str, inplace: bool) -> None:
    model = randomize(Custom(USED_ELSEWHERE[case]))
    if not inplace:
        assert_right(model)
        return
    model, x = model.double(), image().double()
    expected = run(model, x)
    fxrep.reparameterize(model, inplace=True)
    assert relative_error(run(model, x), expected) <= 1e-9


def test_tied_weights_in_place() -> None:
    model = randomize(Custom(lambda m, x: m.bn(m.conv(x)) * m.block.conv(x))).double()
    model.block.conv.weight = model.conv.weight
    x = image().double()
    expected = run(model, x)
    fxrep.reparameterize(model, inplace=True)
    assert relative_error(run(model, x), expected) <= 1e-9


def test_two_models_that_share_a_block() -> None:
    """In-place surgery on one model may not reach into parameters that another model owns as well."""
    first = randomize(Custom(lambda m, x: m.block(x))).double()
    second = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1)}).double()
    second["conv"].weight = first.block.conv.weight
    state = snapshot(second)
    fxrep.reparameterize(first, inplace=True)
    assert_unchanged(second, state)


# ---------------------------------------------------------------------------------------------- arguments of a forward
class Optional(nn.Module):
    """A RepVGG block with arguments that have defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.a = blocks.ConvNorm(4, 4, padding=1)
        self.b = blocks.ConvNorm(4, 4, 1)

    def forward(self, x: Tensor, scale: float = 1.0, other: Tensor | None = None, *, act: bool = True) -> Tensor:
        y = (self.a(x) + self.b(x)) * scale
        if other is not None:
            y = y * other
        return F.relu(y) if act else y


class TwoCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Optional()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x, scale=2.0, act=False)) - self.block(x, 3.0, x)


def test_one_block_called_with_different_arguments() -> None:
    assert_right(randomize(TwoCalls()))


ARGUMENTS: list[dict[str, Any]] = [{}, {"scale": 2.0}, {"other": torch.full((), 0.3).double()}, {"act": False}]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_with_defaults_work_or_say_so(arguments: dict[str, Any]) -> None:
    """The default always works; another value may be refused, by name, but never ignored."""
    model, x = randomize(Optional()).double(), image().double()
    after = fxrep.reparameterize(model)
    with torch.no_grad():
        try:
            out = after(x, **arguments)
        except ValueError as error:
            (name,) = arguments
            assert f"{name}=" in str(error)  # noqa: PT017
            return
        assert relative_error(out, model(x, **arguments)) <= 1e-9


def test_the_input_by_keyword() -> None:
    model, x = randomize(Optional()).double(), image().double()
    after = fxrep.reparameterize(model)
    with torch.no_grad():
        assert relative_error(after(x=x), model(x=x)) <= 1e-9


def test_several_outputs_and_inputs() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = blocks.OriginalRepVGGBlock(4, 4), blocks.OriginalRepVGGBlock(4, 8, 2)

        def forward(self, x: Tensor, features: dict[str, Tensor]) -> dict[str, Any]:
            y = self.a(x)
            return {"y": y, "rest": [self.b(y), (features["z"], x.shape[0])]}

    model, x = randomize(Many()).double(), image().double()
    after = fxrep.reparameterize(model)
    with torch.no_grad():
        theirs, ours = model(x, {"z": x}), after(x, {"z": x})
    assert list(ours) == list(theirs)
    assert relative_error(ours["y"], theirs["y"]) <= 1e-9
    assert relative_error(ours["rest"][0], theirs["rest"][0]) <= 1e-9
    assert ours["rest"][1] == (x, 2)


# ------------------------------------------------------------------------------------------------------------ broadcast
BROADCASTS: dict[str, tuple[Any, int, int]] = {
    "a per-channel constant widens one channel": (lambda m, x: m.conv(x) + x * m.c, 1, 1),
    "a per-channel shift widens one channel": (lambda m, x: m.conv(x) + x + m.c, 1, 1),
    "one channel into four": (lambda m, x: m.conv(x) + m.point(x) + x, 1, 4),
    "four channels into one": (lambda m, x: m.conv(x) + m.point(x) + x, 4, 1),
    "a scale of one channel after": (lambda m, x: (m.conv(x) + m.point(x)) * m.c + x, 4, 1),
    "a position table": (lambda m, x: m.conv(x) + m.point(x) + m.table, 4, 4),
    "a vector against the width": (lambda m, x: (m.conv(x) + m.point(x)) * m.row, 4, 4),
    "a batch of scales": (lambda m, x: (m.conv(x) + m.point(x)) * m.batch, 4, 4),
    "an extra axis": (lambda m, x: (m.conv(x) + m.point(x)) * m.five, 4, 4),
}


@pytest.mark.parametrize("case", BROADCASTS)
@pytest.mark.parametrize("given", [False, True], ids=["", "example"])
def test_broadcasts(case: str, given: bool) -> None:
    body, cin, cout = BROADCASTS[case]
    model = Custom(body, cin, cout)
    model.register_buffer("table", torch.randn(1, 4, 4, 4))
    model.register_buffer("row", torch.randn(4))
    model.register_buffer("batch", torch.randn(2, 1, 1, 1))
    model.register_buffer("five", torch.randn(3, 1, 1, 1, 1))
    x = image(cin, (4, 4))
    options = {"example_inputs": (x.double(),)} if given else {}
    for policy in ("default", "kernels"):
        assert_right(randomize(model), x, policy=policy, **options)


def test_mixed_precision_inside_one_model() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x.double())

    model, x = Mixed().eval(), image()
    out = run(fxrep.reparameterize(model), x)
    assert out.dtype == torch.float64
    assert relative_error(out, run(model, x)) <= 1e-6


def test_unbatched_images() -> None:
    model = Custom(lambda m, x: (m.conv(x) + m.point(x) + x) * m.c)
    x = torch.randn(4, 5, 6)
    assert relative_error(run(fxrep.reparameterize(model.eval()), x), run(model, x)) <= 1e-5


def test_linear_layers_in_one_dimension() -> None:
    """Linear and BatchNorm1d on (batch, features), where the channel is the last axis."""

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.a(x) + self.b(x)) + x

    assert_right(randomize(Mlp()), torch.randn(3, 4))


def test_a_norm_over_a_sequence() -> None:
    """BatchNorm1d on (batch, channels, length) with as many channels as positions."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.n = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.a(x).transpose(1, 2)) + self.n(x)

    assert_right(randomize(Sequence()), torch.randn(3, 4, 4))
