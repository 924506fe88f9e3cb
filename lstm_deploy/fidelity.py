"""PyTorch's weights and an artifact's: whether they are the same, and what wrong ones would do."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from lstm_deploy.exporters import lowering
from lstm_deploy.exporters.c import reading as c_weights
from lstm_deploy.graph_weights import (
    constant_problems,
    floats_of,
    lstm_layers,
    matrices_of,
    matrix_problems,
    tensor_problems,
    weight_problems,
)
from lstm_deploy.lint import LSTM_OPERATORS, operators, precision
from lstm_deploy.runtimes import native
from lstm_deploy.signature import Array
from lstm_deploy.stateful import Lifted


def buffers(lifted: Lifted) -> dict[str, Array]:
    """The constants of a model that could be part of a scaling, by their names in it."""
    return {
        name.removeprefix("module."): value.double().numpy()
        for name, value in lifted.state_dict().items()
        if value.dim() == 1 and value.is_floating_point()
    }


def alterations(module: Lifted) -> Iterator[str]:
    """Make a lifted module wrong in one way after another, each said; it is put right before the next, and after."""
    for what, change in _changes(module):
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        with torch.no_grad():
            change()
            try:
                yield what
            finally:
                module.load_state_dict(kept)


def problems(path: Path, lifted: Lifted) -> list[str] | None:
    """One sentence for each weight of an artifact that is not the model's; none where they cannot be compared.

    A TorchScript file holds PyTorch's tensors by their names. An ONNX file holds those of the LSTMs in its LSTM nodes,
    if these have constant weights, and most others as they are. A C file holds what the kernels want.
    """
    own = {name: _plain(value) for name, value in lifted.state_dict().items()}
    if path.suffix == ".torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
            traced = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        found = {name: value.numpy() for name, value in traced.state_dict().items()}
        # A file made around the lifted module has one more name before each of its weights.
        wrappers = {name.removesuffix(next(iter(own))) for name in found if name.endswith(next(iter(own)))}
        wrapper = next((prefix for prefix in wrappers if all(prefix + name in found for name in own)), None)
        return None if wrapper is None else tensor_problems({name: found[wrapper + name] for name in own}, own)
    inside = tuple(f"module.{path}." if path else "module." for path in lifted.calls)
    others = {name: value for name, value in own.items() if not name.startswith(inside)}
    others |= {name: _plain(value) for name, value in lifted.named_parameters() if "weight_hr" in name}
    wanted = lowering.layers(lifted)
    if path.suffix == ".c":
        read = c_weights.read(path)
        wanted = [layer._replace(b=c_weights.summed(layer.b)) for layer in wanted]
        layers, floats, matrices = read.layers, read.floats, read.matrices
        coarse = native.precision_of(path) != "float32"
    else:
        model = onnx.load(path)
        layers, floats, matrices = lstm_layers(model), floats_of(model), matrices_of(model)
        count = operators(model)
        if len(layers) != sum(count[name] for name in LSTM_OPERATORS):
            return None
        coarse = precision(model) != "float32"
    different = weight_problems(layers, wanted) + constant_problems(floats, others)
    return different + (matrix_problems(matrices, others) if coarse else [])


def _plain(value: Tensor) -> Array:
    """As it stands in a file: the reference holds float32 weights in float64, which loses nothing."""
    return (value.float() if value.is_floating_point() else value).numpy()


def _changes(module: Lifted) -> Iterator[tuple[str, Callable[[], object]]]:
    for path, child in module.module.named_modules():
        name = path or "the LSTM"
        if isinstance(child, nn.LSTM | nn.LSTMCell):
            weights: dict[str, Tensor] = dict(child.named_parameters())
            for kind in ("bias_ih", "bias_hh", "bias"):
                chosen = [value for key, value in weights.items() if key.startswith(kind)]
                if chosen:
                    yield f"{kind} of {name} is left out", partial(_fill, chosen)
            yield from _gate_orders(name, weights)
            yield from _exchanges(name, weights)
            for key, value in weights.items():
                if key.startswith("weight"):
                    blocks = value.chunk(4) if key.startswith(("weight_ih", "weight_hh")) else (value,)
                    if blocks[0].shape[0] == blocks[0].shape[1]:
                        yield f"{key} of {name} is transposed", partial(_transpose, blocks)
        elif isinstance(child, nn.Linear | nn.Embedding):
            bias = getattr(child, "bias", None)
            if isinstance(bias, Tensor):
                yield f"{path}.bias is left out", partial(_fill, [bias])
            if child.weight.shape[0] == child.weight.shape[1]:
                yield f"{path}.weight is transposed", partial(_transpose, (child.weight,))


def _gate_orders(name: str, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    """All layers, then each tensor alone, with the gates in another order."""
    gated = {key: value for key, value in weights.items() if not key.startswith("weight_hr")}
    groups = {name: list(gated.values())} | {f"{key} of {name}": [value] for key, value in gated.items()}
    for called, tensors in groups.items():
        for order in permutations(range(4)):
            if order != (0, 1, 2, 3):
                letters = " ".join("ifgo"[index] for index in order)
                yield (
                    f"the gates of {called} stand in the order {letters}, not i f g o",
                    partial(_reorder, tensors, order),
                )


def _exchanges(name: str, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Layers or directions whose weights stand in each other's place."""
    layers = sorted({key.partition("_l")[2] for key in weights if "_l" in key})
    for one, other in combinations(layers, 2):
        pairs = [
            (weights[key], weights[key.removesuffix(f"_l{one}") + f"_l{other}"])
            for key in weights
            if key.endswith(f"_l{one}")
        ]
        alike = [(a, b) for a, b in pairs if a.shape == b.shape]
        if alike:
            yield f"layers {one} and {other} of {name} have each other's weights", partial(_exchange, alike)


def _fill(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.zero_()


def _reorder(tensors: Sequence[Tensor], order: Sequence[int]) -> None:
    for tensor in tensors:
        blocks = tensor.clone().chunk(4)
        tensor.copy_(torch.cat([blocks[index] for index in order]))


def _transpose(blocks: Sequence[Tensor]) -> None:
    for block in blocks:
        block.copy_(block.T.clone())


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for a, b in pairs:
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
