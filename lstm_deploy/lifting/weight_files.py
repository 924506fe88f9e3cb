"""Reads the weights in a file of PyTorch, whoever wrote it, without running any code from the file."""

import pickle
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lstm_deploy.artifacts import is_torchscript
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.torchscript_tensors import read_tensors

StateDict = dict[str, Tensor]

NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module", "params")
"""Keys under which checkpoints keep their weights, beside optimizer state and the like."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "lstm_module.")
"""Prefixes that wrappers (data parallel, `torch.compile`, Lightning) put before every name."""


def read_weights(path: Path, key: str | None = None, unused: list[str] | None = None) -> StateDict:
    """All weights of a file, by name, in float32 (integers stay), without the prefixes of wrappers.

    Reads `.safetensors`, TorchScript archives, and whatever `torch.save` wrote of tensors in dicts and lists; `key`
    names the entry to take where there are several. A list of tensors has the names `0`, `1`, …. The names of other
    entries with tensors, except an optimizer's, are appended to `unused`. Raises `InputError` for a file that is none
    of these, would run code, or holds weights that are not finite.
    """
    return clean(_select(_read(path), key, path, [] if unused is None else unused), path)


def clean(weights: Mapping[str, Tensor], where: Path | str) -> StateDict:
    """Remove the prefixes of wrappers and convert to float32; raises `InputError` for weights that are not finite."""
    weights = {str(name): value for name, value in weights.items()}
    while prefix := next((p for p in WRAPPERS if weights and all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    for name, value in weights.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise InputError(f"{name} in {where} is not a plain tensor of numbers; save plain weights.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"The weight {name} in {where} is not a number or infinite; train again.")
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in weights.items()}


def _read(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; check the path.")
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX file, not PyTorch weights; give the weights that it was made from.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, OSError) as error:
            raise InputError(f"{path} is not a safetensors file ({one_line(error)}); check the path.") from error
    if is_torchscript(path):
        return read_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of old protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything on garbage, with messages that say nothing
        needs_code = "Unsupported global" in str(error) or "GLOBAL" in str(error)
        if isinstance(error, pickle.UnpicklingError) and needs_code:
            raise InputError(
                f"{path} is a pickle that could run code when it is opened (of a whole module, probably); save its "
                "state_dict instead, or give --trust-pickle (and --model FILE.py:Class for its class) if you trust it."
            ) from error
        raise InputError(f"{path} is not a file of PyTorch weights; check the path.") from error


def _select(content: Any, key: str | None, path: Path, unused: list[str]) -> StateDict:
    """Find the mapping of names to tensors in the content of a file."""
    for part in key.split(".") if key is not None else ():
        if not isinstance(content, Mapping) or part not in content:
            there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise InputError(f"{path} has no entry {key!r}; there is {there[:300]}.")
        content = content[part]
    while isinstance(content, Mapping) and not _are_tensors(content.values()):
        nested = next((name for name in NESTED if isinstance(content.get(name), Mapping | list | tuple)), None)
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if nested is None and not tensors:
            there = ", ".join(map(str, content)) or "nothing"
            raise InputError(f"{path} holds no weights under a known name; name it with --weights-key ({there[:300]}).")
        taken: Collection[Any] = tensors if nested is None else {nested}
        unused += [str(name) for name in content if name not in taken and _has_tensors(content[name], name)]
        content = tensors if nested is None else content[nested]
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


def _are_tensors(values: Iterable[Any]) -> bool:
    values = list(values)
    return bool(values) and all(isinstance(value, Tensor) for value in values)
