"""The weights of recurrent modules as ONNX has them: its order of gates, directions stacked, biases joined."""

from typing import cast

import torch
from torch import Tensor, nn

from lstm_deploy.artifacts import RecurrentLayer
from lstm_deploy.contract import Cell
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.recurrent_modules import cell_of, layers_of


def layers(lifted: Lifted) -> list[RecurrentLayer]:
    """The weights of every recurrent layer as a graph should have them."""
    layers = []
    for path in lifted.calls:
        module = lifted.module.get_submodule(path)
        cell, weights = cell_of(module), to_onnx_order(module, path)
        count = sum(name.startswith("W_") for name in weights)
        for layer in range(count):
            label = ", ".join(filter(None, (path, f"layer {layer}" if count > 1 else ""))) or f"the {cell.title}"
            w, r, b = (weights[f"{letter}_l{layer}"].numpy() for letter in "WRB")
            layers.append(RecurrentLayer(label, w, r, b, kind=cell.kind))
    return layers


def to_onnx_order(module: nn.Module, path: str) -> dict[str, Tensor]:
    """The weights of a recurrent module as `W_l0`, `R_l0`, `B_l0`, …, with `P_l0` and its inverse for a projection."""
    cell, (layers, directions) = cell_of(module), layers_of(module)
    proj_size = cast(int, getattr(module, "proj_size", 0))
    suffixes = ("", "_reverse")[:directions]
    ordered: dict[str, Tensor] = {}
    for layer in range(layers):

        def weights(name: str, layer: int = layer) -> list[Tensor]:
            names = [f"{name}_l{layer}{suffix}" for suffix in suffixes] if isinstance(module, nn.RNNBase) else [name]
            return [cast(Tensor, getattr(module, key)).detach() for key in names]

        recurrent = weights("weight_hh")
        if proj_size:
            projections = [projection.double() for projection in weights("weight_hr")]
            if any(torch.linalg.matrix_rank(projection) < proj_size for projection in projections):
                raise LiftingError(
                    f"The projection of layer {layer} of {path or 'the module'} has linearly dependent rows, so ONNX "
                    "cannot express it exactly; export it with --format torchscript only."
                )
            recurrent = [(r.double() @ p).float() for r, p in zip(recurrent, projections, strict=True)]
            ordered[f"P_l{layer}"] = torch.stack([p.T for p in projections]).float()
            ordered[f"P_inverse_l{layer}"] = torch.stack([torch.linalg.pinv(p).T for p in projections]).float()
        ordered[f"W_l{layer}"] = _reordered(cell, weights("weight_ih"))
        ordered[f"R_l{layer}"] = _reordered(cell, recurrent)
        if module.bias:
            biases = [_reordered(cell, weights(name)) for name in ("bias_ih", "bias_hh")]
            ordered[f"B_l{layer}"] = torch.cat(biases, 1)
        else:
            ordered[f"B_l{layer}"] = torch.zeros(len(suffixes), 2 * recurrent[0].shape[0])
    return ordered


def _reordered(cell: Cell, directions: list[Tensor]) -> Tensor:
    """Stack the weight or bias of each direction, with PyTorch's gates in ONNX's order."""
    stacked = directions[0][None] if len(directions) == 1 else torch.stack(directions)
    gates = stacked.chunk(len(cell.onnx_order), 1)
    return torch.cat([gates[position] for position in cell.onnx_order], 1)
