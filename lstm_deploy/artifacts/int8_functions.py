"""int8 layers of cells that onnxruntime has no quantized operator for: functions of ONNX that the file brings along.

A layer is one node with the inputs of onnxruntime's `DynamicQuantizeLSTM`, so readers of a graph need not know that it
is a function. That multiplies the inputs of all steps by integers at once, and the state of each in the body of a
`Scan`. Its state is copied into what it collects: onnxruntime hands back garbage where a body lists an output twice.
"""

import onnx
from onnx import parser

from lstm_deploy.contract import CELLS, Cell

OWN_DOMAIN = "lstm_deploy"
"""How the domains of such functions begin: `lstm_deploy.GRU.forward`."""
ENDS = ("forward", "bidirectional")
"""How they end, for one direction and for two."""
STEPS = {
    "GRU": """
      update_sum = Add (x_z, h_z)
      update = Sigmoid (update_sum)
      reset_sum = Add (x_r, h_r)
      reset = Sigmoid (reset_sum)
      kept = Mul (reset, h_h)
      new_sum = Add (x_h, kept)
      new = Tanh (new_sum)
      change = Sub (h, new)
      rest = Mul (update, change)
      next = Add (new, rest)""",
    "RNN_TANH": """
      sum = Add (x_i, h_i)
      next = Tanh (sum)""",
    "RNN_RELU": """
      sum = Add (x_i, h_i)
      next = Relu (sum)""",
}
"""One step of each kind of cell: its next state, from the state `h` and what input and state give to each gate."""
LAYER = """
<domain: "DOMAIN", opset_import: ["": 18]>
OPERATOR <hidden_size, direction, linear_before_reset, activations>
  (X, W, R, B, lengths, initial_h, initial_c, P, W_scale, W_zero, R_scale, R_zero) => (Y, Y_h)
{
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  x, x_scale, x_zero = DynamicQuantizeLinear (X)
  DIRECTIONS
  Y = Concat <axis = 1> (YS)
  Y_h = Concat <axis = 0> (HS)
}
"""
DIRECTION = """
  number_# = Constant <value_int = #> ()
  W_# = Gather (W, number_#)
  W_scale_# = Gather (W_scale, number_#)
  W_zero_# = Gather (W_zero, number_#)
  R_# = Gather (R, number_#)
  R_scale_# = Gather (R_scale, number_#)
  R_zero_# = Gather (R_zero, number_#)
  B_# = Gather (B, number_#)
  W_bias_#, R_bias_# = Split <num_outputs = 2> (B_#)
  x_sums_# = MatMulInteger (x, W_#, x_zero, W_zero_#)
  x_cast_# = Cast <to = 1> (x_sums_#)
  x_step_# = Mul (x_scale, W_scale_#)
  x_product_# = Mul (x_cast_#, x_step_#)
  x_all_# = Add (x_product_#, W_bias_#)
  X_GATES = Split <axis = -1, num_outputs = COUNT> (x_all_#)
  h_# = Gather (initial_h, number_#)
  last_#, every_# = Scan <num_scan_inputs = COUNT, scan_input_directions = [BACKWARDS],
    scan_output_directions = [#], body = step
    (float[batch, hidden] h, TYPED_GATES) => (float[batch, hidden] next, float[batch, hidden] out)
    {
      h_integers, h_scale, h_zero = DynamicQuantizeLinear (h)
      h_sums = MatMulInteger (h_integers, R_#, h_zero, R_zero_#)
      h_cast = Cast <to = 1> (h_sums)
      h_step = Mul (h_scale, R_scale_#)
      h_product = Mul (h_cast, h_step)
      h_all = Add (h_product, R_bias_#)
      H_GATES = SPLIT (h_all)
      STEP
      out = Identity (next)
    }> (h_#, X_GATES)
  Y_# = Unsqueeze (every_#, second)
  Y_h_# = Unsqueeze (last_#, first)
"""


def named_like_layers(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """The functions of a file whose calls are read like operators, by their domain."""
    return [function for function in model.functions if function.domain.startswith(f"{OWN_DOMAIN}.")]


def is_layer(function: onnx.FunctionProto) -> bool:
    """Whether a function is the one that bears its name, and computes what `of_layer` says."""
    _, kind, end = [*function.domain.split("."), "", ""][:3]
    if kind not in STEPS or end not in ENDS:
        return False
    own = of_layer(CELLS[kind], 1 + ENDS.index(end))
    return bool(function.SerializeToString(deterministic=True) == own.SerializeToString(deterministic=True))


def of_layer(cell: Cell, directions: int) -> onnx.FunctionProto:
    """The function of layers of this kind; `directions` is 1 or 2."""
    one = _filled(
        DIRECTION,
        X_GATES=", ".join(f"x_{gate}_#" for gate in cell.onnx_gates),
        TYPED_GATES=", ".join(f"float[batch, hidden] x_{gate}" for gate in cell.onnx_gates),
        H_GATES=", ".join(f"h_{gate}" for gate in cell.onnx_gates),
        SPLIT="Identity" if len(cell.onnx_gates) == 1 else "Split <axis = -1, num_outputs = COUNT>",
        STEP=STEPS[cell.kind],
        BACKWARDS=", ".join("#" * len(cell.onnx_gates)),
    )
    one = one.replace("COUNT", str(len(cell.onnx_gates)))
    numbers = range(directions)
    text = _filled(
        LAYER,
        DOMAIN=f"{OWN_DOMAIN}.{cell.kind}.{ENDS[directions - 1]}",
        OPERATOR=cell.quantized_operator,
        DIRECTIONS="".join(one.replace("#", str(number)) for number in numbers),
        YS=", ".join(f"Y_{number}" for number in numbers),
        HS=", ".join(f"Y_h_{number}" for number in numbers),
    )
    return parser.parse_function(text)


def _filled(text: str, **parts: str) -> str:
    for name, part in parts.items():
        text = text.replace(name, part)
    return text
