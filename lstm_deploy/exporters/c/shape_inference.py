"""What is known of every value of an ONNX graph, for one row, before the model runs.

It is inferred by running the graph on several numbers of steps, which is exact where ONNX's shape inference gives up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from lstm_deploy.contract import Array, CallMode, Signature, sample_inputs
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.sizes import Size, fit
from lstm_deploy.runtimes import open_session

LENGTHS = 4
"""Numbers of steps that the graph is run on: one more than a polynomial of degree 2 needs."""
SHAPE_OPERATORS = ("Shape", "Size")
"""Operators that do not read the values of their input."""
POLYNOMIAL_OPERATORS = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that make polynomials in the steps of such polynomials, which a few numbers of steps determine."""


class ValueInfo(NamedTuple):
    """What is known of a value before the model runs."""

    shape: tuple[Size, ...]
    dtype: str
    constant: Array | None = None
    """The value itself where no input and no number of steps changes it."""
    polynomials: tuple[Size, ...] | None = None
    """Its entries where the number of steps alone determines them."""

    @property
    def is_known(self) -> bool:
        """Whether the value does not depend on the inputs of the model."""
        return self.constant is not None or self.polynomials is not None


def infer_values(
    model: onnx.ModelProto, signature: Signature, mode: CallMode, folder: Path | None = None
) -> dict[str, ValueInfo]:
    """All values of a graph, by name, for one row: of one step, or of any number that its contract allows.

    `folder` is where the weights lie that the graph has not with it.
    Raises `InputError` where a shape depends on more than the steps.
    """
    least = signature.clamp({"seq": signature.least_seq})["seq"]
    steps = [least + number for number in range(LENGTHS)] if mode.dynamic else [1 if mode.one_step else least]
    runs = _runs(model, signature, steps, folder)
    computed = _depends_on_inputs(model, signature.input_names)
    infos = {name: _info(name, [run[name] for run in runs], steps, name in computed) for name in runs[0]}
    return _without_uncertain(model, infos) if mode.dynamic else infos


def _runs(
    model: onnx.ModelProto, signature: Signature, steps: Sequence[int], folder: Path | None
) -> list[Mapping[str, Array]]:
    """For each number of steps, the value of every name in the graph."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    names = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(exposed.SerializeToString(), threads=1, folder=folder)
    runs: list[Mapping[str, Array]] = []
    for number in steps:
        sizes = signature.clamp({"batch": 1, "seq": number})
        inputs = sample_inputs(signature.inputs, sizes, np.random.default_rng(0))
        feeds = {**inputs, **signature.initial_state(1)}
        values: dict[str, Array] = dict(zip(names, session.run(names, feeds), strict=True))
        runs.append({**feeds, **values})
    return runs


def _depends_on_inputs(model: onnx.ModelProto, inputs: Sequence[str]) -> set[str]:
    """Names of values that the values of the inputs, and not their shapes alone, can change."""
    computed = set(inputs)
    for node in model.graph.node:
        if node.op_type not in SHAPE_OPERATORS and computed & set(node.input):
            computed |= set(node.output)
    return computed


def _info(name: str, values: Sequence[Array], steps: Sequence[int], computed: bool) -> ValueInfo:
    arrays = [np.asarray(value) for value in values]
    first = arrays[0]
    if len({array.ndim for array in arrays}) > 1:
        raise InputError(f"The rank of {name} depends on the steps, which C cannot express; leave out --format c.")
    if len(steps) == 1:
        return ValueInfo(tuple(Size.of(size) for size in first.shape), str(first.dtype), None if computed else first)
    shape = _polynomials(steps, [array.shape for array in arrays])
    if shape is None:
        raise InputError(
            f"The shape of {name} is no simple function of the steps, which C cannot express; leave out --format c."
        )
    info = ValueInfo(shape, str(first.dtype))
    if computed or any(size.number is None for size in shape):
        return info
    if all(np.array_equal(array, first, equal_nan=array.dtype.kind == "f") for array in arrays):
        return info._replace(constant=first)
    return info._replace(polynomials=_polynomials(steps, [array.ravel().astype(float) for array in arrays]))


def _polynomials(steps: Sequence[int], rows: Sequence[Sequence[float] | Array]) -> tuple[Size, ...] | None:
    """A polynomial for each column of `rows`, which has a row for each number of steps; none unless all have one."""
    fits = [fit(steps, column) for column in zip(*rows, strict=True)]
    polynomials = tuple(polynomial for polynomial in fits if polynomial is not None)
    return polynomials if len(polynomials) == len(fits) else None


def _without_uncertain(model: onnx.ModelProto, infos: Mapping[str, ValueInfo]) -> dict[str, ValueInfo]:
    """The same without what holds for the few numbers of steps that were run, as the result of a comparison may."""
    certain, varies = dict(infos), set[str]()
    for node in model.graph.node:
        outputs = [name for name in node.output if name]
        if node.op_type in SHAPE_OPERATORS:
            varies |= {name for name in outputs if certain[name].polynomials is not None}
        elif varying := varies & set(node.input):
            if node.op_type in POLYNOMIAL_OPERATORS and all(certain[name].polynomials is not None for name in varying):
                varies |= {name for name in outputs if certain[name].constant is None}
            else:
                certain |= {name: certain[name]._replace(constant=None, polynomials=None) for name in outputs}
                varies |= set(outputs)
    return certain
