"""Tracing with `torch.jit`, and what a trace has frozen: an export holds one way through the user's code."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.jit._trace import TracerWarning

import lstm_deploy
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import shared_copy
from lstm_deploy.lifting.lifting import example
from lstm_deploy.lifting.probing import seeded
from lstm_deploy.lifting.recurrent import Lifted

SIZES = ((1, 1), (1, 6), (5, 1), (5, 9), (1, 40))
"""Batch and sequence that a trace is held against the module at; it was made at none of them."""
_NO_USER = tuple(str(Path(package.__file__ or "").parent) for package in (torch, lstm_deploy))


class Traced(NamedTuple):
    """A lifted module as TorchScript."""

    script: Any
    frozen: tuple[str, ...]
    """Lines of the user's code, as `FILE:LINE`, that made a number or a decision of a size or a value."""


def trace(lifted: Lifted) -> Traced:
    """Trace a copy of `lifted`."""
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        script = torch.jit.trace(shared_copy(lifted), example(lifted.signature), check_trace=False)  # type: ignore[no-untyped-call]
    lines = (
        f"{warning.filename}:{warning.lineno}"
        for warning in caught
        if issubclass(warning.category, TracerWarning) and not warning.filename.startswith(_NO_USER)
    )
    return Traced(script, tuple(dict.fromkeys(lines)))


def wrong_sizes(traced: Traced, lifted: Lifted) -> list[Mapping[str, int]]:
    """The sizes, among `SIZES`, at which the trace does something else than the module."""
    signature = lifted.signature
    dynamic = {dim for spec in signature.inputs for dim in spec.shape if isinstance(dim, str)}
    wrong: list[Mapping[str, int]] = []
    for batch, seq in SIZES:
        tensors = example(signature, batch, seq, seed=1)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with seeded(0):
                wanted = shared_copy(lifted)(*tensors)
            try:
                with seeded(0):
                    got = traced.script(*tensors)
                same = all(
                    a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
                    for a, b in zip(got, wanted, strict=True)
                )
            except RuntimeError:  # a frozen size does not fit
                same = False
        if not same:
            sizes = {"batch": batch, "seq": seq}
            wrong.append({name: size for name, size in sizes.items() if name in dynamic})
    return wrong


def refusal(frozen: tuple[str, ...], sizes: Mapping[str, int] | None = None) -> LiftingError:
    """Says which lines of the user's code keep the sizes from being dynamic."""
    if not frozen:
        return LiftingError(
            "Some operator in forward makes a number of a size when PyTorch exports it (MaxPool1d does, of seq), so "
            "that size cannot be dynamic; give it as a number, as in x:float32[batch,6,3], or use --format torchscript."
        )
    said = " and ".join(f"{name} {size}" for name, size in (sizes or {}).items())
    return LiftingError(
        f"forward branches on a size or a value, or makes a number of it, at {', '.join(frozen[:3])}"
        + (f", so an export would differ at {said}" if said else ", so its sizes cannot be dynamic")
        + "; use sizes only as x.shape[0], not as len(x), int(…) or in an if, or give them as numbers, as in "
        "x:float32[1,seq,3]."
    )
