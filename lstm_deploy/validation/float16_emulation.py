"""float16 graphs on machines without float16 kernels: the same graph, computed in float32."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.artifacts import onnx_graph


def in_float32(path: Path) -> bytes:
    """A float16 graph that computes in float32 and rounds the result of each node to float16.

    Its weights stay rounded to float16 and its inputs and outputs what they were: this is what a machine without a
    float16 kernel can prove of it. A value beyond float16 becomes infinite, as it would there.
    """
    model = onnx.load(path)
    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model).graph
    half = {value.name for value in (*typed.value_info, *typed.output) if _is_half(value)}
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[onnx.NodeProto] = []
    for value in filter(_is_half, graph.input):
        onnx_graph.rename(graph.node, {value.name: f"{value.name}_wide"})
        nodes.append(_cast(value.name, f"{value.name}_wide", TensorProto.FLOAT))
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                _widen(attribute.t)
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in half:
                exact, rounded = f"{name}_exact", name if name in outputs else f"{name}_rounded"
                wide = f"{name}_wide" if name in outputs else name
                node.output[position] = exact
                nodes += [_cast(exact, rounded, TensorProto.FLOAT16), _cast(rounded, wide, TensorProto.FLOAT)]
                if name in outputs:
                    onnx_graph.rename(graph.node, {name: wide})
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], to=kind)
