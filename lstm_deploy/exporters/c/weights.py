"""The weights of a model as C has them: packed for the kernels, then static arrays, or one file that is mapped."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_deploy.c_interface import C_TYPES, commented
from lstm_deploy.exporters.c.kernels import GATES, ROW, UNITS
from lstm_deploy.exporters.c.kernels_int8 import GROUP
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.signature import Array

MAPPED_ABOVE = 4_000_000
"""Bytes above which weights are a file of their own: compilers take minutes, and gigabytes, for larger texts."""
ALIGNMENT = 64
MAGIC = b"lstm-deploy C weights, version 1"
"""What the file begins with, before the digest of the rest, in `HEADER` bytes."""
HEADER = 128
LEVELS = 127


class Entry(NamedTuple):
    """One array."""

    identifier: str
    label: str
    """What it is, for the reader."""
    array: Array


class Quantized(NamedTuple):
    """A layer in int8: bytes in groups of `GROUP` inputs, and what turns their sums into numbers."""

    bytes: Array
    numbers: Array
    """For each block a row of biases, and for each part of its inputs a row of scales."""
    starts: Array
    """For each block and part, what sums begin with where bytes of inputs are from 0 to 255 instead of from -128."""


class Weights:
    """The arrays that a translation needs, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.longest = 0
        """The most inputs that are rounded at once."""

    def add(self, name: str, array: Array) -> str:
        """The C identifier of an array; the same array under the same name is there once."""
        for entry in self.entries:
            if entry.label == name and entry.array.shape == array.shape and np.array_equal(entry.array, array):
                return entry.identifier
        stem = "w_" + re.sub(r"\W+", "_", name.removeprefix("module."), flags=re.ASCII).strip("_")
        taken = {entry.identifier for entry in self.entries}
        identifier, number = stem, 1
        while identifier in taken:
            number += 1
            identifier = f"{stem}_{number}"
        self.entries.append(Entry(identifier, name, np.ascontiguousarray(array)))
        return identifier

    def add_int8(self, name: str, layer: Quantized, inputs: int) -> str:
        """The C arguments of a layer in int8, which rounds so many inputs."""
        self.longest = max(self.longest, inputs)
        parts = (("", layer.bytes), ("_numbers", layer.numbers), ("_starts", layer.starts))
        return ", ".join(self.add(f"{name}{suffix}", array) for suffix, array in parts)

    @property
    def nbytes(self) -> int:
        return sum(entry.array.nbytes for entry in self.entries)

    def as_text(self) -> str:
        """Static arrays."""
        return "\n".join(_array(entry) for entry in self.entries)

    def as_file(self, path: Path) -> tuple[str, str]:
        """Write the file that is to be mapped; definitions that find the arrays in it, and its digest."""
        place, lines = HEADER, []
        digest = hashlib.sha256()
        with path.open("wb") as file:
            file.write(bytes(HEADER))
            for entry in self.entries:
                c_type = C_TYPES[str(entry.array.dtype)]
                lines.append(_comment(entry))
                lines.append(
                    f"#define {entry.identifier} ((const {c_type} *)(const void *)((const char *)weights + {place}))"
                )
                content = entry.array.astype(entry.array.dtype.newbyteorder("<")).tobytes()
                content += bytes(-len(content) % ALIGNMENT)
                digest.update(content)
                file.write(content)
                place += len(content)
            file.seek(0)
            file.write(MAGIC + digest.hexdigest().encode())
        return "\n".join(lines) + "\n", digest.hexdigest()


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


def _array(entry: Entry) -> str:
    flat = entry.array.reshape(-1)
    c_type = C_TYPES[str(flat.dtype)]
    if flat.dtype.kind == "f":
        texts = [f"{value:.9g}" if np.isfinite(value) else literal(value) for value in flat]
    else:
        texts = [f"INT64_C({value})" if flat.itemsize == 8 else str(int(value)) for value in flat]
    if flat.dtype == np.int32:
        texts = ["(-2147483647 - 1)" if text == "-2147483648" else text for text in texts]
    lines = [", ".join(texts[start : start + 12]) for start in range(0, len(texts), 12)] or ["0"]
    return (
        f"{_comment(entry)}\n"
        f"static const {c_type} {entry.identifier}[{max(1, flat.size)}] ALIGNED = {{\n" + ",\n".join(lines) + "};\n"
    )


def _comment(entry: Entry) -> str:
    """What an array is, and its shape, as `reading` expects it."""
    return f"/* {commented(entry.label)}: {' x '.join(map(str, entry.array.shape))} */"
