"""Norms, scales and linear layers across operators that leave each channel whole: flattened or turned axes, means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests.helpers import randomize, relative_error, run
from tests.test_composition import B1, IMAGE, TOKENS, B, C, L, Made, both

KNOWN = C(4, 4, 1)  # what tells that an image has two axes


def tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)


class LinearNorm(nn.Module):
    """A linear layer, and a norm of its output as one long batch."""

    def __init__(self, channels: int, back: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.bn, self.back = L(channels, channels), B1(channels), back

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.back(self.bn(x.flatten(0, 1)), x)


def left_in(merged: Any) -> tuple[int, int, int]:
    after = fxrep.report(merged).after
    return after.get("conv", 0) + after.get("linear", 0), after.get("norm", 0), after.get("add", 0)


def reshape_as(y: Tensor, x: Tensor) -> Tensor:
    return y.reshape_as(x)


# name: model, input, and how many convolutions and linear layers, norms and adds have to be left
MERGED: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "norm over flattened tokens": (
        Made(lambda m, x: m.n(tokens(m.k(x).relu())), k=KNOWN, n=LinearNorm(4, reshape_as)), IMAGE, (2, 0, 0)),
    "flattened by hand": (
        Made(lambda m, x: m.n(torch.flatten(m.l(tokens(m.k(x).relu())), end_dim=1)), k=KNOWN, l=L(4, 5), n=B1(5)),
        IMAGE, (2, 0, 0)),
    "norm over flattened tokens and the tokens": (
        Made(both(lambda m, x: tokens(m.k(x).relu()), lambda m, h: h + m.n(h)), k=KNOWN, n=LinearNorm(4, reshape_as)),
        IMAGE, (2, 0, 0)),
    "two norms of flattened tokens, added": (
        Made(both(lambda m, x: m.l(tokens(m.k(x).relu())), lambda m, h: both(
            lambda m, h: h.flatten(0, 1), lambda m, t: m.n(t) + m.o(t))(m, h).reshape_as(h)),
             k=KNOWN, l=L(4, 4), n=B1(4), o=B1(4)), IMAGE, (2, 0, 0)),
    "sum of two, flattened": (
        Made(both(lambda m, x: tokens(m.k(x).relu()), lambda m, h: m.n((m.a(h) + m.b(h)).flatten(0, 1)).sigmoid()),
             k=KNOWN, a=L(4, 4), b=L(4, 4), n=B1(4)), IMAGE, (2, 0, 0)),
    "norm of a sum, mean, linear": (
        Made(lambda m, x: m.l(m.n(x + x.sin()).mean((2, 3))), n=B(4), l=L(4, 5)), IMAGE, (1, 0, 1)),
    "norm, mean, dropout, two heads": (
        Made(both(lambda m, x: m.d(m.n(x.relu()).mean(dim=[-1, -2])), lambda m, h: (m.a(h) + m.b(h)) / 2),
             n=B(4), d=nn.Dropout(), a=L(4, 5), b=L(4, 5)), IMAGE, (1, 0, 0)),
    "norm, mean, norms, two heads": (
        Made(both(lambda m, x: m.n(x.relu()).mean((2, 3)), lambda m, h: m.a(m.o(h)) - m.b(m.p(h))),
             n=B(4), o=B1(4), p=B1(4), a=L(4, 5), b=L(4, 5)), IMAGE, (1, 0, 0)),
    "norm, pool, flatten, linear": (
        Made(lambda m, x: m.l(m.p(m.n(x)).flatten(1)), n=B(4), p=nn.AdaptiveAvgPool2d(1), l=L(4, 5)), IMAGE, (1, 0, 0)),
    "norm, pool, 1x1, flatten, norm": (
        Made(lambda m, x: m.f(m.o(m.c(F.adaptive_avg_pool2d(m.n(x), (1, 1))))),
             n=B(4), c=C(4, 6, 1), o=B(6), f=nn.Flatten(1)), IMAGE, (1, 0, 0)),
    "norm, mean that keeps its axes, 1x1": (
        Made(lambda m, x: m.c(m.n(x).mean((2, 3), keepdim=True)), n=B(4), c=C(4, 6, 1)), IMAGE, (1, 0, 0)),
    "norm, mean, linear as a function": (
        Made(lambda m, x: F.linear(m.n(x.relu()).mean((2, 3)), m.w), n=B(4), w=nn.Parameter(torch.randn(3, 4))),
        IMAGE, (1, 0, 0)),
    "norm and scale by hand, mean over time": (
        Made(lambda m, x: m.l((m.n(m.c(x).relu()) * 0.5 + m.g).mean(-1)), c=nn.Conv1d(4, 4, 1), n=B1(4), l=L(4, 3),
             g=nn.Parameter(torch.randn(4, 1))), IMAGE.flatten(2), (2, 0, 0)),
    "linear, permute, layer scale": (
        Made(both(lambda m, x: m.k(x).relu(),
                  lambda m, h: h + m.l(h.permute(0, 2, 3, 1).sin()).permute(0, 3, 1, 2) * m.g.reshape(1, -1, 1, 1)),
             k=KNOWN, l=L(4, 4), g=nn.Parameter(torch.randn(4))), IMAGE, (2, 0, 1)),
    "norm, tokens, linear": (
        Made(both(lambda m, x: m.k(x).relu(), lambda m, h: h.flatten(2).transpose(-2, -1) + m.l(tokens(m.n(h)))),
             k=KNOWN, n=B(4), l=L(4, 4)), IMAGE, (2, 0, 1)),
    "norm, permute, linear, permute, norm": (
        Made(lambda m, x: m.o(torch.permute(m.l(m.n(x).permute((0, 2, 3, 1))), dims=(0, 3, 1, 2))),
             n=B(4), l=L(4, 5), o=B(5)), IMAGE, (1, 0, 0)),
    "norm, permute, linear as a function, permute, scale": (
        Made(lambda m, x: (F.linear(m.n(x).permute(0, 2, 3, 1), m.w) * m.g).movedim(-1, 1).relu(),
             n=B(4), w=nn.Parameter(torch.randn(3, 4)), g=nn.Parameter(torch.randn(3))), IMAGE, (1, 0, 0)),
    "3x3, permute, scale and shift": (
        Made(lambda m, x: m.c(x).permute(0, 2, 3, 1) * m.g + m.g, c=C(4, 4, 3, 2, 1), g=nn.Parameter(torch.randn(4))),
        IMAGE, (1, 0, 0)),
    "3x3 and 1x1, flattened image, norm": (
        Made(lambda m, x: m.n((m.a(x) + m.b(x)).flatten(2)), a=C(4, 5, 3, padding=1), b=C(4, 5, 1), n=B1(5)),
        IMAGE, (1, 0, 0)),
    "scale, turned image, 3x3": (
        Made(lambda m, x: m.c(m.n(x).swapaxes(2, 3)), n=B(4), c=C(4, 5, 3)), IMAGE, (1, 0, 0)),
    "linear, transposed, norm of the channels": (
        Made(lambda m, x: m.n(m.l(tokens(m.k(x).relu())).transpose(1, 2)), k=KNOWN, l=L(4, 5), n=B1(5)),
        IMAGE, (2, 0, 0)),
    "norm of known size, tokens, linear": (
        Made(both(lambda m, x: m.n(m.k(x).relu()), lambda m, h: m.l(tokens(h)).sin().transpose(1, 2).reshape(h.shape)),
             k=KNOWN, n=B(4), l=L(4, 4)), IMAGE, (2, 0, 0)),
    "merged, turned, and added to what is merged": (
        Made(both(lambda m, x: m.k(x).relu(),
                  lambda m, h: (m.a(h) + m.b(h)).transpose(2, 3) + m.c(h.sin()) + m.d(h.sin())),
             k=KNOWN, a=C(4, 4, 3, padding=1), b=C(4, 4, 1), c=C(4, 4, 3, padding=1), d=C(4, 4, 1)),
        IMAGE, (4, 0, 2)),
    "3x3, norm, permute, linear": (
        Made(lambda m, x: m.l(m.n(m.c(x)).permute(0, 2, 3, 1)), c=C(4, 8, 3, 2, 1), n=B(8), l=L(8, 5)),
        IMAGE, (1, 0, 0)),
    "1x1, tokens, linear, norm of the channels": (
        Made(lambda m, x: m.n(m.l(tokens(m.c(x))).transpose(1, 2)), c=C(4, 8, 1), l=L(8, 5), n=B1(5)),
        IMAGE, (1, 0, 0)),
    "permute, linear, permute, 1x1": (
        Made(lambda m, x: m.c(m.l(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), l=L(4, 8), c=C(8, 4, 1)),
        IMAGE, (1, 0, 0)),
    "1x1, permute, linear, permute, 1x1, as often as channels, which somebody asks for": (
        Made(both(lambda m, x: m.c(x).permute(0, 2, 3, 1),
                  lambda m, h: m.d(m.l(h).permute(0, 3, 1, 2)) * h.shape[-1] * h.shape[-1]),
             c=C(4, 4, 1), l=L(4, 4), d=C(4, 4, 1)), IMAGE, (1, 0, 0)),
}  # fmt: skip

KEPT: dict[str, tuple[nn.Module, Tensor, tuple[int, int, int]]] = {
    "linear to fewer channels behind a permuted 3x3 whose channels somebody asks for": (
        Made(both(lambda m, x: m.c(x), lambda m, h: m.l(h.permute(0, 2, 3, 1)) * h.shape[1]), c=C(4, 8, 3), l=L(8, 5)),
        IMAGE, (2, 0, 0)),
    "linear to fewer channels behind a permute whose channels somebody asks for": (
        Made(both(lambda m, x: m.c(x).permute(0, 2, 3, 1), lambda m, h: m.l(h) * h.shape[-1]), c=C(4, 8, 3), l=L(8, 5)),
        IMAGE, (2, 0, 0)),
    "linear to fewer channels behind a view of so many": (
        Made(lambda m, x: m.l(m.c(x).view(2, 8, -1).transpose(1, 2)), c=C(4, 8, 1), l=L(8, 5)), IMAGE, (2, 0, 0)),
    "linear along another axis than the channels": (
        Made(lambda m, x: m.l(m.c(x).permute(0, 1, 3, 2)), c=C(4, 8, 1), l=L(9, 9)), IMAGE, (2, 0, 0)),
    "flattened into the channels": (
        Made(lambda m, x: m.n(m.l(m.k(x).relu()).flatten(1, 2)), k=KNOWN, l=L(9, 9), n=B1(36)), IMAGE, (2, 1, 0)),
    "mean over the channels": (
        Made(lambda m, x: m.l(m.n(x).mean((1, 2))), n=B(4), l=L(9, 3)), IMAGE, (1, 1, 0)),
    "mean over the height": (
        Made(lambda m, x: m.l(m.n(x).mean(2)), n=B(4), l=L(9, 3)), IMAGE, (1, 1, 0)),
    "mean over everything": (Made(lambda m, x: m.l(m.n(x).mean().expand(1, 4)), n=B(4), l=L(4, 3)), IMAGE, (1, 1, 0)),
    "flattened image": (Made(lambda m, x: m.l(m.n(x).flatten(1)), n=B(4), l=L(324, 3)), IMAGE, (1, 1, 0)),
    "pool to two positions": (
        Made(lambda m, x: m.l(m.p(m.n(x)).flatten(1)), n=B(4), p=nn.AdaptiveAvgPool2d((1, 2)), l=L(8, 3)),
        IMAGE, (1, 1, 0)),
    "pool and padding": (
        Made(lambda m, x: m.c(m.n(x).mean((2, 3), True)), n=B(4), c=C(4, 4, 3, padding=1)), IMAGE, (1, 1, 0)),
    "mean that something else reads": (
        Made(both(lambda m, x: m.n(x).mean((2, 3)), lambda m, h: m.l(h) * h.sigmoid()), n=B(4), l=L(4, 4)),
        IMAGE, (1, 1, 0)),
    "norm of a multiple that is a sum, mean": (
        Made(lambda m, x: m.l(m.n(sum([x, x, x])).mean((2, 3))), n=B(4), l=L(4, 3)), IMAGE, (1, 1, 3)),
    "norm that something else reads": (
        Made(both(lambda m, x: m.n(x), lambda m, h: m.l(h.mean((2, 3))) * h.sigmoid().sum((2, 3))), n=B(4), l=L(4, 4)),
        IMAGE, (1, 1, 0)),
    "turned, in the old shape": (
        Made(both(lambda m, x: m.l(x), lambda m, h: m.n(h.transpose(1, 2).reshape_as(h).transpose(1, 2))),
             l=L(5, 5), n=B1(5)),
        torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(3)), (1, 1, 0)),
    "linear after a transpose of its channels": (
        Made(lambda m, x: m.n(m.l(x).transpose(1, 2).flatten(0, 1)), l=L(5, 5), n=B1(5)),
        torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(3)), (1, 1, 0)),
    "sum of turned ones": (
        Made(lambda m, x: m.a(x).transpose(1, 2) + m.b(x).transpose(1, 2), a=L(4, 4), b=L(4, 4)), TOKENS, (2, 0, 1)),
    "turned value that something else reads": (
        Made(both(lambda m, x: m.l(x).transpose(1, 2), lambda m, h: m.n(h) * h.sigmoid()), l=L(4, 4), n=B1(4)),
        TOKENS, (1, 1, 0)),
    "3x3 behind a permute of what a linear layer gives": (
        Made(lambda m, x: m.c(m.l(x.permute(0, 2, 3, 1).relu()).permute(0, 3, 1, 2)), l=L(4, 4), c=C(4, 4, 3)),
        IMAGE, (2, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_is_merged(case: str) -> None:
    model, x, left = MERGED[case]
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert left_in(merged) == left, fxrep.report(merged)


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    model, x, left = KEPT[case]
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(model, (x,))
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert left_in(merged) == left, fxrep.report(merged)


def test_flattened_tokens_need_a_known_rank() -> None:
    """With four axes, of which the third is as long as the last, the norm would be along the third."""
    model = randomize(LinearNorm(4, reshape_as)).double()
    image = torch.randn(2, 3, 4, 4).double()
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, image), run(model, image)) < 1e-9
    assert left_in(merged) == (1, 1, 0)
    assert left_in(fxrep.reparameterize(model, (TOKENS.double(),))) == (1, 0, 0)


def test_a_factor_widens_the_axis_of_the_channels() -> None:
    """The image has one channel, and is as wide as the factor is long."""
    model = randomize(Made(lambda m, x: m.l((x * m.g).mean((2, 3))), g=nn.Parameter(torch.randn(4, 1, 1)), l=L(4, 5)))
    image = torch.randn(2, 1, 3, 4)
    merged = fxrep.reparameterize(model, (image,))
    assert relative_error(run(merged, image), run(model, image)) < 1e-5


def test_permuted_values_need_a_known_number_of_axes() -> None:
    """With three axes the channels would be on another one."""
    model = Made(lambda m, x: m.n(m.l(x).transpose(1, 2)), l=L(4, 5), n=B1(5))
    model = randomize(model).double()
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, TOKENS.double()), run(model, TOKENS.double())) < 1e-9
    assert left_in(merged) == (1, 1, 0)
    assert left_in(fxrep.reparameterize(model, (TOKENS.double(),))) == (1, 0, 0)


def test_an_output_that_is_merged_away_keeps_its_name_in_an_exported_program() -> None:
    model = randomize(Made(lambda m, x: m.c(x).flatten(2) * 0.5, c=C(4, 4, 3))).double()
    program = torch.export.export(model, (IMAGE.double(),))
    merged = fxrep.reparameterize(program)
    merged.validate()
    assert merged.graph_signature.user_outputs == program.graph_signature.user_outputs
    assert relative_error(run(merged.module(), IMAGE.double()), run(model, IMAGE.double())) < 1e-9


@pytest.mark.parametrize("case", [name for name in MERGED if "hand" not in name])
def test_is_merged_in_an_exported_program(case: str) -> None:
    model, x, left = MERGED[case]
    if case.startswith("1x1, tokens") and torch.__version__ < "2.6":
        pytest.skip("torch 2.5 exports flatten as a view, which is given the number of channels")
    model, x = randomize(model).double(), x.double()
    merged = fxrep.reparameterize(torch.export.export(model, (x,)))
    merged.validate()
    assert relative_error(run(merged.module(), x), run(model, x)) < 1e-9
    assert left_in(merged) == left, fxrep.report(merged)


def test_a_norm_of_which_the_sizes_are_read_goes_in_a_program_of_any_batch() -> None:
    model, x, left = MERGED["norm of known size, tokens, linear"]
    model = randomize(model).double()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x.double(),), dynamic_shapes=({0: batch},))
    merged = fxrep.reparameterize(program)
    assert left_in(merged) == left
    more = torch.cat([x, x + 1, x - 1]).double()
    assert relative_error(run(merged.module(), more), run(model, more)) < 1e-9


def test_the_sizes_of_what_a_convolution_gives_are_its_own() -> None:
    model = Made(both(lambda m, x: m.a(x), lambda m, h: m.b(h).sigmoid() * h.shape[2]),
                 a=C(4, 4, 3, bias=False), b=C(4, 4, 1))  # fmt: skip
    model, x = randomize(model).double(), IMAGE.double()
    merged = fxrep.reparameterize(model)
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    assert left_in(merged) == (2, 0, 0)


def test_other_ways_into_a_model_do_not_scale_twice() -> None:
    class Scaled(Made):
        def head(self, x: Tensor) -> Tensor:
            return self.a(x) * self.g

    model = randomize(Scaled(lambda m, x: m.head(x.relu()), a=L(4, 4), g=nn.Parameter(torch.randn(4)))).double()
    merged: Any = fxrep.reparameterize(model)
    x = TOKENS.double()
    assert relative_error(run(merged, x), run(model, x)) < 1e-9
    with torch.no_grad():
        assert relative_error(merged.head(x.relu()), run(model, x)) < 1e-9


def test_other_ways_into_a_model_keep_the_weights_that_they_use() -> None:
    class Heads(Made):
        def head(self, x: Tensor) -> Tensor:
            return F.linear(x, self.a.weight) + F.linear(x, self.b.weight, self.b.bias)

    model = randomize(Heads(lambda m, x: m.head(x.relu()), a=L(4, 4), b=L(4, 4))).double()
    merged: Any = fxrep.reparameterize(model)
    x = TOKENS.double()
    assert left_in(merged) == (1, 0, 0)
    with torch.no_grad():
        assert relative_error(merged.head(x.relu()), run(model, x)) < 1e-9


def test_a_view_of_so_many_channels_in_an_exported_program() -> None:
    """It is given the channels that there are before it, where a linear layer would leave fewer."""
    model = Made(lambda m, x: m.l(m.c(x).view(2, 8, 81).transpose(1, 2)), c=C(4, 8, 1), l=L(8, 5))
    model = randomize(model).double()
    merged = fxrep.reparameterize(torch.export.export(model, (IMAGE.double(),)))
    merged.validate()
    assert relative_error(run(merged.module(), IMAGE.double()), run(model, IMAGE.double())) < 1e-9
