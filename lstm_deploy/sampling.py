"""Inputs to try a model on, drawn from its contract."""

from collections.abc import Mapping

import numpy as np

from lstm_deploy.signature import Array, Signature, TensorSpec


def sample(spec: TensorSpec, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """One input of the given sizes: uniform over the range known from training, else standard normal.

    Integers without a known range are 0 or 1, which every vocabulary has.
    """
    shape = spec.sized(sizes)
    if spec.dtype == "bool" or spec.dtype.startswith("int"):
        last = int(spec.high[0]) if spec.high else 1
        return rng.integers(0, last, shape, endpoint=True).astype(spec.dtype)
    if spec.low is not None and spec.high is not None:
        return rng.uniform(spec.low, spec.high, shape).astype(spec.dtype)
    return rng.standard_normal(shape).astype(spec.dtype)


def sample_state(signature: Signature, batch: int, rng: np.random.Generator) -> dict[str, Array]:
    """A state as it could occur within a sequence: |h| below 1, c beyond it."""
    return {
        spec.name: (
            np.tanh(rng.standard_normal(spec.sized({"batch": batch})))
            if spec.name.endswith("h_in")
            else rng.standard_normal(spec.sized({"batch": batch}))
        ).astype(np.float32)
        for spec in signature.state_inputs
    }
