"""The weights of a C artifact: packed for its kernels, and unpacked again so that they can be compared with PyTorch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_deploy.artifacts.files import weights_file
from lstm_deploy.artifacts.onnx_weights import Layer
from lstm_deploy.contract import LSTM, Array

UNITS = 16
"""Hidden units in a block: one vector of AVX-512, two of AVX2, four of NEON."""
GATES = len(LSTM.onnx_gates)
ROW = GATES * UNITS
"""Numbers in a row of a block."""
GROUP = 4
"""Bytes that one integer dot product adds up."""
LEVELS = 127
DTYPES = {"float": "<f4", "int8_t": "i1", "int32_t": "<i4", "int64_t": "<i8", "unsigned char": "u1"}
_HEAD = r"/\* (?P<label>.*): (?P<shape>[\d x]*) \*/\n"
_TEXT = re.compile(
    _HEAD + r"static const (?P<type>[\w ]+) (?P<name>\w+)\[\d+\] ALIGNED = \{\n(?P<numbers>[^}]*)\};", re.ASCII
)
_MAPPED = re.compile(
    _HEAD + r"#define (?P<name>\w+) \(\(const (?P<type>[\w ]+) \*\)\(const void \*\)\(\(const char \*\)weights \+ "
    r"(?P<place>\d+)\)\)",
    re.ASCII,
)
_LSTM = re.compile(r"^  (?:for .*\n *)*lstm(_int8)?\(((?:\w+, )+?)(\d+), (\d+), ", re.MULTILINE)
_DENSE = re.compile(r"\bdense_int8\((w_\w+), (w_\w+), w_\w+, (\d+), (\d+), &")
_SPECIAL = {"NAN": "nan", "INFINITY": "inf", "(-INFINITY)": "-inf", "(-2147483647 - 1)": "-2147483648"}


class Found(NamedTuple):
    """What the functions of `graph_weights` compare."""

    layers: list[tuple[Layer, Mapping[str, Array]]]
    floats: dict[str, Array]
    matrices: list[tuple[Array, Array | float]]


def nbytes(path: Path) -> int:
    """Bytes of the weights in a C artifact, as they are compiled or mapped."""
    arrays, _ = _arrays(path, path.read_text(encoding="utf-8"))
    return sum(array.nbytes for array in arrays.values())


def read(path: Path) -> Found:
    """The weights in the C artifact at `path`, those of its file beside it included."""
    text = path.read_text(encoding="utf-8")
    arrays, labels = _arrays(path, text)
    packed: set[str] = set()
    layers = _layers(text, arrays, labels, packed)
    matrices: list[tuple[Array, Array | float]] = []
    for match in _DENSE.finditer(text):
        bytes_, numbers_ = arrays[match[1]], arrays[match[2]]
        inputs, outputs = int(match[3]), int(match[4])
        rows = _ungrouped(bytes_, inputs).reshape(-1, inputs)[:outputs]
        scale = numbers_[:, 1].reshape(-1)[:outputs, None].astype(np.float64)
        matrices.append((rows * scale, 0.5 * scale * (1 + 1e-3)))
        packed |= {match[1], match[2]}
    for name, label in labels.items():
        if label.endswith("_bytes") and arrays[name].ndim == 2:
            scales = next(array for other, array in arrays.items() if labels[other] == f"{label[:-6]}_scales")
            scale = scales[:, None].astype(np.float64)
            matrices.append((arrays[name] * scale, 0.5 * scale * (1 + 1e-3)))
    floats = {
        labels[name]: array.squeeze()
        for name, array in arrays.items()
        if array.dtype.kind == "f" and name not in packed
    }
    matrices += [(array.astype(np.float64), 0.0) for array in floats.values() if array.ndim == 2]
    return Found(layers, floats, matrices)


def _arrays(path: Path, text: str) -> tuple[dict[str, Array], dict[str, str]]:
    """All arrays of an artifact by their identifiers, and what they are called; `text` is what is in its file."""
    arrays: dict[str, Array] = {}
    labels: dict[str, str] = {}
    for match in _TEXT.finditer(text):
        words = [_SPECIAL.get(word.strip(), word.strip()) for word in match["numbers"].split(",")]
        numbers = [re.sub(r"INT64_C\((.*)\)", r"\1", word) for word in words]
        arrays[match["name"]] = np.array(numbers, DTYPES[match["type"]]).reshape(_shape(match["shape"]))
        labels[match["name"]] = match["label"]
    for match in _MAPPED.finditer(text):
        shape = _shape(match["shape"])
        found = np.fromfile(
            weights_file(path),
            DTYPES[match["type"]],
            count=int(np.prod(shape, dtype=np.int64)),
            offset=int(match["place"]),
        )
        arrays[match["name"]] = found.reshape(shape)
        labels[match["name"]] = match["label"]
    return arrays, labels


def summed(bias: Array) -> Array:
    """Biases of a layer as C has them: their sum, then zeros."""
    ih, hh = np.split(bias.astype(np.float64), 2, axis=1)
    return np.concatenate([ih + hh, 0 * hh], axis=1)


def _layers(
    text: str, arrays: Mapping[str, Array], labels: Mapping[str, str], packed: set[str]
) -> list[tuple[Layer, Mapping[str, Array]]]:
    """The LSTM layers, both directions of one together; the names of their arrays are added to `packed`."""
    directions: dict[str, list[dict[str, Array]]] = {}
    for match in _LSTM.finditer(text):
        names = match[2].removesuffix(", ").split(", ")
        if names[0] not in arrays or names[0] in packed:
            continue  # a parameter of a kernel; a layer that is called again
        inputs, hidden = int(match[3]), int(match[4])
        label = labels[names[0]].removesuffix("_reverse")
        packed.update(names)
        unpack = _rounded if match[1] else _exact
        directions.setdefault(label, []).append(unpack([arrays[name] for name in names], inputs, hidden))
    found: list[tuple[Layer, Mapping[str, Array]]] = []
    for label, parts in directions.items():
        both = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        steps = {key: both[f"{key}_step"] for key in "wr" if f"{key}_step" in both}
        bias = np.concatenate([both["b"], 0 * both["b"]], axis=1)
        found.append((Layer(label, both["w"], both["r"], bias), steps))
    return found


def _exact(arrays: list[Array], inputs: int, hidden: int) -> dict[str, Array]:
    rows = _rows(arrays[0].transpose(0, 2, 3, 1), hidden)
    return {"b": rows[:, 0], "w": rows[:, 1 : 1 + inputs], "r": rows[:, 1 + inputs :]}


def _rounded(arrays: list[Array], inputs: int, hidden: int) -> dict[str, Array]:
    of_x = -(-inputs // GROUP) * GROUP * GATES * UNITS
    numbers = _rows(arrays[1].transpose(0, 2, 3, 1), hidden)
    found = {"b": numbers[:, 0], "w_step": numbers[:, 1:2], "r_step": numbers[:, 2:3]}
    found["w"] = _rows(_ungrouped(arrays[0][:, :of_x], inputs), hidden) * found["w_step"]
    found["r"] = _rows(_ungrouped(arrays[0][:, of_x:], hidden), hidden) * found["r_step"]
    return found


def _rows(blocks: Array, hidden: int) -> Array:
    """`[blocks, gates, UNITS, n]` → `[4*hidden, n]`, without what fills the last block."""
    whole = blocks.transpose(1, 0, 2, 3).reshape(GATES, -1, blocks.shape[3])
    return np.asarray(whole[:, :hidden].reshape(GATES * hidden, -1).astype(np.float64))


def _ungrouped(grouped: Array, length: int) -> Array:
    """`[blocks, groups * gates * UNITS * GROUP]` → `[blocks, gates, UNITS, length]`."""
    parts = grouped.reshape(len(grouped), -1, GATES, UNITS, GROUP).transpose(0, 2, 3, 1, 4)
    return np.asarray(parts.reshape(len(grouped), GATES, UNITS, -1)[..., :length])


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(" x ") if size)


class Quantized(NamedTuple):
    """A layer in int8: bytes in groups of `GROUP` inputs, and what turns their sums into numbers."""

    bytes: Array
    numbers: Array
    """For each block a row of biases, and for each part of its inputs a row of scales."""
    starts: Array
    """For each block and part, what sums begin with where bytes of inputs are from 0 to 255 instead of from -128."""


def packed_lstm(w: Array, r: Array, bias: Array) -> Array:
    """One direction of an LSTM layer in blocks: `w [4*hidden, inputs]`, `r [4*hidden, hidden]`, `bias [8*hidden]`.

    → `[blocks, 1 + inputs + hidden, gates, UNITS]`, the last block filled with zeros.
    """
    rows = np.concatenate([_summed(bias)[:, None], w, r], axis=1)  # [4*hidden, 1 + inputs + hidden]
    return np.ascontiguousarray(_blocks(rows).transpose(0, 3, 1, 2))


def lstm_int8(w: Array, r: Array, bias: Array) -> Quantized:
    """The same in int8, each row of each gate with a scale of its own for `w` and for `r`."""
    parts = [rows_int8(np.asarray(part)) for part in (w, r)]
    numbers = np.stack([_summed(bias), *(scale for _, scale in parts)], axis=1)  # [4*hidden, 3]
    starts = np.stack([_start(number) for number, _ in parts], axis=1)
    return Quantized(
        np.concatenate([_grouped(_blocks(number)) for number, _ in parts], axis=1),
        np.ascontiguousarray(_blocks(numbers).transpose(0, 3, 1, 2)),
        np.ascontiguousarray(_blocks(starts).transpose(0, 3, 1, 2)),
    )


def dense_int8(rows: Array, bias: Array | None) -> Quantized:
    """A matrix `[outputs, inputs]` in blocks of `ROW` outputs."""
    outputs = len(rows)
    number, scale = rows_int8(rows)
    added = np.zeros(outputs, np.float32) if bias is None else bias
    numbers, starts = np.stack([added, scale], axis=1), _start(number)[:, None]

    def blocks(values: Array) -> Array:
        filled = np.zeros((-len(values) % ROW, values.shape[1]), values.dtype)
        return np.concatenate([values, filled]).reshape(-1, GATES, UNITS, values.shape[1])

    return Quantized(
        _grouped(blocks(number)),
        np.ascontiguousarray(blocks(numbers.astype(np.float32)).transpose(0, 3, 1, 2)),
        np.ascontiguousarray(blocks(starts).transpose(0, 3, 1, 2)),
    )


def _summed(bias: Array) -> Array:
    """Input and recurrent bias as one: rounded once."""
    ih, hh = np.split(bias.astype(np.float64), 2)
    return np.asarray(ih + hh, np.float32)


def _blocks(rows: Array) -> Array:
    """`[4*hidden, n]` → `[blocks, gates, UNITS, n]`."""
    hidden = len(rows) // GATES
    filled = np.zeros((GATES, -hidden % UNITS, rows.shape[1]), rows.dtype)
    whole = np.concatenate([rows.reshape(GATES, hidden, -1), filled], axis=1)
    return np.asarray(whole.reshape(GATES, -1, UNITS, rows.shape[1]).transpose(1, 0, 2, 3))


def rows_int8(rows: Array) -> tuple[Array, Array]:
    """Numbers from -127 to 127 and the scale of each row."""
    most = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    scale = np.where(most > 0, most, 1.0) / LEVELS
    number: Array = np.rint(rows / scale[:, None]).astype(np.int8)
    return number, scale.astype(np.float32)


def _start(number: Array) -> Array:
    start: Array = -128 * number.astype(np.int32).sum(axis=1, dtype=np.int32)
    return start.astype(np.int32)


def _grouped(blocks: Array) -> Array:
    """`[blocks, gates, UNITS, n]` → `[blocks, groups * gates * UNITS * GROUP]`."""
    count, gates, units, length = blocks.shape
    filled = np.concatenate([blocks, np.zeros((count, gates, units, -length % GROUP), blocks.dtype)], axis=3)
    grouped = filled.reshape(count, gates, units, -1, GROUP).transpose(0, 3, 1, 2, 4)
    return np.asarray(np.ascontiguousarray(grouped).reshape(count, -1))
