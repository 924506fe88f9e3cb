"""ONNX files made by others, given the names of a contract so that they can be judged by it."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx

from lstm_deploy.contract import CONTRACT_KEY, Signature, TensorSpec
from lstm_deploy.errors import InputError, one_line

_LETTER = re.compile(r"(?:^|[^a-z])(h|c)(?:$|[^a-z]|idden|ell|x$|n$)")
"""The h or c in names such as `h0`, `hidden_in`, `lstm.cell` or `c_n`."""
_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}


def adapt(path: Path, contract: Signature, names: Mapping[str, str] | None = None) -> tuple[bytes, list[str]]:
    """The model of a file with the contract's names in place of its own, and what it lacks, one sentence each.

    `names` says which of the file's inputs and outputs bear which name of the contract; the others are matched by
    name, then by type and shape where only one fits. A state that the file hides is missing, not an error. Raises
    `InputError` where inputs or outputs cannot be told, or the file cannot be read.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, missing weights beside the file, …
        raise InputError(f"{path} is not a valid ONNX model ({one_line(error)}); check the path.") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = list(model.graph.output)
    if unknown := set(names or ()) - {*contract.input_names, *contract.output_names}:
        known = ", ".join((*contract.input_names, *contract.output_names))
        raise InputError(f"The contract has no {min(unknown)!r}; map {known}.")
    renamed: dict[str, str] = {}
    problems: list[str] = []
    for specs, states, values, kind in (
        (contract.inputs, contract.state_inputs, inputs, "input"),
        (contract.outputs, contract.state_outputs, outputs, "output"),
    ):
        found = _match(
            (*specs, *states), values, {k: v for k, v in (names or {}).items() if _has(specs, states, k)}, kind
        )
        for spec in specs:
            if spec.name not in found:
                there = ", ".join(map(_shown, values))
                raise InputError(
                    f"Which {kind} of {path.name} is {spec} cannot be told; "
                    f"say so with --map {spec.name}=NAME ({there})."
                )
        for spec in states:
            if spec.name not in found:
                what = "so every call starts from the same state" if kind == "input" else "so no call can go on from it"
                problems.append(f"There is no {kind} for {spec.name}: the state is hidden, {what}.")
        if kind == "input" and (extra := [v.name for v in values if v.name not in found.values()]):
            raise InputError(f"{path.name} has the input {extra[0]!r}, which the contract does not have.")
        renamed |= {theirs: ours for ours, theirs in found.items()}
    _rename(model.graph, renamed)
    _complete(model.graph, contract)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    return model.SerializeToString(), problems


def _match(specs: Sequence[TensorSpec], values: Sequence[Any], given: Mapping[str, str], kind: str) -> dict[str, str]:
    """The file's name for each name of the contract that has one."""
    there = [value.name for value in values]
    if len(set(given.values())) < len(given):
        raise InputError(f"One {kind} of the file stands for two names of the contract; map each once.")
    for name in given.values():
        if name not in there:
            raise InputError(f"There is no {kind} {name!r}; there is {', '.join(there)}.")
    found = {spec.name: spec.name for spec in specs if spec.name in there} | dict(given)
    found = {ours: theirs for ours, theirs in found.items() if ours in given or theirs not in given.values()}
    while True:
        free = [value for value in values if value.name not in found.values()]
        fits = {
            spec.name: [value.name for value in free if _fits(spec, value)] for spec in specs if spec.name not in found
        }
        chosen = _only(fits) or _by_letter(fits)
        if not chosen:
            return found
        found |= chosen


def _only(fits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A name that fits one place only, and that place fits no other name."""
    for ours, theirs in fits.items():
        if len(theirs) == 1 and sum(theirs[0] in others for others in fits.values()) == 1:
            return {ours: theirs[0]}
    return {}


def _by_letter(fits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """H and c have the same shape: names tell them apart."""
    for ours, theirs in fits.items():
        letter = re.search(r"(?:^|_)([hc])_(?:in|out)$", ours)
        if letter:
            same = [name for name in theirs if (match := _LETTER.search(name.lower())) and match[1] == letter[1]]
            if len(same) == 1:
                return {ours: same[0]}
    return {}


def _fits(spec: TensorSpec, value: Any) -> bool:
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    return (
        _TYPES.get(kind.elem_type) == spec.dtype
        and len(dims) == len(spec.shape)
        and all(isinstance(ours, str) or theirs in (None, ours) for ours, theirs in zip(spec.shape, dims, strict=True))
    )


def _has(specs: Sequence[TensorSpec], states: Sequence[TensorSpec], name: str) -> bool:
    return any(spec.name == name for spec in (*specs, *states))


def _shown(value: Any) -> str:
    kind = value.type.tensor_type
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    return f"{value.name}: {_TYPES.get(kind.elem_type, 'another type')}[{', '.join(dims)}]"


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values throughout; a name that is taken inside the graph makes way."""
    ours = set(names.values())
    names = {**{name: f"{name}__inside" for name in ours if name not in names}, **names}
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for part in (node.input, node.output):
            for position, name in enumerate(part):
                part[position] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


def _complete(graph: Any, contract: Signature) -> None:
    """Put inputs and outputs in the contract's order; states that the file hides are accepted and given back."""
    constants = {tensor.name for tensor in graph.initializer}
    values = {value.name: deepcopy(value) for value in (*graph.input, *graph.output)}
    for before, after in zip(contract.state_inputs, contract.state_outputs, strict=True):
        if after.name not in {value.name for value in graph.output}:
            graph.node.append(onnx.helper.make_node("Identity", [before.name], [after.name]))
        for spec in (before, after):
            if spec.name not in values:
                values[spec.name] = onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, spec.shape)
    kept = [value.name for value in graph.input if value.name in constants]  # as old files have them
    del graph.input[:], graph.output[:]
    graph.input.extend(values[name] for name in (*contract.input_names, *kept))
    graph.output.extend(values[name] for name in contract.output_names)
