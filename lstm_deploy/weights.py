"""Reading anybody's file of PyTorch weights. Nothing in a file is run unless it is trusted in so many words."""

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

from lstm_deploy.errors import InputError

Weights = dict[str, Tensor]

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".torchscript")
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module", "params")
"""Keys under which checkpoints keep their weights, beside optimizer state and the like."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "lstm_module.")
"""Prefixes that wrappers (data parallel, `torch.compile`, Lightning) put before every name."""
LARGEST_RATIO = 1000
"""A zip archive that unpacks to more than this many times its size is no file of weights."""


def read_weights(path: Path, key: str | None = None) -> Weights:
    """All floating-point weights of a file, by name, in float32, without the prefixes of wrappers.

    `.safetensors`, TorchScript archives, and whatever `torch.save` wrote of tensors in dicts and lists; `key` names
    the entry to take where there are several. A list of tensors has the names `0`, `1`, …. Raises `InputError` for
    a file that is none of these, would run code, or holds weights that are not numbers.
    """
    content = _read(path)
    return clean(_select(content, key, path), path)


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
            f"{path} cannot be unpickled ({_one_line(error)}); give the file of its class with --model FILE.py:Class."
        ) from error
    finally:
        for name in added:
            del main[name]
    if isinstance(content, Mapping):
        content = next((value for value in content.values() if isinstance(value, nn.Module)), content)
    if not isinstance(content, nn.Module):
        raise InputError(f"{path} holds a {type(content).__name__}, not a module; leave out --trust-pickle.")
    return content


def clean(weights: Mapping[str, Tensor], where: Path | str) -> Weights:
    """Without wrappers' prefixes and without what is no number, in float32; raises `InputError` for NaN."""
    found = {str(name): value for name, value in weights.items()}
    while prefix := next((p for p in WRAPPERS if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    for name, value in found.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"The weight {name} in {where} is not a number or infinite; train again.")
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in found.items()}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; check the path.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, OSError) as error:
            raise InputError(f"{path} is not a safetensors file ({_one_line(error)}); check the path.") from error
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
                "state_dict instead, or give --trust-pickle if you trust where it came from."
            ) from error
        raise InputError(f"{path} is not a file of PyTorch weights ({_one_line(error)}); check the path.") from error
    except Exception as error:  # torch.load on garbage raises anything
        raise InputError(f"{path} is not a file of PyTorch weights ({_one_line(error)}); check the path.") from error


def _is_torchscript(path: Path) -> bool:
    """Whether it has code; and refuses archives that are made to fill the memory."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is a damaged zip archive ({_one_line(error)}); copy it again.") from error
    if sum(entry.file_size for entry in entries) > LARGEST_RATIO * path.stat().st_size:
        raise InputError(f"{path} unpacks to over {LARGEST_RATIO} times its size; do not open it.")
    return any(entry.filename.endswith("constants.pkl") for entry in entries)


def _torchscript_weights(path: Path) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        try:
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
        except Exception as error:  # its C++ raises anything, too
            raise InputError(f"{path} is a damaged TorchScript archive ({_one_line(error)}); copy it again.") from error


def _select(content: Any, key: str | None, path: Path) -> Weights:
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
            content = tensors
        else:
            content = content[nested]
    if isinstance(content, list | tuple) and _are_tensors(content):
        content = {str(index): value for index, value in enumerate(content)}
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights; name their entry with --weights-key.")
    return dict(content)


def _are_tensors(values: Any) -> bool:
    values = list(values)
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
