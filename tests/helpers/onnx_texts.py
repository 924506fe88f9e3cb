"""ONNX models in ONNX's own text syntax."""

import numpy as np
import onnx
from onnx import numpy_helper, parser


def parse_model(text):
    """The model of a text; constants that are declared without numbers are ones."""
    model = parser.parse_model(text)
    for value in model.graph.value_info:
        kind = value.type.tensor_type
        ones = np.ones([dim.dim_value for dim in kind.shape.dim], onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(ones, value.name))
    del model.graph.value_info[:]
    return model
