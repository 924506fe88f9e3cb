"""How the kernels of a C artifact lay out weights: in blocks of `UNITS` hidden units, packed and unpacked here.

A block has, for each input, a row of `UNITS` numbers for each gate, in ONNX's order of gates. The first row is the
biases, or two rows where some gates use both apart. In int8, the bytes of `GROUP` inputs lie side by side, as one
integer dot product adds them up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import Array, Cell

UNITS = 16
"""Hidden units in a block: one vector of AVX-512, two of AVX2, four of NEON."""
ROW = 4 * UNITS
"""Outputs in a block of a matrix in int8."""
GROUP = 4
LEVELS = 127
"""The largest int8 weight."""


class Quantized(NamedTuple):
    """A layer in int8."""

    bytes: Array
    """Weights, for each block in groups of `GROUP` inputs."""
    numbers: Array
    """For each block a row of biases, then a row of scales for each matrix."""
    starts: Array
    """For each block and matrix, the start of the sums on CPUs that shift inputs from -128..127 to 0..255."""


def gate_row(cell: Cell) -> int:
    """Numbers in a row of a block of a cell's gates."""
    return len(cell.onnx_gates) * UNITS


def bias_rows(cell: Cell) -> int:
    """Rows of biases in a block: the second holds the recurrent ones of gates that use them apart."""
    return 2 if cell.gates_with_two_biases else 1


def pack_layer(cell: Cell, w: Array, r: Array, bias: Array) -> Array:
    """Pack one direction of a layer: `w [gates*hidden, inputs]`, `r [gates*hidden, hidden]`, `bias [2*gates*hidden]`.

    → `[blocks, bias_rows + inputs + hidden, gates, UNITS]`, the last block padded with zeros.
    """
    rows = np.concatenate([*(column[:, None] for column in _bias_columns(cell, bias)), w, r], axis=1)
    return _by_column(_gate_blocks(cell, rows))


def unpack_layer(cell: Cell, packed: Array, inputs: int, hidden: int) -> dict[str, Array]:
    """Undo `pack_layer`: `w`, `r` and `b`, as `summed_biases`."""
    rows = _rows(cell, packed.transpose(0, 2, 3, 1), hidden)
    biases, w, r = np.split(rows, [bias_rows(cell), bias_rows(cell) + inputs], axis=1)
    return {"b": _bias(biases), "w": w, "r": r}


def pack_layer_int8(cell: Cell, w: Array, r: Array, bias: Array) -> Quantized:
    """Pack a layer as int8, each row of each gate with one scale for `w` and one for `r`."""
    matrices = [np.asarray(w), np.asarray(r)]
    return _quantize(matrices, _bias_columns(cell, bias), lambda rows: _gate_blocks(cell, rows))


