"""The writer of TorchScript, with the contract and, if the network is ours, how to build it again."""

import sys
import warnings
from pathlib import Path

import msgspec
import torch

from lstm_deploy.contract import CONTRACT_FILE
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.onnx import frozen_line
from lstm_deploy.lifting import Lifted, frozen_size_error, trace, wrong_sizes
from lstm_deploy.training import NETWORK_FILE, InferredConfig, NetworkConfig, NetworkDocument


def export_torchscript(lifted: Lifted, path: Path) -> None:
    """Trace to `path`, and leave `lifted` as it was.

    Raises `InputError` on Python 3.14 or later, and `LiftingError` if the trace is right at some sizes only.
    """
    if sys.version_info >= (3, 14):
        raise InputError(
            "PyTorch does not support TorchScript on Python 3.14 or later; "
            "export with Python 3.13, or with --format onnx only."
        )
    traced = trace(lifted)
    if wrong := wrong_sizes(traced, lifted):
        raise frozen_size_error(traced.frozen or frozen_line(lifted), wrong[0])
    extra = {CONTRACT_FILE: lifted.signature.to_json()}
    config = getattr(lifted.module, "config", None)
    if isinstance(config, NetworkConfig | InferredConfig):
        extra[NETWORK_FILE] = msgspec.json.encode(NetworkDocument(network=config), order="sorted").decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        torch.jit.save(traced.script, str(path), _extra_files=extra)
