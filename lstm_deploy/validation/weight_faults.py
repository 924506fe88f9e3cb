"""Known faults in weights: the reference model made wrong in one way after another, to be compared with an artifact."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from lstm_deploy.contract import LSTM, Array
from lstm_deploy.lifting import RECURRENT_MODULES, Lifted

GATES = LSTM.pytorch_gates

Fault = tuple[str, Callable[[], object]]
"""A sentence, and what changes the weights in place."""


def constants(lifted: Lifted) -> dict[str, Array]:
    """The vectors of a model that could be part of a scaling, by their names in it."""
    return {
        name.removeprefix("module."): value.double().numpy()
        for name, value in lifted.state_dict().items()
        if value.dim() == 1 and value.is_floating_point()
    }


def weight_faults(lifted: Lifted) -> Iterator[str]:
    """Make a model wrong in one way after another, and say which; it is right again before the next, and at the end."""
    for fault, change in _faults(lifted.module):
        right = {name: value.clone() for name, value in lifted.state_dict().items()}
        with torch.no_grad():
            change()
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
            yield from _lstm_faults(path or "the LSTM", dict(child.named_parameters()))
        elif isinstance(child, nn.Linear | nn.Embedding):
            if isinstance(bias := getattr(child, "bias", None), Tensor):
                yield f"{path}.bias is left out", bias.zero_
            if child.weight.shape[0] == child.weight.shape[1]:
                yield f"{path}.weight is transposed", partial(_transpose, (child.weight,))


def _lstm_faults(name: str, weights: Mapping[str, Tensor]) -> Iterator[Fault]:
    for kind in ("bias_ih", "bias_hh", "bias"):
        if biases := [value for key, value in weights.items() if key.startswith(kind)]:
            yield f"{kind} of {name} is left out", partial(_zero, biases)
    gated = {key: value for key, value in weights.items() if not key.startswith("weight_hr")}
    groups = {name: list(gated.values())} | {f"{key} of {name}": [value] for key, value in gated.items()}
    for group, tensors in groups.items():
        for fault, positions in wrong_gate_orders(GATES):
            yield f"the gates of {group} {fault}", partial(_reorder_gates, tensors, positions)
    layers = sorted({key.partition("_l")[2] for key in weights if "_l" in key})
    for a, b in combinations(layers, 2):
        kinds = [key.removesuffix(f"_l{a}") for key in weights if key.endswith(f"_l{a}")]
        pairs = [(weights[f"{kind}_l{a}"], weights[f"{kind}_l{b}"]) for kind in kinds]
        if alike := [(x, y) for x, y in pairs if x.shape == y.shape]:
            yield f"layers {a} and {b} of {name} have each other's weights", partial(_exchange, alike)
    for key, value in weights.items():
        if key.startswith("weight"):
            blocks = (value,) if key.startswith("weight_hr") else value.chunk(len(GATES))
            if blocks[0].shape[0] == blocks[0].shape[1]:
                yield f"{key} of {name} is transposed", partial(_transpose, blocks)


def _reorder_gates(tensors: Sequence[Tensor], order: Sequence[int]) -> None:
    for tensor in tensors:
        blocks = tensor.clone().chunk(len(GATES))
        tensor.copy_(torch.cat([blocks[index] for index in order]))


def _zero(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.zero_()


def _transpose(blocks: Sequence[Tensor]) -> None:
    for block in blocks:
        block.copy_(block.T.clone())


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for a, b in pairs:
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
