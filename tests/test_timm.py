"""timm's RepVGG and MobileOne, whole and by name: as few convolutions as after timm's own hand-written merge."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxrep
from tests.counting import count_ops
from tests.helpers import assert_unchanged, calibrate, randomize, relative_error, snapshot

timm = pytest.importorskip("timm")
from timm.utils.model import reparameterize_model  # noqa: E402

NAMES = [*timm.list_models("repvgg_*"), *timm.list_models("mobileone_*")]
LARGE = {"repvgg_b0", "repvgg_b1", "repvgg_b2", "repvgg_b2g4", "repvgg_b3", "repvgg_b3g4", "repvgg_d2se"}
WHOLE = [pytest.param(name, marks=pytest.mark.long) if name in LARGE else name for name in NAMES]
SIZE = 64


def test_the_names_are_all_there() -> None:
    assert {"repvgg_a0", "repvgg_b3", "repvgg_b3g4", "repvgg_d2se", "mobileone_s0", "mobileone_s4"} <= set(NAMES)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_model(name: str) -> None:
    torch.manual_seed(0)
    model = calibrate(timm.create_model(name, num_classes=10), torch.randn(4, 3, SIZE, SIZE))
    x = torch.randn(1, 3, SIZE, SIZE)
    state = snapshot(model)
    theirs = count_ops(reparameterize_model(model), x)
    original = count_ops(model, x)

    after = fxrep.reparameterize(model)

    assert type(after) is type(model)
    counts = count_ops(after, x)
    assert counts["conv"] == theirs["conv"] < original["conv"]
    assert (counts["norm"], counts["add"]) == (0, 0)
    assert original["norm"]
    assert original["add"]
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in after.modules())
    assert_unchanged(model, state)
    assert after.num_classes == 10
    assert after.default_cfg == model.default_cfg
    assert after.num_features == model.num_features
    assert after.training is False

    with torch.no_grad():
        single, features = model(x), model.forward_features(x)
        merged, merged_features = after(x), after.forward_features(x)
        del after
        model.double()
        expected_features = model.forward_features(x.double())
        expected = model.forward_head(expected_features)
    assert expected.isfinite().all()
    own = relative_error(single, expected)
    assert own <= 1e-4, "the model itself is ill-conditioned: the comparison below would say nothing"
    assert relative_error(merged, expected) <= 4 * own
    assert relative_error(merged_features, expected_features) <= 4 * relative_error(features, expected_features)


@pytest.mark.parametrize("name", ["nf_resnet26", "test_nfnet", "tf_efficientnet_b0",
                                  pytest.param("dm_nfnet_f0", marks=pytest.mark.long)])  # fmt: skip
def test_weights_that_are_computed_and_pads_that_depend_on_the_size(name: str) -> None:
    """A convolution whose code normalises its weights, or pads by what the size of its input asks for, is one."""
    torch.manual_seed(0)
    model = randomize(timm.create_model(name)).double()
    after = fxrep.reparameterize(model)
    for size in ((1, 3, SIZE, SIZE), (1, 3, SIZE + 13, SIZE + 6)):
        x = torch.randn(*size).double()
        with torch.no_grad():
            assert relative_error(after(x), model(x)) <= 1e-9
        before, counts = count_ops(model, x), count_ops(after, x)
        assert before["norm"]
        assert not counts["norm"]
        assert (counts["conv"], counts["add"]) == (before["conv"], before["add"])


def test_features_and_head_still_work() -> None:
    model = randomize(timm.create_model("repvgg_a0", num_classes=10))
    after = fxrep.reparameterize(model)
    x = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        features = after.forward_features(x)
        torch.testing.assert_close(after.forward_head(features), after(x))
        for ours, theirs in zip(after.forward_intermediates(x)[1], model.forward_intermediates(x)[1], strict=True):
            assert relative_error(ours, theirs) <= 1e-4
    after.reset_classifier(3)
    assert after(x).shape == (1, 3)


def test_a_feature_extractor() -> None:
    model = randomize(timm.create_model("mobileone_s0", features_only=True))
    after = fxrep.reparameterize(model)
    x = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        for ours, theirs in zip(after(x), model(x), strict=True):
            assert relative_error(ours, theirs) <= 1e-4
    assert count_ops(after, x)["norm"] == 0
    assert after.feature_info.channels() == model.feature_info.channels()


def test_other_precisions_and_layouts() -> None:
    model = randomize(timm.create_model("mobileone_s0", num_classes=10))
    x = torch.randn(1, 3, SIZE, SIZE)
    double = fxrep.reparameterize(copy.deepcopy(model).double())
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double())
        assert relative_error(double(x.double()), expected) <= 1e-9
        last = fxrep.reparameterize(copy.deepcopy(model).to(memory_format=torch.channels_last))
        assert relative_error(last(x.to(memory_format=torch.channels_last)), expected) <= 1e-4
    half = fxrep.reparameterize(copy.deepcopy(model).bfloat16())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
