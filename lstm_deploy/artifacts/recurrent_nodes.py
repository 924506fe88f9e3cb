"""Which kind of PyTorch's cells a recurrent node of an ONNX graph computes."""

from collections.abc import Iterator

import onnx

from lstm_deploy.contract import CELLS, RECURRENT_OPERATORS, Cell

ALTERING = ("clip", "input_forget", "linear_before_reset")
"""Attributes that change what a node computes, and are 0 where it has none."""


def cell_of_node(node: onnx.NodeProto) -> Cell | None:
    """The kind of cell that a node computes, as far as its attributes say; none if PyTorch has no such cell."""
    kinds = [cell for cell in CELLS.values() if node.op_type in cell.operators]
    return next((cell for cell in kinds if not any(_differences(node, cell))), None)


def differing_attributes(node: onnx.NodeProto) -> list[str]:
    """The attributes with which a recurrent node computes what none of PyTorch's cells does, as in `clip`."""
    if cell_of_node(node) is not None:
        return []
    return [*_differences(node, RECURRENT_OPERATORS[node.op_type])]


def _differences(node: onnx.NodeProto, cell: Cell) -> Iterator[str]:
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    for name in ALTERING:
        if given.get(name, 0) != cell.onnx_attributes.get(name, 0):
            yield name
    activations = [name.decode().lower() for name in given.get("activations", ())]
    one = [name.lower() for name in cell.onnx_activations]
    if activations not in (one, 2 * one) and (activations or not cell.default_activations):
        yield "activations"
