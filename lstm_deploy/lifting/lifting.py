"""Lifting: a module with an `nn.LSTM` or `nn.LSTMCell` inside becomes one whose hidden state is explicit.

    Lifted.forward(x, …, h_in, c_in) -> (y, …, h_out, c_out)

The user's code stays as it is. Recurrent modules in a copy get another class (see `recurrent`). Which of their calls
start from a state of their own is found by running the module, and so is the rest of the contract.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import cast

import torch
from msgspec.structs import replace
from torch import nn

from lstm_deploy.contract import LSTM, RecurrentSpec, Signature, StateLayout, StatePolicy, Task, TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import RECURRENT_MODULES
from lstm_deploy.lifting.derived_weights import keep_weights
from lstm_deploy.lifting.execution import frozen_copy, shared_copy
from lstm_deploy.lifting.outputs import check_row_order, check_sizes, ignores_padding, measure_outputs
from lstm_deploy.lifting.probing import ModuleProbe, Start
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.streaming import measure_streaming

_STATE_NAMES = [f"{state.name}_{suffix}" for state in LSTM.states for suffix in ("in", "out")]


def lift(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    task: Task | None = None,
    state_policy: StatePolicy = "reset",
    state_layout: StateLayout = "layers-first",
) -> Lifted:
    """Make the state of every `nn.LSTM` and `nn.LSTMCell` in a copy of `module` explicit, and measure its contract.

    `inputs` are the arguments of `forward`, without a state that it requires. Raises `LiftingError`, with the reason,
    if the module has no LSTM, does not run on such inputs, or cannot be lifted correctly.
    """
    original = frozen_copy(module)
    _check_recurrent(original)
    probe = ModuleProbe(original, inputs)
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch warns of every projection on a CPU, which nobody can change.
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        fixed = probe.resolve_sizes()
        starts = probe.starts()
        _check_rows(probe, starts)
        signature = Signature(
            inputs=probe.inputs,
            outputs=(),
            recurrent=_recurrent_specs(original, starts, {spec.name for spec in inputs}),
            state_layout=state_layout,
            state_policy=state_policy,
            fixed=fixed,
            least_seq=probe.least_seq,
            task=task,
        )
        calls = [(start.path, start.number) for start in starts]
        copy = shared_copy(original)
        for path, weights in probe.weights().items():
            keep_weights(copy.get_submodule(path), weights)
        lifted = Lifted(copy, signature, calls, probe.convention, packs=probe.packs).eval()
        # Measured on copies, so that what the user's forward keeps on the module stays out of the export.
        lifted.output_positions, outputs = measure_outputs(probe, lifted)
        lifted.signature = replace(signature, outputs=outputs)
        check_sizes(probe, lifted)
        check_row_order(probe, lifted)
        streaming, reason = measure_streaming(lifted, inputs)
        if lifted.packs and not ignores_padding(probe, lifted):
            lifted.notes = ("the outputs look at padded steps, so the longest row of a batch must fill the time axis",)
    lifted.signature = replace(lifted.signature, streaming=streaming, streaming_reason=reason)
    return lifted


def _check_recurrent(module: nn.Module) -> None:
    """Refuse recurrent modules that are not LSTMs, LSTMs with a forward of their own, and modules without any."""
    for path, child in module.named_modules():
        if not isinstance(child, nn.RNNBase | nn.RNNCellBase):
            continue
        name = f"{path or 'The module'} is an nn.{type(child).__name__}"
        if not isinstance(child, RECURRENT_MODULES):
            raise LiftingError(f"{name}, which has no cell state and is not supported; use an nn.LSTM.")
        base = next(kind for kind in RECURRENT_MODULES if isinstance(child, kind))
        if type(child).forward is not base.forward:
            raise LiftingError(f"{name}, a subclass of nn.{base.__name__} with its own forward; use the class itself.")
    if not any(isinstance(child, RECURRENT_MODULES) for child in module.modules()):
        raise LiftingError(f"{type(module).__name__} has no nn.LSTM or nn.LSTMCell, so it has no state to lift.")


def _check_rows(probe: ModuleProbe, starts: Sequence[Start]) -> None:
    """Refuse an LSTM whose rows are not those of the batch, as bands or words: its state would have no row to be of."""
    recorded, batch = probe.record(probe.sizes), probe.sizes["batch"]
    for start in starts:
        if (rows := recorded[start.path][start.number].batch) != batch:
            raise LiftingError(
                f"{start.path or 'The LSTM'} computes {rows} rows where the batch has {batch}, so its state is not one "
                "of the batch's rows; export the part that runs on these rows as a module of its own, with all of them "
                "as its batch."
            )


def _recurrent_specs(module: nn.Module, starts: Sequence[Start], taken: Collection[str]) -> tuple[RecurrentSpec, ...]:
    """The recurrent modules; none of their states is called as an input (`taken`)."""
    paths = [start.path for start in starts]
    specs: list[RecurrentSpec] = []
    for index, start in enumerate(starts):
        prefix = "" if len(starts) == 1 else start.path.replace(".", "_") + "_"
        if paths.count(start.path) > 1:
            prefix += f"{paths[: index + 1].count(start.path)}_"
        names = {*taken, *(f"{spec.prefix}{name}" for spec in specs for name in _STATE_NAMES)}
        while any(f"{prefix}{name}" in names for name in _STATE_NAMES):
            prefix = f"state_{prefix}" if prefix or not start.path else start.path.replace(".", "_") + "_"
        child = module.get_submodule(start.path)
        initial = [tuple(map(tuple, state.tolist())) for state in start.initial or ()]
        specs.append(
            RecurrentSpec(
                module=start.path,
                prefix=prefix,
                input_size=cast(int, child.input_size),
                hidden_size=cast(int, child.hidden_size),
                proj_size=cast(int, getattr(child, "proj_size", 0)),
                num_layers=cast(int, getattr(child, "num_layers", 1)),
                num_directions=2 if getattr(child, "bidirectional", False) else 1,
                initial_h=initial[0] if initial else None,
                initial_c=initial[1] if initial else None,
            )
        )
    return tuple(specs)
