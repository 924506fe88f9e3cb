"""Opening an artifact: the suffix of its file says which runtime runs it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lstm_deploy.artifacts import FORMATS, SUFFIXES, check_unchanged
from lstm_deploy.contract import Signature
from lstm_deploy.errors import InputError, ProviderError, require, why_missing
from lstm_deploy.runtimes.c_compiler import find_compiler
from lstm_deploy.runtimes.native import NativeRuntime
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.providers import find_provider


class Loader(NamedTuple):
    """Loads the artifacts of one format."""

    runtime: str
    """The name of the runtime in `Model.stream(runtime=...)` and `--runtime`."""
    load: Callable[[Path, str, int | None, Sequence[str]], Runtime]
    """Takes the arguments of `open_runtime`."""
    unavailable: Callable[[], str] = lambda: ""
    """Why nothing of this format can run on this machine; empty where it can."""


def _load_onnx(path: Path, provider: str, threads: int | None, settings: Sequence[str]) -> Runtime:
    from lstm_deploy.runtimes.onnxrt import OnnxRuntime

    return OnnxRuntime(path, provider, threads, settings)


def _load_torchscript(path: Path, provider: str, threads: int | None, settings: Sequence[str]) -> Runtime:
    require("torch")
    from lstm_deploy.runtimes.torchrt import TorchScriptRuntime

    return TorchScriptRuntime(path, provider, threads, settings)


def _without_compiler() -> str:
    try:
        find_compiler()
    except InputError as error:
        return str(error).rstrip(".")
    return ""


PERSISTENT = 192
"""See `is_faster_in_torch`."""
RUNTIMES = {
    "onnx": Loader("onnx", _load_onnx),
    "c": Loader("native", lambda path, *_: NativeRuntime(path), _without_compiler),
    "torchscript": Loader("torchscript", _load_torchscript, lambda: why_missing("torch")),
}
"""By format, the preferred first."""


def is_faster_in_torch(signature: Signature, provider: str) -> bool:
    """Whether PyTorch runs a model on CUDA with kernels that ONNX Runtime does not use, and is there to do so.

    Up to the hidden size `PERSISTENT` it asks cuDNN for kernels that keep the weights on the chip for a whole sequence:
    `use_persist_common_heuristics` in aten/src/ATen/native/cudnn/RNN.cpp.
    """
    if provider != "cuda" or any(module.hidden_size > PERSISTENT for module in signature.recurrent):
        return False
    if why_missing("torch"):
        return False
    from lstm_deploy.runtimes.torchrt import has_cuda

    return has_cuda()


def cannot_run(format: str, precision: str, provider: str) -> str:  # noqa: A002 - the field's name
    """Why an artifact cannot run on a provider, or on this machine at all; empty where it can."""
    if format not in FORMATS:
        return f"this release does not know the format {format}"
    if provider not in FORMATS[format].providers:
        return _not_on(format, provider)
    return RUNTIMES[format].unavailable() or find_provider(provider).no_kernel.get(precision, "")


def open_runtime(
    path: Path,
    provider: str = "cpu",
    threads: int | None = None,
    settings: Sequence[str] = (),
    *,
    even_changed: bool = False,
) -> Runtime:
    """Load an artifact by its suffix.

    One of a bundle is refused unless its files are those that were exported, by their SHA-256; `even_changed` is for
    those who check that themselves, as `validate`, whose report says so.

    `threads` bounds the threads within one operator; by default the runtime chooses. `settings` are some of the
    provider's.
    Raises `InputError` for a file that is not an artifact, or was changed, and `ProviderError` for a provider that
    cannot be used.
    """
    find_provider(provider)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is none of {', '.join(SUFFIXES)}; give an exported artifact, or export it first.")
    record = SUFFIXES[path.suffix]
    if provider not in record.providers:
        there = " or ".join(record.providers)
        raise ProviderError(f"{_not_on(record.name, provider)}; use --provider {there}, or the ONNX artifact.")
    if not even_changed:
        check_unchanged(path)
    return RUNTIMES[record.name].load(path, provider, threads, settings)


def _not_on(format_: str, provider: str) -> str:
    record = FORMATS[format_]
    return f"{record.label} runs on {' or '.join(record.providers)}, not on {provider}"
