"""The commands: report, convert, verify, bench, list. Each reads top to bottom; the work is in the modules beside."""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import json
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn
from typer.core import TyperGroup

import fxrep

from . import models, outputs, tables
from .errors import UserError, first_line
from .measure import Inputs, cost_of, describe_shapes, latency, make_inputs, run, speedup
from .progress import Steps, steps
from .saved import Opened, open_model

VERIFICATION_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class _Friendly(TyperGroup):
    """Errors as one line on stderr; the traceback is for --debug."""

    def invoke(self, ctx: Any) -> Any:
        state: dict[str, bool] = ctx.ensure_object(dict)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted; no file was written", INTERRUPTED)
        except (UserError, torch.OutOfMemoryError) as error:
            _fail(str(error), BAD_INPUT, error if state.get("debug") else None)
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code"):
                raise
            hint = "" if state.get("debug") else "; --debug shows where"
            _fail(first_line(error) + hint, BAD_INPUT, error if state.get("debug") else None)


def _fail(message: str, code: int, error: BaseException | None = None) -> None:
    if error is not None:
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Friendly,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Merge the parallel branches of trained convolutional networks into single convolutions.\n\n"
    "MODEL is timm:NAME, torchvision:NAME, path/to/file.py:FACTORY, package.module:FACTORY (anything that returns an "
    "nn.Module), or a saved file: .safetensors (written by fxrep), .pt2, .onnx, .pt.",
    epilog="Exit codes: 0 all is well, 1 the outputs differ, 2 bad input.",
)


def _command(name: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return app.command(name, epilog="\n\n".join(("Examples:", *examples)))


def _show_version(value: bool) -> None:
    if value:
        print(f"fxrep {fxrep.__version__}, torch {torch.__version__}")
        raise typer.Exit


def _set_debug(ctx: typer.Context, value: bool) -> None:
    ctx.ensure_object(dict)
    ctx.obj["debug"] = ctx.obj.get("debug", False) or value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show tracebacks.", show_default=False)
]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, FILE.py:FACTORY, MODULE:FACTORY or a file.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", metavar="NAME=VALUE", help="An argument of the factory, such as num_classes=10."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, a state_dict, or what a training script saved.", show_default=False),
]
Key = Annotated[
    str | None, typer.Option(help="Which part of the checkpoint, such as state_dict.", show_default="found by name")
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Download the weights that timm or torchvision offers.")]
Trust = Annotated[bool, typer.Option("--trust", help="Read files that run code when they are read (pickles).")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="SHAPE", help="Shape of an input; repeat for several.",
                 show_default="the model's own, or 1x3x224x224"),
]  # fmt: skip
Policy = Annotated[
    str,
    typer.Option(help="Merge what is no slower (default), takes no more work (macs), or all that is exact (kernels)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _options(
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the versions.")
    ] = False,
) -> None:
    pass


