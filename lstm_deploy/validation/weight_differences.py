"""The weights inside an artifact against those of PyTorch, number by number, in PyTorch's names.

What no input shows (a weight of a gate that is shut, an entry that is small) is seen here; and what an input shows is
named here. Weights that were quantized are held against the steps that they were rounded to.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np

from lstm_deploy.artifacts import Layer
from lstm_deploy.contract import LSTM, Array
from lstm_deploy.validation.tolerances import FAULT_STEPS, HALF_STEP, UNIT_FACTOR, WEIGHT, WEIGHT_FAULT

GATES = LSTM.onnx_gates


def weight_problems(found: Sequence[tuple[Layer, Mapping[str, Array]]], wanted: Sequence[Layer]) -> list[str]:
    """One sentence for each LSTM of an artifact whose weights are not those of a layer of the model.

    `found` is as `lstm_layers` gives it; `wanted` are the layers of the model as `export` would write them.
    """
    problems = []
    for layer, steps in found:
        alike = [other for other in wanted if (other.w.shape, other.r.shape) == (layer.w.shape, layer.r.shape)]
        if not alike:
            shapes = f"{list(layer.w.shape)} and {list(layer.r.shape)}"
            problems.append(f"{layer.label} has weights of shape {shapes}, as no layer of the model has.")
            continue
        closest = min(alike, key=lambda other: _distance(layer, other))
        problems += _differences(layer, closest, steps)
    return problems


def tensor_problems(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
    """One sentence for each weight that is not the model's, both by PyTorch's names."""
    problems = []
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            problems.append(f"{name} is {list(value.shape)}, not {list(wanted[name].shape)} as in the model.")
        elif not np.array_equal(value, wanted[name]):
            problems.append(f"{name}: {_entries(value.astype(np.float64), wanted[name].astype(np.float64))}.")
    return problems


def constant_problems(floats: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
    """One sentence for each weight outside the LSTMs that stands in an artifact nearly, but not quite.

    `floats` are the artifact's constants, `wanted` weights by PyTorch's names. A weight that the exporter folded into
    another is not found, and not told.
    """
    problems = []
    constants = list(floats.values())
    for name, value in wanted.items():
        named = floats.get(name, floats.get(f"{name}_float16"))  # as `export` names them
        if named is not None and named.shape == value.squeeze().shape:
            right = value.astype(named.dtype).astype(np.float64).squeeze()
            if not np.allclose(right, named.astype(np.float64), rtol=WEIGHT.relative, atol=0):
                problems.append(f"{name}: {_entries(np.atleast_1d(named.astype(np.float64)), np.atleast_1d(right))}.")
            continue
        pairs = []
        shuffled = False
        for other in constants:
            if not other.size == value.size > 1:
                continue
            right = value.astype(other.dtype).astype(np.float64).squeeze()  # as float16 rounds it
            pairs += [(form, other.astype(np.float64)) for form in (right, right.T) if form.shape == other.shape]
            shuffled |= np.array_equal(np.sort(other, axis=None), np.sort(right, axis=None))
        if any(np.allclose(form, other, rtol=WEIGHT.relative, atol=0) for form, other in pairs):
            continue
        if shuffled:
            problems.append(f"{name}: its entries stand in another order (transposed, perhaps).")
        elif pairs:
            form, other = min(pairs, key=lambda pair: int(np.count_nonzero(pair[0] != pair[1])))
            if np.isclose(form, other, rtol=WEIGHT.relative, atol=0).mean() >= 0.5:
                problems.append(f"{name}: {_entries(other, form)}.")
    return problems


def matrix_problems(found: Sequence[tuple[Array, Array | float]], wanted: Mapping[str, Array]) -> list[str]:
    """One sentence for each matrix of the model that none in an artifact is, though some have its shape.

    `found` is as `matrices_of` gives it. Stricter than `constant_problems`, for artifacts whose outputs are too coarse
    to tell: int8 and float16.
    """
    problems = []
    for name, value in wanted.items():
        if value.ndim != 2 or value.dtype.kind != "f":
            continue
        alike = [
            float((np.abs(other - form) - step - WEIGHT.relative * np.abs(form)).max())
            for other, step in found
            for form in (value.astype(np.float64), value.T.astype(np.float64))
            if other.shape == form.shape
        ]
        if alike and min(alike) > 0:
            problems.append(f"{name}: no matrix in the artifact is it; the nearest is off by {min(alike):.3g}.")
    return problems


def _differences(layer: Layer, wanted: Layer, steps: Mapping[str, Array]) -> Iterator[str]:
    for letter, matrix, right in zip("wrb", layer[1:], wanted[1:], strict=True):
        allowed = HALF_STEP * steps[letter] if letter in steps else 0.0
        size = np.abs(right).max(initial=0.0)
        if (np.abs(matrix - right) <= allowed + WEIGHT.relative * size).all():
            continue
        yield f"{wanted.label}: {_explained(letter, matrix, right, steps.get(letter))}."


def _explained(letter: str, found: Array, right: Array, step: Array | None) -> str:
    """What was done to a weight, in all likelihood."""
    name = {"w": "weight_ih", "r": "weight_hh", "b": "bias_ih + bias_hh"}[letter]
    slack = (FAULT_STEPS * step if step is not None else 0.0) + WEIGHT_FAULT.relative * float(
        np.abs(right).max(initial=0.0)
    )
    for what, value in _suspects(letter, right):
        if value.shape == found.shape and (np.abs(found - value) <= slack).all():
            return f"{name}: {what}"
    ratio = float(np.sum(found * right) / max(float(np.sum(right * right)), 1e-300))
    if abs(ratio - 1) > UNIT_FACTOR and (np.abs(found - ratio * right) <= slack * max(1.0, abs(ratio))).all():
        return f"{name}: scaled by {ratio:.4g} (a wrong scale)"
    if step is not None:
        zero = np.round(((found - right) / step).mean())
        if zero and (np.abs(found - right - zero * step) <= FAULT_STEPS * step).all():
            return f"{name}: the zero point is off by {-zero:.0f}"
    index = np.unravel_index(int(np.abs(found - right).argmax()), right.shape)
    rows = right.shape[1] // _blocks(letter)
    gate = list(GATES.values())[int(index[1]) // rows % len(GATES)]
    return f"{name}, {gate} gate: {_entries(found, right, slack)}"


def _suspects(letter: str, right: Array) -> Iterator[tuple[str, Array]]:
    """What is known to go wrong with a weight, and what it looks like then."""
    if letter == "b":
        ih, hh = np.split(right, 2, axis=1)
        yield "bias_ih is left out", np.concatenate([0 * ih, hh], 1)
        yield "bias_hh is left out", np.concatenate([ih, 0 * hh], 1)
        yield "both biases are left out", 0 * right
    right_order, *wrong_orders = permutations(GATES)
    for order in wrong_orders:
        what = f"the gates stand in the order {' '.join(order)}, not {' '.join(right_order)}"
        yield what, _gates(right, [right_order.index(gate) for gate in order], _blocks(letter))
    if right.shape[0] == 2:
        yield "the two directions are exchanged", right[::-1]
    if letter == "r":
        yield "transposed", np.concatenate([block.swapaxes(1, 2) for block in np.split(right, len(GATES), axis=1)], 1)


def _blocks(letter: str) -> int:
    """How many gates stand one after the other."""
    return 2 * len(GATES) if letter == "b" else len(GATES)


def _entries(found: Array, right: Array, slack: Array | float = 0.0) -> str:
    difference = np.abs(found - right)
    index = np.unravel_index(int(difference.argmax()), right.shape)
    wrong = int(np.count_nonzero(difference > slack + WEIGHT.relative * np.abs(right)))
    off = float(found[index] - right[index])
    part = f", {off / right[index]:+.2%}" if right[index] else ""
    return f"{wrong} of {right.size} entries differ, the most by {off:+.3g}{part} at {[int(i) for i in index]}"


def _gates(value: Array, order: Sequence[int], blocks: int) -> Array:
    parts = np.split(value, blocks, axis=1)
    return np.concatenate([parts[start + index] for start in range(0, blocks, len(GATES)) for index in order], 1)


def _distance(layer: Layer, other: Layer) -> float:
    return sum(float(np.abs(a - b).mean()) for a, b in zip(layer[1:], other[1:], strict=True) if a.shape == b.shape)
