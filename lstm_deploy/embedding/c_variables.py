"""The variables of templates that call a C artifact: its functions, and the arrays that they take."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_deploy.artifacts import read_interface
from lstm_deploy.contract import CTensor, state_field
from lstm_deploy.embedding.languages import Language
from lstm_deploy.embedding.variables import width
from lstm_deploy.errors import InputError


def c_variables(source: Path, weights: str | None, language: Language) -> dict[str, Any]:
    """The variables of templates in C, and in languages that call it."""
    interface, header = read_interface(source), source.with_suffix(".h")
    mode, signature = interface.mode, interface.signature
    inputs = [_tensor(each, language) for each in interface.inputs]
    outputs = [_tensor(each, language) for each in interface.outputs]
    pointers = [f"const {each['type']} *{each['identifier']}" for each in inputs]
    pointers += [f"{each['type']} *{each['identifier']}" for each in outputs]
    return {
        "prefix": interface.name,
        "header": header.name,
        "weights": weights,
        "mapped": interface.mapped,
        "takes_steps": mode.one_step or mode.dynamic,
        "workspace": "" if mode.one_step else interface.workspace_macro,
        "workspace_bytes": "" if mode.one_step else _workspace_bytes(header.read_text(encoding="utf-8")),
        "inputs": inputs,
        "outputs": outputs,
        "states": [
            {
                "name": before.spec.name,
                "out": after.name,
                "field": state_field(before),
                "identifier": language.identifier(state_field(before)),
                "size": before.size,
            }
            for before, after in zip(interface.states_in, signature.state_outputs, strict=True)
        ],
        "timed": next((each for each in inputs if each["has_time"]), None),
        "parameters": ", ".join(pointers),
        "arguments": ", ".join(each["identifier"] for each in (*inputs, *outputs)),
        "counts": ", ".join(f"n_{each['identifier']} = 0" for each in outputs),
    }


def _workspace_bytes(header: str) -> str:
    """The bytes of a call's workspace as a header defines them: an expression of `steps` in any language."""
    definition = re.search(r"^#define \w+_WORKSPACE(?:\(steps\))? (.*) /\* bytes \*/$", header, re.MULTILINE)
    if definition is None:
        raise InputError("The header does not say what memory a call needs; export the model again.")
    return definition[1].replace("(size_t)(steps)", "steps").strip("()")


def _tensor(tensor: CTensor, language: Language) -> Mapping[str, Any]:
    spec = tensor.spec
    return {
        "name": spec.name,
        "identifier": language.identifier(tensor.name),
        "dtype": spec.dtype,
        "type": tensor.c_type,
        "native_type": language.types[spec.dtype],
        "high": int(spec.high[0]) if spec.high and tensor.c_type.startswith("int") else None,
        "size": tensor.size,
        "width": width(spec.shape),
        "has_time": tensor.has_time,
    }
