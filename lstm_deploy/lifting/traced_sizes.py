"""Sizes that user code reads in ways that tracers do not follow, as with `len(x)`; here they are made to."""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from lstm_deploy.lifting.packing import namespaces_of


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else builtins.len(value)


class _DataIsTraced(TorchFunctionMode):
    """Tracers lose sight of `x.data`, and not of `x.detach()`, which is the same tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        return func(*args, **(kwargs or {}))


@contextmanager
def sizes_traced(module: nn.Module) -> Iterator[None]:
    """Within the block, code of `module` and its children gets sizes that can be traced.

    From `len(x)` and `x.data.shape`; and functions that were scripted run as the Python that they were written in.
    Distributions do not check their arguments, which would be a branch on values.
    """
    namespaces = namespaces_of(module)
    with_len = [names for names in namespaces if "len" not in names]
    scripted = [
        (names, key, value, python)
        for names in namespaces
        for key, value in names.items()
        if isinstance(value, torch.jit.ScriptFunction) and (python := getattr(value, "_torchdynamo_inline", None))
    ]
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    for names in with_len:
        names["len"] = _len
    for names, key, _, python in scripted:
        names[key] = python
    try:
        with _DataIsTraced():
            yield
    finally:
        Distribution.set_default_validate_args(checks)
        for names in with_len:
            del names["len"]
        for names, key, value, _ in scripted:
            names[key] = value
