"""Lifting: any module with `nn.LSTM` or `nn.LSTMCell` inside becomes one whose hidden state is explicit.

    Lifted.forward(x, …, h_in, c_in) -> (y, …, h_out, c_out)

The user's code stays as it is. Recurrent modules in a copy get another class (see `stateful`); which of their calls
start from a state of their own is seen by running the module, and so is all else that the contract says.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import (
    RecurrentSpec,
    Signature,
    StateLayout,
    StatePolicy,
    Task,
    TensorSpec,
    sample_inputs,
    sizes_of,
)
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import RECURRENT_MODULES, frozen_copy, shared_copy
from lstm_deploy.lifting.contract_probe import (
    check_rows,
    check_sizes,
    ignores_padding,
    measure_outputs,
    measure_streaming,
)
from lstm_deploy.lifting.probing import BATCH, SEQ, Probe, Start
from lstm_deploy.lifting.recurrent import Lifted


def lift(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    task: Task | None = None,
    state_policy: StatePolicy = "reset",
    state_layout: StateLayout = "layers-first",
) -> Lifted:
    """Make the state of every `nn.LSTM` and `nn.LSTMCell` in a copy of `module` explicit, and measure its contract.

    `inputs` are the arguments of `forward` but for a state that it demands. Raises `LiftingError` where the module
    has no LSTM, does not run on such inputs, or cannot be lifted rightly, with the reason.
    """
    original = frozen_copy(module)
    _check_recurrent(original)
    probe = Probe(original, inputs)
    with torch.no_grad(), _quiet():
        fixed = probe.settle_sizes()
        starts = probe.starts()
        lifted = Lifted(
            shared_copy(original),
            [(start.path, start.number) for start in starts],
            probe.convention,
            len(inputs),
            state_layout,
            packs=probe.packs,
        ).eval()
        contract = Signature(
            inputs=probe.inputs,
            outputs=(),
            recurrent=_recurrent_specs(original, starts),
            state_layout=state_layout,
            state_policy=state_policy,
            fixed=fixed,
            least_seq=probe.least_seq,
            task=task,
        )
        # Measured on copies, so that what the user's forward keeps on the module stays out of the export.
        lifted.kept, outputs = measure_outputs(probe, lifted, contract)
        contract = replace(contract, outputs=outputs)
        check_sizes(probe, lifted, contract)
        check_rows(probe, lifted, contract)
        streaming, reason = measure_streaming(shared_copy(lifted), contract, inputs)
        if lifted.packs and not ignores_padding(probe, lifted, contract):
            lifted.notes = ("the outputs look at padded steps, so the longest row of a batch must fill the time axis",)
    lifted.signature = replace(contract, streaming=streaming, streaming_reason=reason)
    return lifted


def example(signature: Signature, batch: int = BATCH, seq: int = SEQ, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for `Lifted.forward`: random inputs of these sizes and the initial state.

    Where few steps are not enough there are several times the fewest, so that nothing inside is left with one.
    """
    seq += 4 * (signature.least_seq - 1)
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = sample_inputs(signature.inputs, sizes, np.random.default_rng(seed))
    state = signature.initial_state(sizes["batch"])
    return tuple(torch.from_numpy(value) for value in (*inputs.values(), *state.values()))


def _check_recurrent(module: nn.Module) -> None:
    """Refuse what is recurrent but no LSTM, and LSTMs whose computation is their own."""
    found = False
    for path, child in module.named_modules():
        name = f"{path or 'The module'} is an nn.{type(child).__name__}"
        if isinstance(child, nn.RNNBase | nn.RNNCellBase) and not isinstance(child, RECURRENT_MODULES):
            raise LiftingError(f"{name}, which has no cell state and is not supported; use an nn.LSTM.")
        if isinstance(child, RECURRENT_MODULES):
            found = True
            base = next(kind for kind in RECURRENT_MODULES if isinstance(child, kind))
            if type(child).forward is not base.forward:
                base_name = f"nn.{base.__name__}"
                raise LiftingError(
                    f"{name}, a subclass of {base_name} with a forward of its own; use {base_name} itself."
                )
    if not found:
        raise LiftingError(
            f"{type(module).__name__} has no nn.LSTM or nn.LSTMCell inside, so there is no state to make explicit."
        )


def _recurrent_specs(module: nn.Module, starts: Sequence[Start]) -> tuple[RecurrentSpec, ...]:
    paths = [start.path for start in starts]
    specs = []
    for start in starts:
        prefix = "" if len(starts) == 1 else start.path.replace(".", "_") + "_"
        if paths.count(start.path) > 1:
            prefix += f"{sum(other.path == start.path and other.number <= start.number for other in starts)}_"
        child = module.get_submodule(start.path)
        initial_h, initial_c = (
            (tuple(map(tuple, state.tolist())) for state in start.initial) if start.initial else (None, None)
        )
        specs.append(
            RecurrentSpec(
                module=start.path,
                prefix=prefix,
                input_size=cast(int, child.input_size),
                hidden_size=cast(int, child.hidden_size),
                proj_size=cast(int, getattr(child, "proj_size", 0)),
                num_layers=cast(int, getattr(child, "num_layers", 1)),
                num_directions=2 if getattr(child, "bidirectional", False) else 1,
                initial_h=initial_h,
                initial_c=initial_c,
            )
        )
    return tuple(specs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch says once in a process of every projection on the CPU; nobody could act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield
