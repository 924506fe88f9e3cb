"""Who wrote an artifact, and with which versions: what says whether its structure can be held against a fresh one."""

import re
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lstm_deploy.artifacts.torchscript_archives import extra_files
from lstm_deploy.errors import InputError

PRODUCER = "lstm-deploy"
PRODUCER_FILE = "producer.txt"
"""Name of the extra file of a TorchScript archive with the versions that wrote it."""
_IN_C = re.compile(r"^/\* written by (.*) \*/$", re.MULTILINE)


def producer_of(path: Path) -> str:
    """The versions that an artifact says it was written with, as `environment.writers` gives them; else empty."""
    try:
        if path.suffix == ".onnx":
            model = onnx.load(path, load_external_data=False)
            return model.producer_version if model.producer_name == PRODUCER else ""
        if path.suffix == ".c":
            match = _IN_C.search(path.read_text(encoding="utf-8"))
            return match[1] if match else ""
        return extra_files(path).get(PRODUCER_FILE, b"").decode()
    except (InputError, OSError, UnicodeDecodeError, DecodeError):
        return ""  # other checks say what is wrong with such a file
