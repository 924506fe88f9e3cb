"""The weights of a model as C has them: packed for the kernels, then static arrays, or one file that is mapped."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_deploy.artifacts import Quantized
from lstm_deploy.contract import C_TYPES, Array, comment_safe
from lstm_deploy.exporters.c.literals import literal

MAPPED_ABOVE = 4_000_000
"""Bytes above which weights are a file of their own: compilers take minutes, and gigabytes, for larger texts."""
ALIGNMENT = 64
MAGIC = b"lstm-deploy C weights, version 1"
"""What the file begins with, before the digest of the rest, in `HEADER` bytes."""
HEADER = 128


class Entry(NamedTuple):
    """One array."""

    identifier: str
    label: str
    """What it is, for the reader."""
    array: Array


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
    """What an array is, and its shape, as `artifacts.c_weights` reads them."""
    return f"/* {comment_safe(entry.label)}: {' x '.join(map(str, entry.array.shape))} */"
