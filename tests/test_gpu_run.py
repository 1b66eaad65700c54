"""The GPU run, as far as it can be tried without one: it keeps what it measured, whatever ends it."""

from __future__ import annotations

import json
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from benchmarks import gpu, modes, peers, roofline, suite
from benchmarks.common import Results
from benchmarks.measuring import Case
from benchmarks.models import TUTORIAL
from benchmarks.selections import SELECTIONS, Grid


def test_the_gpu_run_checks_first_and_leaves_out_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    options = ["--models", TUTORIAL, "--batches", "1", "--image-size", "32", "--budget", "0.05", "--modes", "eager"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path), *options])
    grids = (Grid((TUTORIAL,)),)
    monkeypatch.setitem(SELECTIONS, "gpu", grids)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 0
    checks = json.loads((tmp_path / "correctness.json").read_text())["rows"]
    assert [(row["case"]["tf32"], row["ok"]) for row in checks] == [(False, True), (True, True)]
    assert f"| {TUTORIAL} |  off |" in (tmp_path / "summary.md").read_text()

    sys.argv.append("--fresh")
    for wrong, said in ((nn.ReLU(), "WRONG"), (nn.Linear(3, 3), "RuntimeError: ")):
        monkeypatch.setattr(peers, "merges", lambda wrong=wrong: {"fxrep": lambda model: nn.Sequential(model, wrong)})
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        assert ended.value.code == 1
        assert "NO |" in (tmp_path / "summary.md").read_text()
        assert f"{TUTORIAL}, TF32 off: {said}" in capsys.readouterr().err
        rows = json.loads((tmp_path / "suite-cpu.json").read_text())["rows"]
        assert not [row for row in rows if "model" in row["case"]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command with two small cases, on the CPU."""
    pytest.importorskip("timm")
    options = ["--models", TUTORIAL, "--image-size", "32", "--budget", "0.05"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path), *options])
    monkeypatch.setitem(SELECTIONS, "gpu", (Grid((TUTORIAL,), batches=(1, 2)),))
    monkeypatch.setattr(roofline, "rates", lambda *_: {"macs_per_second": 1e9, "bytes_per_second": 1e9})
    return tmp_path


def timed(folder: Path) -> list[int]:
    """The batches that were measured."""
    rows = json.loads((folder / "suite-cpu.json").read_text())["rows"]
    return [row["case"]["batch"] for row in rows if row["case"]["mode"] == "eager"]


def run() -> int:
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    return ended.value.code  # type: ignore[return-value]


def test_a_device_that_does_not_answer_ends_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([True, True, False])  # to the rates, to the layers, and to the first case
    with monkeypatch.context() as broken:
        broken.setattr(suite, "clean_up", lambda device: next(answers))
        assert run() == 0
    assert timed(here) == [1]
    assert "the device does not answer any more; run it again to go on" in capsys.readouterr().err
    assert (here / "summary.md").read_text().count(TUTORIAL) > 2  # more than the checks, TF32 off and on
    assert run() == 0
    assert timed(here) == [1, 2]


def test_an_error_that_the_device_does_not_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert suite.clean_up("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    assert not suite.clean_up("cuda")
    assert suite.clean_up("cpu")


def test_what_takes_too_long_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    with gpu.at_most(0.2):
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("what ends a case is not taken for the case's own error")
    assert time.monotonic() - begin < 30
    assert "time is up in the middle of a case" in capsys.readouterr().err
    with gpu.at_most(0.2):
        pass
    time.sleep(0.3)  # the clock is off


def test_what_was_measured_before_the_time_was_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = suite.measure

    def hangs(case: Case, *arguments: Any) -> dict[str, Any]:
        if case.get("batch") == 2:
            raise gpu.TimeIsUp
        return measure(case, *arguments)

    monkeypatch.setattr(suite, "measure", hangs)
    assert run() == 0
    assert timed(here) == [1]
    assert (here / "summary.md").read_text().count(TUTORIAL) > 2


def test_nothing_is_compiled_in_the_last_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def measure(case: Case, *_: Any) -> dict[str, Any]:
        begun.append(case["mode"])
        return {"seconds": {}}

    monkeypatch.setattr(suite, "measure", measure)
    todo: list[Case] = [{"mode": mode} for mode in ("eager", "compile", "freezing", "eager")]
    options = SimpleNamespace(out=tmp_path, device="cpu", fresh=True, budget=1.0)
    for left, expected in ((30, ["eager"]), (90, ["eager", "compile", "freezing"]), (-1, [])):
        begun.clear()
        suite.run(options, todo, None, deadline=time.monotonic() + left)  # type: ignore[arg-type]
        assert begun == expected
    assert "compile: not started" in capsys.readouterr().err


def test_what_was_wrong_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    found = iter(
        [{"error": {}, "ok": False, "failed": "out of memory"}] + 3 * [{"error": {}, "ok": True, "failed": None}]
    )
    monkeypatch.setattr(gpu, "check", lambda *_: next(found))
    networks: Any = SimpleNamespace(image_size=32)
    for expected in (set(), {"a"}, {"a"}):
        results = Results.open(tmp_path / "correctness.json")
        assert gpu.correctness(["a"], networks, results, "cpu") == expected
    assert [row["ok"] for row in results.rows] == [True, True]
    assert len(list(found)) == 1


def test_the_worst_of_several_images_counts() -> None:
    class Off(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(1).clone()
            y[3] *= 1.5
            return y

    from benchmarks.networks import Network

    network: Any = object.__new__(Network)
    network.variants = {"as is": nn.Flatten(), "fxrep": Off()}
    network.image = torch.zeros(1, 3, 4, 4)
    case = {"device": "cpu", "dtype": "float32", "format": "contiguous"}
    assert network.worst_error("as is", case) == 0
    assert network.worst_error("fxrep", case) == pytest.approx(0.5)


def test_a_recorded_graph_keeps_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds addresses: that of weights which are gone is another's, or nobody's."""

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    class Graph:
        def replay(self) -> None: ...

    @contextmanager
    def entered(_: object) -> Iterator[None]:
        yield

    for name, value in {"Stream": Stream, "current_stream": Stream, "CUDAGraph": Graph}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "graph", entered)
    model, x = nn.Linear(3, 3), torch.ones(1, 3)
    read = [weakref.ref(model.weight), weakref.ref(x)]
    call = modes.cuda_graph(model, x)
    del model, x
    assert all(each() is not None for each in read)
    assert call().shape == (1, 3)


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA is in use, and its generators are put back")
def test_a_comparison_leaves_the_generators_of_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = torch.get_rng_state()
    fxrep.reparameterize(model, (torch.ones(1, 3, 8, 8),))
    assert torch.equal(before, torch.get_rng_state())
    assert not seeded
