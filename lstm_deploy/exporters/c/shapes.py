"""What every value of an ONNX graph is for one row: its shape as a function of the steps, and what is known of it.

Found by running the graph on several numbers of steps, which is exact where inference gives up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from lstm_deploy.contract import Array, CallMode, Signature, sample_inputs
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.sizes import Size, fit
from lstm_deploy.runtimes import open_session

TRIED = 4
"""Numbers of steps that the graph is run on: one more than a polynomial of degree 2 needs."""
SHAPE_OF = ("Shape", "Size")
"""Operators that do not read the values of their input."""


POLYNOMIAL = frozenset(
    [
        "Gather",
        "Slice",
        "Concat",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Flatten",
        "Cast",
        "Identity",
        "Transpose",
        "Split",
        "Expand",
        "Add",
        "Sub",
        "Mul",
        "Neg",
    ]
)
"""Operators that make polynomials in the steps of polynomials, so that a few numbers of steps tell them all."""


class Known(NamedTuple):
    """What is known of a value before the model runs."""

    shape: tuple[Size, ...]
    dtype: str
    constant: Array | None
    """The value itself where no input and no number of steps changes it."""
    affine: tuple[Size, ...] | None
    """Its entries where the number of steps alone decides them."""


def examine(model: onnx.ModelProto, signature: Signature, mode: CallMode) -> dict[str, Known]:
    """All values of a graph, by name, for one row: of one step, or of any number that its contract allows.

    Raises `InputError` where a shape depends on more than the steps.
    """
    least = signature.clamp({"seq": signature.least_seq})["seq"]
    steps = [least + number for number in range(TRIED)] if mode.dynamic else [1 if mode.one_step else least]
    runs = _runs(model, signature, steps)
    computed = _depends_on_inputs(model, [*signature.input_names])
    known = {name: _known(name, [run[name] for run in runs], steps, name in computed) for name in runs[0]}
    return _forgotten(model, known) if mode.dynamic else known


def _runs(model: onnx.ModelProto, signature: Signature, steps: Sequence[int]) -> list[Mapping[str, Array]]:
    """For each number of steps the value of every name in the graph."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(shown.SerializeToString(), threads=1)
    found: list[Mapping[str, Array]] = []
    for number in steps:
        rng = np.random.default_rng(0)
        sizes = signature.clamp({"batch": 1, "seq": number})
        feeds = {**sample_inputs(signature.inputs, sizes, rng), **signature.initial_state(1)}
        values: dict[str, Array] = dict(zip(names, session.run(names, feeds), strict=True))
        found.append({**feeds, **values})
    return found


def _depends_on_inputs(model: onnx.ModelProto, inputs: Sequence[str]) -> set[str]:
    """Names of values that the values of the inputs, and not their shapes alone, can change."""
    computed = set(inputs)
    for node in model.graph.node:
        if node.op_type not in SHAPE_OF and computed & set(node.input):
            computed |= set(node.output)
    return computed


def _known(name: str, values: Sequence[Array], steps: Sequence[int], computed: bool) -> Known:
    arrays = [np.asarray(value) for value in values]
    if len({array.ndim for array in arrays}) > 1:
        raise InputError(f"The rank of {name} depends on the steps, which C cannot express; leave out --format c.")
    if len(steps) == 1:
        shape = tuple(Size.of(size) for size in arrays[0].shape)
        return Known(shape, str(arrays[0].dtype), None if computed else arrays[0], None)
    sizes = [fit(steps, [array.shape[axis] for array in arrays]) for axis in range(arrays[0].ndim)]
    if any(size is None for size in sizes):
        raise InputError(
            f"The shape of {name} is no simple function of the steps, which C cannot express; leave out --format c."
        )
    shape = tuple(size for size in sizes if size is not None)
    dtype = str(arrays[0].dtype)
    if computed or any(size.number is None for size in shape):
        return Known(shape, dtype, None, None)
    if all(np.array_equal(array, arrays[0], equal_nan=array.dtype.kind == "f") for array in arrays):
        return Known(shape, dtype, arrays[0], None)
    entries = [fit(steps, [float(array.flat[index]) for array in arrays]) for index in range(arrays[0].size)]
    affine = None if any(entry is None for entry in entries) else tuple(entry for entry in entries if entry is not None)
    return Known(shape, dtype, None, affine)


def _forgotten(model: onnx.ModelProto, known: Mapping[str, Known]) -> dict[str, Known]:
    """What is known, without what was seen for a few numbers of steps only: a comparison may turn out otherwise."""
    found, varies = dict(known), set[str]()
    for node in model.graph.node:
        outputs = [name for name in node.output if name]
        if node.op_type in SHAPE_OF:
            varies |= {name for name in outputs if found[name].affine is not None}
        elif given := varies & set(node.input):
            if node.op_type not in POLYNOMIAL or any(found[name].affine is None for name in given):
                found |= {name: found[name]._replace(constant=None, affine=None) for name in outputs}
                varies |= set(outputs)
            else:
                varies |= {name for name in outputs if found[name].constant is None}
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node, texts as `str`."""
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
