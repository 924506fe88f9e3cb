"""Runtimes: what can run an artifact, all behind one protocol. Providers and devices are their business alone."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from lstm_deploy.errors import InputError
from lstm_deploy.signature import Feeds, Outputs, Signature, TensorSpec

SUFFIXES = {".onnx": "onnx", ".torchscript": "torchscript", ".c": "c"}
"""Artifact format by file name."""

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Execution providers by the names of the command line."""
SETTINGS = ("tf32", "graph")
"""What may be asked of CUDA: to round factors to 10 bits; to replay a captured graph in `Recurrence.step`."""

NO_KERNEL = {
    ("float16", "cpu"): "the CPU has no float16 LSTM",
    ("int8", "cuda"): "CUDA has no int8 LSTM, and would leave it to the CPU",
    ("int8", "tensorrt"): "TensorRT has no int8 LSTM of this kind, and would leave it to the CPU",
}
"""Precisions that a provider cannot run, and why."""


def cannot_run(format: str, precision: str, provider: str) -> str:  # noqa: A002 - the field's name
    """Why an artifact cannot run on a provider, or here at all; empty where it can."""
    if format == "torchscript" and find_spec("torch") is None:
        return "PyTorch is not installed"
    if format == "c" and provider != "cpu":
        return "C runs on the CPU"
    if format == "c":
        return no_compiler()
    if format == "torchscript" and provider == "tensorrt":
        return "PyTorch has no TensorRT"
    return NO_KERNEL.get((precision, provider), "")


class Recurrence(Protocol):
    """A model at one batch size and length, its buffers made once and its state kept between calls."""

    inputs: Outputs
    """Write the next inputs into these arrays."""
    outputs: Outputs
    """Read the latest outputs from these arrays, which the next `step` overwrites."""

    def step(self) -> None:
        """Run once from the state that the last call left."""

    def advance(self) -> None:
        """Run once more on the inputs of the last `step`, copy nothing, and wait until it is computed."""

    def get_state(self) -> Outputs:
        """A copy of the state, by the names of the state inputs."""

    def set_state(self, state: Feeds) -> None:
        """Continue from a copy of this state."""


class Runtime(Protocol):
    """An artifact that was loaded and can be run."""

    signature: Signature
    provider: str
    swallows_nan: bool
    """Whether its LSTM gives numbers where NaN is right."""

    @property
    def rollout(self) -> "Runtime | None":
        """The rollout that the same file holds; none where that is a file of its own, or the model has none."""

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, state included, for all inputs, state included."""

    def declared(self) -> list[TensorSpec] | None:
        """Inputs and outputs as the file itself declares them, apart from its contract; none where it does not."""

    def misplaced(self) -> list[str]:
        """A sentence for each kind of work that is not done on `provider`."""

    def active(self) -> list[str]:
        """Where it computes, in the runtime's own words."""

    def recur(self, batch: int, seq: int) -> Recurrence:
        """Buffers for calls of `[batch, seq]`, started from the initial state."""

    def close(self) -> None:
        """Free what the runtime holds."""


def open_runtime(
    path: Path, provider: str = "cpu", threads: int | None = None, settings: Sequence[str] = ()
) -> Runtime:
    """Load an artifact by its suffix.

    `threads` bounds the threads within one operator; the runtime chooses where it is not given. `settings` are of
    `SETTINGS`.
    Raises `InputError` for a file that is not an artifact and `ProviderError` for a provider that is not there.
    """
    if provider not in PROVIDERS:
        raise InputError(f"{provider!r} is not an execution provider; use {', '.join(PROVIDERS)}.")
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    match SUFFIXES.get(path.suffix):
        case "onnx":
            from lstm_deploy.runtimes.onnxrt import OnnxRuntime

            return OnnxRuntime(path, provider, threads, settings)
        case "torchscript":
            if find_spec("torch") is None:
                raise InputError(f"{path} needs PyTorch, which is not installed; use the ONNX artifact.")
            from lstm_deploy.runtimes.torchrt import TorchScriptRuntime

            return TorchScriptRuntime(path, provider, threads, settings)
        case "c":
            from lstm_deploy.runtimes.native import NativeRuntime

            return NativeRuntime(path, provider, settings)
    raise InputError(f"{path} is none of {', '.join(SUFFIXES)}; give an exported artifact, or export it first.")


def no_compiler() -> str:
    """Why C cannot be compiled here; empty where it can."""
    from lstm_deploy.runtimes.native import compiler

    try:
        compiler()
    except InputError as error:
        return str(error).rstrip(".")
    return ""
