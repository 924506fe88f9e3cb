import numpy as np
import pytest
from hypothesis import given, strategies as st

from lstm_deploy.contract.sampling import blank_feeds, sample_inputs, steps_of, with_lengths
from lstm_deploy.contract.signature import RecurrentSpec, Signature, TensorSpec


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


PADDED = [
    TensorSpec(name="tokens", dtype="int64", shape=("batch", "seq"), padding=0),
    TensorSpec(name="tokens", dtype="int64", shape=("batch", "seq"), padding=1, low=(0,), high=(9,)),
    TensorSpec(name="mask", dtype="int64", shape=("seq", "batch"), padding=0, low=(0,), high=(1,)),
    TensorSpec(name="mask", dtype="bool", shape=("batch", "seq"), padding=0),
    TensorSpec(name="mask", dtype="bool", shape=("batch", "seq"), padding=1),
    TensorSpec(name="mask", dtype="float32", shape=("batch", "seq"), padding=0, low=(1,), high=(1,)),
    TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3), padding=0),
]


@pytest.mark.parametrize("spec", PADDED, ids=str)
def test_padding_is_where_a_row_has_ended_and_nowhere_else(spec):
    """A step of padding alone is a row of no steps, which no model takes."""
    full = sample_inputs([spec], {"batch": 3, "seq": 5}, np.random.default_rng(0))
    assert not (full[spec.name] == spec.padding).any()
    cut = with_lengths([spec], full, [5, 1, 3])[spec.name]
    rows = np.moveaxis(cut, spec.shape.index("batch"), 0) == spec.padding
    assert [int(np.sum(row.reshape(5, -1).all(-1))) for row in rows] == [0, 4, 2]
    assert not rows[1, 0].any()
    signature = Signature(inputs=(spec,), outputs=(), recurrent=(CELL,))
    assert not (blank_feeds(signature, 2, 4)[0][spec.name] == spec.padding).any()


CELL = RecurrentSpec(module="lstm", prefix="", input_size=3, hidden_size=2, proj_size=0, num_layers=1, num_directions=1)


def test_lengths_are_given_as_they_are_told():
    x = TensorSpec.parse("x:float32[batch,seq,3]")
    lengths = TensorSpec.parse("lengths:int32[batch]")
    values = sample_inputs([x, lengths], {"batch": 3, "seq": 5}, np.random.default_rng(0))
    other = with_lengths([x, lengths], values, [5, 1, 3])
    assert (other["x"] == values["x"]).all()
    assert (other["lengths"].tolist(), other["lengths"].dtype) == ([5, 1, 3], np.int32)


def test_steps_may_be_a_number_in_a_shape():
    sizes = {"batch": 3, "seq": 5}
    assert steps_of([TensorSpec.parse("x:float32[batch,seq,3]")], sizes) == 5
    assert steps_of([TensorSpec.parse("x:float32[batch,7,3]")], sizes) == 7


def test_a_contract_without_padding_does_not_speak_of_it():
    """Its JSON is what it was before there was such a thing."""
    signature = Signature(inputs=(PADDED[0], TensorSpec.parse("x:float32[batch,seq]")), outputs=(), recurrent=(CELL,))
    assert signature.to_json().count("padding") == 1
    assert Signature.from_json(signature.to_json()) == signature
