"""Tracing with `torch.jit`, and the sizes that a trace has frozen: it holds one path through the user's code."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.jit._trace import TracerWarning

import lstm_deploy
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.probing import dynamic_dims, example_inputs
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.traced_sizes import sizes_traced

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
    copy = shared_copy(lifted)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad(), sizes_traced(copy.module):
        warnings.simplefilter("always")
        script = torch.jit.trace(copy, example_inputs(lifted.signature), check_trace=False)  # type: ignore[no-untyped-call]
    lines = (
        f"{warning.filename}:{warning.lineno}"
        for warning in caught
        if issubclass(warning.category, TracerWarning) and not warning.filename.startswith(_LIBRARIES)
    )
    return Traced(script, tuple(dict.fromkeys(lines)))


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
    if not frozen:
        return LiftingError(
            "Some operator in forward turns a size into a number when PyTorch exports it (MaxPool1d does, of seq), so "
            "that size cannot be dynamic; give it as a number, as in x:float32[batch,6,3], or use --format torchscript."
        )
    where = " and ".join(f"{name} {size}" for name, size in (sizes or {}).items())
    consequence = f"so an export would differ at {where}" if where else "so its sizes cannot be dynamic"
    return LiftingError(
        f"forward branches on a size or a value, or turns one into a number, at {', '.join(frozen[:3])}, "
        f"{consequence}; use sizes only as x.shape[0], not as len(x), int(…) or in an if, or give them as numbers, "
        "as in x:float32[1,seq,3]."
    )
