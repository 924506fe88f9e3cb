"""float16 ONNX, for CUDA: recurrent layers and what lies between them; scaling before and after stays in float32."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.contract import CONTRACT_KEY, RECURRENT_OPERATORS, Signature, StateDtype
from lstm_deploy.errors import InputError, ParityError

HEAVY = (*RECURRENT_OPERATORS, "MatMul", "Gemm", "Conv")
"""The operators that gain from float16."""
MOVING = ("Transpose", "Slice", "Squeeze", "Unsqueeze", "Concat", "Reshape", "Flatten", "Split", "Identity")
"""Operators that only move numbers: in float16 where their input is, so that nothing is cast to and fro."""
TYPED = ("Cast", "Constant", "ConstantOfShape", "Range", "Loop", "If", "Scan")
"""Operators that name their own type."""
HALF: StateDtype = "float16"
LARGEST = float(np.finfo(np.float16).max)


def export_float16(source: Path, target: Path, state_dtype: StateDtype = HALF) -> None:
    """Write the float32 graph at `source` in float16 to `target`: `x` and `y` stay float32, the state is `state_dtype`.

    Raises `InputError` for a model that is not in float32, and `ParityError` for a weight that float16 cannot hold.
    """
    if (precision := onnx_graph.precision(onnx_graph.load(source))) != "float32":
        raise InputError(f"{source} is in {precision} already; give the float32 model that it was made from.")
    model = onnx.load(source)
    contract = Signature.from_json(onnx_graph.contract_text(model) or "")
    states = {spec.name for spec in (*contract.state_inputs, *contract.state_outputs)} if state_dtype == HALF else set()
    _Converter(model, states).convert()
    helper.set_model_props(model, {CONTRACT_KEY: replace(contract, state_dtype=state_dtype).to_json()})
    onnx.checker.check_model(model)
    onnx.save_model(model, target)


class _Converter:
    """Converts heavy nodes, those between them, and nodes that only move their numbers."""

    def __init__(self, model: onnx.ModelProto, half_ports: Collection[str]) -> None:
        """`half_ports` are the inputs and outputs of the graph that become float16."""
        graph = self.graph = model.graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        typed = onnx.shape_inference.infer_shapes(model).graph
        values = (*typed.value_info, *typed.input, *typed.output)
        self.floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {name for name, tensor in self.constants.items() if tensor.data_type == TensorProto.FLOAT}
        self.half_ports = half_ports
        self.half = {value.name for value in graph.input if value.name in half_ports}
        """Values that are float16 under their own name."""
        self.casts: dict[str, str] = {}
        """The name of each value that was cast, in its other precision."""
        self.written: list[onnx.NodeProto] = []

    def convert(self) -> None:
        heavy = {index for index, node in enumerate(self.nodes) if self._is_heavy(node)}
        inner = heavy | (_reached(self.nodes, heavy) & _reached(self.nodes, heavy, backwards=True))
        for index, node in enumerate(self.nodes):
            first = next((name for name in node.input if name in self.floats), "")
            moved = node.op_type in MOVING and first in self.half
            half = moved or (index in inner and node.op_type not in MOVING + TYPED)
            for position, name in enumerate(node.input):
                if name in self.floats:
                    node.input[position] = self._as(name, half=half)
            if half:
                self.half.update(name for name in node.output if name in self.floats)
            self.written.append(node)
        for value in self.graph.output:
            half = value.name in self.half_ports
            if value.name in self.floats and (value.name in self.half) != half:
                inner_name = f"{value.name}_inner"
                onnx_graph.rename(self.written, {value.name: inner_name}, outputs=True)
                self._cast(inner_name, value.name, half=half)
        for value in (*self.graph.input, *self.graph.output):
            if value.name in self.half_ports:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx_graph.replace_nodes(self.graph, self.written)

    def _is_heavy(self, node: onnx.NodeProto) -> bool:
        is_embedding = node.op_type == "Gather" and node.input[0] in self.floats & set(self.constants)
        return node.op_type in HEAVY or is_embedding

    def _as(self, name: str, *, half: bool) -> str:
        """The name under which a value is there in a precision, cast where it is not."""
        if (name in self.half) == half:
            return name
        if name not in self.casts:
            self.casts[name] = f"{name}_{HALF if half else 'float32'}"
            if name in self.constants:
                self._narrow(name, self.casts[name])
            else:
                self._cast(name, self.casts[name], half=half)
        return self.casts[name]

    def _cast(self, name: str, to: str, *, half: bool) -> None:
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.written.append(helper.make_node("Cast", [name], [to], f"{to}_cast", to=kind))

    def _narrow(self, name: str, to: str) -> None:
        """Add a constant in float16; raises `ParityError` where that overflows, or loses a row or column."""
        value = numpy_helper.to_array(self.constants[name])
        largest = float(np.abs(value).max(initial=0.0))
        if largest > LARGEST:
            raise ParityError(
                f"{name} reaches {largest:.3g} and float16 overflows at {LARGEST:,.0f}; export without --half."
            )
        half = value.astype(np.float16)
        if any((value.any(axis) & ~half.any(axis)).any() for axis in range(value.ndim)):
            raise ParityError(f"A row or column of {name} underflows to 0 in float16; export without --half.")
        self.graph.initializer.append(numpy_helper.from_array(half, to))


def _reached(nodes: list[onnx.NodeProto], start: Collection[int], *, backwards: bool = False) -> set[int]:
    """The nodes that come after some nodes, or before them."""
    ends = [(node.output, node.input) if backwards else (node.input, node.output) for node in nodes]
    values = {name for index in start for name in ends[index][1]}
    reached: set[int] = set()
    for index in reversed(range(len(nodes))) if backwards else range(len(nodes)):
        near, far = ends[index]
        if any(name in values for name in near if name):
            reached.add(index)
            values.update(far)
    return reached
