"""What is known to go wrong between a model and its artifact, and what the outputs look like then.

Each suspect is a sentence and the outputs that a right model, wired wrongly in this way, gives. They were collected
from exports that have shipped, and from the sabotage that the tests do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec, by_module

Run = Callable[[Feeds], Outputs]
Suspect = tuple[str, Outputs]


def suspects(signature: Signature, run: Run, feeds: Feeds, buffers: Mapping[str, Array]) -> Iterator[Suspect]:
    """All suspects for one call of `run`, the right model; `buffers` are its constants by name, for scalings."""
    right = run(feeds)
    for wrong_in, into in (("", dict(feeds)), *_states_in(signature, feeds)):
        outputs = right if not wrong_in else run(into)
        if wrong_in:
            yield wrong_in, outputs
        for wrong_out, after in _states_out(signature, into, outputs):
            yield " and ".join(filter(None, (wrong_in, wrong_out))), after
    yield from _earlier(signature, run, feeds, right)
    yield from _inputs(signature, run, feeds, buffers)


def _states_in(signature: Signature, feeds: Feeds) -> Iterator[tuple[str, Feeds]]:
    """Ways to read the state wrongly."""
    initial = signature.initial_state(next(iter(_batches(signature, feeds)), 1))
    modules = by_module(signature.state_inputs)
    for one, other in (pair for states in modules for pair in combinations(states, 2)):
        if one.shape == other.shape:
            yield (
                f"{one.name} and {other.name} are swapped on the way in",
                {**feeds, one.name: feeds[other.name], other.name: feeds[one.name]},
            )
    singles: list[tuple[TensorSpec, ...]] = [(spec,) for spec in signature.state_inputs]
    for kind in (modules, singles):
        for ours, others in permutations(kind, 2):
            if [spec.shape for spec in ours] == [spec.shape for spec in others]:
                taken = {a.name: feeds[b.name] for a, b in zip(ours, others, strict=True)}
                read = " and ".join(spec.name for spec in ours)
                yield f"{read} {_be(ours)} read from {' and '.join(b.name for b in others)}", {**feeds, **taken}
    names = [spec.name for spec in signature.state_inputs]
    groups = [(name,) for name in names] + [tuple(spec.name for spec in states) for states in modules] + [tuple(names)]
    for group in dict.fromkeys(groups):
        what = "its" if len(group) == 1 else "their"
        yield (
            f"{' and '.join(group)} {_be(group)} ignored: every call starts from {what} initial value",
            {**feeds, **{name: initial[name] for name in group}},
        )
    for specs in (*modules, *((spec,) for spec in signature.state_inputs), signature.state_inputs):
        called = " and ".join(spec.name for spec in specs)
        for what, index in _layer_mixes(signature, specs[0]):
            if all(spec.shape[_layers_axis(signature)] == len(index) for spec in specs):
                taken = {spec.name: feeds[spec.name].take(index, _layers_axis(signature)) for spec in specs}
                yield f"{what} on the way in, in {called}", {**feeds, **taken}


def _states_out(signature: Signature, feeds: Feeds, outputs: Outputs) -> Iterator[Suspect]:
    """Ways to hand the state out wrongly."""
    ins, outs = signature.state_inputs, signature.state_outputs
    for one, other in combinations(outs, 2):
        if one.shape == other.shape:
            swapped = {one.name: outputs[other.name], other.name: outputs[one.name]}
            yield f"{one.name} and {other.name} are swapped on the way out", {**outputs, **swapped}
    stale = {after.name: feeds[before.name].astype(np.float64) for before, after in zip(ins, outs, strict=True)}
    groups = [(spec.name,) for spec in outs] + [tuple(spec.name for spec in outs)]
    for group in groups:
        called = " and ".join(group)
        yield (
            f"{called} {_be(group)} the state that came in, not the one after the last step",
            {**outputs, **{name: stale[name] for name in group}},
        )
        yield (
            f"{called} {_be(group)} zeros, not the state after the last step",
            {**outputs, **{name: np.zeros_like(outputs[name]) for name in group}},
        )
    for what, index in _layer_mixes(signature, outs[0]):
        taken = {
            spec.name: outputs[spec.name].take(index, _layers_axis(signature))
            for spec in outs
            if spec.shape[_layers_axis(signature)] == len(index)
        }
        yield f"{what} on the way out", {**outputs, **taken}


def _earlier(signature: Signature, run: Run, feeds: Feeds, right: Outputs) -> Iterator[Suspect]:
    """Outputs and states of another step than the last."""
    axes = {spec.name: spec.shape.index("seq") for spec in signature.inputs if "seq" in spec.shape}
    if not axes:
        return
    steps = feeds[next(iter(axes))].shape[next(iter(axes.values()))]
    outputs = {spec.name for spec in signature.outputs if "seq" not in spec.shape}
    states = {spec.name for spec in signature.state_outputs}
    for last in range(steps - 1, 0, -1):
        cut = {name: value.take(range(last), axes[name]) if name in axes else value for name, value in feeds.items()}
        for spec in signature.inputs:
            if spec.is_lengths:
                cut[spec.name] = np.minimum(cut[spec.name], last)
        earlier = run(cut)
        groups = [("the state", states), ("the output", outputs), ("everything", outputs | states)]
        for what, names in (*groups, *((name, {name}) for name in sorted(states))):
            if names:
                yield (
                    f"{what} is that after step {last} of {steps}, not after the last",
                    {**right, **{name: earlier[name] for name in names}},
                )
    for spec in signature.outputs:
        if "seq" in spec.shape:
            for by in (1, -1):
                when = "late" if by == 1 else "early"
                shifted = np.roll(right[spec.name], by, spec.shape.index("seq"))
                yield f"{spec.name} is one step {when}", {**right, spec.name: shifted}
            flipped = np.flip(right[spec.name], spec.shape.index("seq"))
            yield f"{spec.name} runs backwards in time", {**right, spec.name: flipped}


def _inputs(signature: Signature, run: Run, feeds: Feeds, buffers: Mapping[str, Array]) -> Iterator[Suspect]:
    """Inputs that reach the network otherwise than they should."""
    for spec in signature.inputs:
        x = feeds[spec.name]
        if spec.is_lengths:
            yield (
                f"{spec.name} is ignored: padding counts as steps",
                run({**feeds, spec.name: np.full_like(x, x.max())}),
            )
            continue
        if "seq" in spec.shape:
            flipped = np.flip(x, spec.shape.index("seq"))
            yield f"{spec.name} is read backwards in time", run({**feeds, spec.name: flipped})
        if not spec.dtype.startswith("float") or not spec.shape or not isinstance(spec.shape[-1], int):
            continue
        for i, j in combinations(range(min(spec.shape[-1], 8)), 2):
            order = list(range(spec.shape[-1]))
            order[i], order[j] = j, i
            yield f"columns {i} and {j} of {spec.name} are exchanged", run({**feeds, spec.name: x[..., order]})
        for what, value in _scalings(spec, x.astype(np.float64), buffers):
            yield what, run({**feeds, spec.name: value})


def _scalings(spec: TensorSpec, x: Array, buffers: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """What to feed a right model so that it sees what a wrongly scaled one sees.

    A scaling is `(x - a) * b` or `(x - a) / b` with two constants of the model, one number for each column.
    """
    columns = [(name, value) for name, value in buffers.items() if value.shape == (spec.shape[-1],)]
    for first, a in columns:
        for second, b in columns:
            if first == second or (b == 0).any():
                continue
            for scale in (b, 1 / b):
                called = f"{spec.name} (with {first} and {second})"
                scaled = (x - a) * scale
                yield f"the scaling of {called} is left out", x / scale + a
                yield f"the scaling of {called} is applied twice", scaled
                yield f"the offset of {called} is left out", x + a
                yield f"the factor of {called} is left out", (x - a) / scale + a
                for by in range(1, len(a)):
                    other_a, other_scale = np.roll(a, by), np.roll(scale, by)
                    wrong = (x - other_a) * other_scale / scale + a
                    yield f"the scaling of {called} is another column's", wrong
                    yield f"the factor of {called} is another column's", (x - a) * other_scale / scale + a
                    yield f"the offset of {called} is another column's", x - other_a + a


def _layer_mixes(signature: Signature, spec: TensorSpec) -> Iterator[tuple[str, list[int]]]:
    """Entries of the state's first axis in each other's place: layers, and their directions one after the other."""
    layers = int(spec.shape[_layers_axis(signature)])
    order = list(range(layers))
    for i, j in combinations(order, 2):
        exchanged = order.copy()
        exchanged[i], exchanged[j] = j, i
        yield f"the states of layers {i} and {j} are exchanged", exchanged
        for taken, given in ((i, j), (j, i)):
            copied = order.copy()
            copied[given] = taken
            yield f"layer {given} has the state of layer {taken}", copied


def _layers_axis(signature: Signature) -> int:
    return 1 - signature.batch_axis_of_state


def _batches(signature: Signature, feeds: Feeds) -> Iterator[int]:
    for spec in signature.state_inputs:
        yield feeds[spec.name].shape[signature.batch_axis_of_state]


def _be(names: Sequence[object]) -> str:
    return "is" if len(names) == 1 else "are"
