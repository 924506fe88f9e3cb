"""How far an artifact may differ from PyTorch in float64: the one table of tolerances, each with its reason.

A difference is relative to the size of the expected value. Sizes are taken per entry of the axes that the contract
fixes (a column of `y`, a unit of a layer of `h`), over all rows and steps of a case, so that a small column beside a
huge one is judged by its own size.

Tolerances of the rooms below, which cannot import this one, stand where they are used: `lifting` compares a module
with its own lifted copy, and `artifacts` rounds quantized weights. A benchmark's is in `benchmark.runner`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from lstm_deploy.contract import Array
from lstm_deploy.errors import InputError, check_not_negative


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
"""Of outputs and states, by precision and provider."""
ROLLOUT = Tolerance(1e-5, "in any precision, a rollout and its model run the same kernels on the same shapes")
STREAM = Tolerance(1e-5, "a stream and a plain call run the same kernels on the same shapes")
INT8_KERNELS = Tolerance(
    0.05,
    "an activation may fall beside another of 255 levels: trained networks were 0.015 apart between two kernels, and "
    "0.25 and more where a state was lost or swapped",
)
WEIGHT = Tolerance(1e-6, "projections are multiplied in float64 and rounded once")
KNOWN_FAULT = {
    "float32": Tolerance(1e-4, "a fault moves outputs by far more; rounding, on small calls, by less"),
    "float16": Tolerance(2e-2, "twice what a right artifact may differ by"),
    "int8": Tolerance(0.15, "on small calls, right artifacts stay well below the 0.25 of long ones"),
}
"""By precision: outputs this close to those of a known fault count as caused by it."""
WEIGHT_FAULT = Tolerance(1e-5, "a fault rebuilt from float32 weights rounds more often than the weights themselves")

STATE_SIZE = 1.0
"""States are no smaller than this: their activations round by a part of 1, however small the unit's own value."""
OUTPUT_SIZE = 0.05
"""Outputs are no smaller than this: a sigmoid of onnxruntime is off by up to 1e-7 where its value is 1e-7."""
TYPICAL_SIZES = 10.0
"""Values are at least as large as the largest of usual calls, up to this many times the median of such calls."""
LARGEST = 1e36
"""Beyond this a number is as good as infinite in float32, which ends at 3e38: another order of sums is beyond it."""
STREAM_SIZE = 1e-3
"""Values of streams are no smaller than this, so that outputs near zero may round."""
ACTIVATION_ERROR = 1e-7
"""The absolute error of the faster activations of runtimes."""
ROUNDING = 10.0
"""How many times PyTorch's own rounding an artifact may differ, where that is more than the tolerance.

Published networks lose float32's precision within a hundred steps on inputs they were not made for: a right graph
then differs from float64 as PyTorch itself does.
"""
LOST = 3.0
"""Where PyTorch's own rounding is more than this, another's may be anything: of a chaotic state that is bounded it is 2
at most, and of one that grows with each step it has no end."""
FLOAT16_ROUNDING = 2.0**13
"""The same for float16, whose steps are so much larger: it keeps 11 bits in place of 24.

Networks of random weights, on inputs 1,000 times as large as usual, were off by up to 4,500 times.
"""
CALM = 1e-6
"""Where PyTorch's own rounding is more than this somewhere, how far it may reach elsewhere is measured once more.

One sample does not tell: in a network that doubles a difference at each step, the sums of another runtime, in another
order, end a hundred times further off where PyTorch's happened to round well.
"""
SHAKE = 2.0**-22
"""For that, each weight of an LSTM is off by up to this part of it, as products and their sums in float32 are."""
LARGE_CELLS = 10.0
"""Times the tolerance, with cells 50 times as large as usual: `ACTIVATION_ERROR` times a cell of 50 is 5e-6."""
HUGE_CELLS = 100.0
"""Times the tolerance, with cells 1,000 times as large: a forget gate that is all but shut is off by as much."""
INT8_DRIFT = 3.0
"""Times the tolerance, for int8 over thousands of steps, in which single cells tip over at times."""
HALF_STEP = 0.5 * (1 + 1e-3)
"""Quantization steps by which a rounded weight may differ; a thousandth more for the rounding of the scale."""
FAULT_STEPS = 0.6
"""The same for a rounded weight and what a known fault would make of the right one."""
AFFINE_FIT = 0.01
"""Fraction of a difference that a factor and an offset may leave unexplained."""
UNIT_FACTOR = 1e-3
"""A factor nearer to 1 than this is 1."""


class Override(NamedTuple):
    """What a user allows in place of the table: `absolute + relative * size`."""

    absolute: float | None = None
    relative: float | None = None


def relative_tolerance(precision: str, provider: str) -> float:
    """The entry of the table; raises `InputError` where there is none."""
    if (precision, provider) not in TOLERANCES:
        raise InputError(f"No tolerance is known for {precision} on {provider}; validate the float32 artifact there.")
    return TOLERANCES[precision, provider].relative


def allowed(
    size: Array, relative: float, rounding: float, override: Override | None = None, precision: str = "float32"
) -> Array:
    """The difference allowed at each entry; `rounding` is how far PyTorch in float32 is from float64, relative."""
    if override is None:
        times = FLOAT16_ROUNDING if precision == "float16" else ROUNDING
        return size * max(relative, times * rounding)
    return (override.absolute or 0.0) + (override.relative or 0.0) * size


def overrides(
    absolute: float | Mapping[str, float] | None, relative: float | Mapping[str, float] | None
) -> dict[str, Override]:
    """What a user allows, by output; one number, or the name `""`, stands for all outputs.

    Raises `InputError` for what is no number, negative or infinite.
    """
    a, r = _by_output("atol", absolute), _by_output("rtol", relative)
    return {name: Override(a.get(name), r.get(name)) for name in {*a, *r}}


def _by_output(name: str, given: float | Mapping[str, float] | None) -> dict[str, float]:
    if given is None:
        return {}
    numbers = dict(given) if isinstance(given, Mapping) else {"": given}
    for value in numbers.values():
        check_not_negative(name, value, "give a number of 0 or more, or one for each output by name")
    return {output: float(value) for output, value in numbers.items()}
