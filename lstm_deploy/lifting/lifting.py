"""Lifting: a module with an `nn.LSTM`, `nn.GRU`, `nn.RNN` or their cells inside becomes one with explicit state.

    Lifted.forward(x, …, h_in, c_in) -> (y, …, h_out, c_out)

The user's code stays as it is. Recurrent modules in a copy get another class (see `recurrent`). Which of their calls
start from a state of their own is found by running the module, and so is the rest of the contract.
"""

import inspect
import warnings
from collections.abc import Sequence

import torch
from msgspec.structs import replace
from torch import nn

from lstm_deploy.contract import Signature, StateLayout, StatePolicy, Task, TensorSpec, contract_version
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.derived_weights import keep_weights
from lstm_deploy.lifting.execution import frozen_copy, shared_copy, threads_for
from lstm_deploy.lifting.kept_state import check_repeatable, find_kept_state, find_kept_state_of_one_row
from lstm_deploy.lifting.outputs import check_sizes, measure_outputs
from lstm_deploy.lifting.probing import LOOP, LOOP_ALONE, ModuleProbe
from lstm_deploy.lifting.recurrent import AuthorsModule, Lifted
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES
from lstm_deploy.lifting.row_checks import check_row_lengths
from lstm_deploy.lifting.state_flow import find_flow, recurrent_spec
from lstm_deploy.lifting.state_search import find_optional_state, find_required_state
from lstm_deploy.lifting.streaming import measure_streaming


def lift(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    task: Task | None = None,
    state_policy: StatePolicy | None = None,
    state_layout: StateLayout = "layers-first",
) -> Lifted:
    """Make the state of every recurrent module in a copy of `module` explicit, and measure its contract.

    `inputs` are the arguments of `forward`, without a state. Without a `state_policy`, a module that keeps its state
    between calls carries it, and any other starts anew. Raises `LiftingError`, with the reason,
    if the module is not recurrent, does not run on such inputs, or cannot be lifted correctly.
    """
    original = frozen_copy(module)
    _check_recurrent(original)
    probe = ModuleProbe(original, inputs)
    with torch.no_grad(), threads_for(original), warnings.catch_warnings():
        # PyTorch warns of every projection on a CPU, which nobody can change.
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        find_required_state(probe)
        find_kept_state_of_one_row(probe)
        fixed = probe.resolve_sizes()
        find_optional_state(probe)
        find_kept_state(probe)
        check_repeatable(probe)
        starts, flow = find_flow(probe)
        keeps = any(argument.attribute for argument in probe.convention.state)
        recurrent = tuple(recurrent_spec(original, start) for start in starts)
        signature = Signature(
            schema_version=contract_version(recurrent),
            inputs=probe.inputs,
            outputs=(),
            recurrent=recurrent,
            states=tuple(carried.spec for carried in flow.states) if flow.arguments else (),
            state_layout=state_layout,
            state_policy=state_policy or ("carry" if keeps else "reset"),
            fixed=fixed,
            least_seq=probe.least_seq,
            task=task,
        )
        copy = shared_copy(original)
        for path, weights in probe.weights().items():
            keep_weights(copy.get_submodule(path), weights)
        lifted = Lifted(copy, signature, flow, probe.convention, packing=probe.packing).eval()
        # Measured on copies, so that what the user's forward keeps on the module stays out of the export.
        lifted.output_positions, outputs = measure_outputs(probe, lifted)
        lifted.signature = replace(signature, outputs=outputs)
        check_sizes(probe, lifted)
        lifted.notes = check_row_lengths(probe, lifted)
        streaming, reason = measure_streaming(lifted, inputs)
    if streaming != "exact":  # one step a call would be something else than the loop
        fixed = tuple(replace(dim, reason=LOOP_ALONE) if dim.reason == LOOP else dim for dim in fixed)
    lifted.signature = replace(lifted.signature, streaming=streaming, streaming_reason=reason, fixed=fixed)
    lifted.notes += (*_output_notes(probe, lifted), *_state_notes(probe, lifted), *_default_notes(probe))
    if flow.is_authored and _takes_any_lengths(probe):
        lifted.author = AuthorsModule(original, lifted)
    return lifted


