"""The weights of a recurrent module as one tensor, which stays in one piece on whatever device it is moved to.

cuDNN takes all weights of a recurrent module from one buffer. Where they do not lie in memory as in that buffer,
PyTorch warns and copies them into one at every call: `try_get_weight_buf` in aten/src/ATen/native/cudnn/RNN.cpp. The
buffer holds the matrices of all layers and directions, then their biases, for which it has room also where there are
none.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import Tensor, nn

from lstm_deploy.artifacts import extra_files
from lstm_deploy.contract import CELLS
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.recurrent_modules import cell_of, layers_of
from lstm_deploy.lifting.stored_tensors import StoredTensor

FLAT = "flat_weights"
"""The name of that tensor, in place of the names of the weights in it."""
LAYOUTS_FILE = "flat_weights.json"
"""Within a TorchScript archive: the `Layout` of each such tensor, by its name."""

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of the weights in the order in which they lie in memory."""


def layout_of_weights(module: nn.RNNBase) -> Layout:
    """The order of cuDNN, for a module without a projection."""
    names = sorted(module._flat_weights_names, key=lambda name: name.startswith("bias"))  # a stable sort
    return [(name, tuple(getattr(module, name).shape)) for name in names]


def flattened(module: nn.RNNBase) -> Tensor:
    """The weights of a module as one tensor, with zeros in place of biases that it has not."""
    parts = [getattr(module, name).detach().flatten() for name, _ in layout_of_weights(module)]
    if not module.bias:
        gates = len(cell_of(module).pytorch_gates)
        parts.append(parts[0].new_zeros(prod(layers_of(module)) * 2 * gates * module.hidden_size))
    return torch.cat(parts)


def split(flat: Tensor, layout: Layout, numel: int) -> dict[str, Tensor]:
    """The weights by their names: views of `flat`, whose `numel` may be more than theirs."""
    sizes = [prod(shape) for _, shape in layout]
    parts = torch.split_with_sizes(flat, [*sizes, numel - sum(sizes)])
    return {name: part.view(shape) for (name, shape), part in zip(layout, parts, strict=False)}


_NAME = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)(_reverse)?")
AnyTensor = TypeVar("AnyTensor", Tensor, Tensor | StoredTensor)


def by_name(tensors: Mapping[str, AnyTensor], path: Path) -> dict[str, AnyTensor]:
    """The tensors of a file, each weight by its own name, also where they lie in one as in our TorchScript.

    Raises `InputError` for a damaged file.
    """
    layouts = _read_layouts(path)
    for name, layout in layouts.items():
        if not _is_in_order(layout):
            raise InputError(f"{path} is damaged (the layout of {name} is not the order of cuDNN); copy it again.")
    result: dict[str, AnyTensor] = {}
    for name, value in tensors.items():
        if name not in layouts:
            result[name] = value
            continue
        try:
            flat = value.load() if isinstance(value, StoredTensor) else value
            parts = split(flat, layouts[name], flat.numel())
        except Exception as error:  # sizes that contradict each other raise anything
            raise InputError(f"{path} is damaged ({name} has another size than its weights); copy it again.") from error
        for own, part in parts.items():
            result[name.removesuffix(FLAT) + own] = part
    return result


def _is_in_order(layout: Layout) -> bool:
    """Whether a layout is what `layout_of_weights` gives for some module: sizes alone do not tell two weights apart."""
    keys = []
    rows = layout[0][1][0] if layout and layout[0][1] else 0
    hidden = layout[1][1][1:] if len(layout) > 1 else ()
    gates = {len(cell.pytorch_gates) for cell in CELLS.values()}
    if len(hidden) != 1 or not hidden[0] or rows not in {count * hidden[0] for count in gates}:
        return False
    for name, shape in layout:
        match = _NAME.fullmatch(name)
        kinds = {"weight_ih": (rows, *shape[1:2]), "weight_hh": (rows, *hidden)}
        if match is None or shape != kinds.get(f"{match[1]}_{match[2]}", (rows,)):
            return False
        keys.append((match[1] == "bias", int(match[3]), match[4] or "", match[2] == "hh"))
    return keys == sorted(set(keys))


def _read_layouts(path: Path) -> dict[str, Layout]:
    """Empty for a file without layouts."""
    content = extra_files(path).get(LAYOUTS_FILE, b"{}")
    try:
        return dict(msgspec.json.decode(content, type=dict[str, list[tuple[str, tuple[int, ...]]]]))
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged ({LAYOUTS_FILE}: {one_line(error)}); copy it again.") from error
