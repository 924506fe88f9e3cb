"""Known faults in wiring: what goes wrong between a model and its artifact, and the outputs then.

Each fault is a sentence and the outputs of the right model, wired wrongly in this way. They were collected from exports
that have shipped, and from the sabotage that the tests do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec

Run = Callable[[Feeds], Outputs]
Fault = tuple[str, Outputs]


def wiring_faults(signature: Signature, run: Run, feeds: Feeds, constants: Mapping[str, Array]) -> Iterator[Fault]:
    """All faults on one call of the right model `run`; `constants` are its vectors by name, for scalings."""
    right = run(feeds)
    yield from _states_out(signature, feeds, right)
    for fault, wrong in _states_in(signature, feeds):
        outputs = run(wrong)
        yield fault, outputs
        for second, after in _states_out(signature, wrong, outputs):
            yield f"{fault} and {second}", after
    yield from _other_steps(signature, run, feeds, right)
    for fault, wrong in _inputs(signature, feeds, constants):
        yield fault, run({**feeds, **wrong})


def _states_in(signature: Signature, feeds: Feeds) -> Iterator[tuple[str, Feeds]]:
    """Feeds that make the right model read the state wrongly."""
    states = signature.state_inputs
    modules = [tuple(states[position] for position in group) for group in signature.state_groups]
    for a, b in (pair for module in modules for pair in combinations(module, 2)):
        if a.shape == b.shape:
            swapped = {a.name: feeds[b.name], b.name: feeds[a.name]}
            yield f"{a.name} and {b.name} are swapped on the way in", {**feeds, **swapped}
    singles: list[tuple[TensorSpec, ...]] = [(spec,) for spec in states]
    for groups in (modules, singles):
        for ours, others in permutations(groups, 2):
            if [spec.shape for spec in ours] == [spec.shape for spec in others]:
                taken = {a.name: feeds[b.name] for a, b in zip(ours, others, strict=True)}
                yield f"{are(ours)} read from {_listed(others)}", {**feeds, **taken}
    axis = signature.batch_axis_of_state
    initial = signature.initial_state(feeds[states[0].name].shape[axis] if states else 1)
    for group in dict.fromkeys((*singles, *modules, states)):
        fault = f"{are(group)} ignored: every call starts from {'its' if len(group) == 1 else 'their'} initial value"
        yield fault, {**feeds, **{spec.name: initial[spec.name] for spec in group}}
    for group in (*modules, *singles, states):
        for fault, layers in _layer_mixes(signature, group[0]):
            if all(spec.shape[1 - axis] == len(layers) for spec in group):
                taken = {spec.name: feeds[spec.name].take(layers, 1 - axis) for spec in group}
                yield f"{fault} on the way in, in {_listed(group)}", {**feeds, **taken}


def _states_out(signature: Signature, feeds: Feeds, outputs: Outputs) -> Iterator[Fault]:
    """Outputs with the state returned wrongly."""
    ins, outs = signature.state_inputs, signature.state_outputs
    for a, b in combinations(outs, 2):
        if a.shape == b.shape:
            swapped = {a.name: outputs[b.name], b.name: outputs[a.name]}
            yield f"{a.name} and {b.name} are swapped on the way out", {**outputs, **swapped}
    stale = {after.name: feeds[before.name].astype(np.float64) for before, after in zip(ins, outs, strict=True)}
    zeros = {spec.name: np.zeros_like(outputs[spec.name]) for spec in outs}
    for group in (*((spec,) for spec in outs), outs):
        for what, values in (("the state that came in, not the one", stale), ("zeros, not the state", zeros)):
            fault = f"{are(group)} {what} after the last step"
            yield fault, {**outputs, **{spec.name: values[spec.name] for spec in group}}
    axis = 1 - signature.batch_axis_of_state
    for fault, layers in _layer_mixes(signature, outs[0]):
        mixed = {spec.name: outputs[spec.name].take(layers, axis) for spec in outs if spec.shape[axis] == len(layers)}
        yield f"{fault} on the way out", {**outputs, **mixed}


def _other_steps(signature: Signature, run: Run, feeds: Feeds, right: Outputs) -> Iterator[Fault]:
    """Outputs and states of another step than the last."""
    axes = {spec.name: spec.shape.index("seq") for spec in signature.inputs if "seq" in spec.shape}
    if not axes:
        return
    name, axis = next(iter(axes.items()))
    steps = feeds[name].shape[axis]
    outputs = {spec.name for spec in signature.outputs if "seq" not in spec.shape}
    states = {spec.name for spec in signature.state_outputs}
    groups = {"the state": states, "the output": outputs, "everything": outputs | states}
    groups |= {name: {name} for name in sorted(states)}
    for last in range(steps - 1, 0, -1):
        cut = {name: value.take(range(last), axes[name]) if name in axes else value for name, value in feeds.items()}
        cut |= {spec.name: np.minimum(cut[spec.name], last) for spec in signature.inputs if spec.is_lengths}
        earlier = run(cut)
        for group, names in groups.items():
            if names:
                fault = f"{group} is that after step {last} of {steps}, not after the last"
                yield fault, {**right, **{name: earlier[name] for name in names}}
    for spec in signature.outputs:
        if "seq" in spec.shape:
            y, axis = right[spec.name], spec.shape.index("seq")
            yield f"{spec.name} is one step late", {**right, spec.name: np.roll(y, 1, axis)}
            yield f"{spec.name} is one step early", {**right, spec.name: np.roll(y, -1, axis)}
            yield f"{spec.name} runs backwards in time", {**right, spec.name: np.flip(y, axis)}


def _inputs(signature: Signature, feeds: Feeds, constants: Mapping[str, Array]) -> Iterator[tuple[str, Feeds]]:
    """Inputs that reach the network in a wrong form."""
    for spec in signature.inputs:
        name, x = spec.name, feeds[spec.name]
        if spec.is_lengths:
            yield f"{name} is ignored: padding counts as steps", {name: np.full_like(x, x.max())}
            continue
        if "seq" in spec.shape:
            yield f"{name} is read backwards in time", {name: np.flip(x, spec.shape.index("seq"))}
        if not spec.dtype.startswith("float") or not spec.shape or not isinstance(spec.shape[-1], int):
            continue
        for i, j in combinations(range(min(spec.shape[-1], 8)), 2):
            order = list(range(spec.shape[-1]))
            order[i], order[j] = j, i
            yield f"columns {i} and {j} of {name} are exchanged", {name: x[..., order]}
        for fault, value in _scalings(spec, x.astype(np.float64), constants):
            yield fault, {name: value}


def _scalings(spec: TensorSpec, x: Array, constants: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """What to feed a right model so that it sees what a wrongly scaled one sees.

    A scaling is `(x - a) * b` or `(x - a) / b` with two constants of the model, one number for each column.
    """
    columns = [(name, value) for name, value in constants.items() if value.shape == (spec.shape[-1],)]
    for (first, a), (second, b) in permutations(columns, 2):
        if (b == 0).any():
            continue
        for scale in (b, 1 / b):
            named = f"{spec.name} (with {first} and {second})"
            scaled = (x - a) * scale
            yield f"the scaling of {named} is left out", x / scale + a
            yield f"the scaling of {named} is applied twice", scaled
            yield f"the offset of {named} is left out", x + a
            yield f"the factor of {named} is left out", (x - a) / scale + a
            for by in range(1, len(a)):
                other_a, other_scale = np.roll(a, by), np.roll(scale, by)
                yield f"the scaling of {named} is another column's", (x - other_a) * other_scale / scale + a
                yield f"the factor of {named} is another column's", (x - a) * other_scale / scale + a
                yield f"the offset of {named} is another column's", x - other_a + a


def _layer_mixes(signature: Signature, spec: TensorSpec) -> Iterator[tuple[str, list[int]]]:
    """Layers (and their directions, one after the other) of a state in each other's place."""
    layers = range(int(spec.shape[1 - signature.batch_axis_of_state]))
    for i, j in combinations(layers, 2):
        exchanged = {i: j, j: i}
        yield f"the states of layers {i} and {j} are exchanged", [exchanged.get(layer, layer) for layer in layers]
        for taken, given in ((i, j), (j, i)):
            copied = [taken if layer == given else layer for layer in layers]
            yield f"layer {given} has the state of layer {taken}", copied


def _listed(specs: Sequence[TensorSpec]) -> str:
    return " and ".join(spec.name for spec in specs)


def are(specs: Sequence[TensorSpec]) -> str:
    """Names and verb of a sentence: `h_in is`, `h_in and c_in are`."""
    return f"{_listed(specs)} {'is' if len(specs) == 1 else 'are'}"
