"""The ``fxrep`` command: what it writes works, what it says is true, and bad input gets one line and leaves nothing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import fxrep
from fxrep.cli import outputs
from fxrep.cli.app import app
from fxrep.cli.models import build
from tests.helpers import randomize, run

ROOT = Path(__file__).parent.parent
FACTORY = """
import sys
import torch
from torch import nn
from tests.blocks import OriginalRepVGGBlock
from tests.helpers import randomize

class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stem = OriginalRepVGGBlock(3, 4, stride=2)
        self.block = OriginalRepVGGBlock(4, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))

def build(classes=5, seed=0):
    torch.manual_seed(seed)
    return randomize(Net(classes), seed).train()

class Fixed(Net):
    def forward(self, x):
        return super().forward(x.view(2, 3, 8, 8))

def fixed():
    return randomize(Fixed())

def two():
    class Two(nn.Module):
        def forward(self, x, y):
            return x.sum() + y.sum()
    return Two()

def seven():
    return 7

def explode():
    raise RuntimeError("first line\\nsecond line")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a factory file in it, to work in."""
    (tmp_path / "net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def call(*arguments: object, code: int = 0) -> Result:
    """Run the command; a traceback is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def call_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(call(*arguments, "--json", code=code).stdout)


def refused(place: Path, *arguments: object, code: int = 2) -> str:
    """The one line that refuses a command, which leaves no file behind."""
    before = sorted(place.iterdir())
    result = call(*arguments, code=code)
    assert [p for p in sorted(place.iterdir()) if p.name != "__pycache__"] == [
        p for p in before if p.name != "__pycache__"
    ]
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: ")
    return errors[0].removeprefix("error: ")


# ------------------------------------------------------------------------------------------------------------ report
def test_report(place: Path) -> None:
    x = torch.randn(1, 3, 16, 16)
    expected = str(fxrep.explain(build("net.py:build", {}), (x,)))
    assert call("report", "net.py:build", "-i", "1x3x16x16").stdout.rstrip("\n") == expected
    found = call_json("report", "net.py:build", "-a", "classes=3")
    assert [merge["name"] for merge in found["merged"]] == ["stem.merged", "block.merged"]
    assert (found["before"]["conv"], found["after"]["conv"]) == (4, 2)


def test_a_report_as_a_page(place: Path) -> None:
    result = call("report", "net.py:build", "-i", "1x3x16x16", "--html", "out.html")
    assert result.stdout == "wrote out.html: 2 merges, 0 left alone\n"
    text = (place / "out.html").read_text()
    assert text == fxrep.explain(build("net.py:build", {}), (torch.randn(1, 3, 16, 16),)).to_html()
    assert "stem.merged" in text
    assert "'out.html' exists; --force replaces it" in refused(place, "report", "net.py:build", "--html", "out.html")
    assert "no folder" in refused(place, "report", "net.py:build", "--html", "no/out.html")
    call("report", "net.py:build", "--html", "out.html", "--force")


def test_a_saved_report_is_shown_again(place: Path) -> None:
    printed = call("report", "net.py:build").stdout
    (place / "saved.json").write_text(call("report", "net.py:build", "--json").stdout)
    assert call("report", "saved.json").stdout == printed
    call("convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.safetensors", "--seconds", "0")
    done = call("report", "deploy.json").stdout
    assert "merged (2):" in done
    assert call("report", "deploy.safetensors", "--trust").stdout == done
    assert str(fxrep.report(fxrep.load("deploy.safetensors", trust=True))) == done.rstrip("\n")
    (place / "other.json").write_text("[1]")
    assert refused(place, "report", "other.json") == "'other.json' holds no report of fxrep"
    assert refused(place, "report", "none.json") == "there is no file 'none.json'"


def test_a_report_without_totals(place: Path) -> None:
    """An input that was not asked for and does not fit is a note; one that was is an error."""
    result = call("report", "net.py:fixed")
    assert "no totals: the model does not run on an input of 1x3x224x224; --input gives another" in result.stderr
    assert "for one position of the output" in result.stdout
    assert "for one call of the model" in call("report", "net.py:fixed", "-i", "2x3x8x8").stdout
    assert "does not run on an input of 1x3x9x9" in refused(place, "report", "net.py:fixed", "-i", "1x3x9x9")


