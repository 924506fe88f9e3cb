"""A trace holds the device that it was made on as a constant; here its constants lie where its inputs are.

A tracer writes `x.device` as `"cpu"` and a tensor that the code makes as a constant, so that a file that was traced
on the CPU mixes devices on any other. But the lengths of packed rows have to stay on the CPU, as PyTorch wants them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BUFFER = "constant_"
"""Begins the names of the buffers that hold constants."""
_PACKING = ("aten::_pack_padded_sequence", "aten::_pad_packed_sequence")
"""Operators whose second output, the numbers of rows or the lengths, is on the CPU."""


def constants_of(script: Any) -> dict[str, list[Tensor]]:
    """The tensors in the code of each module of a trace, by the path of the module, in the order of its code."""
    return {path: [node.t("value") for node in _constants(child.graph)] for path, child in _modules(script)}


def keep_constants(module: nn.Module, constants: dict[str, list[Tensor]]) -> None:
    """Register these tensors as buffers, which go with a module to any device."""
    for path, tensors in constants.items():
        for number, tensor in enumerate(tensors):
            module.get_submodule(path).register_buffer(f"{BUFFER}{number}", tensor.clone())


def follow_inputs(script: Any) -> None:
    """Let all devices in the code of a trace be that of the inputs, and all tensors the buffers that hold them.

    The trace is of a module after `keep_constants`.
    """
    for _, child in _modules(script):
        graph = child.graph
        own, *inputs = graph.inputs()
        for number, node in enumerate(_constants(graph)):
            attribute = graph.create("prim::GetAttr", [own], 1)
            attribute.s_("name", f"{BUFFER}{number}")
            attribute.output().setType(torch._C.TensorType.get())
            attribute.insertBefore(node)
            node.output().replaceAllUsesWith(attribute.output())
        first = next((value for value in inputs if value.type().kind() == "TensorType"), None)
        if first is not None:
            _follow(graph, first)


def _follow(graph: Any, value: Any) -> None:
    """Replace the devices in the code of one module by that of one of its inputs."""
    kept = _on_cpu(graph)
    places = [
        (node, offset)
        for node in list(_nodes(graph))
        for offset, given in enumerate(node.inputs())
        if _is_device(node, offset, given) and not any(output.debugName() in kept for output in node.outputs())
    ]
    if places:
        device = graph.create("prim::device", [value], 1)
        device.output().setType(torch._C.DeviceObjType.get())
        graph.prependNode(device)
        for node, offset in places:
            node.replaceInput(offset, device.output())


def _is_device(node: Any, offset: int, given: Any) -> Any:
    """Whether an input of a node says where its result is: a device, or none for a new tensor that is like no other."""
    if given.type().kind() == "DeviceObjType":
        return given.node().kind() == "prim::Constant"
    is_new = given.type().kind() == "NoneType" and not any(map(_is_tensor, node.inputs()))
    return is_new and f"{node.schema()}(".partition("(")[2].split(", ")[offset].startswith("Device?")


def _on_cpu(graph: Any) -> set[str]:
    """The values that have to stay on the CPU: lengths of packed rows, what they follow from, and what follows."""
    found: set[str] = set()
    before, after = [], []
    for node in _nodes(graph):
        if node.kind() == "aten::_pack_padded_sequence":
            before.append(node.inputsAt(1))
        if node.kind() in _PACKING:
            after.append(node.outputsAt(1))
    while before or after:
        forward = bool(after)
        value = (after or before).pop()
        if value.debugName() in found:
            continue
        found.add(value.debugName())
        node = value.node()
        if forward:
            for use in value.uses():
                if use.user.kind() not in (*_PACKING, "aten::lstm") and not _moves(use.user):
                    after += filter(_is_tensor, use.user.outputs())
                    before += filter(_is_tensor, use.user.inputs())
        elif not _moves(node):
            before += filter(_is_tensor, node.inputs())
    return found


def _moves(node: Any) -> bool:
    """Whether a node brings a tensor to a device."""
    return node.kind() == "aten::to" and any(value.type().kind() == "DeviceObjType" for value in node.inputs())


def _is_tensor(value: Any) -> Any:
    return value.type().isSubtypeOf(torch._C.TensorType.get()) or value.type().kind() == "ListType"


def _modules(script: Any) -> Iterator[tuple[str, Any]]:
    """The modules of a trace that have code of their own, by path."""
    return ((path, child) for path, child in script.named_modules() if child._c._has_method("forward"))


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _constants(graph: Any) -> list[Any]:
    """The nodes that hold a tensor, but for what has to stay on the CPU."""
    kept = _on_cpu(graph)
    return [node for node in _nodes(graph) if _holds_tensor(node) and node.output().debugName() not in kept]


def _holds_tensor(node: Any) -> Any:
    return node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t"