def unpack_layer_int8(cell: Cell, packed: Array, numbers: Array, inputs: int, hidden: int) -> dict[str, Array]:
    """Undo `pack_layer_int8`: as `unpack_layer`, and the scales as `w_step` and `r_step`."""
    w_size = -(-inputs // GROUP) * GROUP * gate_row(cell)
    rows = _rows(cell, numbers.transpose(0, 2, 3, 1), hidden)
    unpacked = {"b": _bias(rows[:, :-2]), "w_step": rows[:, -2:-1], "r_step": rows[:, -1:]}
    gates = len(cell.onnx_gates)
    unpacked["w"] = _rows(cell, _ungrouped(packed[:, :w_size], gates, inputs), hidden) * unpacked["w_step"]
    unpacked["r"] = _rows(cell, _ungrouped(packed[:, w_size:], gates, hidden), hidden) * unpacked["r_step"]
    return unpacked


def pack_dense_int8(rows: Array, bias: Array | None) -> Quantized:
    """Pack a matrix `[outputs, inputs]` as int8, in blocks of `ROW` outputs."""
    return _quantize([rows], [np.zeros(len(rows), np.float32) if bias is None else bias], _output_blocks)


def unpack_dense_int8(packed: Array, numbers: Array, inputs: int, outputs: int) -> tuple[Array, Array]:
    """Undo `pack_dense_int8`: the matrix in float64, and the scale of each row as a column."""
    rows = _ungrouped(packed, ROW // UNITS, inputs).reshape(-1, inputs)[:outputs]
    scale = numbers[:, 1].reshape(-1)[:outputs, None].astype(np.float64)
    return rows * scale, scale


def quantize_rows(rows: Array) -> tuple[Array, Array]:
    """Round each row to numbers from -127 to 127; those, and the scale of each row."""
    largest = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / LEVELS
    return np.rint(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def summed_biases(bias: Array, cell: Cell) -> Array:
    """Biases `[…, 2*gates*hidden]` as a cell uses them, in float64: of gates that use both apart as they are.

    Of the others the sums of input and recurrent biases, then zeros.
    """
    ih, hh = np.split(bias.astype(np.float64), 2, axis=-1)
    apart = [gate in cell.gates_with_two_biases for gate in cell.onnx_gates.values()]
    is_apart = np.repeat(apart, ih.shape[-1] // len(apart))
    return np.concatenate([np.where(is_apart, ih, ih + hh), np.where(is_apart, hh, 0 * hh)], axis=-1)


def _bias_columns(cell: Cell, bias: Array) -> list[Array]:
    """The biases that the rows of biases hold."""
    halves = np.split(summed_biases(bias, cell).astype(np.float32), 2)
    return halves[: bias_rows(cell)]


def _bias(columns: Array) -> Array:
    """Undo `_bias_columns`."""
    ih, hh = columns[:, 0], columns[:, 1] if columns.shape[1] == 2 else np.zeros(len(columns))
    return np.concatenate([ih, hh])


def _quantize(matrices: Sequence[Array], biases: Sequence[Array], blocks: Callable[[Array], Array]) -> Quantized:
    bytes_, scales = zip(*map(quantize_rows, matrices), strict=True)
    numbers = np.stack([*biases, *scales], axis=1).astype(np.float32)
    starts = np.stack([-128 * matrix.sum(axis=1, dtype=np.int32) for matrix in bytes_], axis=1)
    grouped = np.concatenate([_grouped(blocks(matrix)) for matrix in bytes_], axis=1)
    return Quantized(grouped, _by_column(blocks(numbers)), _by_column(blocks(starts)))


def _gate_blocks(cell: Cell, rows: Array) -> Array:
    """`[gates*hidden, n]` → `[blocks, gates, UNITS, n]`."""
    by_gate = rows.reshape(len(cell.onnx_gates), -1, rows.shape[1])
    padded = np.pad(by_gate, ((0, 0), (0, -by_gate.shape[1] % UNITS), (0, 0)))
    return padded.reshape(len(by_gate), -1, UNITS, rows.shape[1]).transpose(1, 0, 2, 3)


def _rows(cell: Cell, blocks: Array, hidden: int) -> Array:
    """Undo `_gate_blocks`, in float64."""
    gates = len(cell.onnx_gates)
    padded = blocks.transpose(1, 0, 2, 3).reshape(gates, -1, blocks.shape[3])
    return np.asarray(padded[:, :hidden].reshape(gates * hidden, -1).astype(np.float64))


def _output_blocks(rows: Array) -> Array:
    """`[outputs, n]` → `[blocks, ROW // UNITS, UNITS, n]`: rows as they come."""
    return np.pad(rows, ((0, -len(rows) % ROW), (0, 0))).reshape(-1, ROW // UNITS, UNITS, rows.shape[1])


def _by_column(blocks: Array) -> Array:
    """`[blocks, gates, UNITS, n]` → `[blocks, n, gates, UNITS]`."""
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2))


def _grouped(blocks: Array) -> Array:
    """`[blocks, gates, UNITS, n]` → `[blocks, groups * gates * UNITS * GROUP]`."""
    padded = np.pad(blocks, ((0, 0), (0, 0), (0, 0), (0, -blocks.shape[3] % GROUP)))
    groups = padded.reshape(*blocks.shape[:3], -1, GROUP).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(groups).reshape(len(blocks), -1)


def _ungrouped(grouped: Array, gates: int, length: int) -> Array:
    """Undo `_grouped`, without what pads the last group."""
    groups = grouped.reshape(len(grouped), -1, gates, UNITS, GROUP).transpose(0, 2, 3, 1, 4)
    return np.asarray(groups.reshape(len(grouped), gates, UNITS, -1)[..., :length])