def test_report_of_a_timm_model() -> None:
    pytest.importorskip("timm")
    result = call("report", "timm:repvgg_a0")
    assert "convolutions  44         22" in result.stdout
    assert "MACs          1.52G      1.36G" in result.stdout
    assert "weights are random" in result.stderr


def test_a_report_is_quick() -> None:
    """Three seconds after timm is there, on a machine that does nothing else: so much of the processor's time."""
    pytest.importorskip("timm")
    code = (
        "import sys, time, torch, timm; torch.set_num_threads(1); start = time.process_time()\n"
        "from fxrep.cli.app import app; app(['report', 'timm:repvgg_a0'], standalone_mode=False)\n"
        "print(time.process_time() - start, file=sys.stderr)"
    )
    done = python("-c", code)
    assert "merged (22)" in done.stdout
    assert float(done.stderr.split()[-1]) < 3


def test_a_model_of_a_package() -> None:
    assert call_json("report", "tests.blocks:OriginalRepVGGBlock", "-a", "cin=3", "-a", "cout=3")["after"]["conv"] == 1


# ----------------------------------------------------------------------------------------------------------- convert
@pytest.mark.parametrize("ending", ["safetensors", "pt2", "onnx", "pt"])
def test_what_convert_writes_works(place: Path, ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    out = place / f"deploy.{ending}"
    shape = ("-i", "1x3x16x16")
    found = call_json("convert", "net.py:build", "-a", "seed=3", *shape, "-o", out, "--seconds", 0.01)
    assert found["error"]["ok"]
    assert 0 < found["error"]["relative"] < 1e-5, "zero would mean that nothing was compared"
    assert found["merged"] == 2
    assert (found["before"]["convs"], found["after"]["convs"]) == (4, 2)
    assert (found["before"]["norms"], found["after"]["norms"]) == (5, 0)
    assert found["after"]["macs"] == 8 * 8 * 9 * (3 * 4 + 4 * 4) + 4 * 5
    assert found["after"]["parameters"] == 9 * (3 * 4 + 4 * 4) + 8 + 25
    assert found["latency_ms"]["before"] > 0
    assert found.get("conv_nodes", 2) == 2
    assert found["bytes"] == sum(Path(file).stat().st_size for file in found["files"])
    assert out.stat().st_mode & 0o777 == (place / "net.py").stat().st_mode & 0o777
    same = ("verify", "net.py:build", "-a", "seed=3", out, "-i", "5x3x16x16", "--trust")
    assert call_json(*same)["ok"]
    assert not call_json("verify", "net.py:build", out, *shape, "--trust", code=1)["ok"], "other weights, so not equal"
    assert {p.name for p in place.iterdir()} - {"net.py", "__pycache__"} == {Path(f).name for f in found["files"]}


def test_the_summary(place: Path) -> None:
    result = call("convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.safetensors", "--seconds", 0.01)
    assert "convolutions run" in result.stdout
    assert "-50 %" in result.stdout
    assert "times as fast" in result.stdout
    assert "the same output" in result.stdout
    assert "wrote deploy.safetensors" in result.stdout


def test_an_exported_model_is_merged(place: Path) -> None:
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(build("net.py:build", {}), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, place / "net.pt2")
    found = call_json("convert", "net.pt2", "-o", "deploy.pt2", "--seconds", 0)
    assert (found["before"]["convs"], found["after"]["convs"]) == (4, 2)
    assert call_json("verify", "net.py:build", "deploy.pt2", "-i", "5x3x16x16")["ok"]
    assert "write a .pt2" in refused(place, "convert", "net.pt2", "-o", "deploy.safetensors")


def test_a_model_with_a_fixed_batch(place: Path) -> None:
    for name in ("deploy.pt2", "deploy.pt"):
        found = call_json("convert", "net.py:fixed", "-i", "2x3x8x8", "-o", name, "--seconds", 0)
        assert found["error"]["ok"]
        assert any("batch size is fixed at 2" in note for note in found["notes"]) == name.endswith("pt2")


def test_a_file_that_gives_another_output_is_not_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(*args: Any) -> nn.Module:
        model = reopen(*args)
        with torch.no_grad():
            model.head.weight.add_(1)
        return model

    reopen = outputs.reopen
    monkeypatch.setattr(outputs, "reopen", spoil)
    line = refused(place, "convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.safetensors", code=1)
    assert "was not written" in line


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_halfway_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def save(deploy: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", save)
    code = 130 if isinstance(error, KeyboardInterrupt) else 2
    line = refused(place, "convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.pt", code=code)
    assert "No space left" in line or "interrupted" in line


def test_a_disk_that_is_full_leaves_nothing(place: Path) -> None:
    """In a process of its own: where a write fails, torch's writer of .pt2 aborts it."""
    pytest.importorskip("resource")
    code = """if True:
        import resource
        from fxrep.cli.app import app
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for ending in ("safetensors", "pt2", "pt"):
            try:
                app(["convert", "net.py:build", "-i", "1x3x16x16", "-o", f"deploy.{ending}", "--seconds", "0"])
            except SystemExit as error:
                print(ending, error.code)
    """
    before = sorted(place.iterdir())
    done = python("-B", "-c", code)
    assert done.stdout.splitlines() == ["safetensors 2", "pt2 2", "pt 2"], done.stderr
    line = r"error: 'deploy\.\w+' could not be written: .*File too large.*\n"
    assert re.fullmatch(f"({line}){{3}}", done.stderr), done.stderr
    assert sorted(place.iterdir()) == before


def test_an_existing_file_is_kept_without_force(place: Path) -> None:
    arguments = ("convert", "net.py:build", "-i", "1x3x16x16", "--seconds", 0, "-o")
    for name in ("deploy.pt", "deploy.json"):
        (place / name).write_text("precious")
    assert "'deploy.pt' exists; --force" in refused(place, *arguments, "deploy.pt")
    assert "'deploy.json' exists; --force" in refused(place, *arguments, "deploy.safetensors")
    assert (place / "deploy.pt").read_text() == "precious"
    call(*arguments, "deploy.pt", "--force")
    assert (place / "deploy.pt").read_bytes()[:2] == b"PK"


def test_without_a_check_the_model_is_not_run_before_or_after(place: Path) -> None:
    result = call_json("convert", "net.py:build", "-i", "1x9x1x1", "-o", "deploy.safetensors", "--no-check")
    assert "error" not in result
    assert (place / "deploy.safetensors").exists()


# ------------------------------------------------------------------------------------------------------- checkpoints
def trained() -> dict[str, torch.Tensor]:
    model = build("net.py:build", {})
    return randomize(model, seed=5).state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in trained().items()}


CHECKPOINTS: dict[str, Any] = {
    "plain": trained,
    "state_dict": lambda: {"epoch": 3, "state_dict": trained()},
    "model": lambda: {"model": trained(), "optimizer": {"state": {}}},
    "data parallel": lambda: {"state_dict": prefixed("module.")},
    "compiled and parallel": lambda: prefixed("module._orig_mod."),
    "lightning": lambda: {"state_dict": prefixed("model."), "pytorch-lightning_version": "2"},
    "averaged": lambda: {**prefixed("module."), "n_averaged": torch.tensor(3)},
    "ema first": lambda: {"state_dict": build("net.py:build", {}).state_dict(), "state_dict_ema": trained()},
    "ema nested": lambda: {"ema": {"decay": 0.9, "module": trained()}},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_all_kinds(place: Path, kind: str) -> None:
    torch.save(CHECKPOINTS[kind](), place / "best.pth")
    save_file(trained(), place / "expected.safetensors")
    arguments = ("-i", "2x3x16x16", "--seconds", 0, "-o")
    call("convert", "net.py:build", "--checkpoint", "best.pth", *arguments, "deploy.safetensors")
    assert call_json("verify", "net.py:build", "--checkpoint", "expected.safetensors", "deploy.safetensors",
                     "--trust")["ok"]  # fmt: skip
    assert not call_json("verify", "net.py:build", "deploy.safetensors", "--trust", code=1)["ok"]


def test_a_key_chooses_among_several(place: Path) -> None:
    torch.save({"state_dict": build("net.py:build", {}).state_dict(), "ema": trained()}, place / "best.pth")
    result = call("report", "net.py:build", "--checkpoint", "best.pth")
    assert "note: used 'ema' of best.pth (--key takes another: state_dict)" in result.stderr
    result = call("report", "net.py:build", "--checkpoint", "best.pth", "--key", "state_dict")
    assert "used 'state_dict'" in result.stderr
    assert "holds state_dict, ema" in refused(place, "report", "net.py:build", "--checkpoint", "best.pth", "--key", "a")


def test_a_pickle_is_only_read_when_trusted(place: Path) -> None:
    torch.save({"model": trained(), "args": Namespace(lr=0.1)}, place / "best.pth")
    line = refused(place, "report", "net.py:build", "--checkpoint", "best.pth")
    assert "argparse.Namespace" in line
    assert "--trust" in line
    call("report", "net.py:build", "--checkpoint", "best.pth", "--trust")


def test_a_checkpoint_that_does_not_fit(place: Path) -> None:
    state = trained()
    state["extra"] = state.pop("head.bias")
    state["head.weight"] = torch.zeros(9, 4)
    torch.save(state, place / "best.pth")
    line = refused(place, "convert", "net.py:build", "--checkpoint", "best.pth", "-o", "deploy.pt")
    assert "1 missing (head.bias)" in line
    assert "1 unexpected (extra)" in line
    assert "head.weight is 9x4 and should be 5x4" in line
    assert "-a num_classes=10" in line


def test_files_that_are_no_checkpoints(place: Path) -> None:
    def said() -> str:
        return refused(place, "report", "net.py:build", "--checkpoint", "best.pth")

    assert "there is no checkpoint" in said()
    (place / "best.pth").write_text("not a checkpoint")
    assert "is not a checkpoint" in said()
    torch.save(trained(), place / "best.pth")
    (place / "best.pth").write_bytes((place / "best.pth").read_bytes()[:-100])
    assert "its end is missing" in said()
    torch.save([1, 2], place / "best.pth")
    assert "holds a list" in said()
    torch.save({"epoch": 3}, place / "best.pth")
    assert "holds no weights; it has epoch" in said()
    save_file(trained(), place / "best.safetensors")
    (place / "best.safetensors").write_bytes((place / "best.safetensors").read_bytes()[:-9])
    line = refused(place, "report", "net.py:build", "--checkpoint", "best.safetensors")
    assert "not a complete safetensors file" in line


# --------------------------------------------------------------------------------------------------- verify and bench
def test_verify_names_what_differs(place: Path) -> None:
    shape = ("-i", "2x3x16x16")
    assert "the same output" in call("verify", "net.py:build", "net.py:build", *shape).stdout
    assert "DIFFERENT" in call("verify", "net.py:build", "-a", "seed=1", "net.py:build", *shape, code=1).stdout
    line = refused(place, "verify", "net.py:build", "-a", "classes=3", "net.py:build", *shape, code=1)
    assert "(2, 3)" in line
    assert "(2, 5)" in line


def test_bench(place: Path) -> None:
    arguments = ("bench", "net.py:build", "-i", "1x3x16x16", "-b", 1, "-b", 2, "--seconds", 0.01)
    rows = call_json(*arguments)["rows"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["rounds"] >= 3 for row in rows)
    assert all(row["before_ms"]["low"] <= row["before_ms"]["median"] <= row["before_ms"]["high"] for row in rows)
    assert "times as fast" in call(*arguments).stdout
    (row,) = call_json("bench", "net.py:build", "-i", "1x3x16x16", "--seconds", 0)["rows"]
    assert row["rounds"] == 3


def test_list() -> None:
    pytest.importorskip("timm")
    assert call("list", "repvgg_a*").stdout.split() == ["timm:repvgg_a0", "timm:repvgg_a1", "timm:repvgg_a2"]
    assert call_json("list", "torchvision:resnet1?") == ["torchvision:resnet18"]
    (row,) = call_json("list", "repvgg_a0", "--report")
    assert (row["merges"], row["before"]["conv"], row["after"]["conv"]) == (22, 44, 22)
    assert "no model matches" in call("list", "nothing", code=2).stderr


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("report timm:repvg_a0", "timm has no model 'repvg_a0'; did you mean timm:repvgg_a0"),
        ("report repvgg_a0", "did you mean timm:repvgg_a0"),
        ("report torchvision:resnet19", "did you mean torchvision:resnet18"),
        ("report timm:repvgg_a0 -a checkpoint_path=x", "use --checkpoint"),
        ("report net.py:biuld", "'net.py' has no 'biuld'; did you mean build?"),
        ("report nat.py:build", "there is no file 'nat.py'"),
        ("report net.py", "net.py:FACTORY"),
        ("report net.py:seven", "returns an object of type int, not an nn.Module"),
        ("report net.py:explode", "RuntimeError: first line"),
        ("report net.py:build -a clases=3", "clases"),
        ("report net.py:build -a classes", "'classes' is not NAME=VALUE"),
        ("report net.py:build --pretrained", "--checkpoint"),
        ("report net.py:build --key ema", "--key"),
        ("report net.py:build --policy never", "policy 'never'"),
        ("report no.such.module:build", "there is no such module"),
        ("report gone.pt2", "there is no file 'gone.pt2'"),
        ("report .", "is a directory"),
        ("convert net.py:build -o deploy.xyz", ".pt2 (torch.export"),
        ("convert net.py:build -o gone/deploy.pt", "there is no folder 'gone'"),
        ("convert net.py:build -o deploy.pt -i 1x3xpx16", "'1x3xpx16' is not a shape"),
        ("convert net.py:build -o deploy.pt -i 1x7x16x16", "does not run on an input of 1x7x16x16"),
        ("convert net.py:two -o deploy.pt -i 1x7x16x16", "does not run on an input of 1x7x16x16"),
        ("bench net.py:build --device nonsense", "no device 'nonsense'"),
        ("verify net.py:build gone.onnx", "there is no file 'gone.onnx'"),
    ],
)
def test_bad_input(place: Path, arguments: str, message: str) -> None:
    assert message in refused(place, *arguments.split())


