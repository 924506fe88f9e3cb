"""A model made wrong in every known way through its weights, to find which way an artifact is wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from lstm_deploy.contract import LSTM
from lstm_deploy.lifting import RECURRENT_MODULES, Lifted

GATES = LSTM.pytorch_gates


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


def _changes(module: Lifted) -> Iterator[tuple[str, Callable[[], object]]]:
    for path, child in module.module.named_modules():
        name = path or "the LSTM"
        if isinstance(child, RECURRENT_MODULES):
            weights: dict[str, Tensor] = dict(child.named_parameters())
            for kind in ("bias_ih", "bias_hh", "bias"):
                chosen = [value for key, value in weights.items() if key.startswith(kind)]
                if chosen:
                    yield f"{kind} of {name} is left out", partial(_fill, chosen)
            yield from _gate_orders(name, weights)
            yield from _exchanges(name, weights)
            for key, value in weights.items():
                if key.startswith("weight"):
                    blocks = value.chunk(len(GATES)) if key.startswith(("weight_ih", "weight_hh")) else (value,)
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
        right_order, *wrong_orders = permutations(GATES)
        for order in wrong_orders:
            yield (
                f"the gates of {called} stand in the order {' '.join(order)}, not {' '.join(right_order)}",
                partial(_reorder, tensors, [right_order.index(gate) for gate in order]),
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
        blocks = tensor.clone().chunk(len(GATES))
        tensor.copy_(torch.cat([blocks[index] for index in order]))


def _transpose(blocks: Sequence[Tensor]) -> None:
    for block in blocks:
        block.copy_(block.T.clone())


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for a, b in pairs:
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
