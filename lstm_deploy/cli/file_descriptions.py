"""What `inspect` says of a file or bundle. Nothing is run, and only PyTorch's own weight files need PyTorch."""

import re
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec
import onnx
from msgspec.structs import asdict
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from lstm_deploy.artifacts import (
    Bundle,
    carried_contract,
    int8_saturation,
    is_torchscript,
    lint,
    onnx_graph,
    read_interface,
    restore,
    weights_file,
)
from lstm_deploy.contract import Signature
from lstm_deploy.errors import InputError
from lstm_deploy.training import checkpoint

FROM_MANIFEST = (
    *("contract", "source", "findings", "notes", "artifacts", "rollouts"),
    *("training", "versions", "created"),
)

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Suffixes of files of weights, which may have any other."""


def describe(path: Path) -> dict[str, Any]:
    """A description of `path` as a JSON document with at least `kind`, `bytes` and, where it has one, `contract`.

    Raises `InputError` for any other file.
    """
    restore(path)
    if path.is_dir():
        return _bundle(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; give a checkpoint, a bundle or an artifact.")
    match path.suffix:
        case ".safetensors" if checkpoint.is_checkpoint(path):
            return _checkpoint(path)
        case ".onnx":
            return _onnx(path)
        case ".c":
            return _c(path)
        case ".torchscript":
            return _torchscript(path)
    return _by_content(path)


def _by_content(path: Path) -> dict[str, Any]:
    """TorchScript or weights, whatever the file is called; raises `InputError` with what there is beside."""
    if is_torchscript(path):
        return _torchscript(path)
    try:
        return _weights(path)
    except InputError as error:
        if path.suffix in WEIGHTS or not str(error).endswith("; check the path."):
            raise
        reason = str(error).removeprefix(f"{path} ").removesuffix("; check the path.")
        raise InputError(
            f"{path} {reason}, and no bundle, .onnx, .torchscript or .c; give one of these, or weights "
            f"({', '.join(WEIGHTS)})."
        ) from error


def contract_of(document: dict[str, Any]) -> Signature | None:
    """The contract in what `describe` returned."""
    found = document.get("contract")
    return None if found is None else msgspec.convert(found, Signature)


def _bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle(path)
    manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
    parity = bundle.manifest.parity
    return {
        "kind": "bundle",
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "changed_files": bundle.changed_files(),
        "validated": bool(parity and parity.passed),
        **{key: manifest[key] for key in FROM_MANIFEST},
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    spec = checkpoint.read_spec(path)
    tensors = checkpoint.read_tensors(path)
    return {
        "kind": "checkpoint",
        "bytes": path.stat().st_size,
        "network": asdict(spec.network),
        "task": msgspec.to_builtins(spec.task),
        "training": spec.training,
        "tensors": {name: f"{value.dtype}{list(value.shape)}" for name, value in tensors.items()},
    }


def _weights(path: Path, kind: str = "weights") -> dict[str, Any]:
    """A file of third-party weights, and the network inferred from it if possible; reading it needs PyTorch."""
    from lstm_deploy.lifting import choose, describe_recurrent, open_weights, recognize

    file = open_weights(path)
    tensors = file.tensors
    findings: list[str] = []
    unrecognized = None
    try:
        choice = choose(path, None)
        findings += [*choice.findings, *recognize(choice.weights, (), path, choice.key).findings]
    except InputError as error:
        unrecognized = re.sub(r" \(tensors: .*?\)(?=: )", "", str(error))  # which are listed below
        if " --" in unrecognized:  # options which `inspect` has not
            unrecognized = f"{unrecognized.removesuffix('.')}, in lstm-deploy export {quote(str(path))}."
    return {
        "kind": kind,
        "bytes": path.stat().st_size,
        "contract": None,
        "inferred": findings,
        "unrecognized": unrecognized,
        "recurrent": {
            path or "(top)": text
            for path, text in describe_recurrent({name: value.shape for name, value in tensors.items()}).items()
        },
        "left_out": file.objects,
        "tensors": {
            name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for name, value in tensors.items()
        },
    }


def _onnx(path: Path) -> dict[str, Any]:
    model = onnx_graph.load(path)
    text = onnx_graph.contract_text(model)
    contract = Signature.from_json(text) if text else None
    precision, saturates = onnx_graph.precision(model), int8_saturation.problems(model, path.parent)
    cpus = "all"
    if saturates and int8_saturation.needs_vnni(model):
        saturates, cpus = [], int8_saturation.VNNI_ONLY
    return {
        "kind": "onnx",
        "bytes": path.stat().st_size,
        "precision": precision,
        "cpus": cpus if precision == "int8" and not saturates else None,
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "producer": model.producer_name,
        "weights_beside": onnx_graph.files_beside(onnx.load(path, load_external_data=False)),
        "inputs": _values(model, "input"),
        "outputs": _values(model, "output"),
        "operators": dict(onnx_graph.operator_counts(onnx_graph.inlined(model)).most_common()),
        "state": lint.states(model),
        "lint": [*lint.lint(model, contract), *saturates],
        "contract": msgspec.to_builtins(contract) if contract else None,
    }


def _torchscript(path: Path) -> dict[str, Any]:
    if not is_torchscript(path):
        raise InputError(f"{path} is not a TorchScript archive; check the path.")
    contract = carried_contract(path)
    if contract is None:
        return _weights(path, "torchscript")
    return {"kind": "torchscript", "bytes": path.stat().st_size, "contract": msgspec.to_builtins(contract)}


def _c(path: Path) -> dict[str, Any]:
    interface = read_interface(path)
    files = [path, path.with_suffix(".h"), *([weights_file(path)] if interface.mapped else [])]
    return {
        "kind": "c",
        "bytes": sum(file.stat().st_size for file in files if file.exists()),
        "precision": interface.precision,
        "functions": [head for _, head in interface.prototypes().values()],
        "contract": msgspec.to_builtins(interface.signature),
    }


def _values(model: ModelProto, which: str) -> dict[str, str]:
    """Inputs or outputs of a graph as `float32[batch, seq, 4]`, by name."""
    values = {}
    for value in getattr(model.graph, which):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            values[value.name] = (value.type.WhichOneof("value") or "unknown").removesuffix("_type")
            continue
        dims = [dim.dim_param or str(dim.dim_value) if dim.WhichOneof("value") else "?" for dim in tensor.shape.dim]
        values[value.name] = f"{tensor_dtype_to_np_dtype(tensor.elem_type)}[{', '.join(dims)}]"
    return values
