"""The check `weights`: those inside an artifact against those of PyTorch, number by number, in PyTorch's names.

It sees what no input shows (a weight of a gate that is shut, an entry that is small), and names what an input shows.
Quantized weights may differ by half of the step that they were rounded to.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor

from lstm_deploy.artifacts import (
    Matrix,
    RecurrentLayer,
    c_weights,
    onnx_graph,
    onnx_weights,
    read_interface,
    summed_biases,
)
from lstm_deploy.contract import CELLS, RECURRENT_OPERATORS, Array, Cell
from lstm_deploy.lifting import Lifted, flat_weights, onnx_order
from lstm_deploy.validation.tolerances import FAULT_STEPS, HALF_STEP, UNIT_FACTOR, WEIGHT, WEIGHT_FAULT
from lstm_deploy.validation.weight_faults import wrong_gate_orders

TENSORS = {"w": "weight_ih", "r": "weight_hh", "b": "bias_ih and bias_hh"}
"""PyTorch's names of the tensors of a `RecurrentLayer`."""


def weight_problems(path: Path, lifted: Lifted, graph: Path | None = None) -> list[str] | None:
    """One sentence for each weight of an artifact that is not the model's; none where they cannot be compared.

    A TorchScript file holds PyTorch's tensors by their names. An ONNX file holds those of the LSTMs in its LSTM nodes,
    if these have constant weights, and most others as they are. A C file holds them as the kernels read them.

    `graph` is the ONNX file that `lifted` is written as today, in float32. A weight that it holds in another form, as
    one that a batch norm is folded into, or that a mask is multiplied with, may have that form in the artifact, too.
    """
    own = {name: _numpy(value) for name, value in lifted.state_dict().items()}
    if path.suffix == ".torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
            traced = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        tensors = flat_weights.by_name(traced.state_dict(), path)
        return _tensor_problems({name: value.numpy() for name, value in tensors.items()}, own)
    inside = tuple(f"module.{path}." if path else "module." for path in lifted.calls)
    others = {name: value for name, value in own.items() if not name.startswith(inside)}
    others |= {name: _numpy(value) for name, value in lifted.named_parameters() if "weight_hr" in name}
    expected = onnx_order.layers(lifted)
    if path.suffix == ".c":
        layers, floats, matrices = c_weights.read(path)
        expected = [layer._replace(b=summed_biases(layer.b, CELLS[layer.kind])) for layer in expected]
        coarse = read_interface(path).precision != "float32"
    else:
        model = onnx.load(path)
        layers, floats, matrices = onnx_weights.read(model)
        count = onnx_graph.operator_counts(model)
        if len(layers) != sum(count[name] for name in RECURRENT_OPERATORS):
            return None
        coarse = onnx_graph.precision(model) != "float32"
    written = onnx_weights.read(onnx.load(graph)) if graph is not None else onnx_weights.NONE
    forms = _forms(others, written.floats)
    problems = layer_problems(layers, expected) + _constant_problems(floats, forms)
    if coarse:
        # A matrix that the graph itself does not hold, as one that it multiplies, cannot be in what is made of it.
        absent = _matrix_problems(written.matrices, forms)
        problems += [text for name, text in _matrix_problems(matrices, forms).items() if name not in absent]
    return problems


def layer_problems(layers: Sequence[RecurrentLayer], expected: Sequence[RecurrentLayer]) -> list[str]:
    """One sentence for each recurrent layer of an artifact whose weights are not those of a layer of the model.

    `expected` are the layers of the model as `export` would write them.
    """
    problems = []
    for layer in layers:
        cell = CELLS[layer.kind]
        kinds = {other.kind: None for other in expected}
        if layer.kind not in kinds:
            problems.append(f"{layer.label} is of the kind {layer.kind}, where the model has {' and '.join(kinds)}.")
            continue
        shapes_of = (layer.kind, layer.w.shape, layer.r.shape)
        alike = [other for other in expected if (other.kind, other.w.shape, other.r.shape) == shapes_of]
        if not alike:
            shapes = f"{list(layer.w.shape)} and {list(layer.r.shape)}"
            problems.append(f"{layer.label} has weights of shape {shapes}, as no {cell.title} of the model has.")
            continue
        closest = min(alike, key=partial(_distance, layer))
        for letter, tensor in TENSORS.items():
            actual, right, step = getattr(layer, letter), getattr(closest, letter), layer.steps.get(letter)
            actual, step = _as_used(cell, letter, actual), None if step is None else _as_used(cell, letter, step)
            off = np.abs(actual - _as_used(cell, letter, right))
            allowed = 0.0 if step is None else HALF_STEP * step
            if (off > allowed + WEIGHT.relative * np.abs(right).max(initial=0.0)).any():
                problems.append(f"{closest.label}: {tensor}{_fault(cell, letter, actual, right, step)}.")
    return problems


