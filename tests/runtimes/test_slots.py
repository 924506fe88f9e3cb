import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import lstm_deploy
from lstm_deploy import Slots
from lstm_deploy.errors import InputError


def row(seed):
    return np.random.default_rng(seed).uniform(100, 300, 4).astype(np.float32)


@given(st.lists(st.tuples(st.sampled_from(["open", "close", "step", "move"]), st.integers(0, 5)), max_size=15))
@settings(max_examples=25, deadline=None)
def test_each_slot_is_as_a_stream_of_its_own_whoever_comes_and_goes(model, events):
    slots, alone = Slots(model.stream(batch=3)), {}
    for number, (event, seed) in enumerate(events):
        if event == "open" and len(alone) < 3:
            alone[slots.open()] = model.stream()
        elif event == "close" and alone:
            slot = sorted(alone)[seed % len(alone)]
            slots.close(slot)
            del alone[slot]
        elif event == "move" and alone:
            slot = sorted(alone)[seed % len(alone)]
            state, stream = slots.state_of(slot), alone.pop(slot)
            slots.close(slot)
            alone[slots.open(state)] = stream
        elif event == "step":
            chosen = [slot for slot in alone if (slot + seed) % 2]
            for slot, y in slots.step({slot: row(number + slot) for slot in chosen}).items():
                np.testing.assert_allclose(y, alone[slot].step(row(number + slot)[None])[0], rtol=1e-5)
        assert len(slots) == len(alone)


def test_all_slots_together_are_one_call(model):
    slots = Slots(model.stream(batch=2))
    first, second = slots.open(), slots.open()
    y = slots.step({second: row(1), first: row(2)})
    stream = model.stream()
    np.testing.assert_allclose(y[second], stream.step(row(1)[None])[0], rtol=1e-5)


def test_a_slot_starts_anew_each_time(model):
    slots = Slots(model.stream(batch=1))
    slot = slots.open()
    first = slots.step({slot: row(0)})[slot]
    slots.close(slot)
    np.testing.assert_array_equal(slots.step({slots.open(): row(0)})[0], first)


def test_tokens_are_numbers(lm_bundle):
    slots = Slots(lstm_deploy.open(lm_bundle).stream(batch=2))
    slot = slots.open()
    assert slots.step({slot: 3})[slot].ndim == 1


def test_what_is_not_open_is_refused(model):
    slots = Slots(model.stream(batch=1))
    for wrong in (0, 1, -1):
        with pytest.raises(InputError, match="not open"):
            slots.step({wrong: row(0)})
        with pytest.raises(InputError, match="not open"):
            slots.close(wrong)
    slot = slots.open()
    with pytest.raises(InputError, match="All 1 slots are taken"):
        slots.open()
    assert slots.step({}) == {}
    with pytest.raises(InputError, match="feed"):
        slots.step({slot: [1.0, 2.0]})
    slots.close(slot)
    with pytest.raises(InputError, match="set what was read from the state"):
        slots.open({"h_in": np.zeros(3)})
    assert len(slots) == 0, "a slot that could not be opened is free"


def test_rows_of_unequal_shape_are_refused(model):
    slots = Slots(model.stream(batch=2))
    first, second = slots.open(), slots.open()
    with pytest.raises(InputError, match="differ in shape"):
        slots.step({first: row(0), second: [1.0]})
