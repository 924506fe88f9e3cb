"""Kinds of recurrent cells: one record for each, with the names and orders that PyTorch and ONNX give its parts.

With x the input, h the state, σ the logistic function and ⊙ the product of entries, one step computes

    LSTM      i, f, o = σ(W x + b + R h + d),  g = tanh(W x + b + R h + d),  c' = f ⊙ c + i ⊙ g,  h' = o ⊙ tanh(c')
    GRU       r, z = σ(W x + b + R h + d),  n = tanh(W x + b + r ⊙ (R h + d)),  h' = (1 - z) ⊙ n + z ⊙ h
    RNN       h' = tanh(W x + b + R h + d), or the larger of that sum and 0

each gate with rows of W and R and entries of the biases b and d of its own.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

CellKind = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
"""PyTorch's own names, as in `nn.RNNBase.mode`."""


class CellState(Struct, frozen=True, kw_only=True):
    """A tensor that a cell carries from step to step."""

    name: str
    is_output: bool
    """Whether it is also the cell's output: then a projection sets its size."""
    bounded: bool
    """Whether it lies within -1 and 1."""


class Cell(Struct, frozen=True, kw_only=True):
    """A kind of recurrent cell."""

    kind: CellKind
    name: str
    """Short, for options and attributes."""
    states: tuple[CellState, ...]
    """In the order in which PyTorch and ONNX take and return them."""
    pytorch_gates: Mapping[str, str]
    """Gates by the letters in PyTorch's documentation, in the order of the rows of its weights."""
    onnx_gates: Mapping[str, str]
    """The same gates by the letters in ONNX's specification, in the order of the rows there."""
    gates_with_two_biases: tuple[str, ...] = ()
    """Gates that use the recurrent bias apart from the other; elsewhere only the sum of both counts."""
    pytorch_modules: tuple[str, str]
    """Classes in `torch.nn`: of whole sequences, and of one step."""
    nonlinearity: str | None = None
    """What those classes are told to compute with, where they can be told."""
    has_projection: bool = False
    """Whether the class of whole sequences can project its output to another size."""
    onnx_operator: str
    onnx_attributes: Mapping[str, int] = {}
    """Those that make the operator compute what PyTorch does, beside `hidden_size`, `direction` and activations."""
    onnx_activations: tuple[str, ...]
    """Those of one direction."""
    default_activations: bool = True
    """Whether these are what ONNX takes where an operator names none."""
    onnxruntime_quantizes: bool = False
    """Whether `quantized_operator` is one of onnxruntime's; if not, a file brings it as a function."""

    @property
    def title(self) -> str:
        """For messages: `LSTM`, `GRU` or `RNN`."""
        return self.pytorch_modules[0]

    def describe(self, input_size: int, hidden_size: int, num_layers: int) -> str:
        """For messages, as PyTorch's constructor is given them: `LSTM(4, 16)`, `GRU(4, 16, 2 layers)`."""
        layers = f", {num_layers} layers" if num_layers > 1 else ""
        return f"{self.title}({input_size}, {hidden_size}{layers})"

    @property
    def pytorch_options(self) -> dict[str, str]:
        """What `pytorch_modules` are given beside their sizes."""
        return {} if self.nonlinearity is None else {"nonlinearity": self.nonlinearity}

    @property
    def quantized_operator(self) -> str:
        """The counterpart of the ONNX operator with int8 weights."""
        return f"DynamicQuantize{self.onnx_operator}"

    @property
    def operators(self) -> tuple[str, str]:
        """The ONNX operator, and its quantized counterpart."""
        return self.onnx_operator, self.quantized_operator

    @property
    def onnx_order(self) -> tuple[int, ...]:
        """For each gate in ONNX's order, its position in PyTorch's."""
        positions = list(self.pytorch_gates.values())
        return tuple(positions.index(gate) for gate in self.onnx_gates.values())


_H = CellState(name="h", is_output=True, bounded=True)

LSTM = Cell(
    kind="LSTM",
    name="lstm",
    states=(_H, CellState(name="c", is_output=False, bounded=False)),
    pytorch_gates={"i": "input", "f": "forget", "g": "cell", "o": "output"},
    onnx_gates={"i": "input", "o": "output", "f": "forget", "c": "cell"},
    pytorch_modules=("LSTM", "LSTMCell"),
    has_projection=True,
    onnx_operator="LSTM",
    onnx_activations=("Sigmoid", "Tanh", "Tanh"),
    onnxruntime_quantizes=True,
)
GRU = Cell(
    kind="GRU",
    name="gru",
    states=(_H,),
    pytorch_gates={"r": "reset", "z": "update", "n": "new"},
    onnx_gates={"z": "update", "r": "reset", "h": "new"},
    gates_with_two_biases=("new",),
    pytorch_modules=("GRU", "GRUCell"),
    onnx_operator="GRU",
    onnx_attributes={"linear_before_reset": 1},
    onnx_activations=("Sigmoid", "Tanh"),
)
RNN_TANH = Cell(
    kind="RNN_TANH",
    name="rnn",
    states=(_H,),
    pytorch_gates={"h": "hidden"},
    onnx_gates={"i": "hidden"},
    pytorch_modules=("RNN", "RNNCell"),
    nonlinearity="tanh",
    onnx_operator="RNN",
    onnx_activations=("Tanh",),
)
RNN_RELU = Cell(
    kind="RNN_RELU",
    name="rnn_relu",
    states=(CellState(name="h", is_output=True, bounded=False),),
    pytorch_gates={"h": "hidden"},
    onnx_gates={"i": "hidden"},
    pytorch_modules=("RNN", "RNNCell"),
    nonlinearity="relu",
    onnx_operator="RNN",
    onnx_activations=("Relu",),
    default_activations=False,
)
CELLS: Mapping[str, Cell] = {cell.kind: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU)}
"""All kinds, by `kind`."""
CELLS_BY_NAME: Mapping[str, Cell] = {cell.name: cell for cell in CELLS.values()}
RECURRENT_OPERATORS: Mapping[str, Cell] = {
    name: cell for cell in reversed(tuple(CELLS.values())) for name in cell.operators
}
"""ONNX operators of recurrent layers, each with the first kind that it computes; others have the same parts."""