def _tensor_problems(tensors: Mapping[str, Array], own: Mapping[str, Array]) -> list[str] | None:
    """Of a TorchScript file, by PyTorch's names; one made around the lifted module has another name before each."""
    first = next(iter(own))
    wrappers = {name.removesuffix(first) for name in tensors if name.endswith(first)}
    wrapper = next((prefix for prefix in wrappers if all(prefix + name in tensors for name in own)), None)
    if wrapper is None:
        return None
    problems = []
    for name, expected in own.items():
        value = tensors[wrapper + name]
        if value.shape != expected.shape:
            problems.append(f"{name} is {list(value.shape)}, not {list(expected.shape)} as in the model.")
        elif not np.array_equal(value, expected):
            problems.append(f"{name}: {_entries(value.astype(np.float64), expected.astype(np.float64))}.")
    return problems


class _Stored(NamedTuple):
    """A weight beside the constant of an artifact that it is, or nearly is."""

    constant: Array
    right: Array
    """The weight, laid out and rounded as the constant is."""

    @property
    def wrong(self) -> int:
        """How many entries differ."""
        if self.constant.shape != self.right.shape:
            return self.right.size
        return int(np.count_nonzero(~_equal(self.right, self.constant)))

    @property
    def shuffled(self) -> bool:
        """Whether the constant has all entries of the weight, in any order."""
        return np.array_equal(np.sort(self.constant, axis=None), np.sort(self.right, axis=None))


def _forms(weights: Mapping[str, Array], graph: Mapping[str, Array]) -> dict[str, list[Array]]:
    """The values that each weight may have in an artifact: its own, and those that it has in the graph of today.

    Its own too, as another release may have folded nothing into it; which of both it must be, outputs show.
    """
    forms = {name: [value] for name, value in weights.items()}
    for name, value in weights.items():
        if (stored := _stored(graph, name, value)) and stored.wrong:
            same = (form for form in (stored.constant, stored.constant.T) if form.shape == value.squeeze().shape)
            forms[name] += [form.reshape(value.shape) for form in same] or [stored.constant]
    return forms


def _constant_problems(floats: Mapping[str, Array], forms: Mapping[str, Sequence[Array]]) -> list[str]:
    """One sentence for each weight outside the LSTMs that stands in an artifact nearly, but not quite.

    `floats` are the artifact's constants. A weight that is none of them in any of its forms is no problem: it may be
    part of another.
    """
    problems = []
    for name, values in forms.items():
        found = [stored for value in reversed(values) if (stored := _stored(floats, name, value))]
        nearest = min(found, key=lambda stored: stored.wrong, default=None)
        if nearest is None or not nearest.wrong:
            continue
        if nearest.shuffled:
            problems.append(f"{name}: its entries stand in another order (transposed, perhaps).")
        else:
            problems.append(f"{name}: {_entries(np.atleast_1d(nearest.constant), np.atleast_1d(nearest.right))}.")
    return problems


def _stored(floats: Mapping[str, Array], name: str, value: Array) -> _Stored | None:
    """The constant that stands for a weight: by its name, else the one that has all or half of its entries, if any."""
    named = floats.get(name, floats.get(f"{name}_float16"))  # as `export` names them
    if named is not None and named.shape == value.squeeze().shape:
        return _beside(named, value)
    alike = [_beside(other, value) for other in floats.values() if other.size == value.size > 1]
    nearest = min(alike, key=lambda stored: stored.wrong, default=None)
    if nearest is None or not nearest.wrong:
        return nearest
    shuffled = next((stored for stored in alike if stored.shuffled), None)
    return shuffled or (nearest if nearest.wrong <= nearest.right.size / 2 else None)


def _beside(constant: Array, value: Array) -> _Stored:
    """A constant and a weight of the same size, which may lie transposed; whether it is used so, outputs show."""
    right = value.astype(constant.dtype).astype(np.float64).squeeze()  # as float16 rounds it
    pairs = (_Stored(constant.astype(np.float64), form) for form in (right, right.T))
    return min(pairs, key=lambda stored: stored.wrong)


def _matrix_problems(matrices: Sequence[Matrix], expected: Mapping[str, Sequence[Array]]) -> dict[str, str]:
    """One sentence, by its name, for each matrix of the model that none in an artifact is, though some have its shape.

    Stricter than `_constant_problems`, for artifacts whose outputs are too coarse to tell: int8 and float16.
    """
    problems = {}
    for name, forms in expected.items():
        if forms[0].ndim != 2 or forms[0].dtype.kind != "f":
            continue
        excess = [
            float((np.abs(other - form) - HALF_STEP * step - WEIGHT.relative * np.abs(form)).max())
            for other, step in matrices
            for value in forms
            for form in (value.astype(np.float64), value.T.astype(np.float64))
            if other.shape == form.shape
        ]
        if excess and min(excess) > 0:
            problems[name] = f"{name}: no matrix in the artifact is it; the nearest is off by {min(excess):.3g}."
    return problems


