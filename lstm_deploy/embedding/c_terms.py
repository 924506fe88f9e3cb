"""What templates in C and C++ are told beside the contract: names that these languages allow, types, and counts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_deploy.contract import CTensor, Signature, c_tensors, state_field
from lstm_deploy.embedding.terms import width
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import read_interface

CPP_TYPES = {
    "float32": {"type": "float", "torch": "kFloat", "onnx": "FLOAT"},
    "int64": {"type": "std::int64_t", "torch": "kLong", "onnx": "INT64"},
    "int32": {"type": "std::int32_t", "torch": "kInt", "onnx": "INT32"},
    "bool": {"type": "std::uint8_t", "torch": "kBool", "onnx": "BOOL"},
}
"""Numbers in C++, LibTorch and ONNX Runtime."""
CGO_TYPES = {"unsigned char": "uchar"}
"""Names of cgo that are not those of C."""
GO_TYPES = {"float": "float32", "int64_t": "int64", "int32_t": "int32", "int8_t": "int8", "unsigned char": "uint8"}
RUST_TYPES = {"float": "f32", "int64_t": "i64", "int32_t": "i32", "int8_t": "i8", "unsigned char": "u8"}
RUST_WORDS = frozenset(
    " ".join(
        (
            "abstract as async await become box crate dyn final fn impl in let loop macro match mod move mut override",
            "priv pub ref self super trait type unsafe unsized use where yield",
        )
    ).split()
)
"""Words of Rust that are none of C or C++."""
LOCALS = frozenset(
    " ".join(
        (
            "exp fabs fail fclose fgets fmax fmin fopen fprintf fputs free fscanf isfinite isnan malloc memcpy memmove",
            "memset mbtowc printf putchar rand realloc setlocale srand stderr stdout strchr strcmp strlen strncmp",
            "strtof strtol time towlower iswalnum iswspace wctomb all_calls all_outputs outputs before found read",
            "argc argv allowed best call calls cell classify column count fail file got have i j kind known length",
            "letter line logits made most n_rows n_told name noise number numbers off pairs path piece replay resized",
            "row rows run saved seen state steps sum temperature text token tokens told trace turn weights workspace",
            "wrong",
        )
    ).split()
)
"""Names that the programs in C have for themselves."""


def c_terms(source: Path, weights: str | None) -> dict[str, Any]:
    """What templates in C, and in languages that call it, are told of the functions of a C artifact."""
    interface, header = read_interface(source), source.with_suffix(".h")
    mode, signature = interface.mode, interface.signature
    inputs = [_c_tensor(each) for each in interface.inputs]
    outputs = [_c_tensor(each) for each in interface.outputs]
    states = zip(interface.states_in, signature.state_outputs, strict=True)
    named = [each["c_name"] for each in (*inputs, *outputs)]
    return {
        "prefix": interface.name,
        "header": header.name,
        "weights": weights,
        "mapped": interface.mapped,
        "takes_steps": mode.one_step or mode.dynamic,
        "workspace": "" if mode.one_step else interface.workspace_macro,
        "workspace_bytes": "" if mode.one_step else _workspace(header.read_text(encoding="utf-8")),
        "inputs": inputs,
        "outputs": outputs,
        "states": [
            {
                "name": each.spec.name,
                "out": after.name,
                "field": state_field(each),
                "rust_field": rust_name(state_field(each)),
                "size": each.size,
            }
            for each, after in states
        ],
        "timed": next((each for each in inputs if each["has_time"]), None),
        "parameters": ", ".join(
            [
                *(f"const {each['type']} *{each['c_name']}" for each in inputs),
                *(f"{each['type']} *{each['c_name']}" for each in outputs),
            ]
        ),
        "arguments": ", ".join(named),
        "counts": ", ".join(f"n_{each['c_name']} = 0" for each in outputs),
    }


def _workspace(header: str) -> str:
    """What a header defines as the bytes that a call needs, as an expression of `steps` in any language."""
    found = re.search(r"^#define \w+_WORKSPACE(?:\(steps\))? (.*) /\* bytes \*/$", header, re.MULTILINE)
    if found is None:
        raise InputError("The header does not say what memory a call needs; export the model again.")
    return found[1].replace("(size_t)(steps)", "steps").strip("()")


def cpp_terms(signature: Signature, known: Mapping[str, Any]) -> dict[str, Any]:
    """What templates in C++ are told: of each tensor its member, type, and how many numbers it has.

    Raises `InputError` for numbers of a kind that there is no client for.
    """
    taken: set[str] = set()
    found = {}
    for group, specs in (
        ("inputs", signature.inputs),
        ("outputs", signature.outputs),
        ("states", signature.state_inputs),
    ):
        for spec in specs:
            if spec.dtype not in CPP_TYPES:
                raise InputError(f"{spec.name} is {spec.dtype}, and there is no client in C++ for that; use python.")
        names = [state_field(each) if group == "states" else each.name for each in c_tensors(specs, signature, taken)]
        found[group] = [
            {
                **each,
                **CPP_TYPES[each["dtype"]],
                "c_name": name,
                "count": " * ".join(str(dim) for dim in each["dims"] if dim != "seq") or "1",
                "width": width(each["dims"]),
                "timed": "seq" in each["dims"],
            }
            for each, name in zip(known[group], names, strict=True)
        ]
    return found


def rust_name(name: str) -> str:
    """A name of C as one of Rust, whose names are in lower case."""
    name = name.lower()
    return f"{name}_" if name in RUST_WORDS else name


def _c_tensor(tensor: CTensor) -> dict[str, Any]:
    return {
        "name": tensor.spec.name,
        "c_name": f"the_{tensor.name}" if tensor.name in LOCALS else tensor.name,
        "go_name": tensor.name[0].upper() + tensor.name[1:],
        "type": tensor.c_type,
        "high": int(tensor.spec.high[0]) if tensor.spec.high and tensor.c_type.startswith("int") else None,
        "cgo": CGO_TYPES.get(tensor.c_type, tensor.c_type),
        "go": GO_TYPES[tensor.c_type],
        "rust_name": rust_name(tensor.name),
        "rust": RUST_TYPES[tensor.c_type],
        "size": tensor.size,
        "width": width(tensor.spec.shape),
        "has_time": tensor.has_time,
    }
