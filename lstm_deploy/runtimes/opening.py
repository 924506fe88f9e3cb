"""Opening an artifact: its file name says which runtime runs it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.providers import PROVIDERS, find_provider

SUFFIXES = {".onnx": "onnx", ".torchscript": "torchscript", ".c": "c"}
"""Artifact format by file name."""


def cannot_run(format: str, precision: str, provider: str) -> str:  # noqa: A002 - the field's name
    """Why an artifact cannot run on a provider, or here at all; empty where it can."""
    if format == "torchscript" and find_spec("torch") is None:
        return "PyTorch is not installed"
    if format == "c" and provider != "cpu":
        return "C runs on the CPU"
    if format == "c":
        return no_compiler()
    if format == "torchscript" and PROVIDERS[provider].torch_device is None:
        return f"PyTorch has no {provider}"
    return PROVIDERS[provider].no_kernel.get(precision, "")


def open_runtime(
    path: Path, provider: str = "cpu", threads: int | None = None, settings: Sequence[str] = ()
) -> Runtime:
    """Load an artifact by its suffix.

    `threads` bounds the threads within one operator; the runtime chooses where it is not given. `settings` are of
    those that the provider takes.
    Raises `InputError` for a file that is not an artifact and `ProviderError` for a provider that is not there.
    """
    find_provider(provider)
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
