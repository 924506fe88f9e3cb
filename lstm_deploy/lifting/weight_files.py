"""Reading anybody's file of PyTorch weights. Nothing in a file is run unless it is trusted in so many words."""

import io
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lstm_deploy.errors import InputError, one_line

Weights = dict[str, Tensor]

NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module", "params")
"""Keys under which checkpoints keep their weights, beside optimizer state and the like."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "lstm_module.")
"""Prefixes that wrappers (data parallel, `torch.compile`, Lightning) put before every name."""
LARGEST_RATIO = 1000
"""A zip archive that unpacks to more than this many times its size is no file of weights."""


def read_weights(path: Path, key: str | None = None, unused: list[str] | None = None) -> Weights:
    """All floating-point weights of a file, by name, in float32, without the prefixes of wrappers.

    `.safetensors`, TorchScript archives, and whatever `torch.save` wrote of tensors in dicts and lists; `key` names
    the entry to take where there are several. A list of tensors has the names `0`, `1`, …. Names of entries with
    tensors that were passed over (not an optimizer's) are added to `unused`. Raises `InputError` for a file that is
    none of these, would run code, or holds weights that are not numbers.
    """
    content = _read(path)
    return clean(_select(content, key, path, [] if unused is None else unused), path)


def read_module(path: Path, home: Mapping[str, Any] | None = None) -> nn.Module:
    """A whole module that was pickled. This runs code from the file: call it for trusted files only.

    `home` are names that the pickle may look for in `__main__`, where scripts define their classes. Raises
    `InputError` if the file holds no module or its class cannot be found.
    """
    main = vars(sys.modules["__main__"])
    added = {name: value for name, value in (home or {}).items() if name not in main and not name.startswith("__")}
    main.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of source that changed since: the user said to trust it
            content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling can raise anything
        raise InputError(
            f"{path} cannot be unpickled ({one_line(error)}); give the file of its class with --model FILE.py:Class."
        ) from error
    finally:
        for name in added:
            del main[name]
    if isinstance(content, Mapping):
        content = next((value for value in content.values() if isinstance(value, nn.Module)), content)
    if not isinstance(content, nn.Module):
        raise InputError(f"{path} holds a {type(content).__name__}, not a module; leave out --trust-pickle.")
    return content


def extra_files(path: Path) -> dict[str, bytes]:
    """The extra files of a TorchScript archive, by name; none of any other file. Raises `InputError` if damaged."""
    if not path.is_file() or not _is_torchscript(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "/extra/" in name]
            return {name.partition("/extra/")[2]: archive.read(name) for name in names}
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"{path} is a damaged TorchScript archive ({one_line(error)}); copy it again.") from error


def clean(weights: Mapping[str, Tensor], where: Path | str) -> Weights:
    """Without wrappers' prefixes and without what is no number, in float32; raises `InputError` for NaN."""
    found = {str(name): value for name, value in weights.items()}
    while prefix := next((p for p in WRAPPERS if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    for name, value in found.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise InputError(f"{name} in {where} is no plain tensor of numbers; save plain weights.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"The weight {name} in {where} is not a number or infinite; train again.")
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in found.items()}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; check the path.")
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX file, not PyTorch weights; give the weights that it was made from.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, OSError) as error:
            raise InputError(f"{path} is not a safetensors file ({one_line(error)}); check the path.") from error
    if _is_torchscript(path):
        return _torchscript_weights(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of old protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path} is a pickle that could run code when it is opened (of a whole module, probably); save its "
                "state_dict instead, or give --trust-pickle (and --model FILE.py:Class for its class) if you trust it."
            ) from error
        raise InputError(f"{path} is not a file of PyTorch weights; check the path.") from error
    except Exception as error:  # torch.load on garbage raises anything, in words that say nothing
        raise InputError(f"{path} is not a file of PyTorch weights; check the path.") from error


def _is_torchscript(path: Path) -> bool:
    """Whether it has code; and refuses archives that are made to fill the memory."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is a damaged zip archive ({one_line(error)}); copy it again.") from error
    if sum(entry.file_size for entry in entries) > LARGEST_RATIO * path.stat().st_size:
        raise InputError(f"{path} unpacks to over {LARGEST_RATIO} times its size; do not open it.")
    return any(entry.filename.endswith("constants.pkl") for entry in entries)


class _Object:
    """An instance of a class of a TorchScript archive: its attributes, none of its code."""

    attributes: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _ArchiveReader(pickle.Unpickler):
    """Reads the data of a TorchScript archive without its code, which `torch.jit.load` would run."""

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
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, numel = pid
        data = bytearray(self.archive.read(f"{self.folder}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
}


def _torchscript_weights(path: Path) -> Weights:
    """The tensors among the attributes of the archive's modules, by the path that leads to them."""

    def tensors(value: Any, prefix: str) -> Weights:
        if isinstance(value, Tensor):
            return {prefix: value}
        children = value.attributes if isinstance(value, _Object) else value
        if not isinstance(children, dict):
            return {}
        start = f"{prefix}." if prefix else ""
        return {name: leaf for key, child in children.items() for name, leaf in tensors(child, f"{start}{key}").items()}

    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return tensors(_ArchiveReader(archive, name).load(), "")
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path} is a damaged TorchScript archive ({one_line(error)}); copy it again.") from error


def _select(content: Any, key: str | None, path: Path, unused: list[str]) -> Weights:
    """The mapping of names to tensors within what a file holds."""
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
                raise InputError(f"{path} has no entry {key!r}; there is {there[:300]}.")
            content = content[part]
    while isinstance(content, Mapping) and not _are_tensors(content.values()):
        nested = next((name for name in NESTED if isinstance(content.get(name), Mapping | list | tuple)), None)
        if nested is None:
            tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
            if not tensors:
                there = ", ".join(map(str, content)) or "nothing"
                raise InputError(
                    f"{path} holds no weights under a known name; name the entry with --weights-key ({there[:300]})."
                )
            unused += [str(name) for name in content if name not in tensors and _has_tensors(content[name], name)]
            content = tensors
        else:
            unused += [str(name) for name in content if name != nested and _has_tensors(content[name], name)]
            content = content[nested]
    if isinstance(content, list | tuple) and _are_tensors(content):
        content = {str(index): value for index, value in enumerate(content)}
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights; name their entry with --weights-key.")
    return dict(content)


def _has_tensors(value: Any, name: object) -> bool:
    """Whether an entry holds weights or statistics, and not the state of an optimizer or of a random generator."""
    if any(part in str(name).lower() for part in ("optim", "sched", "scaler", "rng", "callback", "loop")):
        return False
    if isinstance(value, Mapping):
        return any(_has_tensors(child, key) for key, child in value.items())
    return isinstance(value, Tensor) and value.numel() > 0


def _are_tensors(values: Any) -> bool:
    values = list(values)
    return bool(values) and all(isinstance(value, Tensor) for value in values)
