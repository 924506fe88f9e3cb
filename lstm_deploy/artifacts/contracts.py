"""The contract inside an artifact of any format, read without running it."""

from pathlib import Path

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.c_source import read_interface
from lstm_deploy.artifacts.torchscript_archives import extra_files
from lstm_deploy.contract import CONTRACT_FILE, Signature
from lstm_deploy.errors import InputError


def without_contract(path: Path, then: str = "") -> InputError:
    """The error for a file that carries no contract; `then` says more of what becomes possible after an export."""
    ways = f"export the weights with lstm-deploy and use that bundle{then}"
    if path.suffix == ".onnx":
        ways = f"write one with it by lstm-deploy validate {path} --reference WEIGHTS -o FILE, or {ways}"
    return InputError(f"{path} carries no contract, so which of its inputs are the state is unknown; {ways}.")


def carried_contract(path: Path) -> Signature | None:
    """The contract that a file carries; None for ONNX and TorchScript that others wrote.

    Raises `InputError` for a file that cannot be read, or whose contract cannot.
    """
    text: str | bytes | None
    match path.suffix:
        case ".c":
            return read_interface(path).signature
        case ".onnx":
            text = onnx_graph.contract_text(onnx_graph.load(path))
        case _:
            text = extra_files(path).get(CONTRACT_FILE)
    return Signature.from_json(text) if text else None
