"""``fxrep.load``: the merged model comes back from its two files, in a fresh process, whatever weights it had."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxrep
from fxrep.cli.errors import UserError
from fxrep.cli.restricted import check_forward
from fxrep.load import save
from tests.blocks import OriginalRepVGGBlock
from tests.counting import count_ops
from tests.helpers import randomize, run

ROOT = Path(__file__).parent.parent


class Net(nn.Module):
    """Blocks with an identity, a learned factor, tied layers, a buffer that is not saved, and functions between.

    The factor of the table goes into the head alone, whose weight is tied to another's no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = OriginalRepVGGBlock(3, 4, stride=2)
        self.blocks = nn.Sequential(OriginalRepVGGBlock(4, 4), OriginalRepVGGBlock(4, 4, groups=2))
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.alpha = nn.Parameter(torch.rand(()))
        self.register_buffer("table", torch.rand(1, 4, 1, 1), persistent=False)
        self.head = nn.Linear(4, 4)
        self.tied, self.again = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x))
        y = F.gelu(self.conv(y) + self.alpha * y) * self.table
        return self.again(self.tied(self.head(y.mean((2, 3))).relu()).relu())


def write(path: Path, model: nn.Module, spec: str = "nowhere:net") -> nn.Module:
    deploy = fxrep.reparameterize(model)
    save(path, model, deploy, spec=spec, arguments={}, inputs=[(1, 3, 16, 16)])
    return deploy


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("other", [lambda: Net(), lambda: randomize(Net(), seed=9)], ids=["fresh", "random"])
def test_comes_back_on_a_model_with_other_weights(tmp_path: Path, x: Tensor, other: Any) -> None:
    model = randomize(Net())
    deploy = write(tmp_path / "net.safetensors", model)
    loaded = fxrep.load(tmp_path / "net.safetensors", other())
    assert isinstance(loaded, Net)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(run(loaded, x), run(deploy, x))
    assert list(loaded.state_dict()) == list(deploy.state_dict())
    assert count_ops(loaded, x) == count_ops(deploy, x)
    for net in (deploy, loaded):
        assert net.again.weight is net.tied.weight
        assert net.head.weight is not net.tied.weight
    assert "alpha" not in dict(deploy.named_parameters()), "the factor was merged, so the test means something"


def test_an_untrained_model_comes_back_on_a_trained_one(tmp_path: Path, x: Tensor) -> None:
    """A fresh norm shifts by zero, so its merge needs no bias: the structure depends on the weights."""
    model = Net().eval()
    deploy = write(tmp_path / "net.safetensors", model)
    assert deploy.stem.merged.bias is None
    loaded = fxrep.load(tmp_path / "net.safetensors", randomize(Net()))
    assert torch.equal(run(loaded, x), run(deploy, x))


def test_other_types_come_back(tmp_path: Path, x: Tensor) -> None:
    deploy = write(tmp_path / "net.safetensors", randomize(Net()).double())
    loaded = fxrep.load(tmp_path / "net.safetensors", Net())
    assert torch.equal(run(loaded, x.double()), run(deploy, x.double()))


def test_frozen_weights_come_back_frozen(tmp_path: Path) -> None:
    deploy = write(tmp_path / "net.safetensors", randomize(Net()).requires_grad_(False))
    loaded = fxrep.load(tmp_path / "net.safetensors", Net().requires_grad_(False))
    assert not any(p.requires_grad for net in (deploy, loaded) for p in net.parameters())


