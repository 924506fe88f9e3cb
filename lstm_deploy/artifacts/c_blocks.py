"""How the kernels of a C artifact lay out weights: in blocks of `UNITS` hidden units, packed and unpacked here.

A block has, for each input, a row of `ROW` numbers: `UNITS` for each gate, in ONNX's order of gates. The biases are
the first row. In int8, the bytes of `GROUP` inputs lie side by side, as one integer dot product adds them up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import LSTM, Array

UNITS = 16
"""Hidden units in a block: one vector of AVX-512, two of AVX2, four of NEON."""
GATES = len(LSTM.onnx_gates)
ROW = GATES * UNITS
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


def pack_lstm(w: Array, r: Array, bias: Array) -> Array:
    """Pack one direction of an LSTM layer: `w [4*hidden, inputs]`, `r [4*hidden, hidden]`, `bias [8*hidden]`.

    → `[blocks, 1 + inputs + hidden, gates, UNITS]`, the last block padded with zeros.
    """
    rows = np.concatenate([_one_bias(bias)[:, None], w, r], axis=1)  # [4*hidden, 1 + inputs + hidden]
    return _by_column(_gate_blocks(rows))


def unpack_lstm(packed: Array, inputs: int, hidden: int) -> dict[str, Array]:
    """Undo `pack_lstm`: `w`, `r` and `b`, the sum of both biases."""
    rows = _rows(packed.transpose(0, 2, 3, 1), hidden)
    return {"b": rows[:, 0], "w": rows[:, 1 : 1 + inputs], "r": rows[:, 1 + inputs :]}


def pack_lstm_int8(w: Array, r: Array, bias: Array) -> Quantized:
    """Pack an LSTM layer as int8, each row of each gate with one scale for `w` and one for `r`."""
    return _quantize([np.asarray(w), np.asarray(r)], _one_bias(bias), _gate_blocks)


def unpack_lstm_int8(packed: Array, numbers: Array, inputs: int, hidden: int) -> dict[str, Array]:
    """Undo `pack_lstm_int8`: as `unpack_lstm`, and the scales as `w_step` and `r_step`."""
    w_size = -(-inputs // GROUP) * GROUP * ROW
    rows = _rows(numbers.transpose(0, 2, 3, 1), hidden)
    unpacked = {"b": rows[:, 0], "w_step": rows[:, 1:2], "r_step": rows[:, 2:3]}
    unpacked["w"] = _rows(_ungrouped(packed[:, :w_size], inputs), hidden) * unpacked["w_step"]
    unpacked["r"] = _rows(_ungrouped(packed[:, w_size:], hidden), hidden) * unpacked["r_step"]
    return unpacked


def pack_dense_int8(rows: Array, bias: Array | None) -> Quantized:
    """Pack a matrix `[outputs, inputs]` as int8, in blocks of `ROW` outputs."""
    return _quantize([rows], np.zeros(len(rows), np.float32) if bias is None else bias, _output_blocks)


def unpack_dense_int8(packed: Array, numbers: Array, inputs: int, outputs: int) -> tuple[Array, Array]:
    """Undo `pack_dense_int8`: the matrix in float64, and the scale of each row as a column."""
    rows = _ungrouped(packed, inputs).reshape(-1, inputs)[:outputs]
    scale = numbers[:, 1].reshape(-1)[:outputs, None].astype(np.float64)
    return rows * scale, scale


def quantize_rows(rows: Array) -> tuple[Array, Array]:
    """Round each row to numbers from -127 to 127; those, and the scale of each row."""
    largest = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / LEVELS
    return np.rint(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def summed_biases(bias: Array) -> Array:
    """Biases `[…, 8*hidden]` as a C artifact holds them: sums of input and recurrent biases in float64, then zeros."""
    ih, hh = np.split(bias.astype(np.float64), 2, axis=-1)
    return np.concatenate([ih + hh, 0 * hh], axis=-1)


def _one_bias(bias: Array) -> Array:
    return np.asarray(summed_biases(bias)[: len(bias) // 2], np.float32)


def _quantize(matrices: Sequence[Array], bias: Array, blocks: Callable[[Array], Array]) -> Quantized:
    bytes_, scales = zip(*map(quantize_rows, matrices), strict=True)
    numbers = np.stack([bias, *scales], axis=1).astype(np.float32)
    starts = np.stack([-128 * matrix.sum(axis=1, dtype=np.int32) for matrix in bytes_], axis=1)
    grouped = np.concatenate([_grouped(blocks(matrix)) for matrix in bytes_], axis=1)
    return Quantized(grouped, _by_column(blocks(numbers)), _by_column(blocks(starts)))


def _gate_blocks(rows: Array) -> Array:
    """`[4*hidden, n]` → `[blocks, gates, UNITS, n]`."""
    gates = rows.reshape(GATES, -1, rows.shape[1])
    padded = np.pad(gates, ((0, 0), (0, -gates.shape[1] % UNITS), (0, 0)))
    return padded.reshape(GATES, -1, UNITS, rows.shape[1]).transpose(1, 0, 2, 3)


def _rows(blocks: Array, hidden: int) -> Array:
    """Undo `_gate_blocks`, in float64."""
    padded = blocks.transpose(1, 0, 2, 3).reshape(GATES, -1, blocks.shape[3])
    return np.asarray(padded[:, :hidden].reshape(GATES * hidden, -1).astype(np.float64))


def _output_blocks(rows: Array) -> Array:
    """`[outputs, n]` → `[blocks, GATES, UNITS, n]`: rows as they come."""
    return np.pad(rows, ((0, -len(rows) % ROW), (0, 0))).reshape(-1, GATES, UNITS, rows.shape[1])


def _by_column(blocks: Array) -> Array:
    """`[blocks, gates, UNITS, n]` → `[blocks, n, gates, UNITS]`."""
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2))


def _grouped(blocks: Array) -> Array:
    """`[blocks, gates, UNITS, n]` → `[blocks, groups * gates * UNITS * GROUP]`."""
    padded = np.pad(blocks, ((0, 0), (0, 0), (0, 0), (0, -blocks.shape[3] % GROUP)))
    groups = padded.reshape(*blocks.shape[:3], -1, GROUP).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(groups).reshape(len(blocks), -1)


def _ungrouped(grouped: Array, length: int) -> Array:
    """Undo `_grouped`, without what pads the last group."""
    groups = grouped.reshape(len(grouped), -1, GATES, UNITS, GROUP).transpose(0, 2, 3, 1, 4)
    return np.asarray(groups.reshape(len(grouped), GATES, UNITS, -1)[..., :length])
