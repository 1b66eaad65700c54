"""A detector as they are published: a loop over layers with a list of what is kept, a head that keeps its anchors.

Its head cannot be traced, and its files do much besides, in training, which is no reason to leave the model alone.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep.capture.changes import ANY, DICTS, LISTS, SETS, changes, may_change
from fxrep.capture.results import count_of
from fxrep.capture.tracer import capture_whole
from tests.helpers import randomize, relative_error

LOG = logging.getLogger(__name__)


class Conv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(cout), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))  # type: ignore[no-any-return]


class Halves(nn.Module):
    """One half goes on; what the blocks make of it is kept beside both."""

    def __init__(self, channels: int, depth: int = 2) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2 = Conv(channels, channels), Conv((2 + depth) * half, channels)
        self.m = nn.ModuleList(Conv(half, half, 3) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))  # type: ignore[no-any-return]


def make_anchors(feats: list[Tensor], strides: Tensor) -> tuple[Tensor, Tensor]:
    points, steps = [], []
    assert feats is not None
    for feat, stride in zip(feats, strides, strict=True):
        h, w = feat.shape[2:]
        points.append(torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(-1, 2))
        steps.append(torch.full((h * w, 1), float(stride)))
    return torch.cat(points).to(feats[0]), torch.cat(steps).to(feats[0])


class Flow(nn.Module):
    """What training alone asks, by a method: it has no ``forward``."""

    def log_prob(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1)


class Head(nn.Module):
    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.shape: torch.Size | None = None
        self.flow = Flow()
        self.stride = 2.0 ** torch.arange(1, len(channels) + 1)
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(c, 8, 3), nn.Conv2d(8, 4, 1)) for c in channels)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, dict[str, Any]]:
        boxes = torch.cat([cv(xi).flatten(2) for cv, xi in zip(self.cv2, x, strict=True)], 2)
        preds: dict[str, Any] = {"boxes": boxes}
        preds["feats"] = x
        return self._decode(preds), preds

    def _decode(self, preds: dict[str, Any]) -> Tensor:
        shape = preds["feats"][0].shape
        if self.shape != shape:
            self.anchors, self.strides = make_anchors(preds["feats"], self.stride)
            self.shape = shape
        y = preds["boxes"].clone()
        y[:, :2] = y[:, :2].sigmoid()
        y[:, 2:] = y[:, 2:] + self.anchors.t()
        y -= y.mean(2, keepdim=True)
        return y * self.strides.t() if preds.get("angle") is None else y


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [Conv(3, 8, 3, 2), Halves(8), Conv(8, 16, 3, 2), Halves(16), Head((8, 16))]
        self.model, self.save = nn.Sequential(*layers), (1, 3)
        for i, (layer, source) in enumerate(zip(self.model, (-1, -1, -1, -1, [1, 3]), strict=True)):
            layer.i, layer.f = i, source  # type: ignore[assignment]

    def forward(self, x: Tensor, *args: Any) -> Any:
        return self.loss(x, *args) if isinstance(x, dict) else self.predict(x)

    def predict(self, x: Any, profile: bool = False, embed: list[int] | None = None) -> Any:
        y: list[Tensor | None] = []
        wanted = frozenset(embed) if embed else {-1}
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            if profile:
                self._profile(m, x)
            x = m(x)
            y.append(x if m.i in self.save else None)
            if m.i in wanted:
                return x
        return x

    def _profile(self, m: nn.Module, x: Tensor) -> None:
        try:
            import thop_that_nobody_has as thop  # type: ignore[import-not-found]
        except ImportError:
            thop = None
        LOG.info("%s: %s parameters", thop, self.info())

    def info(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def loss(self, batch: dict[str, Any], preds: Any = None) -> Any:
        if preds is None:
            preds = self.predict(batch["img"])
        weight = batch["weight"]
        weight += 1
        batch["loss"] = (preds[0] * weight).sum() + self.criterion.denoising.weight.sum()  # type: ignore[union-attr]
        return batch["loss"]


def test_every_norm_of_a_detector_is_merged() -> None:
    model = randomize(Detector()).double()
    result = fxrep.reparameterize(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.modules())
    for size in ((2, 3, 32, 32), (1, 3, 48, 32)):
        x = torch.randn(size, dtype=torch.float64)
        (before, more), (after, less) = model(x), result(x)
        assert relative_error(after, before) < 1e-12
        assert all(relative_error(b, a) < 1e-12 for a, b in zip(more["feats"], less["feats"], strict=True))


class Asking(Detector):
    """It asks for None behind the head, which may give None."""

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        found = super().predict(x)
        return x if found is None else found


class Silent(Head):
    def forward(self, x: list[Tensor]) -> Any:
        found = super().forward(x)
        return None if float(found[0].mean()) < 1e9 else found


def test_a_head_that_gives_none_and_code_that_asks() -> None:
    model = randomize(Asking())
    model.model[4].__class__ = Silent  # type: ignore[operator, union-attr, assignment]
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(fxrep.reparameterize(model)(x), x)


def test_a_profiler_that_watches_is_left_to_it() -> None:
    model, calls = randomize(Detector()), [0]

    def count(*_: object) -> None:
        calls[0] += 1

    sys.setprofile(count)
    try:
        fxrep.explain(model)
        assert sys.getprofile() is count
    finally:
        sys.setprofile(None)
    fxrep.explain(model)
    assert sys.getprofile() is None
    assert calls[0]


# ----------------------------------------------------------------------------------------------- who changes a list
def by_text(x: Any) -> None:
    x["a"] = 1


def by_slices(x: Any) -> None:
    x[:, 1:] = 1


def by_number(x: Any) -> None:
    x[0] = 1


def an_attribute(x: Any) -> None:
    x.a = 1


@dataclass
class Size:
    a: int = 0


def two_lists(x: Any) -> Any:
    first, second = [], []
    first.append(x)
    second.append(x)
    return first, second


def two_names(x: Any) -> Any:
    first, second = [], x
    first.append(x)
    second.append(x)
    return first


def a_difference(x: Any) -> Any:
    x -= x.mean()
    return x


def a_union(x: Any) -> Any:
    x.update(x)
    return x


@pytest.mark.parametrize(
    ("function", "least"),
    [
        (by_number, LISTS),
        (two_names, LISTS),
        (a_difference, SETS),
        (a_union, SETS),
        (by_text, DICTS),
        (by_slices, DICTS),
        (an_attribute, ANY),
        (two_lists, ANY + 1),
    ],
)
def test_who_changes_what(function: Callable[[Any], Any], least: int) -> None:
    for what in (LISTS, SETS, DICTS, ANY):
        assert changes(function.__code__, what) == (what >= least), what


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((torch.ones(1), 2, [torch.ones(1)]), LISTS),
        (([{1}],), SETS),
        ((deque(), []), SETS),
        (([], ({"a": []}, {1})), DICTS),
        (([OrderedDict()],), ANY),
        (([Size()],), ANY),
    ],
)
def test_what_may_be_changed(given: tuple[Any, ...], expected: int) -> None:
    """Code that changes what is not there changes nothing."""
    for function, least in ((by_number, LISTS), (a_union, SETS), (by_text, DICTS), (an_attribute, ANY)):
        assert may_change(function, given) == (expected >= least), function


# ------------------------------------------------------------------------------------------------ how many parts
class Parts(nn.Module):
    def __init__(self, split: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.split = split

    def forward(self, x: Tensor) -> Any:
        return self.split(self.act(self.norm(self.conv(x))))


COUNTS: dict[str, tuple[Callable[[Tensor], Any], int | None]] = {
    "chunk": (lambda y: y.chunk(2, 1), 2),
    "chunk of a number that does not divide": (lambda y: torch.chunk(y, 4, dim=1), 3),
    "split into a size": (lambda y: y.split(4, dim=1), 2),
    "split into sizes": (lambda y: torch.split(y, [1, 2, 3], 1), 3),
    "split into sizes of the image": (lambda y: y.split([2, 3], -1), 2),
    "chunk of the batch": (lambda y: y.chunk(2), None),
    "split of the image": (lambda y: y.split(2, 2), None),
    "of a mean": (lambda y: y.mean(1, keepdim=True).chunk(2, 1), None),
}


@pytest.mark.parametrize("case", COUNTS)
def test_how_many_parts(case: str) -> None:
    split, count = COUNTS[case]
    piece = capture_whole(Parts(split).eval())
    *_, output = piece.graph.nodes
    assert count_of(output.args[0], piece.root) == count  # type: ignore[arg-type]
    model = randomize(Parts(lambda y: sum(part.sum((1, 2, 3)) for part in list(split(y)))).double())
    result, x = fxrep.reparameterize(model), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    assert relative_error(result(x), model(x)) < 1e-12
    assert (not fxrep.report(result).opaque) == (count is not None)


def test_an_activation_that_halves_the_channels() -> None:
    model = Parts(lambda y: y.chunk(2, 1))
    model.act = nn.GLU(1)  # type: ignore[assignment]
    piece = capture_whole(model.eval())
    *_, output = piece.graph.nodes
    assert count_of(output.args[0], piece.root) is None  # type: ignore[arg-type]


def is_none(x: Any) -> bool:
    return x is None


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor | None:
        return None if float(x.mean()) < 1e9 else x


class AskingByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.conv, self.norm, self.point = (
            Nothing(),
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        found = self.nothing(x.abs())
        y: Tensor = self.norm(self.conv(x)) + self.point(x)
        return y if is_none(found) else -y


def test_a_function_that_asks() -> None:
    model, x = randomize(AskingByFunction()), torch.randn(1, 3, 8, 8)
    assert relative_error(fxrep.reparameterize(model)(x), model(x)) < 1e-5
