"""Third-party ONNX files, given the names of a contract so that they can be compared with its model."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx

from lstm_deploy.contract import CONTRACT_KEY, Signature, TensorSpec
from lstm_deploy.errors import InputError, did_you_mean

_LETTER = re.compile(r"(?:^|[^a-z])(h|c)(?:$|[^a-z]|idden|ell|x$|n$)")
"""The h or c in names such as `h0`, `hidden_in`, `lstm.cell` or `c_n`."""


def adapt(path: Path, contract: Signature, names: Mapping[str, str] | None = None) -> tuple[onnx.ModelProto, list[str]]:
    """The model of a file with the contract's names in place of its own, and what it lacks, one sentence each.

    `names` says which of the file's inputs and outputs bear which name of the contract; the others are matched by
    name, then by type and shape where only one fits. A state that the file hides is missing, not an error. Raises
    `InputError` where an input or output cannot be identified.
    """
    model = onnx.load(path)
    given = names or {}
    if unknown := set(given) - {*contract.input_names, *contract.output_names}:
        known = (*contract.input_names, *contract.output_names)
        raise InputError(f"The contract has no {min(unknown)!r}; {did_you_mean(min(unknown), known)}")
    constants = {tensor.name for tensor in model.graph.initializer}
    renamed: dict[str, str] = {}
    problems: list[str] = []
    for specs, states, values, kind in (
        (contract.inputs, contract.state_inputs, model.graph.input, "input"),
        (contract.outputs, contract.state_outputs, model.graph.output, "output"),
    ):
        theirs = [_spec_of(value) for value in values if value.name not in constants or kind == "output"]
        mapped = {spec.name: given[spec.name] for spec in (*specs, *states) if spec.name in given}
        names_of = _match((*specs, *states), theirs, mapped, kind)
        if missing := [spec for spec in specs if spec.name not in names_of]:
            raise InputError(
                f"It is unclear which {kind} of {path.name} is {missing[0]}; "
                f"name it with --map {missing[0].name}=NAME ({', '.join(map(str, theirs))})."
            )
        why = "so every call starts from the same state" if kind == "input" else "so no call can go on from it"
        hidden = [spec.name for spec in states if spec.name not in names_of]
        problems += [f"There is no {kind} for {name}: the state is hidden, {why}." for name in hidden]
        extra = [spec.name for spec in theirs if spec.name not in names_of.values()]
        if kind == "input" and extra:
            wanted = ", ".join(str(spec) for spec in (*specs, *states) if spec.name not in names_of) or "nothing more"
            raise InputError(
                f"{path.name} has the input {_listed(theirs, extra)}, and the contract has {wanted}; if it is one of "
                "these, name it with --map OURS=THEIRS, and if it is a state in another form, export the weights with "
                "lstm-deploy in place of this file."
            )
        renamed |= {name: ours for ours, name in names_of.items()}
    _rename(model.graph, renamed)
    _complete(model.graph, contract)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    return model, problems


def _listed(specs: Sequence[TensorSpec], names: Sequence[str]) -> str:
    return ", ".join(str(spec) for spec in specs if spec.name in names)


def _match(
    specs: Sequence[TensorSpec], theirs: Sequence[TensorSpec], given: Mapping[str, str], kind: str
) -> dict[str, str]:
    """The file's name for each name of the contract that has one."""
    there = [spec.name for spec in theirs]
    if len(set(given.values())) < len(given):
        raise InputError(f"One {kind} of the file stands for two names of the contract; map each once.")
    for name in given.values():
        if name not in there:
            raise InputError(f"There is no {kind} {name!r}; {did_you_mean(name, there)}")
    matched = {spec.name: spec.name for spec in specs if spec.name in there and spec.name not in given.values()}
    matched |= given
    while True:
        free = [spec for spec in theirs if spec.name not in matched.values()]
        fits = {
            ours.name: [spec.name for spec in free if _fits(ours, spec)] for ours in specs if ours.name not in matched
        }
        chosen = _only(fits) or _by_letter(fits)
        if not chosen:
            return matched
        matched |= chosen


def _only(fits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A name of the contract that one value alone fits, which fits no other name."""
    for ours, theirs in fits.items():
        if len(theirs) == 1 and sum(theirs[0] in values for values in fits.values()) == 1:
            return {ours: theirs[0]}
    return {}


def _by_letter(fits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """H and c have the same shape: names tell them apart."""
    for ours, theirs in fits.items():
        if letter := re.search(r"(?:^|_)([hc])_(?:in|out)$", ours):
            same = [name for name in theirs if (match := _LETTER.search(name.lower())) and match[1] == letter[1]]
            if len(same) == 1:
                return {ours: same[0]}
    return {}


def _fits(ours: TensorSpec, theirs: TensorSpec) -> bool:
    return (ours.dtype, len(ours.shape)) == (theirs.dtype, len(theirs.shape)) and all(
        isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(ours.shape, theirs.shape, strict=True)
    )


def _spec_of(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    dtype: Any = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "no tensor"
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(shape))


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values throughout; a name that is taken inside the graph makes way."""
    names = {**{name: f"{name}__inside" for name in names.values() if name not in names}, **names}
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for part in (node.input, node.output):
            part[:] = [names.get(name, name) for name in part]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


def _complete(graph: Any, contract: Signature) -> None:
    """Put inputs and outputs in the contract's order; states that the file hides are accepted and returned."""
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
