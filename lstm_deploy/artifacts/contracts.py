"""The contract inside an artifact of any format, read without running it."""

from pathlib import Path

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.c_source import read_interface
from lstm_deploy.artifacts.torchscript_archives import extra_files
from lstm_deploy.contract import CONTRACT_FILE, Signature


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
