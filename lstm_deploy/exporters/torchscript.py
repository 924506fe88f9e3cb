"""The writer of TorchScript, with the contract and, if the network is ours, how to build it again."""

import re
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from lstm_deploy.artifacts import PRODUCER_FILE, environment
from lstm_deploy.contract import CONTRACT_FILE
from lstm_deploy.errors import InputError
from lstm_deploy.exporters import traced_devices
from lstm_deploy.exporters.onnx import frozen_line
from lstm_deploy.lifting import (
    Lifted,
    StatefulCell,
    StatefulSequence,
    flat_weights,
    frozen_size_error,
    is_plain,
    shared_copy,
    specialize,
    trace,
    wrong_sizes,
)
from lstm_deploy.training import NETWORK_FILE, InferredConfig, NetworkConfig, NetworkDocument

_NUMBERED = re.compile(rb"___torch_mangle_(\d+)")
"""What PyTorch puts into the name of each class whose name is taken in its process."""
_VERSION = re.compile(r"version|\.data/version")
"""The record of the format's version; the second from version 6 on."""
_LEFT_OUT = re.compile(rf".*\.debug_pkl|traced_inputs.*|{_VERSION.pattern}|\.data/serialization_id")
"""Records that say where the user's code lies and what it was traced with, and those that a writer adds by itself."""


class FlatSequence(StatefulSequence):
    """A stateful module whose weights are slices of one parameter."""

    layout: flat_weights.Layout
    numel: int
    """Of that parameter: its own size would be computed anew in each call of a trace."""

    @property
    def _flat_weights(self) -> list[Tensor]:  # type: ignore[override]
        """What `nn.RNNBase` computes with."""
        weights = self._weights()
        return [weights[name] for name in self._flat_weights_names]

    def __getattr__(self, name: str) -> Any:
        """A weight by its name, for a `forward` that reads it."""
        if name in dict(self.__dict__.get("layout", ())):
            return self._weights()[name]
        return super().__getattr__(name)

    def _weights(self) -> dict[str, Tensor]:
        return flat_weights.split(self.get_parameter(flat_weights.FLAT), self.layout, self.numel)

    def flatten_parameters(self) -> None:
        """Nothing: they are one already."""

    def _update_flat_weights(self) -> None:
        """Nothing: they are slices already."""


def export_torchscript(lifted: Lifted, path: Path) -> None:
    """Trace to `path`, and leave `lifted` as it was.

    Raises `InputError` on Python 3.14 or later, and `LiftingError` if the trace is right at some sizes only.
    """
    if sys.version_info >= (3, 14):
        raise InputError(
            "PyTorch does not support TorchScript on Python 3.14 or later; "
            "export with Python 3.13, or with --format onnx only."
        )
    flat, layouts = _flat_copy(lifted)
    # Now all names of its classes are taken, in any process, so that the next trace has numbers in each.
    traced_devices.keep_constants(flat, traced_devices.constants_of(trace(flat).script))
    traced = trace(flat)
    traced_devices.follow_inputs(traced.script)
    if wrong := wrong_sizes(traced, lifted):
        raise frozen_size_error(traced.frozen or frozen_line(lifted), wrong[0])
    extra = {CONTRACT_FILE: lifted.signature.to_json(), PRODUCER_FILE: environment.writers()}
    config = getattr(lifted.module, "config", None)
    if isinstance(config, NetworkConfig | InferredConfig):
        extra[NETWORK_FILE] = msgspec.json.encode(NetworkDocument(network=config), order="sorted").decode()
    if layouts:
        extra[flat_weights.LAYOUTS_FILE] = msgspec.json.encode(layouts, order="sorted").decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        with TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name  # PyTorch calls the folder inside after the file
            torch.jit.save(traced.script, str(written), _extra_files=extra)
            _copy_archive(written, path)


def _flat_copy(lifted: Lifted) -> tuple[Lifted, dict[str, flat_weights.Layout]]:
    """A copy whose recurrent modules have flat weights, and their layouts, by the name of the parameter.

    But those of int8, cells, and those with a projection, of which cuDNN does not say where it lies.
    """
    copy, layouts = shared_copy(lifted), {}
    for path in copy.calls:
        module: Any = copy.module.get_submodule(path)
        if is_plain(module, StatefulSequence) and not module.proj_size:
            layout, flat = flat_weights.layout_of_weights(module), flat_weights.flattened(module)
            for name, _ in layout:
                delattr(module, name)
            specialize(module, FlatSequence, StatefulCell)
            module.register_parameter(flat_weights.FLAT, nn.Parameter(flat, requires_grad=False))
            module.layout, module.numel = layout, flat.numel()
            layouts[f"module.{path}.{flat_weights.FLAT}" if path else f"module.{flat_weights.FLAT}"] = layout
    return copy, layouts


def _copy_archive(source: Path, target: Path) -> None:
    """Copy a TorchScript archive so that it is the same whatever the process did before, and whose files it came from.

    PyTorch numbers classes in the order in which a process makes them; here they are numbered from 0.
    """
    reader, writer = torch._C.PyTorchFileReader(str(source)), torch._C.PyTorchFileWriter(str(target))
    # Operators mean what they meant in this version: before 4, a division of integers was cut off.
    version = next(name for name in reader.get_all_records() if _VERSION.fullmatch(name))
    writer.set_min_version(int(reader.get_record(version)))
    records = [name for name in reader.get_all_records() if not _LEFT_OUT.fullmatch(name)]
    found = {int(match[1]) for name in records for match in _NUMBERED.finditer(name.encode())}
    numbers = {b"%d" % number: b"%d" % position for position, number in enumerate(sorted(found))}

    def renumbered(text: bytes) -> bytes:
        return _NUMBERED.sub(lambda match: b"___torch_mangle_" + numbers.get(match[1], match[1]), text)

    for name in records:
        content = reader.get_record(name)
        if name.endswith((".py", ".pkl")):
            content = renumbered(content)
        writer.write_record(renumbered(name.encode()).decode(), content, len(content))
    writer.write_end_of_file()
