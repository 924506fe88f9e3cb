"""PyTorch's weights and an artifact's: whether they are the same, and what wrong ones would do."""

import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor

from lstm_deploy.artifacts import c_weights, floats_of, lstm_layers, matrices_of, operators, precision
from lstm_deploy.contract import LSTM, Array
from lstm_deploy.lifting import Lifted, onnx_order
from lstm_deploy.runtimes import native
from lstm_deploy.validation.weight_differences import (
    constant_problems,
    matrix_problems,
    tensor_problems,
    weight_problems,
)


def buffers(lifted: Lifted) -> dict[str, Array]:
    """The constants of a model that could be part of a scaling, by their names in it."""
    return {
        name.removeprefix("module."): value.double().numpy()
        for name, value in lifted.state_dict().items()
        if value.dim() == 1 and value.is_floating_point()
    }


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
    wanted = onnx_order.layers(lifted)
    if path.suffix == ".c":
        read = c_weights.read(path)
        wanted = [layer._replace(b=c_weights.summed(layer.b)) for layer in wanted]
        layers, floats, matrices = read.layers, read.floats, read.matrices
        coarse = native.precision_of(path) != "float32"
    else:
        model = onnx.load(path)
        layers, floats, matrices = lstm_layers(model), floats_of(model), matrices_of(model)
        count = operators(model)
        if len(layers) != sum(count[name] for name in LSTM.operators):
            return None
        coarse = precision(model) != "float32"
    different = weight_problems(layers, wanted) + constant_problems(floats, others)
    return different + (matrix_problems(matrices, others) if coarse else [])


def _plain(value: Tensor) -> Array:
    """As it stands in a file: the reference holds float32 weights in float64, which loses nothing."""
    return (value.float() if value.is_floating_point() else value).numpy()
