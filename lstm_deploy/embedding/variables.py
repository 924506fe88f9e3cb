"""The variables of all templates: the contract of a model in plain words and numbers."""

import re
from collections.abc import Sequence
from math import prod
from typing import Any

from lstm_deploy.artifacts import Artifact, Bundle
from lstm_deploy.contract import (
    Classify,
    Dim,
    Forecast,
    LanguageModel,
    Signature,
    TensorSpec,
    c_tensors,
    carries_state,
    comment_safe,
    layout_of,
    no_rollout_reason,
    state_field,
    widths,
)
from lstm_deploy.embedding.languages import Language
from lstm_deploy.errors import InputError

USAGE = {
    "forecast": "run FILE.csv [STEPS]",
    "lm": "run TEXT [CHARACTERS] [TEMPERATURE]",
    "classify": "run TEXT...",
    "": "run FILE.csv",
}
"""The command line of a program for its task."""
_NAME = re.compile(r"[A-Za-z_][\w.:/-]*", re.ASCII)
_VERSION = re.compile(r"\d+(\.\d+)*\w*", re.ASCII)


def model_variables(bundle: Bundle, artifacts: Sequence[Artifact], language: Language) -> dict[str, Any]:
    """The variables of all templates, for a bundle and the `artifacts` that go with the program.

    Raises `InputError` for a contract that no client could keep, or none in this language.
    """
    signature = bundle.signature
    task = _task(signature)
    starts = [state.initial for state in signature.state_specs]
    after = zip(signature.state_outputs, starts, strict=True)
    variables = {
        "name": comment_safe(bundle.manifest.name).replace("`", "'"),
        "slug": re.sub(r"[^a-z0-9]+", "-", bundle.manifest.name.lower()).strip("-") or "model",
        "files": {artifact.format: artifact.path for artifact in artifacts},
        "versions": _versions(bundle),
        "proven": "PyTorch's" if artifacts[0].precision == "float32" else "the export's",
        "inputs": [_tensor(signature, spec) for spec in signature.inputs],
        "outputs": [_tensor(signature, spec) for spec in signature.outputs],
        "states": [
            {**_tensor(signature, before), "out": spec.name, "initial": start}
            for before, (spec, start) in zip(signature.state_inputs, after, strict=True)
        ],
        "batch_axis": signature.batch_axis_of_state,
        "batch": signature.fixed_size("batch"),
        "least_seq": signature.least_seq,
        "streaming": signature.streaming,
        "one_step": signature.one_step,
        "task": task,
        "usage": USAGE[task["kind"] if task else ""] if task or len(signature.inputs) == 1 else "",
    }
    if language.types:
        _declare(signature, variables, language)
    return variables


def _versions(bundle: Bundle) -> dict[str, str]:
    """The releases of runtimes that a bundle was proven with; empty where none is known."""
    found = bundle.manifest.versions
    given = {
        "torch": found.get("torch", ""),
        "onnxruntime": found.get("onnxruntime") or found.get("onnxruntime-gpu") or "",
    }
    # A build for a GPU or a CPU, as in 2.9.0+cpu, is no other release; what is no version is a stranger's text.
    return {name: match[0] if (match := _VERSION.match(text)) else "" for name, text in given.items()}


def _tensor(signature: Signature, spec: TensorSpec) -> dict[str, Any]:
    """A tensor's name, type and dims, of which `batch` and `seq` may be open."""
    dims = [(signature.fixed_size(dim) or dim) if isinstance(dim, str) else dim for dim in spec.shape]
    if unknown := [dim for dim in dims if isinstance(dim, str) and dim not in ("batch", "seq")]:
        raise InputError(
            f"{spec.name} has the size {unknown[0]!r} beside batch and seq, which no generated client can tell from "
            "the numbers it is given; call this model by its runtime, as the README does."
        )
    if not _NAME.fullmatch(spec.name):
        raise InputError(f"{spec.name!r} is no name that a program can be written with; export the model again.")
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "dims": dims,
        "width": width(dims),
        "count": " * ".join(str(dim) for dim in dims if dim != "seq") or "1",
        "size": prod(dim for dim in dims if isinstance(dim, int)),
        "has_time": "seq" in dims,
    }


def _declare(signature: Signature, variables: dict[str, Any], language: Language) -> None:
    """Add to tensors the name and type that a program declares them with."""
    taken: set[str] = set()
    for group, specs in (
        ("inputs", signature.inputs),
        ("outputs", signature.outputs),
        ("states", signature.state_inputs),
    ):
        for spec in specs:
            if spec.dtype not in language.types:
                raise InputError(
                    f"{spec.name} is {spec.dtype}, for which there is no client in this language; use python."
                )
        for variable, tensor in zip(variables[group], c_tensors(specs, signature, taken), strict=True):
            variable["identifier"] = language.identifier(state_field(tensor) if group == "states" else tensor.name)
            variable["native_type"] = language.types[tensor.spec.dtype]


def width(dims: Sequence[Dim]) -> int:
    """The size of the innermost axis of a tensor, 1 if it is open."""
    return dims[-1] if dims and isinstance(dims[-1], int) else 1


def _task(signature: Signature) -> dict[str, Any] | None:
    """The task of the model, or none where a program can only call it."""
    task = signature.task
    try:
        layout = layout_of(signature)
    except InputError:
        return None
    assert task is not None
    rolls = not no_rollout_reason(signature)
    variables = {
        "one_hot": layout.one_hot,
        "window": layout.window,
        "carries": carries_state(signature),
        "output_width": widths(task)[1],
        # Of one row, the numbers after the last step lie together, unless time is the last axis.
        "strided": layout.y_has_features and layout.y_time_axis == len(signature.outputs[0].shape) - 1,
        "rolls": rolls,
    }
    fields: tuple[str, ...]
    match task:
        case Forecast():
            fields, kind = ("features", "targets", "horizon", "window"), "forecast"
        case LanguageModel() if rolls:
            fields, kind = ("vocabulary", "unit"), "lm"
        case Classify():
            fields, kind = ("vocabulary", "labels", "unit", "unknown"), "classify"
        case _:
            return None
    return variables | {"kind": kind} | {name: getattr(task, name) for name in fields}