def _check_recurrent(module: nn.Module) -> None:
    """Refuse recurrent modules that are none of PyTorch's, or have a forward of their own, and modules without any."""
    for path, child in module.named_modules():
        if not isinstance(child, nn.RNNBase | nn.RNNCellBase):
            continue
        if not isinstance(child, RECURRENT_MODULES):
            raise LiftingError(
                f"{path or 'The module'} is an nn.{type(child).__name__}, a recurrent module of your own; use an "
                "nn.LSTM, nn.GRU, nn.RNN or a cell."
            )
        base = next(kind for kind in RECURRENT_MODULES if isinstance(child, kind))
        if type(child).forward is not base.forward:
            raise LiftingError(
                f"{path or 'The module'} is of the class {type(child).__name__}, a subclass of nn.{base.__name__} with "
                f"a forward of its own; use nn.{base.__name__} itself, and do the rest in the module that calls it."
            )
    if not any(isinstance(child, RECURRENT_MODULES) for child in module.modules()):
        raise LiftingError(
            f"{type(module).__name__} has no nn.LSTM, nn.GRU, nn.RNN or cell of one, so it has no state to lift."
        )


def _takes_any_lengths(probe: ModuleProbe) -> bool:
    """Whether rows can be sorted by an input that holds their lengths, where the author's code demands sorted ones."""
    sorts = probe.packing is not None and probe.packing.demands_sorted
    return not sorts or any(spec.is_lengths for spec in probe.inputs)


def _default_notes(probe: ModuleProbe) -> tuple[str, ...]:
    """Which parameters of `forward` are neither inputs nor states, but for flags."""
    convention = probe.convention
    taken = {*(convention.input_parameters or ()), *(argument.parameter for argument in convention.state)}
    if convention.input_parameters is None:
        return ()
    left = [
        f"{p.name}={p.default!r}"
        for p in inspect.signature(probe.original.forward).parameters.values()
        if p.name not in taken and p.default is not p.empty and not isinstance(p.default, bool)
    ]
    if not left:
        return ()
    return (f"forward is called with {', '.join(left)}; an --input of that name makes it an input",)


def _output_notes(probe: ModuleProbe, lifted: Lifted) -> tuple[str, ...]:
    """Why the numbers in the names of outputs have gaps."""
    with torch.no_grad():
        leaves = flatten(probe.run(probe.sizes))
    paths = [leaves[position][0] for position in lifted.output_positions]
    places = {path[: depth + 1] for path in paths for depth in range(len(path))}
    before = {(*place[:-1], place[-1] - 1) for place in places if isinstance(place[-1], int) and place[-1] > 0}
    if len(paths) < 2 or before <= places:
        return ()
    names = ", ".join(spec.name for spec in lifted.signature.outputs)
    return (f"the outputs {names} are numbered by their places in what forward returns; the other places hold states",)


def _state_notes(probe: ModuleProbe, lifted: Lifted) -> tuple[str, ...]:
    """What the contract says of a state that the module keeps between calls, or that is all that it returns."""
    alone = [carried.spec.argument for carried in lifted.flow.states if carried.result == ()]
    if alone:
        return (f"what forward returns is also its next {' and '.join(map(str, alone))}",)
    kept = [argument.attribute for argument in probe.convention.state if argument.attribute]
    if not kept:
        return ()
    names = " and ".join(f"self.{attribute}" for attribute in kept)
    held = any(flatten(value) for value in probe.left_behind())
    start = "zeros, whatever is in it now" if held else "where its first call starts"
    policy = "carried from call to call" if lifted.signature.state_policy == "carry" else "reset for each new sequence"
    return (f"the module keeps its state in {names}: it is {policy}, and starts from {start}",)
