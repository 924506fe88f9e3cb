"""The weights of LSTMs in ONNX's layout: gates i, o, f, c; directions stacked; biases one after the other."""

from typing import cast

import torch
from torch import Tensor, nn

from lstm_deploy.artifacts import LstmLayer
from lstm_deploy.contract import LSTM
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.recurrent import Lifted


def layers(lifted: Lifted) -> list[LstmLayer]:
    """The weights of every LSTM layer as a graph should have them."""
    layers = []
    for path in lifted.calls:
        weights = to_onnx_order(lifted.module.get_submodule(path), path)
        count = sum(name.startswith("W_") for name in weights)
        for layer in range(count):
            label = ", ".join(filter(None, (path, f"layer {layer}" if count > 1 else ""))) or "the LSTM"
            w, r, b = (weights[f"{letter}_l{layer}"].numpy() for letter in "WRB")
            layers.append(LstmLayer(label, w, r, b))
    return layers


def to_onnx_order(module: nn.Module, path: str) -> dict[str, Tensor]:
    """The weights of an LSTM or a cell as `W_l0`, `R_l0`, `B_l0`, …, with `P_l0` and its inverse for a projection."""
    lstm = module if isinstance(module, nn.LSTM) else None
    suffixes = ("", "_reverse") if lstm and lstm.bidirectional else ("",)
    ordered: dict[str, Tensor] = {}
    for layer in range(lstm.num_layers if lstm else 1):

        def weights(name: str, layer: int = layer) -> list[Tensor]:
            names = [f"{name}_l{layer}{suffix}" for suffix in suffixes] if lstm else [name]
            return [cast(Tensor, getattr(module, key)).detach() for key in names]

        recurrent = weights("weight_hh")
        if lstm and lstm.proj_size:
            projections = [projection.double() for projection in weights("weight_hr")]
            if any(torch.linalg.matrix_rank(projection) < lstm.proj_size for projection in projections):
                raise LiftingError(
                    f"The projection of layer {layer} of {path or 'the LSTM'} has linearly dependent rows, so ONNX "
                    "cannot express it exactly; export it with --format torchscript only."
                )
            recurrent = [(r.double() @ p).float() for r, p in zip(recurrent, projections, strict=True)]
            ordered[f"P_l{layer}"] = torch.stack([p.T for p in projections]).float()
            ordered[f"P_inverse_l{layer}"] = torch.stack([torch.linalg.pinv(p).T for p in projections]).float()
        ordered[f"W_l{layer}"] = _reordered(weights("weight_ih"))
        ordered[f"R_l{layer}"] = _reordered(recurrent)
        if module.bias:
            biases = [_reordered(weights(name)) for name in ("bias_ih", "bias_hh")]
            ordered[f"B_l{layer}"] = torch.cat(biases, 1)
        else:
            ordered[f"B_l{layer}"] = torch.zeros(len(suffixes), 2 * recurrent[0].shape[0])
    return ordered


def _reordered(directions: list[Tensor]) -> Tensor:
    """Stack the weight or bias of each direction, with PyTorch's gates i, f, g, o in ONNX's order i, o, f, c."""
    stacked = directions[0][None] if len(directions) == 1 else torch.stack(directions)
    gates = stacked.chunk(len(LSTM.onnx_order), 1)
    return torch.cat([gates[position] for position in LSTM.onnx_order], 1)
