"""The ways to run a model: PyTorch's own, and the engines that take an ONNX file. Each makes a call of no arguments."""

import functools
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.peers import AS_IS, FXREP, PEERS

Call = Callable[[], Tensor]


def eager(model: nn.Module, x: Tensor) -> Call:
    return lambda: model(x)


def compiled(model: nn.Module, x: Tensor, backend: str = "inductor") -> Call:
    function = torch.compile(model, dynamic=False, backend=backend)
    function(x)
    return lambda: function(x)


def frozen(model: nn.Module, x: Tensor) -> Call:
    """Inductor takes the weights for constants: it folds norms and lays weights out for the kernels."""
    import torch._inductor.config

    with torch._inductor.config.patch(freezing=True):
        return compiled(model, x)


def cuda_graph(model: nn.Module, x: Tensor) -> Call:
    """The eager kernels, recorded once and replayed; the input is where the recording reads it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = model(x)

    def call(reads: object = (model, x)) -> Tensor:  # a graph holds addresses, and keeps nothing alive
        graph.replay()
        return result

    return call


def tensorrt(model: nn.Module, x: Tensor) -> Call:
    import torch_tensorrt  # noqa: F401 (registers the backend)

    return compiled(model, x, backend="torch_tensorrt")


@functools.lru_cache(maxsize=4)
def onnx_bytes(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The model as an ONNX file for inputs of this shape, kept for the next engine that wants it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (torch.randn(shape),), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def onnxruntime(model: nn.Module, x: Tensor) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # or its threads go on turning for a while after a call, and slow down whoever takes the next turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx_bytes(model, tuple(x.shape)), options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(model: nn.Module, x: Tensor) -> Call:
    """In float32, where its own default on processors with bfloat16 units would be less."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = core.compile_model(core.read_model(onnx_bytes(model, tuple(x.shape))), "CPU", settings)
    request, value = network.create_infer_request(), x.numpy()

    def call() -> Tensor:
        request.infer([value], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data)

    return call


@dataclass(frozen=True)
class Mode:
    """A way to run a model, the variants that are run in it, and what it asks of the machine."""

    prepare: Callable[[nn.Module, Tensor], Call]
    variants: tuple[str, ...] = PEERS
    device: str | None = None  # the only device it runs on
    needs: tuple[str, ...] = ()  # modules beyond those of the bench extra
    compiles: bool = False  # through torch.compile, which may take a minute
    onnx: bool = False  # float32 and contiguous only; neither its kernels nor its memory are PyTorch's


COMPILED = (AS_IS, FXREP, "timm")  # inductor folds norms itself: what `fuse` does is in "as is", frozen
EXPORTED = (AS_IS, FXREP)

MODES = {
    "eager": Mode(eager),
    "compile": Mode(compiled, COMPILED, compiles=True),
    "freezing": Mode(frozen, COMPILED, compiles=True),
    "cudagraphs": Mode(cuda_graph, device="cuda"),
    "onnxruntime": Mode(onnxruntime, EXPORTED, "cpu", ("onnx", "onnxscript", "onnxruntime"), onnx=True),
    "openvino": Mode(openvino, EXPORTED, "cpu", ("onnx", "onnxscript", "openvino"), onnx=True),
    "tensorrt": Mode(tensorrt, EXPORTED, "cuda", ("torch_tensorrt",), compiles=True),
}


def missing(name: str, device: str) -> str | None:
    """Why a mode cannot run here, in one line, or None."""
    mode = MODES[name]
    if mode.device not in (None, device):
        return f"{name} runs on {mode.device} only"
    absent = [module for module in mode.needs if importlib.util.find_spec(module) is None]
    return f"{name} is left out, not installed: {', '.join(absent)}" if absent else None


def versions(name: str) -> dict[str, str]:
    """The versions of what a mode needs beyond PyTorch."""
    return {module: importlib.metadata.version(module.replace("_", "-")) for module in MODES[name].needs}
