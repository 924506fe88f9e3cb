"""Reads the tensors of TorchScript archives without running their code, which `torch.jit.load` would do."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lstm_deploy.artifacts import opened_archive

_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte", "Char")
_DTYPES = {f"{kind}Storage": getattr(torch, f"{kind}Tensor").dtype for kind in _KINDS}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors among the attributes of an archive's modules, by their path; raises `InputError` if damaged."""
    with opened_archive(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return _tensors(_ArchiveReader(archive, name).load(), "")


class _Object:
    """An instance of any class of an archive: its attributes, none of its code."""

    attributes: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _ArchiveReader(pickle.Unpickler):
    """Unpickles the data of an archive, with the few functions that rebuild tensors and none besides."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive, self.folder = archive, name.rpartition("/")[0]

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset).contiguous()
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, numel = pid
        data = bytearray(self.archive.read(f"{self.folder}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)


def _tensors(value: Any, path: str) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {path: value}
    children = value.attributes if isinstance(value, _Object) else value
    if not isinstance(children, dict):
        return {}
    prefix = f"{path}." if path else ""
    return {name: leaf for key, child in children.items() for name, leaf in _tensors(child, f"{prefix}{key}").items()}
