"""The recurrent modules of PyTorch: which kind of cell each is, and how it takes and returns its state."""

from typing import Any, cast

from torch import Tensor, nn

from lstm_deploy.contract import CELLS, Cell

State = tuple[Tensor, ...]
"""Of one recurrent module, tensor by tensor as `Cell.states` has them."""
SEQUENCES, STEPS = (
    tuple(dict.fromkeys(getattr(nn, cell.pytorch_modules[place]) for cell in CELLS.values())) for place in (0, 1)
)
"""The classes that run over a sequence, and those of one step."""
RECURRENT_MODULES = (*SEQUENCES, *STEPS)
"""The classes of PyTorch whose state can be made explicit."""


def cell_of(module: nn.Module) -> Cell:
    """The kind of cell of one of `RECURRENT_MODULES`."""
    if isinstance(module, SEQUENCES):
        return CELLS[cast(nn.RNNBase, module).mode]
    return next(
        cell
        for cell in CELLS.values()
        if isinstance(module, getattr(nn, cell.pytorch_modules[1]))
        and getattr(module, "nonlinearity", None) == cell.nonlinearity
    )


def layers_of(module: nn.Module) -> tuple[int, int]:
    """The numbers of layers and of directions of a recurrent module."""
    if not isinstance(module, nn.RNNBase):
        return 1, 1
    return module.num_layers, 2 if module.bidirectional else 1


def state_of(module: nn.Module, hx: Any) -> State | None:
    """The state that a caller passes to a recurrent module; none for none.

    Raises `TypeError` where PyTorch would refuse it, so that no state is tried in a structure that the module itself
    does not take.
    """
    if hx is None:
        return None
    cell = cell_of(module)
    count = len(cell.states)
    if isinstance(hx, Tensor) != (count == 1) or (count > 1 and len(hx) != count):
        takes = "one tensor" if count == 1 else f"a tuple of {count} tensors"
        given = "one tensor" if isinstance(hx, Tensor) else "a tuple"
        raise TypeError(f"the state of an nn.{cell.title} is {takes}, not {given}")
    return (hx,) if count == 1 else tuple(hx)


def as_passed(state: State) -> Any:
    """A state as PyTorch passes it: a tuple, or the tensor itself where there is but one."""
    return state if len(state) > 1 else state[0]


def zeros_of(module: nn.Module, like: Tensor, batch: int) -> State:
    """The zeros `[layers, batch, size]` that a recurrent module starts from where no state is passed."""
    hidden = cast(int, module.hidden_size)
    output = cast(int, getattr(module, "proj_size", 0)) or hidden
    layers, directions = layers_of(module)
    sizes = [output if state.is_output else hidden for state in cell_of(module).states]
    return tuple(like.new_zeros(layers * directions, batch, size) for size in sizes)
