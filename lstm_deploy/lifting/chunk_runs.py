"""Runs of a lifted module on a sequence in chunks and on the whole of it, and whether both give the same."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lstm_deploy.contract import TensorSpec
from lstm_deploy.lifting.execution import frozen_copy, in_float64
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES

NEARBY = 1e-12
"""A relative change of a state that is about as small as the accumulated rounding of float64."""
DAMPINGS = (1.0, 0.1, 0.01, 0.0)
"""Factors for the recurrent weights, tried in turn where a network amplifies rounding until nothing can be compared.
Whether its code looks across time does not depend on their size."""

Returned = tuple[Tensor, ...]
"""The outputs of a lifted module, then its final states."""


class Trial(NamedTuple):
    """A sequence, the state before it, and the steps of the chunks that it is cut into."""

    inputs: Sequence[Tensor]
    initial: Sequence[Tensor]
    chunks: Sequence[int]


class Outcome(NamedTuple):
    """What a trial gave: by chunk, each started from the state after the one before it, and as a whole."""

    parts: list[Returned]
    whole: Returned


class ChunkRuns:
    """Runs of a copy of a lifted module, in float64: float32's rounding would hide what artifacts are proven by."""

    lifted: Lifted
    specs: Sequence[TensorSpec]

    def __init__(self, lifted: Lifted, specs: Sequence[TensorSpec]) -> None:
        """`specs` are the inputs of a whole sequence, whose axis of time is `seq`."""
        self.lifted, self.specs = frozen_copy(lifted).double(), specs
        self.outputs: int = len(lifted.signature.outputs)
        """How many of the returned tensors are no states."""
        modules = [module for module in self.lifted.modules() if isinstance(module, RECURRENT_MODULES)]
        weights = [pair for module in modules for pair in module.named_parameters(recurse=False)]
        self._recurrent = [(weight, weight.data) for name, weight in weights if name.startswith("weight_hh")]

    def outcome(self, trial: Trial) -> Outcome:
        """What a trial gives, in a module that is damped as far as its rounding would hide that."""
        for damping in DAMPINGS:
            for weight, data in self._recurrent:
                weight.data = data * damping
            parts, state = [], trial.initial
            for number in range(len(trial.chunks)):
                parts.append(self.run_chunk(trial, number, state))
                state = parts[-1][self.outputs :]
            whole = self.run_whole(trial)
            nearby = self.run_whole(trial._replace(initial=[state * (1 + NEARBY) for state in trial.initial]))
            if close(nearby, whole):
                break
        return Outcome(parts, whole)

    def run_whole(self, trial: Trial) -> Returned:
        """What the module returns for all steps of a trial."""
        return self._run(trial, 0, sum(trial.chunks), trial.initial)

    def run_chunk(self, trial: Trial, number: int, state: Sequence[Tensor]) -> Returned:
        """What it returns for one of the chunks, started from a state."""
        starts = [0, *accumulate(trial.chunks)]
        return self._run(trial, starts[number], trial.chunks[number], state)

    def _run(self, trial: Trial, start: int, steps: int, state: Sequence[Tensor]) -> Returned:
        part = [
            torch.full_like(x, steps)
            if spec.is_lengths
            else x.narrow(spec.shape.index("seq"), start, steps)
            if "seq" in spec.shape
            else x
            for spec, x in zip(self.specs, trial.inputs, strict=True)
        ]
        part = [x.double() if x.is_floating_point() else x for x in part]
        with in_float64():
            returned: Returned = self.lifted(*part, *(value.double() for value in state))
        return returned

    def same_states(self, outcome: Outcome) -> bool:
        """Whether the state after the chunks is that after the whole."""
        return close(outcome.parts[-1][self.outputs :], outcome.whole[self.outputs :])

    def same_outputs(self, outcome: Outcome, chunks: Sequence[int]) -> bool:
        """Whether the outputs of the chunks are those of the whole."""
        count = range(self.outputs)
        outputs = [joined([part[index] for part in outcome.parts], outcome.whole[index], chunks) for index in count]
        return close(outputs, outcome.whole[: self.outputs])


def joined(parts: Sequence[Tensor], whole: Tensor, chunks: Sequence[int]) -> Tensor:
    """Outputs of chunks joined along the time axis, or the last one where the whole has no such axis.

    Time may be one axis with others, as in `[batch * seq, …]`: then it is found by trying all places that it may have.
    """
    last = parts[-1]
    for axis in range(whole.dim()):
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        if shape != list(whole.shape):
            continue
        whole_again = torch.cat(list(parts), axis)
        entries, rest = divmod(whole.shape[axis], sum(chunks))
        if rest or any(part.shape[axis] != entries * steps for part, steps in zip(parts, chunks, strict=True)):
            return whole_again
        for before in (size for size in range(1, entries + 1) if entries % size == 0):
            split = [
                part.reshape(*part.shape[:axis], before, steps, entries // before, *part.shape[axis + 1 :])
                for part, steps in zip(parts, chunks, strict=True)
            ]
            other = torch.cat(split, axis + 1).flatten(axis, axis + 2)
            if close([other], [whole]):
                return other
        return whole_again
    return last


def close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all differences are small beside the spread of each column, and beside the tolerance of artifacts.

    NaN is as NaN: where the author's own forward gives no number, none is to be had.
    """
    pairs = zip(actual, expected, strict=True)
    return all(a.shape == b.shape and _columns_close(a.double(), b.double()) for a, b in pairs)


def _columns_close(actual: Tensor, expected: Tensor) -> bool:
    # Two runs of one module in float64, in a tolerance of their own: that of artifacts belongs to validation.
    finite = expected.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # as of columns that are masked with infinities
    columns = finite.flatten(0, -2) if finite.dim() > 1 else finite.reshape(-1, 1)
    spread = (columns.amax(0) - columns.amin(0)).reshape(-1)  # one for each entry of the last axis, or for all
    near = (actual - expected).abs() <= 1e-6 * (expected.abs() + spread) + 1e-7
    return bool((near | (actual == expected) | (actual.isnan() & expected.isnan())).all())
