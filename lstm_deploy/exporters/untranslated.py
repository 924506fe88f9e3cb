"""Names the operators of a module that PyTorch's exporter cannot express in ONNX, and the user's lines with them."""

import re
import sys
from typing import Any

import torch
from torch.fx import Node
from torch.onnx._internal.exporter._dispatching import dispatch

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting import is_users_file

REMEDY = "keep it out of forward and export the part before or after it"
"""For what ONNX cannot express, nor C, which is made from ONNX; other operators may be another."""
if sys.version_info < (3, 14):
    REMEDY += ", or write TorchScript alone: --format torchscript"
_FRAME = re.compile(r'File "(.+?)", line (\d+)')


def untranslated(error: BaseException) -> LiftingError | None:
    """The error to raise if the exporter failed at an operator: all that it has no translation of, or that one."""
    if (failed := _failure(error)) is None:
        return None
    node, registry = failed
    missing = [other for other in node.graph.nodes if _is_missing(other, registry)] or [node]
    names = dict.fromkeys(_name(each) for each in missing)
    lines = dict.fromkeys(filter(None, map(_user_line, missing)))
    rewrite = "write it with other operators"
    if any(map(_is_complex, missing)):
        rewrite = "make complex numbers with torch.complex(real, imaginary) or torch.polar(length, angle)"
    return LiftingError(
        f"PyTorch's exporter cannot express {', '.join(names)} in ONNX{', at ' if lines else ''}"
        f"{', '.join([*lines][:3])}; {rewrite}, {REMEDY}."
    )


def _failure(error: BaseException | None) -> tuple[Node, Any] | None:
    """The operator at which the exporter failed, and the translations that it has: only its own frames tell them."""
    found = None
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            names = traceback.tb_frame.f_locals
            node, registry = names.get("node"), names.get("registry")
            if isinstance(node, Node) and node.op == "call_function" and registry is not None:
                found = node, registry
            traceback = traceback.tb_next
        error = error.__cause__
    return found


def _is_missing(node: Node, registry: Any) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and dispatch(node, registry)[0] is None


def _name(node: Node) -> str:
    target = node.target
    name = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
    return f"{name} of complex numbers" if _is_complex(node) else name


def _is_complex(node: Node) -> bool:
    values = (argument.meta.get("val") for argument in node.all_input_nodes)
    return any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


def _user_line(node: Node) -> str:
    """`FILE:LINE`: the innermost line of the user's own code that an operator stands in; empty if that is not known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return next((f"{file}:{line}" for file, line in reversed(frames) if is_users_file(file)), "")
