"""The state that comes out of a module, held against the chain of its author's own calls."""

import modules
import pytest
import returned_states
import torch
from returned_states import RETURNED, Returns
from state_chains import CALLS, ROWS, carried, inputs_of, lifted_of, same
from state_forms import Recurrent

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.lifting import lift


@pytest.mark.parametrize("make", RETURNED)
def test_a_chain_of_calls_is_that_of_the_author(make):
    module, lifted = lifted_of(make)
    arguments = module.first(ROWS)
    with torch.no_grad():
        for number, y in enumerate(carried(lifted)):
            returned = module(*inputs_of(lifted.signature, number), *arguments.pop("*", ()), **arguments)
            arguments = module.following(returned, arguments)
            assert same(y, flatten(returned)[0][1]), number
    assert number == CALLS - 1


def test_all_that_makes_up_a_state_is_in_the_contract():
    _, lifted = lifted_of(returned_states.CacheInState)
    states = {spec.name: (spec.argument, spec.result) for spec in lifted.signature.states}
    assert states == {
        "h": ('state["h"]', '[1]["h"]'),
        "c": ('state["c"]', '[1]["c"]'),
        "state_cache": ('state["cache"]', '[1]["cache"]'),
    }


def test_values_that_are_changed_in_place_are_where_they_were_given():
    _, lifted = lifted_of(returned_states.TensorsInPlace)
    assert [(spec.argument, spec.result) for spec in lifted.signature.states] == [("h", "h"), ("c", "c")]


def test_two_values_that_may_be_the_state_are_refused():
    class Both(Returns):
        def forward(self, x, state=None):
            y, (h, c) = self.lstm(x, state)
            return self.head(y), (h, c), (h * 0.5, c * 0.5)

    with pytest.raises(LiftingError, match=r"Both \[1\] and \[2\] of what forward returns may be the next state"):
        lifted_of(Both)


def test_two_runs_of_tensors_that_may_be_the_state_are_refused():
    class Apart(Recurrent):
        def forward(self, x, h, c):
            y, (h, c) = self.lstm(x, (h, c))
            return self.head(y), h * 0.5, c * 0.5, h.tanh(), c.tanh()

    with pytest.raises(LiftingError, match="may be the next h; return only that"):
        lifted_of(Apart)


def test_a_state_in_an_object_that_cannot_be_opened_is_refused():
    class State:
        def __init__(self, h, c):
            self.h, self.c = h, c

    class Holds(Recurrent):
        def forward(self, x, state=None):
            y, (h, c) = self.lstm(x, None if state is None else (state.h, state.c))
            return self.head(y), State(h * 0.5, c)

    with pytest.raises(LiftingError, match="forward returns tensors in a State; return them in a tuple"):
        lifted_of(Holds)


def test_a_state_that_is_set_on_an_object_is_refused():
    class Sets(Recurrent):
        def forward(self, x, state):
            y, (h, c) = self.lstm(x, (state.h, state.c))
            state.h, state.c = h * 0.5, c
            return self.head(y), state

    with pytest.raises(LiftingError, match="forward also needs state"):
        lifted_of(Sets)


def test_what_is_kept_for_the_call_after_the_next_is_refused():
    class Delays(Recurrent):
        def __init__(self):
            super().__init__()
            self.old = self.new = None

        def forward(self, x):
            y, state = self.lstm(x, self.old)
            self.old, self.new = self.new, state
            return y

    with pytest.raises(LiftingError, match=r"forward keeps self\.old from call to call"):
        lifted_of(Delays)


@pytest.mark.parametrize("kept", [False, True])
def test_a_state_that_is_used_for_some_numbers_of_steps_only_is_refused(kept):
    class Taken(Recurrent):
        def forward(self, x, state=None):
            y, state = self.lstm(x, state if x.shape[1] == 1 else None)
            return y, state

    class Kept(Recurrent):
        def __init__(self):
            super().__init__()
            self.state = None

        def forward(self, x):
            y, self.state = self.lstm(x, self.state if x.shape[1] == 1 else None)
            return y

    with pytest.raises(LiftingError, match="for some numbers of steps only"):
        lifted_of(Kept if kept else Taken)
    one_step = lift((Kept if kept else Taken)().eval(), [TensorSpec.parse("x:float32[batch,1,3]")])
    assert all(spec.argument and spec.result for spec in one_step.signature.states)


def test_the_default_of_a_parameter_may_be_a_number_in_a_tensor():
    class Scales(modules.OneLSTM):
        def forward(self, x, scale=torch.tensor(2.0)):  # noqa: B008 - as some authors write it
            return self.lstm(x)[0] * scale

    _, lifted = lifted_of(type("Scales", (Scales,), {"inputs": {"x": "float32[batch,seq,3]"}}))
    assert lifted.signature.states == ()


def test_a_list_that_forward_empties_is_no_place_for_the_new_state():
    class Empties(Recurrent):
        def forward(self, x, states):
            y, (h, c) = self.lstm(x, (states[0], states[1]))
            states[0] = h * 0.5
            states.pop()
            return self.head(y), h, c

    _, lifted = lifted_of(Empties)
    assert [spec.result for spec in lifted.signature.states] == ["[1]", "[2]"]


def test_a_list_that_grows_is_no_state():
    class Appends(Recurrent):
        def __init__(self):
            super().__init__()
            self.states = []

        def forward(self, x):
            y, state = self.lstm(x, self.states[-1] if self.states else None)
            self.states.append(state)
            return y

    with pytest.raises(LiftingError, match=r"self\.states, which a second call leaves in another structure"):
        lifted_of(Appends)


def test_a_state_that_no_constant_begins_is_refused():
    class Encodes(Recurrent):
        def forward(self, x, state=None):
            if state is None:
                state = (x[:, :1, :1].transpose(0, 1).expand(1, len(x), 8).contiguous(),) * 2
            return self.lstm(x, state)

    with pytest.raises(LiftingError, match="make state a required parameter of forward"):
        lifted_of(Encodes)


def test_parameters_that_are_left_out_are_noted():
    class Optional(modules.OneLSTM):
        def forward(self, x, context=None, scale=2.0, verbose=False):
            y = self.lstm(x)[0] * scale
            return y if context is None else y + context

    torch.manual_seed(0)
    lifted = lift(Optional().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert lifted.notes == (
        "forward is called with context=None, scale=2.0; an --input of that name makes it an input",
    )
