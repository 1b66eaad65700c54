"""Code that computes with the sizes of its input, such as a pad to a multiple of a stride."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxrep
from tests.helpers import assert_merged, randomize, relative_error, run

SIZES = [(2, 4, 5, 5), (1, 4, 8, 7), (3, 4, 1, 2)]


def pad_to(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same", as code outside of any module has it."""
    height, width = x.size()[-2:]
    down = max((math.ceil(height / stride) - 1) * stride + kernel - height, 0)
    right = max((math.ceil(width / stride) - 1) * stride + kernel - width, 0)
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


class Same(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(pad_to(x, self.kernel_size[0], self.stride[0]), self.weight, self.bias, self.stride)


class Smallest(nn.Conv2d):
    """Cut to a square by one argument and by several."""

    def forward(self, x: Tensor) -> Tensor:
        side = min(x.shape[-1], x.shape[-2], 4)
        return F.conv2d(x[..., :side, : min(x.shape[-2:])], self.weight, self.bias)


class Model(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.last = conv, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu()).sin()


def same() -> nn.Module:
    return randomize(Model(Same(4, 4, 3, stride=2)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conv", [lambda: Same(4, 4, 3, stride=2), lambda: Smallest(4, 4, 1)], ids=["max", "min"])
def test_a_norm_behind_a_convolution_of_a_pad_that_depends_on_the_size(size: tuple[int, ...], conv: Any) -> None:
    assert_merged(randomize(Model(conv())), torch.randn(*size), convs=2)


def test_other_sizes_than_that_of_the_example() -> None:
    model = same().double()
    after = fxrep.reparameterize(model, (torch.randn(1, 4, 6, 6).double(),))
    for size in SIZES:
        x = torch.randn(*size).double()
        assert relative_error(run(after, x), run(model, x)) <= 1e-9


def test_a_norm_before_the_pad_stays() -> None:
    """Its shift would be missing in the border."""
    assert_merged(randomize(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), Same(4, 4, 3, 2))), torch.randn(1, 4, 5, 5),
                  convs=1, norms=1)  # fmt: skip


def test_the_larger_of_two_tensors_is_not_known() -> None:
    class Larger(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x * max(x.sum(), x.mean()), self.weight)

    assert_merged(randomize(Model(Larger(4, 4, 1))), torch.randn(1, 4, 5, 5), convs=2, norms=1)


def test_the_largest_by_a_key_is_not_known() -> None:
    class Keyed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x[..., : max(x.shape[2], x.shape[3], key=lambda n: -n)], self.weight)

    assert_merged(randomize(Model(Keyed(4, 4, 1))), torch.randn(1, 4, 5, 7), convs=2, norms=1)


def test_python_is_as_it_was() -> None:
    largest, smallest = builtins.max, builtins.min
    fxrep.reparameterize(same())
    with pytest.raises(RuntimeError):
        fxrep.trace(Failing().eval())
    assert builtins.max is largest
    assert builtins.min is smallest


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if max(x.shape[2], 3) > 4 else -x


def test_the_result_is_saved_and_exported() -> None:
    after, x = fxrep.reparameterize(same()), torch.randn(1, 4, 5, 8)
    for other in (pickle.loads(pickle.dumps(after)), copy.deepcopy(after), fxrep.trace(after)):
        assert torch.equal(run(other, x), run(after, x))
    program = torch.export.export(
        after, (torch.cat([x, x]),), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False
    )
    y = torch.randn(3, 4, 5, 8)
    assert relative_error(run(program.module(), y), run(after, y)) <= 1e-6
