"""The weights of a C artifact: static arrays in its source, or one file that is mapped."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_deploy.artifacts import Quantized
from lstm_deploy.contract import C_TYPES, Array, comment_safe
from lstm_deploy.exporters.c.literals import literal

MAPPED_ABOVE = 4_000_000
"""Bytes above which weights are in their own file: for larger sources, compilers take minutes and gigabytes."""
ALIGNMENT = 64
MAGIC = b"lstm-deploy C weights, version 1"
"""Start of the file, followed by the digest of the arrays."""
HEADER = 128
"""Bytes before the arrays."""


class Entry(NamedTuple):
    """One array."""

    identifier: str
    label: str
    """Its name in the graph, for a comment."""
    array: Array


class Weights:
    """The arrays that a translation needs, in the order in which they were added."""

    longest: int

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.longest = 0
        """The largest number of inputs that an int8 kernel rounds at once."""

    def add(self, name: str, array: Array) -> str:
        """Add an array, once under each name, and return its C identifier."""
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
        """Add a layer in int8 that rounds `inputs` numbers at once, and return its C arguments."""
        self.longest = max(self.longest, inputs)
        parts = (("", layer.bytes), ("_numbers", layer.numbers), ("_starts", layer.starts))
        return ", ".join(self.add(f"{name}{suffix}", array) for suffix, array in parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(entry.array.nbytes for entry in self.entries)

    def as_text(self) -> str:
        """Static arrays."""
        return "\n".join(_array(entry) for entry in self.entries)

    def as_file(self, path: Path) -> tuple[str, str]:
        """Write the file to be mapped, and return C definitions of the arrays in it, and its digest."""
        offset, lines = HEADER, []
        digest = hashlib.sha256()
        with path.open("wb") as file:
            file.write(bytes(HEADER))
            for entry in self.entries:
                c_type = C_TYPES[str(entry.array.dtype)]
                lines.append(_comment(entry))
                lines.append(
                    f"#define {entry.identifier} ((const {c_type} *)(const void *)((const char *)weights + {offset}))"
                )
                content = entry.array.astype(entry.array.dtype.newbyteorder("<")).tobytes()
                content += bytes(-len(content) % ALIGNMENT)
                digest.update(content)
                file.write(content)
                offset += len(content)
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
    """The label and shape of an array, as `artifacts.c_weights` parses them."""
    return f"/* {comment_safe(entry.label)}: {' x '.join(map(str, entry.array.shape))} */"
