"""Measures whether a lifted module streams: whether chunks with carried state give what the whole sequence gives."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lstm_deploy.contract import Streaming, TensorSpec, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import one_line
from lstm_deploy.lifting.branch_values import ROWS, branch_inputs
from lstm_deploy.lifting.chunk_runs import ChunkRuns, Outcome, Trial
from lstm_deploy.lifting.execution import frozen_copy
from lstm_deploy.lifting.outputs import many_steps
from lstm_deploy.lifting.probing import BATCH, SEQ, dynamic_dims
from lstm_deploy.lifting.recurrent import Call, Lifted
from lstm_deploy.lifting.streaming_reasons import why_outputs_differ, why_states_differ

SHORT_CHUNKS = (2, 1, 1, 2)
"""How a sequence is cut to see branches on values: no chunk is long enough to make up for what was wrong before it."""


def measure_streaming(lifted: Lifted, declared: Sequence[TensorSpec]) -> tuple[Streaming, str]:
    """The `streaming` and `streaming_reason` of a lifted module, found by running it on chunks and on the whole.

    `declared` are its inputs before any dimension was fixed.
    """
    signature = lifted.signature
    one_step = signature.fixed_size("seq") == 1
    specs = declared if one_step else signature.inputs  # a loop over time runs at any length here
    has_steps = any("seq" in spec.shape for spec in specs)
    for recurrent in signature.recurrent:
        if recurrent.num_directions == 2 and (not has_steps or _runs_over_steps(lifted, specs, recurrent.module)):
            return "none", f"{recurrent.module or 'the module'} is bidirectional: its first output needs the last input"
    if has_steps:
        return _measure_chunks(lifted, specs, one_step=one_step)
    if takes_one_step(lifted):
        return "exact", ""  # a sequence is its steps, as nothing but the state is kept between calls
    others = sorted(dynamic_dims(signature.inputs) - {"batch"})
    if others and signature.fixed_size("seq") is None:
        return "none", f"no axis is called `seq`; call {' or '.join(others)} so if it is that of time"
    reason = next((f": {dim.reason}" for dim in signature.fixed if dim.name == "seq"), "")
    return "none", f"the number of steps is fixed{reason}"


def _measure_chunks(lifted: Lifted, specs: Sequence[TensorSpec], *, one_step: bool) -> tuple[Streaming, str]:
    """`measure_streaming` where a sequence can be cut: along `seq` of `specs`, into single steps with `one_step`."""
    runs = ChunkRuns(lifted, specs)
    usual = _usual_trial(lifted, specs, one_step=one_step)
    try:
        trials = [(usual, runs.outcome(usual))]
    except RuntimeError as error:
        return "none", f"it does not run on every number of steps ({one_line(error)})"
    if runs.same_states(trials[0][1]):
        trials += _branch_outcomes(runs, lifted, specs, one_step=one_step)
    if wrong := next((trial for trial, outcome in trials if not runs.same_states(outcome)), None):
        return "state-only" if lifted.flow.is_authored else "none", why_states_differ(runs, wrong)
    if wrong := next((trial for trial, outcome in trials if not runs.same_outputs(outcome, trial.chunks)), None):
        return "state-only", why_outputs_differ(runs, wrong)
    return "exact", ""


def _usual_trial(lifted: Lifted, specs: Sequence[TensorSpec], *, one_step: bool) -> Trial:
    # The last chunk is short: over many steps a recurrent module forgets what was wrong at the cut before them.
    chunks = (1,) * 40 if one_step else (3, 1, many_steps(lifted), 3)
    sizes = lifted.signature.clamp(sizes_of(specs, BATCH, sum(chunks))) | {"seq": sum(chunks)}
    inputs = [torch.from_numpy(x) for x in sample_inputs(specs, sizes, np.random.default_rng(0)).values()]
    # Not from zeros: there a recurrent module on even inputs hardly moves, and all cuts look alike.
    return Trial(inputs, _sampled_state(lifted, sizes["batch"], 1), chunks)


def _branch_outcomes(
    runs: ChunkRuns, lifted: Lifted, specs: Sequence[TensorSpec], *, one_step: bool
) -> Iterator[tuple[Trial, Outcome]]:
    """Trials of sequences on whose values a branch may act; values on which the module does not run are left out."""
    chunks = (1,) * sum(SHORT_CHUNKS) if one_step else SHORT_CHUNKS
    sizes = lifted.signature.clamp(sizes_of(specs, ROWS, sum(chunks))) | {"seq": sum(chunks)}
    for inputs, seed in branch_inputs(lifted, specs, sizes):
        trial = Trial(inputs, _sampled_state(lifted, sizes["batch"], seed), chunks)
        try:
            outcome = runs.outcome(trial)
        except Exception:  # whatever the author's forward raises
            continue
        yield trial, outcome


def _sampled_state(lifted: Lifted, batch: int, seed: int) -> list[Tensor]:
    states = sample_state(lifted.signature, batch, np.random.default_rng(seed)).values()
    return [torch.from_numpy(state) for state in states]


def takes_one_step(lifted: Lifted) -> bool:
    """Whether a call is one step: each call of a recurrent module that starts from a state of the contract has one.

    A loop over the steps of a window starts from the state of the step before. An encoder that starts from nothing in
    each call keeps nothing, and may have any number.
    """
    recorded = _recorded_calls(lifted, lifted.signature.inputs, SEQ)
    own = [recorded.pop(start, None) for start in lifted.flow.starts]
    return all(call and call.steps == 1 for call in own) and all(
        call.state is None and path not in dict(lifted.flow.starts) for (path, _), call in recorded.items()
    )


def _runs_over_steps(lifted: Lifted, specs: Sequence[TensorSpec], path: str) -> bool:
    """Whether a recurrent module takes more steps where the inputs have more; one over another input does not."""
    few, more = (
        sum(call.steps for (module, _), call in _recorded_calls(lifted, specs, steps).items() if module == path)
        for steps in (SEQ, 2 * SEQ)
    )
    return few != more


def _recorded_calls(lifted: Lifted, specs: Sequence[TensorSpec], steps: int) -> dict[tuple[str, int], Call]:
    """The calls of recurrent modules, by path and number, on inputs of so many steps."""
    copy, signature = frozen_copy(lifted), lifted.signature
    steps += 4 * (signature.least_seq - 1)
    sizes = signature.clamp(sizes_of(specs, BATCH, SEQ)) | {"seq": steps}
    inputs = sample_inputs(specs, sizes, np.random.default_rng(0))
    for calls in copy.calls.values():
        calls.recorded = []
    copy(*(torch.from_numpy(x) for x in (*inputs.values(), *signature.initial_state(sizes["batch"]).values())))
    return {
        (path, number): call for path, calls in copy.calls.items() for number, call in enumerate(calls.recorded or ())
    }
