"""Known faults in weights: the reference model made wrong in one way after another, to be compared with an artifact."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from lstm_deploy.contract import Cell
from lstm_deploy.lifting import RECURRENT_MODULES, Lifted, cell_of

Fault = tuple[str, list[tuple[Tensor, Tensor]]]
"""A sentence, and the weights that it changes, each with its wrong value."""


def weight_faults(lifted: Lifted) -> Iterator[str]:
    """Make a model wrong in one way after another, and say which; it is right again before the next, and at the end."""
    for fault, changes in _faults(lifted.module):
        right = {name: value.clone() for name, value in lifted.state_dict().items()}
        with torch.no_grad():
            for weight, wrong in changes:
                weight.copy_(wrong)
            try:
                yield fault
            finally:
                lifted.load_state_dict(right)


def wrong_gate_orders(gates: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
    """All orders of gates but the right one: a phrase, and the positions that the gates are taken from."""
    right, *wrong = permutations(gates)
    for order in wrong:
        yield f"stand in the order {' '.join(order)}, not {' '.join(right)}", [right.index(gate) for gate in order]


def _faults(module: nn.Module) -> Iterator[Fault]:
    for path, child in module.named_modules():
        if isinstance(child, RECURRENT_MODULES):
            cell = cell_of(child)
            yield from _recurrent_faults(cell, path or f"the {cell.title}", dict(child.named_parameters()))
        elif isinstance(child, nn.Linear | nn.Embedding):
            if isinstance(bias := getattr(child, "bias", None), Tensor):
                yield f"{path}.bias is left out", [(bias, torch.zeros_like(bias))]
            if child.weight.shape[0] == child.weight.shape[1]:
                yield f"{path}.weight is transposed", _transposed([child.weight])


def _recurrent_faults(cell: Cell, name: str, weights: Mapping[str, Tensor]) -> Iterator[Fault]:
    for kind in ("bias_ih", "bias_hh", "bias"):
        if biases := [value for key, value in weights.items() if key.startswith(kind)]:
            yield f"{kind} of {name} is left out", [(bias, torch.zeros_like(bias)) for bias in biases]
    yield from _mixed_biases(cell, name, weights)
    gated = {key: value for key, value in weights.items() if not key.startswith("weight_hr")}
    groups = {name: list(gated.values())} | {f"{key} of {name}": [value] for key, value in gated.items()}
    for group, tensors in groups.items():
        for fault, order in wrong_gate_orders(cell.pytorch_gates):
            wrong = [torch.cat([tensor.chunk(len(cell.pytorch_gates))[gate] for gate in order]) for tensor in tensors]
            yield f"the gates of {group} {fault}", list(zip(tensors, wrong, strict=True))
    for number, gate in enumerate(cell.pytorch_gates.values()):
        rows = [tensor.chunk(len(cell.pytorch_gates))[number] for tensor in gated.values()]
        yield f"the {gate} gate of {name} has the other sign", [(part, -part) for part in rows]
    layers = sorted({key.partition("_l")[2] for key in weights if "_l" in key})
    for a, b in combinations(layers, 2):
        kinds = [key.removesuffix(f"_l{a}") for key in weights if key.endswith(f"_l{a}")]
        pairs = [(weights[f"{kind}_l{a}"], weights[f"{kind}_l{b}"]) for kind in kinds]
        if alike := [(x, y) for x, y in pairs if x.shape == y.shape]:
            exchanged = [change for x, y in alike for change in ((x, y.clone()), (y, x.clone()))]
            yield f"layers {a} and {b} of {name} have each other's weights", exchanged
    for key, value in weights.items():
        if key.startswith("weight"):
            blocks = (value,) if key.startswith("weight_hr") else value.chunk(len(cell.pytorch_gates))
            if blocks[0].shape[0] == blocks[0].shape[1]:
                yield f"{key} of {name} is transposed", _transposed(blocks)


def _mixed_biases(cell: Cell, name: str, weights: Mapping[str, Tensor]) -> Iterator[Fault]:
    """Biases that were mixed, where a gate uses them apart."""
    pairs = [(value, weights[key.replace("_ih", "_hh")]) for key, value in weights.items() if key.startswith("bias_ih")]
    if pairs and cell.gates_with_two_biases:
        exchanged = [change for ih, hh in pairs for change in ((ih, hh.clone()), (hh, ih.clone()))]
        yield f"bias_ih and bias_hh of {name} stand in each other's place", exchanged
        apart = f"where the {' and '.join(cell.gates_with_two_biases)} gate uses them apart"
        summed = [change for ih, hh in pairs for change in ((ih, ih + hh), (hh, torch.zeros_like(hh)))]
        yield f"bias_hh of {name} is added to bias_ih, {apart}", summed
        summed = [change for ih, hh in pairs for change in ((hh, ih + hh), (ih, torch.zeros_like(ih)))]
        yield f"bias_ih of {name} is added to bias_hh, {apart}", summed


def _transposed(blocks: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(block, block.T.clone()) for block in blocks]
