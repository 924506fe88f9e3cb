"""What a template is told of a model: its contract as plain words and numbers."""

import re
from collections.abc import Sequence
from typing import Any

from lstm_deploy.artifacts import Artifact, Bundle
from lstm_deploy.contract import (
    Classify,
    Dim,
    Forecast,
    LanguageModel,
    Signature,
    TensorSpec,
    carries_state,
    comment_safe,
    layout_of,
    rollout_contract,
    widths,
)
from lstm_deploy.errors import InputError

USAGE = {
    "forecast": "run FILE.csv [STEPS]",
    "lm": "run TEXT [CHARACTERS] [TEMPERATURE]",
    "classify": "run TEXT...",
    "": "run FILE.csv",
}
"""What each program does for its task, on the command line."""
_NAME = re.compile(r"[A-Za-z_][\w.:/-]*", re.ASCII)


def terms(bundle: Bundle, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """All that templates may ask for, of a bundle and the artifacts that go with the program.

    Raises `InputError` for a contract that no client could keep.
    """
    signature = bundle.signature
    task = _task(signature)
    return {
        "name": comment_safe(bundle.manifest.name).replace("`", "'"),
        "slug": re.sub(r"[^a-z0-9]+", "-", bundle.manifest.name.lower()).strip("-") or "model",
        "files": {artifact.format: artifact.path for artifact in artifacts},
        "inputs": [_tensor(signature, spec) for spec in signature.inputs],
        "outputs": [_tensor(signature, spec) for spec in signature.outputs],
        "states": [
            {**_tensor(signature, before), "out": after.name, "initial": start}
            for before, after, start in zip(
                signature.state_inputs,
                signature.state_outputs,
                [start for module in signature.recurrent for start in module.initial],
                strict=True,
            )
        ],
        "batch_axis": signature.batch_axis_of_state,
        "batch": next((dim.size for dim in signature.fixed if dim.name == "batch"), None),
        "least_seq": signature.least_seq,
        "streaming": signature.streaming,
        "task": task,
        "usage": USAGE[task["kind"] if task else ""] if task or len(signature.inputs) == 1 else "",
    }


def _tensor(signature: Signature, spec: TensorSpec) -> dict[str, Any]:
    """Its name, type and dims, of which `batch` and `seq` may be open."""
    fixed = {dim.name: dim.size for dim in signature.fixed}
    dims = [fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape]
    if odd := [dim for dim in dims if isinstance(dim, str) and dim not in ("batch", "seq")]:
        raise InputError(
            f"{spec.name} has the size {odd[0]!r} beside batch and seq, which no generated client can tell from the "
            "numbers it is given; call this model by its runtime, as the README does."
        )
    if not _NAME.fullmatch(spec.name):
        raise InputError(f"{spec.name!r} is no name that a program can be written with; export the model again.")
    return {"name": spec.name, "dtype": spec.dtype, "dims": dims, "width": width(dims)}


def width(dims: Sequence[Dim]) -> int:
    """Numbers in one row of a tensor, the innermost."""
    return dims[-1] if dims and isinstance(dims[-1], int) else 1


def _task(signature: Signature) -> dict[str, Any] | None:
    """What the model is for, or none where a program can only call it."""
    task = signature.task
    try:
        layout = layout_of(signature)
    except InputError:
        return None
    assert task is not None
    found = {
        "one_hot": layout.one_hot,
        "window": layout.window,
        "carries": carries_state(signature),
        "says": widths(task)[1],
    }
    # Of one row, the numbers after the last step lie together, unless time is the last axis.
    found["strided"] = layout.y_has_features and layout.y_time_axis == len(signature.outputs[0].shape) - 1
    try:
        rollout_contract(signature)
        found["rolls"] = True
    except InputError:
        found["rolls"] = False
    match task:
        case Forecast():
            return found | {
                "kind": "forecast",
                "features": task.features,
                "targets": task.targets,
                "horizon": task.horizon,
                "window": task.window,
            }
        case LanguageModel() if found["rolls"]:
            return found | {"kind": "lm", "vocabulary": task.vocabulary, "unit": task.unit}
        case Classify():
            return found | {
                "kind": "classify",
                "vocabulary": task.vocabulary,
                "labels": task.labels,
                "unit": task.unit,
                "unknown": task.unknown,
            }
    return None
