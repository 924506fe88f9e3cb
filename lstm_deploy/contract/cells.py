"""Kinds of recurrent cells: one record for each, with the names and orders that PyTorch and ONNX give its parts."""

from collections.abc import Mapping

from msgspec import Struct


class CellState(Struct, frozen=True, kw_only=True):
    """A tensor that a cell carries from step to step."""

    name: str
    is_output: bool
    """Whether it is also the cell's output: then it lies within -1 and 1, and a projection sets its size."""


class Cell(Struct, frozen=True, kw_only=True):
    """A kind of recurrent cell."""

    states: tuple[CellState, ...]
    """In the order in which PyTorch and ONNX take and return them."""
    pytorch_gates: Mapping[str, str]
    """Gates by the letters in PyTorch's documentation, in the order of the rows of its weights."""
    onnx_gates: Mapping[str, str]
    """The same gates by the letters in ONNX's specification, in the order of the rows there."""
    pytorch_modules: tuple[str, ...]
    """Classes in `torch.nn`."""
    onnx_operator: str
    quantized_operator: str
    """Its counterpart with int8 weights, in onnxruntime's domain `com.microsoft`."""

    @property
    def operators(self) -> tuple[str, str]:
        """The ONNX operator and its quantized counterpart."""
        return self.onnx_operator, self.quantized_operator

    @property
    def onnx_order(self) -> tuple[int, ...]:
        """For each gate in ONNX's order, its position in PyTorch's."""
        positions = list(self.pytorch_gates.values())
        return tuple(positions.index(gate) for gate in self.onnx_gates.values())


LSTM = Cell(
    states=(CellState(name="h", is_output=True), CellState(name="c", is_output=False)),
    pytorch_gates={"i": "input", "f": "forget", "g": "cell", "o": "output"},
    onnx_gates={"i": "input", "o": "output", "f": "forget", "c": "cell"},
    pytorch_modules=("LSTM", "LSTMCell"),
    onnx_operator="LSTM",
    quantized_operator="DynamicQuantizeLSTM",
)
