"""int8 ONNX: every LSTM layer becomes `DynamicQuantizeLSTM`, large matrices and embeddings become integers.

onnxruntime's quantizer does the arithmetic. What it leaves in float without a word is refused here, and what it
cannot write (unsigned weights of an LSTM) is added.
"""

import logging
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from onnx import numpy_helper

from lstm_deploy import lint
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.onnx import EXTERNAL_ABOVE
from lstm_deploy.files import weights_file

WORTH = 0.05
"""The part of all weights that a matrix or an embedding must have: below it, quantizing its input costs more time
than it saves bytes."""
UNSIGNED_OFFSET = 128


class Settings(Struct, frozen=True, kw_only=True):
    """How weights are rounded."""

    per_channel: bool = True
    """A scale for each row of a gate, not one for the whole matrix: one large weight then costs only its own row."""
    unsigned: bool = False
    """The same numbers as bytes from 0 to 255: slower, but CPUs without VNNI add signed products in 16 bits, which
    saturate."""
    reduce_range: bool = False
    """7 bits, whose products fit these 16 bits."""

    def described(self) -> dict[str, Any]:
        """In words, for people and the manifest."""
        return {
            "weights": "uint8" if self.unsigned else "int8",
            "scales": "per channel" if self.per_channel else "per tensor",
            "bits": 7 if self.reduce_range else 8,
        }


def parts(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """What there is to quantize, in the graph's order: nodes by a label in PyTorch's words.

    Raises `InputError` for a graph that cannot be quantized as a whole: quantized already, in float16, with LSTMs
    whose weights are computed, or without any LSTM.
    """
    if (precision := lint.precision(model)) != "float32":
        raise InputError(f"The model is in {precision} already; quantize the float32 model that it was made from.")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    sizes = {name: _size(tensor) for name, tensor in constants.items()}
    found: dict[str, onnx.NodeProto] = {}
    if not any(node.op_type == "LSTM" for node in model.graph.node):
        raise InputError(
            "The graph has no LSTM node, so there is no LSTM to quantize; export the model with lstm-deploy."
        )
    for node in model.graph.node:
        if node.op_type == "LSTM":
            if not all(weight in constants for weight in node.input[1:3]):
                raise InputError(
                    f"The weights of {node.name or 'an LSTM'} are computed in the graph, so it would stay in float; "
                    "export the model with lstm-deploy, which writes them as constants."
                )
            found[_unique(_label(node), found)] = node
        elif node.op_type in ("MatMul", "Gather"):
            weight = node.input[1 if node.op_type == "MatMul" else 0]
            large = sizes.get(weight, 0) >= WORTH * sum(sizes.values())
            # What brings a projected state back is inverted at every step: an error there would add up.
            if large and len(constants[weight].dims) == 2 and "P_inverse_l" not in weight:
                kind = "the matrix" if node.op_type == "MatMul" else "the embedding"
                found[_unique(f"{kind} {list(constants[weight].dims)}", found)] = node
    return found


def quantize_onnx(source: Path, target: Path, settings: Settings | None = None, kept: Collection[str] = ()) -> None:
    """Write the float32 graph at `source` in int8 to `target`; `kept` are labels of `parts` that stay in float.

    Raises `InputError` as `parts` does.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    settings = settings or Settings()
    model = lint.load(source)
    chosen = [node.name for label, node in parts(model).items() if label not in kept]
    large = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    producer = model.producer_name
    shared = _unshare(model)
    with _quiet():
        quantize_dynamic(
            model if shared else source,
            target,
            op_types_to_quantize=["LSTM", "MatMul", "Gather"],
            nodes_to_quantize=chosen,
            per_channel=settings.per_channel,
            reduce_range=settings.reduce_range,
            weight_type=QuantType.QUInt8 if settings.unsigned else QuantType.QInt8,
            use_external_data_format=large,
        )
    model = onnx.load(target)
    if settings.unsigned:
        _make_unsigned(model)
    model.producer_name = producer
    for index, prop in reversed(list(enumerate(model.metadata_props))):
        if prop.key.startswith("onnx."):  # the quantizer's notes to itself
            del model.metadata_props[index]
    del model.graph.value_info[:]
    weights_file(target).unlink(missing_ok=True)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_ABOVE:
        raise InputError("The model is beyond 2 GB in int8 too, which is not supported; export it in float32.")
    onnx.save_model(model, target)


def lstm_counts(model: onnx.ModelProto) -> tuple[int, int]:
    """How many LSTM nodes are quantized, and how many there are."""
    count = lint.operators(model)
    return count["DynamicQuantizeLSTM"], count["DynamicQuantizeLSTM"] + count["LSTM"]


def _make_unsigned(model: onnx.ModelProto) -> None:
    """Write the weights of quantized LSTMs, which the quantizer always makes signed, as unsigned: the same numbers."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DynamicQuantizeLSTM":
            continue
        for position in (1, 2, 9, 11):  # W, R and their zero points
            tensor = constants[node.input[position]]
            value = numpy_helper.to_array(tensor).astype(np.int16) + UNSIGNED_OFFSET
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.uint8), tensor.name))


def _label(node: onnx.NodeProto) -> str:
    """`lstm, layer 0` for a layer that `export` wrote; else the node's own name."""
    match = re.fullmatch(r"module\.(?:(.+)\.)?W_l(\d+)", node.input[1])
    return f"{match[1] or 'the LSTM'}, layer {match[2]}" if match else node.name


def _unique(label: str, taken: Collection[str]) -> str:
    number = sum(other == label or other.startswith(f"{label} (") for other in taken)
    return f"{label} ({number + 1})" if number else label


def _unshare(model: onnx.ModelProto) -> bool:
    """Give each LSTM weights of its own: the quantizer changes those of the first, and fails on the second."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    used: set[str] = set()
    for number, node in enumerate(model.graph.node):
        for position in (1, 2) if node.op_type == "LSTM" else ():
            name = node.input[position]
            if name in used:
                copy = model.graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[position] = f"{name}_of_{number}"
            used.add(name)
    return any("_of_" in tensor.name and tensor.name not in constants for tensor in model.graph.initializer)


def _size(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) if tensor.data_type == onnx.TensorProto.FLOAT else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice on preprocessing, which these graphs do not need."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
