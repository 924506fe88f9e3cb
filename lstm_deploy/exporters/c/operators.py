"""The ONNX operators that C can express: an operator is added here, in `OPERATORS`."""

import onnx

from lstm_deploy.contract import CELLS
from lstm_deploy.exporters.c import movement
from lstm_deploy.exporters.c.elementwise import batch_normalization, cast, clip, elementwise
from lstm_deploy.exporters.c.products import gemm, matmul
from lstm_deploy.exporters.c.recurrent import recurrent
from lstm_deploy.exporters.c.reductions import arg_extremum, layer_normalization, reduction, softmax
from lstm_deploy.exporters.c.translator import Handler, Translator, refusal

OPERATORS: dict[str, Handler] = {
    "Add": elementwise("{0} + {1}"),
    "Sub": elementwise("{0} - {1}"),
    "Mul": elementwise("{0} * {1}"),
    "Div": elementwise("{0} / {1}", integers=""),
    "Neg": elementwise("-{0}"),
    "Reciprocal": elementwise("1 / {0}"),
    "Abs": elementwise("({0} < 0 ? -{0} : {0})"),
    "Sqrt": elementwise("sqrtf({0})"),
    "Exp": elementwise("expf({0})"),
    "Log": elementwise("logf({0})"),
    "Sin": elementwise("sinf({0})"),
    "Cos": elementwise("cosf({0})"),
    "Erf": elementwise("erff({0})"),
    "Tanh": elementwise("tanhf({0})"),
    "Floor": elementwise("floorf({0})"),
    "Ceil": elementwise("ceilf({0})"),
    "Round": elementwise("rintf({0})"),
    "Pow": elementwise("powf({0}, (float){1})", integers=""),
    "Sigmoid": elementwise("1 / (1 + expf(-{0}))"),
    "Relu": elementwise("({0} < 0 ? 0 : {0})"),
    "LeakyRelu": elementwise("({0} < 0 ? {alpha} * {0} : {0})", alpha=0.01),
    "PRelu": elementwise("({0} < 0 ? {1} * {0} : {0})"),
    "Elu": elementwise("({0} < 0 ? {alpha} * expm1f({0}) : {0})", alpha=1.0),
    "Selu": elementwise(
        "({0} > 0 ? {gamma} * {0} : {gamma} * {alpha} * expm1f({0}))",
        alpha=1.6732632423543772,
        gamma=1.0507009873554805,
    ),
    "Celu": elementwise("({0} > 0 ? {0} : {alpha} * expm1f({0} / {alpha}))", alpha=1.0),
    "Softplus": elementwise("({0} > 0 ? {0} + log1pf(expf(-{0})) : log1pf(expf({0})))"),
    "Softsign": elementwise("{0} / (1 + ({0} < 0 ? -{0} : {0}))"),
    "HardSigmoid": elementwise("clipped({alpha} * {0} + {beta}, 0.0f, 1.0f)", alpha=0.2, beta=0.5),
    "HardSwish": elementwise("{0} * clipped({0} / 6 + 0.5f, 0.0f, 1.0f)"),
    "Mish": elementwise("{0} * tanhf({0} > 0 ? {0} + log1pf(expf(-{0})) : log1pf(expf({0})))"),
    "Min": elementwise("({0} < {1} || {0} != {0} ? {0} : {1})", integers="({0} < {1} ? {0} : {1})"),
    "Max": elementwise("({0} > {1} || {0} != {0} ? {0} : {1})", integers="({0} > {1} ? {0} : {1})"),
    "Where": elementwise("({0} ? {1} : {2})"),
    "Not": elementwise("!{0}"),
    "And": elementwise("({0} && {1})"),
    "Or": elementwise("({0} || {1})"),
    "Equal": elementwise("({0} == {1})"),
    "Less": elementwise("({0} < {1})"),
    "LessOrEqual": elementwise("({0} <= {1})"),
    "Greater": elementwise("({0} > {1})"),
    "GreaterOrEqual": elementwise("({0} >= {1})"),
    "IsNaN": elementwise("({0} != {0})"),
    "Identity": elementwise("{0}"),
    "Clip": clip,
    "Cast": cast,
    "BatchNormalization": batch_normalization,
    "ReduceSum": reduction("0", "sum += {x};"),
    "ReduceMean": reduction("0", "sum += {x};", "sum / {count}"),
    "ReduceSumSquare": reduction("0", "sum += {x} * {x};"),
    "ReduceL2": reduction("0", "sum += {x} * {x};", "sqrtf(sum)"),
    "ReduceL1": reduction("0", "sum += {x} < 0 ? -{x} : {x};"),
    "ReduceProd": reduction("1", "sum *= {x};"),
    "ReduceMax": reduction(
        "-INFINITY", "if ({x} > sum || {x} != {x}) sum = {x};", integers=("INT64_MIN", "if ({x} > sum) sum = {x};")
    ),
    "ReduceMin": reduction(
        "INFINITY", "if ({x} < sum || {x} != {x}) sum = {x};", integers=("INT64_MAX", "if ({x} < sum) sum = {x};")
    ),
    "ArgMax": arg_extremum(">"),
    "ArgMin": arg_extremum("<"),
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "LayerNormalization": layer_normalization,
    "MatMul": matmul,
    "Gemm": gemm,
    **dict.fromkeys((cell.onnx_operator for cell in CELLS.values()), recurrent),
    "Reshape": movement.reshape,
    "Squeeze": movement.reshape,
    "Unsqueeze": movement.reshape,
    "Flatten": movement.reshape,
    "Dropout": movement.reshape,
    "Transpose": movement.transpose,
    "Expand": movement.expand,
    "Slice": movement.slice_,
    "Split": movement.split,
    "Concat": movement.concat,
    "Pad": movement.pad,
    "Gather": movement.gather,
    "GatherElements": movement.gather_elements,
    "OneHot": movement.one_hot,
    "Range": movement.range_,
    "ConstantOfShape": movement.constant_of_shape,
}
VALUE_INPUTS = {"Reshape": 1, "Expand": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 1, "Split": 1, "ConstantOfShape": 0}
"""How many inputs of an operator have values that it reads, where the others only determine its shape."""


def translate_graph(t: Translator, model: onnx.ModelProto) -> None:
    """Translate the nodes that the outputs depend on; raises `InputError`, naming the node, where C cannot express one.

    What is known before the model runs, such as shapes and computations on them, is left out.
    """
    for node in needed_nodes(model):
        if all(t.infos[name].is_known for name in node.output if name):
            continue
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise refusal(node, "has no counterpart in C")
        OPERATORS[node.op_type](t, node)


def needed_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes whose values the outputs depend on, in order; those that only determine shapes are not among them."""
    names = {value.name for value in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if names & set(node.output):
            nodes.append(node)
            names |= set(node.input[: VALUE_INPUTS.get(node.op_type)])
    return nodes[::-1]