def test_timm_in_a_fresh_process(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = randomize(timm.create_model("repvgg_a0", num_classes=7))
    path, x = tmp_path / "a0.safetensors", torch.randn(1, 3, 64, 64)
    deploy = fxrep.reparameterize(model)
    save(path, model, deploy, spec="timm:repvgg_a0", arguments={"num_classes": 7}, inputs=None)
    torch.save((x, run(deploy, x)), tmp_path / "expected.pt")
    code = f"""
        import torch, fxrep
        model = fxrep.load({str(path)!r})
        x, expected = torch.load({str(tmp_path / "expected.pt")!r})
        with torch.no_grad():
            assert float((model(x) - expected).norm() / expected.norm()) < 1e-5  # of another number of threads
        print(sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


# --------------------------------------------------------------------------------------------------------- bad input
def test_weights_that_are_replaced_are_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from fxrep.cli.models import build

    state = torch.get_rng_state()
    undrawn, drawn = (build("timm:test_byobnet", {}, seed=1, drawn=drawn) for drawn in (False, True))
    for a, b in zip(undrawn.parameters(), drawn.parameters(), strict=True):
        assert len(a.unique()) == 1 or a.dim() < 2
        assert len(b.unique()) > 1 or b.dim() < 2
    assert torch.equal(torch.get_rng_state(), state)

    (tmp_path / "drawn.py").write_text("from torch import nn\n\ndef build():\n    return nn.Conv2d(3, 4, 3)\n")
    own = build(f"{tmp_path}/drawn.py:build", {}, drawn=False)  # what a factory does with its weights is not known
    assert len(next(own.parameters()).unique()) > 1


def test_code_of_the_users_own_is_not_run_unasked(tmp_path: Path, x: Tensor) -> None:
    (tmp_path / "factory_of_a_stranger.py").write_text("raise SystemExit('it ran')\n")
    path = tmp_path / "net.safetensors"
    write(path, randomize(Net()), spec=f"{tmp_path}/factory_of_a_stranger.py:net")
    with pytest.raises(ValueError, match="trust=True"):
        fxrep.load(path)
    with pytest.raises(ValueError, match="it ran"):
        fxrep.load(path, trust=True)


def edit(path: Path, change: Any) -> None:
    saved = json.loads(path.with_suffix(".json").read_text())
    change(saved)
    path.with_suffix(".json").write_text(json.dumps(saved))


def test_a_forward_that_does_more_is_refused(tmp_path: Path, x: Tensor) -> None:
    path, mark = tmp_path / "net.safetensors", tmp_path / "mark"
    write(path, randomize(Net()))

    def inject(saved: Any) -> None:
        forward = saved["structure"]["forwards"]["stem"]
        forward["code"] = f"def forward(self, x):\n    open({str(mark)!r}, 'w')\n    return x\n"

    edit(path, inject)
    with pytest.raises(ValueError, match=r"'stem' would run more than tensor operators .*'open'"):
        fxrep.load(path, Net())
    run(fxrep.load(path, Net(), trust=True).stem, x)
    assert mark.exists(), "with trust it runs, so without it would have"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("import os", "Import"),
        ("return __import__('os')", "__import__"),
        ("return eval('1')", "eval"),
        ("return torch.load('x')", "load"),
        ("return torch.hub.load('a', 'b')", "load"),
        ("return torch.os.system('x')", "os"),
        ("return torch.ops.load_library('x')", "load_library"),
        ("return x.__class__", "__class__"),
        ("return x.numpy().tofile('x')", "numpy"),
        ("return x.apply_(torch.sin)", "apply_"),
        ("return self.__class__", "__class__"),
        ("return self.forward(x)", "forward"),
        ("return getattr(x, '__reduce_ex__')(2)", "__reduce_ex__"),
        ("return getattr(x, 'add' + '_')", "getattr"),
        ("self.weight = x", "sets"),
        ("return [y for y in x]", "ListComp"),
        ("return (lambda: 1)()", "Lambda"),
        ("while True: pass", "While"),
        ("return x()", "calls a value"),
    ],
)
def test_what_a_forward_may_not_do(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_forward(f"def forward(self, x):\n    {text}\n", {"torch": torch}, nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "return torch.nn.functional.relu(self.weight.sum() + x, inplace = False) * 2.0",
        "x += x.view(x.shape[0], -1)[:, None]; return torch.cat([x, x], dim = 1).to(torch.float32)",
        "return torch._C._nn.gelu(getattr(x, 'mT'), approximate = 'tanh')",
        "return torch.ops.aten.relu.default(x)",
        "y: torch.Tensor = x.__add__(1)\n    return (y, {'a': x.size(0)}, torch.arange(3, device = x.device))",
        "if type(x) is not int or x != 3:\n        raise ValueError('no')\n    return x",
    ],
)
def test_what_a_forward_may_do(text: str) -> None:
    ast.parse(f"def forward(self, x):\n    {text}\n")
    check_forward(f"def forward(self, x):\n    {text}\n", {"torch": torch}, nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.with_suffix(".json").unlink(), "beside it"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not written by fxrep"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "not written by fxrep"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a complete safetensors"),
        (lambda path: edit(path, lambda saved: saved.update(format=99)), "format 99"),
        (lambda path: edit(path, lambda saved: saved["structure"]["layers"].clear()), "same structure"),
        (lambda path: edit(path, lambda saved: saved.update(structure={})), "not written by fxrep"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Any, match: str) -> None:
    path = tmp_path / "net.safetensors"
    write(path, randomize(Net()))
    damage(path)
    with pytest.raises(ValueError, match=match):
        fxrep.load(path, Net())


def test_a_model_of_another_structure(tmp_path: Path) -> None:
    write(tmp_path / "net.safetensors", randomize(Net()))
    with pytest.raises(ValueError, match="'stem'"):
        fxrep.load(tmp_path / "net.safetensors", nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_what_cannot_be_written_down(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GraphModule"):
        write(tmp_path / "net.safetensors", fx.symbolic_trace(randomize(OriginalRepVGGBlock(3, 3))))


def test_the_report_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deploy.safetensors"
    deploy = write(path, randomize(Net()))
    assert fxrep.report(load_again(path)) == fxrep.report(deploy)
    sidecar = path.with_suffix(".json")
    saved = json.loads(sidecar.read_text())
    saved["report"]["merged"] = "all"
    sidecar.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="was not written by fxrep, or is damaged"):
        load_again(path)
    del saved["report"]  # of an earlier version
    sidecar.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="was not made by"):
        fxrep.report(load_again(path))


def load_again(path: Path) -> nn.Module:
    return fxrep.load(path, Net())
