"""Random and blank inputs that fit a contract."""

from collections.abc import Mapping, Sequence

import numpy as np

from lstm_deploy.contract.signature import Array, Feeds, Signature, TensorSpec


def sizes_of(specs: Sequence[TensorSpec], batch: int, seq: int) -> dict[str, int]:
    """A size for each dynamic dimension; dimensions other than batch and seq get sizes that differ from these."""
    names = sorted({dim for spec in specs for dim in spec.shape if isinstance(dim, str)} - {"batch", "seq"})
    return {"batch": batch, "seq": seq} | {name: seq + 1 + index for index, name in enumerate(names)}


def steps_of(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> int:
    """The number of steps of these inputs, also where it is a number in their shapes."""
    long = [spec.sized(sizes) for spec in specs if len(spec.shape) > 1]
    return sizes["seq"] if any("seq" in spec.shape for spec in specs) or not long else long[0][1]


def sample_inputs(specs: Sequence[TensorSpec], sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    """Random inputs of the given sizes, by name.

    Values are uniform over the range known from training, else standard normal. Integers without a known range are
    0 or 1, which every vocabulary has. Lengths are from 1 to the whole time axis, the first one all of it; where
    padding tells them, there is none, so that each row has all steps (see `with_lengths`).
    """
    steps = steps_of(specs, sizes)
    return {spec.name: _sample(spec, sizes, rng, steps) for spec in specs}


def with_lengths(specs: Sequence[TensorSpec], values: Feeds, lengths: Sequence[int]) -> dict[str, Array]:
    """The same inputs for rows of these lengths, one for each row; those of rows that are longer are cut."""
    return {spec.name: _of_lengths(spec, values[spec.name], np.asarray(lengths)) for spec in specs}


def blank_feeds(signature: Signature, batch: int, seq: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs of a call, to be filled later (zeros, and full lengths, as a length of 0 is not allowed); initial state.

    Their sizes are adapted to the network.
    """
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = {
        spec.name: np.full(spec.sized(sizes), sizes["seq"] if spec.is_lengths else int(spec.padding == 0), spec.dtype)
        for spec in signature.inputs
    }
    return inputs, signature.initial_state(sizes["batch"])


def sample_state(signature: Signature, batch: int, rng: np.random.Generator) -> dict[str, Array]:
    """A random state as it could occur within a sequence: |h| below 1, c beyond it."""
    state = {}
    for spec, source in zip(signature.state_inputs, signature.state_specs, strict=True):
        value = rng.standard_normal(spec.sized({"batch": batch}))
        state[spec.name] = (np.tanh(value) if source.bounded else value).astype(np.float32)
    return state


def _sample(spec: TensorSpec, sizes: Mapping[str, int], rng: np.random.Generator, steps: int) -> Array:
    shape = spec.sized(sizes)
    value: Array
    if spec.is_lengths:
        value = rng.integers(1, steps, shape, endpoint=True)
        value[:1] = steps
    elif spec.tells_lengths and spec.dtype == "bool":
        value = np.full(shape, not spec.padding)
    elif spec.tells_lengths and spec.dtype.startswith("int"):
        others = [token for token in range(int(spec.high[0]) + 1 if spec.high else 3) if token != spec.padding]
        value = rng.choice(others, shape)
    elif spec.dtype == "bool" or spec.dtype.startswith("int"):
        value = rng.integers(0, int(spec.high[0]) if spec.high else 1, shape, endpoint=True)
    elif spec.low is not None and spec.high is not None:
        value = rng.uniform(spec.low, spec.high, shape)
    else:
        value = rng.standard_normal(shape)
    return np.asarray(value, spec.dtype)


def _of_lengths(spec: TensorSpec, value: Array, lengths: Array) -> Array:
    if spec.is_lengths:
        return lengths.astype(spec.dtype)
    if not spec.tells_lengths:
        return value
    batch, seq = (1, 0) if spec.shape[0] == "seq" or spec.shape[1] == "batch" else (0, 1)
    ended = np.arange(value.shape[seq]) >= lengths[:, None]
    cut = value.copy()
    np.moveaxis(cut, (batch, seq), (0, 1))[ended] = spec.padding
    return cut
