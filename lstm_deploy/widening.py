"""float16 graphs on machines that have no kernel for them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def widened(path: Path) -> bytes:
    """A float16 graph that computes in float32, its weights still rounded to float16 and its inputs and outputs as
    they were: what a machine without a float16 kernel can prove of it.
    """
    model = onnx.load(path)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                value = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
    del graph.value_info[:]
    first, last = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            rename(graph.node, value.name, f"{value.name}_wide", outputs=False)
            first.append(helper.make_node("Cast", [value.name], [f"{value.name}_wide"], to=TensorProto.FLOAT))
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            rename(graph.node, value.name, f"{value.name}_wide", outputs=True)
            last.append(helper.make_node("Cast", [f"{value.name}_wide"], [value.name], to=TensorProto.FLOAT16))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def rename(nodes: Iterable[onnx.NodeProto], name: str, to: str, *, outputs: bool) -> None:
    """A value in all nodes: an input of the graph where it is read, an output also where it is made."""
    for node in nodes:
        for values in (node.input, node.output) if outputs else (node.input,):
            for index, value in enumerate(values):
                if value == name:
                    values[index] = to