@_command(
    "report",
    "fxrep report timm:repvgg_a0",
    "fxrep report timm:repvgg_a0 --html report.html",
    "fxrep report net.py:build --checkpoint best.pth --json",
)
def report(
    model: Model,
    arg: Arguments = None,
    checkpoint: Checkpoint = None,
    key: Key = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    input_: Shapes = None,
    policy: Policy = "default",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with drawings.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace FILE if it exists.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What would be merged in MODEL, what would not, why, and what it saves. MODEL is left as it is.

    Of a merged model that was saved, or of what --json printed into a .json, it shows what was done.
    """
    shapes = _parse_shapes(input_)
    if html is not None:
        outputs.check_path(html, force)
    if Path(model).suffix == ".json":
        found, notes = outputs.read_report(Path(model)), []
    else:
        with steps() as progress:
            opened = _open(progress, model, arg, checkpoint, key, pretrained, trust)
            with progress.step("explain", "looking for branches"):
                found = _found(opened, model, shapes, _policy(policy))
        notes = opened.notes
    if html is not None:
        outputs.write_text(html, found.to_html())
    if as_json:
        _print_json({"name": model, "notes": notes, **found.to_dict()})
        return
    _print(str(found) if html is None else f"wrote {html}: {len(found.merged)} merges, {len(found.refused)} left alone")


@_command(
    "convert",
    "fxrep convert timm:repvgg_a0 --pretrained -o repvgg_a0.safetensors",
    "fxrep convert timm:mobileone_s0 -a num_classes=10 --checkpoint best.pth -o deploy.onnx",
)
def convert(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="Where to: .safetensors, .pt2, .onnx or .pt.")
    ],
    arg: Arguments = None,
    checkpoint: Checkpoint = None,
    key: Key = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    input_: Shapes = None,
    policy: Policy = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
    check: Annotated[bool, typer.Option(help="Read OUT back and compare its output; measure before and after.")] = True,
    seconds: Annotated[float, typer.Option(help="How long to measure latency; 0 skips it.", min=0)] = 1.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Merge MODEL and write it to OUT; the ending of OUT says in which format.

    The file is read back and compared with MODEL before it gets its name: a file that is there is a file that works.
    """
    outputs.check_target(out, force)
    shapes = _parse_shapes(input_)
    with steps() as progress:
        opened = _open(progress, model, arg, checkpoint, key, pretrained, trust)
        inputs = make_inputs(shapes or opened.inputs or [(1, 3, 224, 224)], opened.model)
        before = _mergeable(opened, model)
        with progress.step("run", "running the model"):
            costs = {"before": cost_of(model, before, inputs)} if check else {}
        with progress.step("merge", "merging") as tick:
            deploy = fxrep.reparameterize(before, policy=_policy(policy), progress=tick)
        with outputs.staging(out) as folder:
            with progress.step("write", f"writing {out.name}"):
                written = outputs.write(folder, out, opened, deploy, inputs)
            result = _result(model, out, opened, deploy, written)
            if check:
                verdicts = _check_written(progress, out, before, opened, written, inputs)
                if not all(v.ok for v in verdicts):
                    _print_note(tables.verdict(max(verdicts, key=lambda v: v.relative)))
                    _fail(f"'{out}' was not written: read back, it gives another output", VERIFICATION_FAILED)
                result["error"] = _worst(verdicts)
                costs["after"] = cost_of(model, deploy, inputs)
                pair = {"before": before, "after": deploy}  # both have run
                samples = _time(progress, pair, inputs, seconds, rounds=2, warm=True) if seconds else None
                result |= {side: cost.to_dict() for side, cost in costs.items()}
                result["latency_ms"] = {k: statistics.median(v) for k, v in samples.items()} if samples else None
            outputs.commit(written, out)
    result["seconds"] = progress.seconds
    if as_json:
        _print_json(result)
        return
    if check:
        Console().print(tables.summary(costs["before"], costs["after"], samples))
        if verdicts:
            _print(tables.verdict(max(verdicts, key=lambda v: v.relative)) + _checked_by(out))
    _print(f"wrote {out} ({tables.size(result['bytes'])}), {result['merged']} merges" + _conv_nodes(result))
    for note in written.notes:
        _print_note(note)


@_command("verify", "fxrep verify timm:repvgg_a0 deploy.onnx", "fxrep verify net.py:a net.py:b -i 4x3x64x64")
def verify(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A MODEL.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="A MODEL, usually a file that convert wrote.")],
    arg: Arguments = None,
    checkpoint: Checkpoint = None,
    key: Key = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    input_: Shapes = None,
    tolerance: Annotated[
        float | None, typer.Option(help="On the relative error.", show_default="3.5e-4 for float32", min=0)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run two models on the same random input and compare all that comes out. Exit code 1 if it differs.

    The options for weights and arguments are for BEFORE.
    """
    shapes = _parse_shapes(input_)
    with steps() as progress:
        first = _open(progress, before, arg, checkpoint, key, pretrained, trust)
        second = _open(progress, after, None, None, None, False, trust)
        inputs = make_inputs(shapes or first.inputs or second.inputs or [(1, 3, 224, 224)], first.model)
        with progress.step("run", "running both"):
            for name, opened in ((before, first), (after, second)):
                run(name, opened.model, inputs)
            try:
                found = fxrep.verify(first.model, second.model, inputs, tolerance=tolerance)
            except ValueError as error:
                _fail(str(error), VERIFICATION_FAILED)
    if as_json:
        _print_json({"before": before, "after": after, "input": [list(x.shape) for x in inputs], **_error(found)})
    else:
        _print(tables.verdict(found))
    if not found.ok:
        raise typer.Exit(VERIFICATION_FAILED)


@_command("bench", "fxrep bench timm:mobileone_s0 --batch 1 --batch 32 --device cuda")
def bench(
    model: Model,
    arg: Arguments = None,
    checkpoint: Checkpoint = None,
    key: Key = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    input_: Shapes = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", "-b", help="Batch size; repeat.", min=1)] = None,
    seconds: Annotated[float, typer.Option(help="For each batch size; three rounds at least.", min=0)] = 5.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice", min=1)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    policy: Policy = "default",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time MODEL before and after the merge, in turns, on random input."""
    shapes = _parse_shapes(input_)
    _require_device(device)
    if threads:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    with steps() as progress:
        opened = _open(progress, model, arg, checkpoint, key, pretrained, trust)
        with progress.step("merge", "merging") as tick:
            before = _mergeable(opened, model)
            deploy = fxrep.reparameterize(before, policy=_policy(policy), progress=tick)
        pair = {"before": before.to(device), "after": deploy.to(device)}
        chosen = shapes or opened.inputs or [(1, 3, 224, 224)]
        for size in batch or [chosen[0][0]]:
            inputs = tuple(x.to(device) for x in make_inputs([(size, *shape[1:]) for shape in chosen], before))
            run(model, before, inputs)
            rows.append(_row(size, _time(progress, pair, inputs, seconds, f"batch {size}")))
    if as_json:
        _print_json({"model": model, "device": device, "threads": torch.get_num_threads(), "rows": rows})
        return
    Console().print(tables.latencies(rows))
    _print(f"input {describe_shapes([s[1:] for s in chosen])}, {device}, {torch.get_num_threads()} threads; "
           "median (quartiles)")  # fmt: skip


@_command("list", "fxrep list 'repvgg*'", "fxrep list 'timm:mobileone*' --report")
def list_(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Names that match, such as 'repvgg*'.")] = "*",
    with_report: Annotated[
        bool, typer.Option("--report", help="Build each model and say what would be merged.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The names that MODEL can be: every model of timm and torchvision that is installed here."""
    found = _matching(pattern)
    if not with_report:
        _print_json(found) if as_json else _print("\n".join(found))
        return
    rows: list[dict[str, Any]] = []
    with steps() as progress, progress.step("build", f"building {len(found)} models") as tick:
        for done, spec in enumerate(found):
            tick(done, len(found))
            rows.append(_explained(spec))
    if as_json:
        _print_json(rows)
    else:
        Console().print(tables.merges(rows))


def _open(
    progress: Steps,
    spec: str,
    arg: list[str] | None,
    checkpoint: Path | None,
    key: str | None,
    pretrained: bool,
    trust: bool,
) -> Opened:
    if key and not checkpoint:
        raise UserError("--key is part of a --checkpoint, which is not given")
    arguments = _parse_arguments(arg)
    with progress.step("open", f"opening {spec}"):
        opened = open_model(spec, arguments, checkpoint=checkpoint, key=key, pretrained=pretrained, trust=trust)
    for note in opened.notes:
        _print_note(note)
    return opened


def _mergeable(opened: Opened, name: str) -> nn.Module:
    if Path(name).suffix == ".onnx":
        raise UserError(f"'{name}' is ONNX, which fxrep cannot merge; give the PyTorch model that it was made from")
    return opened.model


def _found(opened: Opened, name: str, shapes: list[tuple[int, ...]] | None, policy: fxrep.PolicyName) -> fxrep.Report:
    """The report of a merge that was done, or of one that could be; with totals if the model runs on the inputs."""
    model = _mergeable(opened, name)
    with contextlib.suppress(ValueError):
        return fxrep.report(model)
    inputs = make_inputs(shapes or opened.inputs or [(1, 3, 224, 224)], model)
    try:
        return fxrep.explain(model, inputs, policy=policy)
    except Exception:
        found = fxrep.explain(model, policy=policy)
        if shapes:
            run(name, model, inputs)  # says what is wrong with them
        guessed = describe_shapes([value.shape for value in inputs])
        opened.notes.append(f"no totals: the model does not run on an input of {guessed}; --input gives another")
        _print_note(opened.notes[-1])
        return found


def _parse_arguments(arg: list[str] | None) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for item in arg or ():
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"'{item}' is not NAME=VALUE")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    return parsed


def _parse_shapes(texts: list[str] | None) -> list[tuple[int, ...]] | None:
    shapes = []
    for text in texts or ():
        sizes = text.lower().replace(",", "x").split("x")
        if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
            raise UserError(f"'{text}' is not a shape such as 1x3x224x224")
        shapes.append(tuple(int(size) for size in sizes))
    return shapes or None


def _policy(name: str) -> fxrep.PolicyName:
    if name not in ("default", "macs", "kernels"):
        raise UserError(f"there is no policy '{name}': use default, macs or kernels")
    return name  # type: ignore[return-value]


def _require_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except Exception as error:
        raise UserError(f"there is no device '{device}' here: {first_line(error)}") from error


def _check_written(
    progress: Steps, out: Path, before: nn.Module, opened: Opened, written: outputs.Written, inputs: Inputs
) -> list[fxrep.Verification]:
    """Compare what the file gives with the original, on this batch and, where it may vary, on a larger one."""
    if out.suffix == ".onnx" and not outputs.runs_onnx():
        written.notes.append('not run: pip install "fxrep[export]" brings ONNX Runtime to check the file with')
        return []
    with progress.step("check", f"reading {out.name} back"):
        again = outputs.reopen(written, opened)
        batches = [inputs]
        larger = make_inputs([(x.shape[0] + 2, *x.shape[1:]) for x in inputs], before, seed=1)
        if written.any_batch and _runs(before, larger):
            batches.append(larger)
        return [fxrep.verify(before, again, batch) for batch in batches]


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        run("", model, inputs)
    except UserError:
        return False
    return True


def _time(
    progress: Steps,
    pair: dict[str, nn.Module],
    inputs: Inputs,
    seconds: float,
    text: str = "measuring latency",
    **how: Any,
) -> dict[str, list[float]]:
    with progress.step("latency", text) as tick:
        return latency(pair, inputs, seconds, lambda done: tick(int(100 * done), 100), **how)


def _result(model: str, out: Path, opened: Opened, deploy: nn.Module, written: outputs.Written) -> dict[str, Any]:
    files = [str(out.parent / file.name) for file in written.files]
    found = fxrep.report(deploy)
    result = {"model": model, "files": files, "bytes": written.bytes, "merged": len(found.merged)}
    if written.conv_nodes is not None:
        result["conv_nodes"] = written.conv_nodes
    return {**result, "notes": opened.notes + written.notes}


def _worst(verdicts: list[fxrep.Verification]) -> dict[str, Any] | None:
    return _error(max(verdicts, key=lambda v: v.relative)) if verdicts else None


def _error(found: fxrep.Verification) -> dict[str, Any]:
    return {"ok": found.ok, "relative": found.relative, "max_abs": found.max_abs, "tolerance": found.tolerance}


def _checked_by(out: Path) -> str:
    reader = {".onnx": "in ONNX Runtime", ".safetensors": "by fxrep.load", ".pt2": "by torch.export.load"}
    return f", read back {reader.get(out.suffix, 'by torch.load')}"


def _conv_nodes(result: dict[str, Any]) -> str:
    return f", {result['conv_nodes']} Conv nodes" if "conv_nodes" in result else ""


def _row(size: int, samples: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"batch": size, "rounds": len(samples["before"])}
    for side, values in samples.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        row[f"{side}_ms"] = {"median": middle, "low": low, "high": high}
    return {**row, "speedup": speedup(samples["before"], samples["after"])}


def _matching(pattern: str) -> list[str]:
    found, missing = [], []
    for family in models.SHIPPED:
        try:
            known = [f"{family}:{name}" for name in models.names(family)]
        except UserError as error:
            missing.append(error)
            continue
        found += [spec for spec in known if any(fnmatch.fnmatch(s, pattern) for s in (spec, spec.partition(":")[2]))]
    if len(missing) == len(models.SHIPPED):
        raise missing[0]
    if not found:
        raise UserError(f"no model matches '{pattern}'; try '*{pattern}*'")
    return found


def _explained(spec: str) -> dict[str, Any]:
    try:
        found = fxrep.explain(models.build(spec, {}))
    except Exception as error:
        return {"model": spec, "error": str(error) if isinstance(error, UserError) else first_line(error)}
    counts = {"before": found.before, "after": found.after, "parameters": list(found.parameters)}
    return {"model": spec, "merges": len(found.merged), **counts}


def _print(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _print_note(text: str) -> None:
    Console(stderr=True).print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
