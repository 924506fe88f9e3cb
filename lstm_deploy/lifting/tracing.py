"""Tracing with `torch.jit`, and the sizes that a trace has frozen: it holds one path through the user's code."""

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.jit._trace import TracerWarning

import lstm_deploy
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting import traced_sizes
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.probing import dynamic_dims, example_inputs
from lstm_deploy.lifting.recurrent import Lifted

SIZES = ((1, 1), (1, 6), (5, 1), (5, 9), (1, 40))
"""Batch and sequence length at which a trace is compared with the module; it was made at none of them."""
_LIBRARIES = tuple(str(Path(package.__file__ or "").parent) for package in (torch, lstm_deploy))


class Traced(NamedTuple):
    """A lifted module as TorchScript."""

    script: Any
    frozen: tuple[str, ...]
    """Lines of the user's code, as `FILE:LINE`, that turn a size or a value into a number or a branch."""


def trace(lifted: Lifted) -> Traced:
    """Trace a copy of `lifted`."""
    copy, lines = shared_copy(lifted), dict[str, None]()

    def note(_: object, category: type[Warning], filename: str, line: int, *_rest: object) -> None:
        if filename == traced_sizes.__file__:  # whose mode stands between the user's code and PyTorch
            filename, line = _caller_of_mode()
        if issubclass(category, TracerWarning) and is_users_file(filename):
            lines[f"{filename}:{line}"] = None

    with warnings.catch_warnings(), torch.no_grad(), traced_sizes.sizes_traced(copy.module):
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        script = torch.jit.trace(copy, example_inputs(lifted.signature), check_trace=False)  # type: ignore[no-untyped-call]
    return Traced(script, tuple(lines))


def is_users_file(filename: str) -> bool:
    """Whether a line of code is the user's own, by its file."""
    return not filename.startswith(_LIBRARIES)


def _caller_of_mode() -> tuple[str, int]:
    """The file and line of the code whose call of PyTorch a `TorchFunctionMode` is handling now."""
    frame, inside = inspect.currentframe(), False
    while frame is not None and not (inside and frame.f_code.co_name != "__torch_function__"):
        inside |= frame.f_code.co_name == "__torch_function__"
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)


def wrong_sizes(traced: Traced, lifted: Lifted) -> list[Mapping[str, int]]:
    """The sizes, among `SIZES`, at which the trace computes something else than the module."""
    dynamic = dynamic_dims(lifted.signature.inputs)
    wrong: list[Mapping[str, int]] = []
    for batch, seq in SIZES:
        tensors = example_inputs(lifted.signature, batch, seq, seed=1)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with seeded(0):
                expected = shared_copy(lifted)(*tensors)
            try:
                with seeded(0):
                    actual = traced.script(*tensors)
                same = all(
                    a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
                    for a, b in zip(actual, expected, strict=True)
                )
            except RuntimeError:  # a frozen size does not fit
                same = False
        if not same:
            wrong.append({name: size for name, size in (("batch", batch), ("seq", seq)) if name in dynamic})
    return wrong


def frozen_size_error(frozen: tuple[str, ...], sizes: Mapping[str, int] | None = None) -> LiftingError:
    """The error for a module whose code keeps its sizes from being dynamic, at lines `frozen`, wrong at `sizes`."""
    where = " and ".join(f"{name} {size}" for name, size in (sizes or {}).items())
    consequence = f"so an export would differ at {where}" if where else "so its sizes cannot be dynamic"
    if not frozen:
        return LiftingError(
            f"Something in forward makes a number of a size when PyTorch traces it (as torch.tensor(x.shape) does), "
            f"{consequence}; use sizes only as x.shape[0], or give them as numbers, as in x:float32[batch,6,3]."
        )
    return LiftingError(
        f"forward branches on a size or a value, or turns one into a number, at {', '.join(frozen[:3])}, "
        f"{consequence}; use sizes only as x.shape[0], not as int(…), in a loop or in an if, or give them as numbers, "
        "as in x:float32[1,seq,3]."
    )
