import pytest
import torch
from hypothesis import given, settings, strategies as st

from lstm_deploy.contract.signature import StateSpec
from lstm_deploy.lifting.carried_state import (
    Carried,
    Selection,
    Stack,
    assembled,
    layers_and_size,
    selected,
    taken_apart,
)


def carried(dims):
    layers, size = layers_and_size(dims)
    return Carried(spec=StateSpec(name="h", layers=layers, size=size), dims=dims)


@settings(deadline=None)
@given(
    before=st.lists(st.integers(1, 4), max_size=2),
    after=st.lists(st.integers(1, 4), max_size=2),
    rows=st.integers(1, 5),
)
def test_a_state_of_any_shape_comes_back_as_it_was(before, after, rows):
    dims = (*before, "batch", *after)
    state = carried(dims)
    value = torch.randn([rows if dim == "batch" else dim for dim in dims])
    canonical = state.from_author(value)
    assert canonical.shape == (state.spec.layers, rows, state.spec.size)
    assert state.to_author(canonical).equal(value)
    axis = dims.index("batch")
    assert canonical[:, 0].flatten().equal(value.select(axis, 0).flatten()), "a row stays a row"


def test_a_state_without_rows_has_one():
    state = carried((2, 4))
    assert state.from_author(torch.randn(2, 4)).shape == (2, 1, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacked_states_are_taken_apart(axis):
    states = [torch.randn(3, 4) for _ in range(4)]
    source = Stack(axis, (Stack(0, (0, 2)), Stack(0, (1, 3))))
    whole = assembled(source, states)
    parts = taken_apart(source, whole)
    assert sorted(parts) == [0, 1, 2, 3]
    assert all(parts[number].equal(states[number]) for number in parts)
    assert selected(whole, [Selection(axis, 1), Selection(0, 0)]).equal(states[1])