def test_saved_files_that_are_damaged(place: Path) -> None:
    for name in ("a.pt2", "a.onnx", "a.pt", "a.safetensors"):
        (place / name).write_text("nothing")
        assert f"'{name}'" in refused(place, "verify", "net.py:build", name)
    torch.save(trained(), place / "weights.pt")
    assert "--checkpoint weights.pt" in refused(place, "report", "weights.pt")


def test_debug_shows_the_traceback(place: Path) -> None:
    for arguments in (("--debug", "report", "net.py:explode"), ("report", "net.py:explode", "--debug")):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "second line" in result.stderr


# ---------------------------------------------------------------------------------------------------------- the shell
def test_the_commands_of_the_documentation(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    page = (ROOT / "docs" / "cli.md").read_text()
    blocks = {
        kind: re.findall(rf"^```{kind}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for kind in ("python", "bash")
    }
    (place / "net.py").write_text(blocks["python"][0])
    commands = [shlex.split(line) for block in blocks["bash"] for line in block.splitlines()]
    assert len(commands) > 5
    for program, *arguments in commands:
        if program == "fxrep":
            call(*arguments)
        else:
            exec(arguments[1], {})


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def test_processes_of_their_own_and_a_pt2_without_fxrep(place: Path) -> None:
    done = python("-m", "fxrep.cli", "convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.pt2", "--seconds", "0")
    assert done.returncode == 0, done.stderr
    assert "the same output" in done.stdout
    x = torch.randn(3, 3, 16, 16)
    torch.save((x, run(build("net.py:build", {}), x)), place / "expected.pt")
    code = (
        "import sys; sys.modules['fxrep'] = None\nimport torch\n"
        "x, expected = torch.load('expected.pt')\n"
        "torch.testing.assert_close(torch.export.load('deploy.pt2').module()(x), expected, atol=1e-4, rtol=1e-4)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_fxrep_needs_torch_alone_and_the_command_names_its_extra() -> None:
    code = (
        "import sys, fxrep\n"
        "print([m for m in ('typer', 'rich', 'safetensors', 'timm', 'onnx') if m in sys.modules])\n"
        "sys.modules['typer'] = None; from fxrep.cli import main; main()"
    )
    done = python("-c", code)
    assert done.stdout == "[]\n"
    assert (done.returncode, done.stderr) == (2, 'error: the command line needs typer: pip install "fxrep[cli]"\n')


def test_a_missing_exporter_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = refused(place, "convert", "net.py:build", "-o", "deploy.onnx")
    assert line == 'this needs onnxscript, which is not installed: pip install "fxrep[export]"'


def test_without_onnx_runtime_the_file_is_written_and_a_note_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = call("convert", "net.py:build", "-i", "1x3x16x16", "-o", "deploy.onnx", "--seconds", 0)
    assert "wrote deploy.onnx" in result.stdout
    assert "the same output" not in result.stdout
    assert 'note: not run: pip install "fxrep[export]"' in result.stderr
    assert (place / "deploy.onnx").exists()


@pytest.mark.parametrize("command", [(), ("report",), ("convert",), ("verify",), ("bench",), ("list",)])
def test_help_has_examples(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert not command or f"fxrep {command[0]} " in result.stdout.split("Examples:")[1]