def _fault(cell: Cell, letter: str, actual: Array, right: Array, step: Array | None) -> str:
    """The likely fault of one tensor of a layer, else the gate with the entry that is off the most.

    `actual` and `step` are as a layer uses them, and `right` is as it stands in a file.
    """
    slack = (FAULT_STEPS * step if step is not None else 0.0) + WEIGHT_FAULT.relative * np.abs(right).max(initial=0.0)
    for fault, value in _known_faults(cell, letter, right):
        if value.shape == actual.shape and (np.abs(actual - _as_used(cell, letter, value)) <= slack).all():
            return f": {fault}"
    right = _as_used(cell, letter, right)
    ratio = float(np.sum(actual * right) / max(float(np.sum(right * right)), 1e-300))
    if abs(ratio - 1) > UNIT_FACTOR and (np.abs(actual - ratio * right) <= slack * max(1.0, abs(ratio))).all():
        return f": scaled by {ratio:.4g} (a wrong scale)"
    if step is not None:
        zero = np.round(((actual - right) / step).mean())
        if zero and (np.abs(actual - right - zero * step) <= FAULT_STEPS * step).all():
            return f": the zero point is off by {-zero:.0f}"
    index = np.unravel_index(int(np.abs(actual - right).argmax()), right.shape)
    rows = right.shape[1] // _gate_blocks(cell, letter)
    gates = list(cell.onnx_gates.values())
    gate = gates[int(index[1]) // rows % len(gates)]
    return f", {gate} gate: {_entries(actual, right, slack)}"


def _known_faults(cell: Cell, letter: str, right: Array) -> Iterator[tuple[str, Array]]:
    """Faults that are known of a tensor of a layer, and its values with each."""
    gates = [*cell.onnx_gates.values()]
    if letter == "b":
        apart = f"where the {' and '.join(cell.gates_with_two_biases)} gate uses them apart"
        ih, hh = np.split(right, 2, axis=1)
        yield "bias_ih is left out", np.concatenate([0 * ih, hh], 1)
        yield "bias_hh is left out", np.concatenate([ih, 0 * hh], 1)
        yield "both biases are left out", 0 * right
        if cell.gates_with_two_biases:
            yield "bias_ih and bias_hh stand in each other's place", np.concatenate([hh, ih], 1)
            yield f"bias_hh is added to bias_ih, {apart}", np.concatenate([ih + hh, 0 * hh], 1)
            yield f"bias_ih is added to bias_hh, {apart}", np.concatenate([0 * ih, ih + hh], 1)
    blocks = np.split(right, _gate_blocks(cell, letter), axis=1)
    for fault, positions in wrong_gate_orders(cell.onnx_gates):
        starts = range(0, len(blocks), len(cell.onnx_gates))
        value = np.concatenate([blocks[start + position] for start in starts for position in positions], 1)
        yield f"the gates {fault}", value
    for gate, name in enumerate(gates):
        signs = [-1 if position % len(gates) == gate else 1 for position in range(len(blocks))]
        value = np.concatenate([sign * block for sign, block in zip(signs, blocks, strict=True)], 1)
        yield f"the {name} gate has the other sign", value
    if right.shape[0] == 2:
        yield "the two directions are exchanged", right[::-1]
    if letter == "r":
        yield "transposed", np.concatenate([block.swapaxes(1, 2) for block in blocks], 1)


def _as_used(cell: Cell, letter: str, value: Array) -> Array:
    """The tensor of a layer as it is computed with: where only the sum of two biases counts, that and a zero."""
    return summed_biases(value, cell) if letter == "b" else value


def _gate_blocks(cell: Cell, letter: str) -> int:
    """The number of blocks of rows, one for each gate; the biases of a layer are stacked."""
    return (2 if letter == "b" else 1) * len(cell.onnx_gates)


def _entries(actual: Array, right: Array, slack: Array | float = 0.0) -> str:
    difference = np.abs(actual - right)
    index = np.unravel_index(int(difference.argmax()), right.shape)
    wrong = int(np.count_nonzero(difference > slack + WEIGHT.relative * np.abs(right)))
    off = float(actual[index] - right[index])
    part = f", {off / right[index]:+.2%}" if right[index] else ""
    return f"{wrong} of {right.size} entries differ, the most by {off:+.3g}{part} at {[int(i) for i in index]}"


def _equal(a: Array, b: Array) -> Array:
    return np.isclose(a, b, rtol=WEIGHT.relative, atol=0)


def _distance(layer: RecurrentLayer, other: RecurrentLayer) -> float:
    return sum(float(np.abs(a - b).mean()) for a, b in zip(layer[1:4], other[1:4], strict=True) if a.shape == b.shape)


def _numpy(value: Tensor) -> Array:
    """As it stands in a file: the reference holds float32 weights in float64, which loses nothing."""
    return (value.float() if value.is_floating_point() else value).numpy()
