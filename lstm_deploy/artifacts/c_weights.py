"""The weights stored in a C artifact, in the form in which they can be compared with PyTorch's."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lstm_deploy.artifacts.c_blocks import unpack_dense_int8, unpack_layer, unpack_layer_int8
from lstm_deploy.artifacts.files import weights_file
from lstm_deploy.artifacts.onnx_weights import Matrix, RecurrentLayer, StoredWeights
from lstm_deploy.contract import CELLS, Array, CellKind
from lstm_deploy.errors import InputError

_DTYPES = {"float": "<f4", "int8_t": "i1", "int32_t": "<i4", "int64_t": "<i8", "unsigned char": "u1"}
_HEAD = r"/\* (?P<label>.*): (?P<shape>[\d x]*) \*/\n"
_ARRAY = re.compile(
    _HEAD + r"static const (?P<type>[\w ]+) (?P<name>\w+)\[\d+\] ALIGNED = \{\n(?P<numbers>[^}]*)\};", re.ASCII
)
_MAPPED_ARRAY = re.compile(
    _HEAD + r"#define (?P<name>\w+) \(\(const (?P<type>[\w ]+) \*\)\(const void \*\)\(\(const char \*\)weights \+ "
    r"(?P<place>\d+)\)\)",
    re.ASCII,
)
_LAYER_CALL = re.compile(
    rf"^  (?:for .*\n *)*({'|'.join(CELLS).lower()})(_int8)?\(((?:\w+, )+?)(\d+), (\d+), ", re.MULTILINE
)
"""A call of the kernel of a cell, which is named after it."""
_DENSE_CALL = re.compile(r"\bdense_int8\((w_\w+), (w_\w+), w_\w+, (\d+), (\d+), &")
_NOT_DECIMAL = re.compile(r"(?:^|[,\s(])[-+]?0[\dxXbB]")
"""A number that a compiler reads as octal, hexadecimal or binary."""
_LITERALS = {"NAN": "nan", "INFINITY": "inf", "(-INFINITY)": "-inf", "(-2147483647 - 1)": "-2147483648"}


def nbytes(path: Path) -> int:
    """Bytes of the weights in a C artifact, as they are compiled or mapped."""
    return sum(array.nbytes for array in arrays(path).values())


def arrays(path: Path) -> dict[str, Array]:
    """The arrays in the C artifact at `path`, by identifier, as they lie there."""
    return _arrays(path, path.read_text(encoding="utf-8"))[0]


def read(path: Path) -> StoredWeights:
    """The weights in the C artifact at `path`, those in the file beside it included."""
    text = path.read_text(encoding="utf-8")
    arrays, labels = _arrays(path, text)
    packed: set[str] = set()
    layers = _layers(text, arrays, labels, packed)
    matrices: list[Matrix] = []
    for match in _DENSE_CALL.finditer(text):
        matrices.append(unpack_dense_int8(arrays[match[1]], arrays[match[2]], int(match[3]), int(match[4])))
        packed |= {match[1], match[2]}
    for name, label in labels.items():
        if label.endswith("_bytes") and arrays[name].ndim == 2:
            scales = next(array for other, array in arrays.items() if labels[other] == f"{label[:-6]}_scales")
            scale = scales[:, None].astype(np.float64)
            matrices.append((arrays[name] * scale, scale))
    floats = {
        labels[name]: array.squeeze()
        for name, array in arrays.items()
        if array.dtype.kind == "f" and name not in packed
    }
    matrices += [(array.astype(np.float64), 0.0) for array in floats.values() if array.ndim == 2]
    return StoredWeights(layers, floats, matrices)


def _arrays(path: Path, text: str) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of an artifact, and their labels, by identifier; `text` is the source at `path`."""
    arrays: dict[str, Array] = {}
    labels: dict[str, str] = {}
    for match in (*_ARRAY.finditer(text), *_MAPPED_ARRAY.finditer(text)):
        shape = tuple(int(size) for size in match["shape"].split(" x ") if size)
        dtype = _DTYPES[match["type"]]
        if match.re is _ARRAY:
            if _NOT_DECIMAL.search(match["numbers"]):
                raise InputError(f"{path} has numbers in {match['name']} that no export writes; export it again.")
            words = [_LITERALS.get(word.strip(), word.strip()) for word in match["numbers"].split(",")]
            array = np.array([re.sub(r"INT64_C\((.*)\)", r"\1", word) for word in words], dtype)
        else:
            count = int(np.prod(shape, dtype=np.int64))
            array = np.fromfile(weights_file(path), dtype, count=count, offset=int(match["place"]))
        arrays[match["name"]], labels[match["name"]] = array.reshape(shape), match["label"]
    return arrays, labels


def _layers(
    text: str, arrays: Mapping[str, Array], labels: Mapping[str, str], packed: set[str]
) -> list[RecurrentLayer]:
    """The recurrent layers, both directions of one together; the names of their arrays are added to `packed`."""
    directions: dict[tuple[str, CellKind], list[dict[str, Array]]] = {}
    for match in _LAYER_CALL.finditer(text):
        names = match[3].removesuffix(", ").split(", ")
        if names[0] not in arrays or names[0] in packed:
            continue  # a parameter of a kernel; a layer that is called again
        cell, inputs, hidden = CELLS[match[1].upper()], int(match[4]), int(match[5])
        packed.update(names)
        if match[2]:
            unpacked = unpack_layer_int8(cell, arrays[names[0]], arrays[names[1]], inputs, hidden)
        else:
            unpacked = unpack_layer(cell, arrays[names[0]], inputs, hidden)
        directions.setdefault((labels[names[0]].removesuffix("_reverse"), cell.kind), []).append(unpacked)
    layers = []
    for (label, kind), parts in directions.items():
        both = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        steps = {key: both[f"{key}_step"] for key in "wr" if f"{key}_step" in both}
        layers.append(RecurrentLayer(label, both["w"], both["r"], both["b"], steps, kind))
    return layers
