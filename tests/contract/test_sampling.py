import numpy as np
from hypothesis import given, strategies as st

from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.contract.signature import TensorSpec


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_tokens_stay_within_the_vocabulary(batch, seq, last):
    spec = TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=(0,), high=(last,))
    value = sample_inputs([spec], {"batch": batch, "seq": seq}, np.random.default_rng(0))["x"]
    assert (value.shape, value.dtype) == ((batch, seq), np.int64)
    assert value.min() >= 0
    assert value.max() <= last


@given(st.integers(1, 5), st.integers(0, 5))
def test_values_stay_within_the_range_of_training(batch, seed):
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 2), low=(0, 100), high=(1, 200))
    value = sample_inputs([spec], {"batch": batch}, np.random.default_rng(seed))["x"]
    assert ((value >= [0, 100]) & (value <= [1, 200])).all()
