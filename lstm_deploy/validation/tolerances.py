"""What an artifact may differ from PyTorch in float64: one table, with the reason for each figure.

A difference is held against the size of what it is a difference from. Sizes are taken for each entry of the axes that
the contract fixes (a column of `y`, a unit of a layer of `h`), over all rows and steps of a case, so that a small
column beside a huge one is judged by its own size.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import Array
from lstm_deploy.errors import InputError


class Tolerance(NamedTuple):
    """The allowed difference is `relative` times the size of the value."""

    relative: float
    reason: str


TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("float32", "cpu"): Tolerance(1e-5, "rounding over 1,000 steps stays below 3e-6; a bias off by 1e-4 does not"),
    ("float32", "cuda"): Tolerance(1e-4, "cuDNN sums in another order, with TF32 off"),
    ("float32", "tensorrt"): Tolerance(1e-4, "as on CUDA"),
    ("float16", "cpu"): Tolerance(1e-2, "weights and state keep 11 bits; the rest is computed in float32"),
    ("float16", "cuda"): Tolerance(1e-2, "float16 keeps 11 bits, and the state is rounded at every step"),
    ("float16", "tensorrt"): Tolerance(1e-2, "as on CUDA"),
    ("int8", "cpu"): Tolerance(
        0.25,
        "trained networks whose metric moved by 0.01 % were off by 0.1 in single cells over 10,000 steps; a wrong "
        "state is off by 1, weights are compared number by number, and the metric judges the rest",
    ),
}
"""By precision and provider."""
STATE_SIZE = 1.0
"""States are no smaller than this: their activations round by a part of 1, however small the unit's own value."""
OUTPUT_SIZE = 0.05
"""Outputs are no smaller than this: a sigmoid of onnxruntime is off by up to 1e-7 where its value is 1e-7."""
ROUNDING = 10.0
"""How many times PyTorch's own rounding an artifact may differ, where that is more than the tolerance.

Published networks lose float32's precision within a hundred steps on inputs they were not made for: a right graph
then differs from float64 as PyTorch itself does.
"""


class Override(NamedTuple):
    """What a user allows in place of the table: `absolute + relative * size`."""

    absolute: float | None = None
    relative: float | None = None


def relative_tolerance(precision: str, provider: str) -> float:
    """The entry of the table; raises `InputError` where there is none."""
    if (precision, provider) not in TOLERANCES:
        raise InputError(f"No tolerance is known for {precision} on {provider}; validate the float32 artifact there.")
    return TOLERANCES[precision, provider].relative


def sizes(wanted: Array, dynamic_axes: tuple[int, ...]) -> Array:
    """The largest finite |value| over the dynamic axes, which are kept with size 1."""
    finite = np.where(np.isfinite(wanted), np.abs(wanted), 0.0)
    return np.asarray(finite.max(axis=dynamic_axes, keepdims=True, initial=0.0))


def allowed(size: Array, relative: float, rounding: float, override: Override | None = None) -> Array:
    """The difference allowed at each entry; `rounding` is PyTorch's own relative difference from float64."""
    if override is None:
        return size * max(relative, ROUNDING * rounding)
    return (override.absolute or 0.0) + (override.relative or 0.0) * size


def overrides(
    absolute: float | Mapping[str, float] | None, relative: float | Mapping[str, float] | None
) -> dict[str, Override]:
    """What a user allows, by output; one number, or the name `""`, stands for all outputs."""
    a, r = ({"": value} if isinstance(value, int | float) else dict(value or {}) for value in (absolute, relative))
    return {name: Override(a.get(name), r.get(name)) for name in {*a, *r}}
