"""Says why chunks give something else than the whole sequence: only what is seen where both are run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_deploy.contract import TensorSpec
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.chunk_runs import ChunkRuns, Returned, Trial, close, joined
from lstm_deploy.lifting.recurrent import Call
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES, State

SO = "so each cut of a sequence counts"
Entered = dict[str, list[Tensor]]
Results = dict[str, list[tuple[Tensor, Tensor]]]


class _Run(NamedTuple):
    """One run of a lifted module, and what its modules were given in it; modules in the order in which they finish."""

    given: list[Tensor]
    """The states, layers first."""
    returned: Returned
    entered: Entered
    """What each recurrent module was given, `[rows, steps, features]`; a packed sequence counts as nothing."""
    calls: dict[str, list[Call]]
    finals: dict[str, list[State]]
    results: Results
    """Of the other modules: the first tensors that they were given and that they returned."""


class _Runs(NamedTuple):
    """The runs of a trial."""

    trial: Trial
    parts: list[_Run]
    whole: _Run

    def off(self, parts: Sequence[int], whole: int) -> str:
        """What is wrong with numbers of steps, as in `1 step more than`; nothing if they are those of the trial.

        Nothing either where they are not off by the same number in all runs.
        """
        more = {n - given for n, given in zip(parts, self.trial.chunks, strict=True)} | {whole - sum(self.trial.chunks)}
        if more == {0} or len(more) > 1:
            return ""
        (by,) = more
        return f"{abs(by)} step{'s' * (abs(by) > 1)} {'more' if by > 0 else 'fewer'} than"

    def outputs_off(self, specs: Sequence[TensorSpec]) -> dict[str, str]:
        """What is wrong with the numbers of steps of each output, by name."""
        off: dict[str, str] = {}
        for position, spec in enumerate(specs):
            shapes = [run.returned[position].shape for run in (*self.parts, self.whole)]
            for *parts, whole in zip(*shapes, strict=True):  # of one axis
                if text := self.off(parts, whole):
                    off[spec.name] = text
        return off


def why_states_differ(runs: ChunkRuns, trial: Trial) -> str:
    """Why the state after the chunks of a trial is not that after the whole."""
    seen = _seen(runs, trial)
    x = next(spec.name for spec in runs.specs if "seq" in spec.shape)
    changed = _changed_states(runs, seen)
    for path, entered in seen.whole.entered.items():
        module = path or "the module"
        parts = [run.entered.get(path, []) for run in seen.parts]
        lengths, whole = [_length(part) for part in parts], _length(entered)
        if {*lengths} == {whole}:
            return f"{module} takes as many steps in every call, however many {x} has, {SO}"
        if off := seen.off(lengths, whole):
            outputs = [name for name, other in seen.outputs_off(runs.lifted.signature.outputs).items() if other == off]
            return f"{' and '.join([module, *outputs])} {'have' if outputs else 'has'} {off} {x} in every call, {SO}"
        if path in changed:
            return f"forward changes the state of {module} on its way {changed[path]}, {SO}"
        if not _same_over_time(parts, entered):
            culprit = _first_across_time(runs, seen, path)
            if culprit:
                return f"{culprit}, before {module}, looks across time and begins anew in each call, {SO}"
            return f"what {module} gets at a step depends on other steps of the same call: something looks across time"
    return "the state after chunks differs from that after the whole"


def why_outputs_differ(runs: ChunkRuns, trial: Trial) -> str:
    """Why the outputs of the chunks of a trial are not those of the whole, whose final state they lead to."""
    seen = _seen(runs, trial)
    x = next(spec.name for spec in runs.specs if "seq" in spec.shape)
    for name, off in seen.outputs_off(runs.lifted.signature.outputs).items():
        return f"{name} has {off} {x} in every call, so it depends on how the sequence is cut"
    return "the output looks across time, so it depends on how the sequence is cut"


def _changed_states(runs: ChunkRuns, seen: _Runs) -> dict[str, str]:
    """The recurrent modules whose state is another on its way in, out, or both, by path."""
    changed: dict[str, list[str]] = {}
    for position, carried in enumerate(runs.lifted.flow.states):
        target = carried.target
        if target is None:
            continue
        ways = changed.setdefault(target.path, [])
        for run in (*seen.parts, seen.whole):
            start = run.calls[target.path][target.number].state
            if start is None or not close([run.given[position]], [start[target.state]]):
                ways.append("in")
            after = runs.lifted.in_layout(run.returned[runs.outputs + position]).flatten()
            finals = [final[target.state].flatten() for final in run.finals[target.path]]
            if not any(close([after], [final]) for final in finals):
                ways.append("out")
    return {path: " and ".join(sorted({*ways})) for path, ways in changed.items() if ways}


def _first_across_time(runs: ChunkRuns, seen: _Runs, before: str) -> str:
    """The first module that gives something else for chunks where it was given the same; none if none is seen."""
    for path, calls in seen.whole.results.items():
        if path == before:
            break
        parts = [run.results.get(path, []) for run in seen.parts]
        if len(calls) != 1 or any(len(part) != 1 for part in parts):
            continue
        given, gives = (
            close([joined([part[0][place] for part in parts], calls[0][place], seen.trial.chunks)], [calls[0][place]])
            for place in (0, 1)
        )
        if given and not gives:
            return f"{path}, an nn.{type(runs.lifted.module.get_submodule(path)).__name__}"
    return ""


def _same_over_time(parts: Sequence[Sequence[Tensor]], whole: Sequence[Tensor]) -> bool:
    """Whether a recurrent module was given in chunks what it was given in the whole, in each call or in all of them."""
    if any(len(part) != len(whole) for part in parts):  # a loop over the steps
        parts, whole = [[torch.cat(list(part), 1)] for part in parts if part], [torch.cat(list(whole), 1)]
    pairs = [(torch.cat(list(part), 1), entered) for part, entered in zip(zip(*parts, strict=True), whole, strict=True)]
    return all(close([ours], [entered]) for ours, entered in pairs)


def _length(entered: Sequence[Tensor]) -> int:
    return sum(x.shape[1] for x in entered)


def _seen(runs: ChunkRuns, trial: Trial) -> _Runs:
    parts: list[_Run] = []
    state = trial.initial
    for number in range(len(trial.chunks)):
        parts.append(_recorded(runs, partial(runs.run_chunk, trial, number, state), state))
        state = parts[-1].returned[runs.outputs :]
    return _Runs(trial, parts, _recorded(runs, partial(runs.run_whole, trial), trial.initial))


def _recorded(runs: ChunkRuns, run: Callable[[], Returned], state: Sequence[Tensor]) -> _Run:
    with _watched(runs.lifted.module) as (entered, results):
        for calls in runs.lifted.calls.values():
            calls.recorded, calls.finals = [], []
        returned = run()
    recorded = {path: calls.recorded or [] for path, calls in runs.lifted.calls.items()}
    finals = {path: calls.finals for path, calls in runs.lifted.calls.items()}
    for calls in runs.lifted.calls.values():
        calls.recorded = None
    given = [runs.lifted.in_layout(value.double()) for value in state]
    return _Run(given, returned, entered, recorded, finals, results)


@contextmanager
def _watched(module: nn.Module) -> Iterator[tuple[Entered, Results]]:
    """Within the block, what recurrent modules are given, and what modules without such inside are given and return."""
    entered: Entered = {}
    results: Results = {}

    def enter(path: str, child: nn.Module, given: tuple[Any, ...]) -> None:
        results.setdefault(path, [])
        if isinstance(given[0], Tensor):
            entered.setdefault(path, []).append(_rows_first(child, given[0]))

    def leave(path: str, _: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        tensors = [[x for _, x in flatten(value)][:1] for value in (given, returned)]
        if all(tensors):
            results.setdefault(path, []).append((tensors[0][0], tensors[1][0]))

    hooks = []
    for path, child in module.named_modules():
        if isinstance(child, RECURRENT_MODULES):
            hooks.append(child.register_forward_pre_hook(partial(enter, path)))
        elif not any(isinstance(inner, RECURRENT_MODULES) for inner in child.modules()):
            hooks.append(child.register_forward_hook(partial(leave, path)))
    try:
        yield entered, results
    finally:
        for hook in hooks:
            hook.remove()


def _rows_first(module: nn.Module, x: Tensor) -> Tensor:
    """What a recurrent module was given, as `[rows, steps, features]`."""
    if not isinstance(module, nn.RNNBase):  # a cell: one step
        return x[..., None, :] if x.dim() == 2 else x[None, None]
    if x.dim() == 2:
        return x[None]
    return x if module.batch_first else x.transpose(0, 1)
