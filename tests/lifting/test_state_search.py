"""States that an author's `forward` takes and returns, or keeps: held against the author's own calls, one by one."""

import random

import modules
import pytest
import refused_modules
import returned_states
import state_forms
import torch
from state_chains import CALLS, ROWS, carried, inputs_of, lifted_of, same
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.lifting import lift


@pytest.mark.parametrize("make", state_forms.TAKEN)
def test_a_state_goes_in_and_comes_out_where_the_author_has_it(make):
    module, lifted = lifted_of(make)
    signature = lifted.signature
    assert tuple(spec.name for spec in signature.state_inputs) == make.states
    assert all(spec.shape[1] == "batch" for spec in signature.state_inputs)
    assert all(spec.argument and spec.result for spec in signature.states)
    arguments = module.first(ROWS)
    with torch.no_grad():
        for number, y in enumerate(carried(lifted)):
            returned = module(*inputs_of(signature, number), **arguments)
            arguments = module.following(returned)
            assert any(same(y, value) for _, value in flatten(returned))


def test_a_state_is_not_taken_in_a_structure_that_the_module_refuses():
    module, lifted = lifted_of(state_forms.StacksReturned)
    state = None
    with torch.no_grad():
        for number, y in enumerate(carried(lifted)):
            returned = module(*inputs_of(lifted.signature, number), state)
            state = tuple(returned[1])
            assert same(returned[0], y)


@pytest.mark.parametrize("make", state_forms.KEPT)
def test_a_state_that_is_kept_on_the_module_is_carried(make):
    module, lifted = lifted_of(make)
    assert lifted.signature.state_policy == "carry"
    assert "self." in lifted.signature.states[0].argument
    assert any("keeps its state" in note for note in lifted.notes)
    with torch.no_grad():
        rows = 1 if make is state_forms.KeepsInBuffers or make is state_forms.KeepsOfOneRow else ROWS
        states = [torch.from_numpy(value) for value in lifted.signature.initial_state(rows).values()]
        for number in range(CALLS):
            x = torch.randn(rows, *([1 + number] if "seq" in lifted.signature.inputs[0].shape else []), 3)
            y, *states = lifted(x, *states)
            assert same(module(x), y)


def test_a_kept_attribute_that_values_hide_is_part_of_the_state():
    _, lifted = lifted_of(state_forms.KeepsHysteresis)
    assert [spec.name for spec in lifted.signature.states] == ["h", "c", "triggered"]


@pytest.mark.parametrize(
    ("attribute", "change"),
    [("flag", "(x[:, -1, 0] > 3) | (x[:, -1, 0] > 2.9) & self.flag"), ("count", "self.count + 1")],
)
def test_what_is_kept_and_cannot_be_an_input_is_refused_though_it_acts_in_few_calls(attribute, change):
    class Hides(state_forms.Keeps):
        flag, count = torch.zeros(1, dtype=torch.bool), 0

        def forward(self, x):
            y = super().forward(x)
            setattr(self, attribute, eval(change))
            return y * (self.count < 50) + self.flag[:, None, None]

    with pytest.raises(LiftingError, match=rf"forward keeps self\.{attribute} from call to call"):
        lift(Hides().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])


def test_a_number_in_an_object_that_a_call_makes_is_refused_by_name():
    with pytest.raises(LiftingError, match="self.memory.calls"):
        lifted_of(state_forms.CountsInObject)


def test_a_mask_that_is_made_anew_for_each_number_of_steps_is_no_state():
    class Masks(modules.OneLSTM):
        mask = None

        def forward(self, x, state=None):
            if self.mask is None or self.mask.shape[0] != x.shape[1]:
                self.mask = torch.tril(torch.ones(x.shape[1], x.shape[1]))
            y, state = self.lstm(x, state)
            return self.mask @ y, state

    lifted = lift(Masks().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert [spec.name for spec in lifted.signature.states] == ["h", "c"]


def test_what_the_last_call_left_behind_is_not_the_initial_state():
    torch.manual_seed(0)
    module = state_forms.KeepsOfOneRow().eval()
    module(torch.randn(1, 4, 3))
    lifted = lift(module, [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert all(spec.initial is None for spec in lifted.signature.states)
    assert "starts from zeros" in lifted.notes[0]
    assert module.h.any(), "the module itself is left as it was"


def test_an_attribute_that_nothing_starts_from_is_no_state():
    class Remembers(modules.OneLSTM):
        def forward(self, x):
            y, self.last = self.lstm(x)
            return y

    torch.manual_seed(0)
    lifted = lift(Remembers().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert lifted.signature.states == ()
    assert lifted.signature.state_policy == "reset"


def test_what_is_kept_for_plots_beside_a_state_is_no_state():
    class Plots(returned_states.CacheKept):
        def forward(self, x, state=None):
            y, state = super().forward(x, state)
            self.map, self.mean = y.softmax(-1), y.mean(1)
            return y, state

    torch.manual_seed(0)
    lifted = lift(Plots().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert [spec.argument for spec in lifted.signature.states] == ["state[0]", "state[1]", "self.cache"]


def test_an_input_that_could_only_act_on_zeros_is_refused_by_name():
    class Masks(modules.OneLSTM):
        def forward(self, x, done):
            h = torch.zeros(1, x.size(0), 4) * (1 - done).view(1, -1, 1)
            return self.lstm(x, (h, h))[0]

    specs = [TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("done:float32[batch]")]
    with pytest.raises(LiftingError, match="done acts on the state"):
        lift(Masks().eval(), specs)


def test_a_state_that_is_not_returned_comes_out_of_the_lstm():
    class TakesOnly(modules.OneLSTM):
        def forward(self, x, state=None):
            return self.lstm(x, state)[0]

    torch.manual_seed(0)
    module = TakesOnly().eval()
    lifted = lift(module, [TensorSpec.parse("x:float32[batch,seq,3]")])
    assert [(spec.argument, spec.result) for spec in lifted.signature.states] == [("state[0]", ""), ("state[1]", "")]
    x, h, c = torch.randn(2, 5, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    with torch.no_grad():
        expected = module.lstm(x, (h, c))
        y, h_out, c_out = lifted(x, h, c)
    assert same(y, expected[0])
    assert same(h_out, expected[1][0])
    assert same(c_out, expected[1][1])


@pytest.mark.parametrize(
    ("text", "batch_first"),
    [("1,seq,3", True), ("3,seq,3", True), ("1,1,3", True), ("seq,3", False)],
)
@pytest.mark.parametrize("apart", [True, False])
def test_a_required_state_has_as_many_rows_as_the_inputs(text, batch_first, apart):
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 10, batch_first=batch_first)

        def forward(self, x, h, c):
            x, (h, c) = self.lstm(x, (h, c))
            return x, h, c

    class Together(Apart):
        def forward(self, x, hidden):
            return self.lstm(x, hidden)

    lifted = lift((Apart if apart else Together)().eval(), [TensorSpec.parse(f"x:float32[{text}]")])
    rows = 3 if text.startswith("3") else 1
    assert [spec.shape for spec in lifted.signature.state_inputs] == [(1, rows, 10)] * 2
    assert lifted.author is not None


def test_a_required_argument_that_is_no_state_is_named():
    class Needs(modules.OneLSTM):
        def forward(self, x, speaker, state):
            y, state = self.lstm(x + speaker, state)
            return y, state

    with pytest.raises(LiftingError, match="forward also needs speaker"):
        lift(Needs().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])


@pytest.mark.parametrize("make", [state_forms.ResetsRows, state_forms.CellsInOneTensor])
def test_a_state_in_the_batch_first_layout_is_the_same_state(make):
    _, lifted = lifted_of(make)
    _, other = lifted_of(make, state_layout="batch-first")
    inputs = inputs_of(lifted.signature, 1)
    states = [torch.randn(spec.sized({"batch": ROWS})) for spec in lifted.signature.state_inputs]
    with torch.no_grad():
        ours = lifted(*inputs, *states)
        others = other(*inputs, *(state.transpose(0, 1) for state in states))
    count = len(lifted.signature.outputs)
    assert all(same(a, b) for a, b in zip(ours[:count], others[:count], strict=True))
    assert all(same(a, b.transpose(0, 1)) for a, b in zip(ours[count:], others[count:], strict=True))


def test_a_first_call_that_does_something_else_is_refused():
    with pytest.raises(LiftingError, match=r"first call of forward does something else .* because of self\.ready"):
        lift(refused_modules.FirstCallApart().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])


def test_a_required_state_of_unusual_form_is_what_a_method_makes():
    class Cached(state_forms.Recurrent):
        def forward(self, x, cache):
            x = torch.cat([cache["past"], x], 1)
            y, (h, c) = self.lstm(x[:, :-1] + x[:, 1:], (cache["h"], cache["c"]))
            return y, {"past": x[:, -1:], "h": h, "c": c}

    class Begins(Cached):
        def init_state(self, batch_size):
            h, c = self.zeros(batch_size)
            return {"past": torch.zeros(batch_size, 1, 3), "h": h, "c": c}

    with pytest.raises(LiftingError, match=r"give the module a method init_state\(batch_size\)"):
        lifted_of(Cached)
    _, lifted = lifted_of(Begins)
    assert [spec.argument for spec in lifted.signature.states] == ['cache["h"]', 'cache["c"]', 'cache["past"]']


def test_a_number_that_follows_the_inputs_is_no_part_of_a_kept_state():
    class Counts(state_forms.Keeps):
        steps = 0

        def forward(self, x):
            y, self.hidden = self.lstm(x + 0.1 * self.steps, self.hidden)
            self.steps = x.shape[1]
            return self.head(y)

    with pytest.raises(LiftingError, match=r"keeps self\.steps from call to call"):
        lifted_of(Counts)


class TwoStages(nn.Module):
    """Two LSTMs whose states are arguments of their own, beside data that is also required."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, speaker, h1, c1, h2, c2):
        y, (h1, c1) = self.first(x + speaker, (h1, c1))
        y, (h2, c2) = self.second(y, (h2, c2))
        return y, h1, c1, h2, c2


class StackedForOneRow(nn.Module):
    """Takes the states of two LSTMs in one tensor whose axis of rows is 1, as the stateful form of DTLN does."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x, in_states):
        h, c = in_states[..., 0].contiguous(), in_states[..., 1].contiguous()
        y, first = self.first(x, (h[:, :1], c[:, :1]))
        y, second = self.second(y, (h[:, 1:], c[:, 1:]))
        return y, torch.stack([torch.cat(pair, 1) for pair in zip(first, second, strict=True)], -1)


class StackedWithMethod(StackedForOneRow):
    def init_state(self, batch_size):
        return torch.zeros(1, 2, 4, 2)


class KeepsMean(nn.Module):
    """Takes beside `h` and `c` in one tensor a state that no name tells, and that no LSTM starts from."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, hc, mean):
        mean = 0.9 * mean + 0.1 * x.mean(1)
        state = tuple(part[None].contiguous() for part in hc.chunk(2, -1))
        y, (h, c) = self.lstm(x - mean[:, None], state)
        return y, torch.cat([h[0], c[0]], -1), mean


class KeepsMeanWithMethod(KeepsMean):
    def init_state(self, batch_size):
        return torch.zeros(batch_size, 8), torch.zeros(batch_size, 3)


def specs_of(**inputs):
    return [TensorSpec.parse(text, name) for name, text in inputs.items()]


def test_only_data_is_to_be_described_where_states_are_required_beside_it():
    with pytest.raises(LiftingError, match=r"also needs speaker, beside its state h1, c1, h2 and c2; .*as in speaker:"):
        lift(TwoStages().eval(), specs_of(x="float32[batch,seq,3]"))
    lifted = lift(TwoStages().eval(), specs_of(x="float32[batch,seq,3]", speaker="float32[batch,1,3]"))
    names = ["first_h_in", "first_c_in", "second_h_in", "second_c_in"]
    assert [spec.name for spec in lifted.signature.state_inputs] == names
    assert lifted.author is not None


def test_a_state_in_no_usual_form_is_to_be_made_by_a_method_and_then_it_is_found():
    with pytest.raises(LiftingError, match=r"usual forms of a state there \(.*give the module a method init_state\("):
        lift(StackedForOneRow().eval(), specs_of(x="float32[1,1,3]"))
    assert len(lift(StackedWithMethod().eval(), specs_of(x="float32[1,1,3]")).signature.states) == 4


def test_what_a_method_makes_is_refused_with_the_reason_why_forward_does_not_take_it():
    with pytest.raises(LiftingError, match=r"no state that forward takes \(Expected hidden\[0\] size .*x:float32\[1,1"):
        lift(StackedWithMethod().eval(), specs_of(x="float32[batch,seq,3]"))
    with pytest.raises(LiftingError, match=r"\(The size of tensor .* correct the --input if that is at fault"):
        lift(KeepsMeanWithMethod().eval(), specs_of(x="float32[batch,seq,5]"))


def test_a_state_that_a_method_makes_needs_no_name_of_a_state():
    with pytest.raises(LiftingError, match=r"also needs mean, beside its state hc; "):
        lift(KeepsMean().eval(), specs_of(x="float32[batch,seq,3]"))
    signature = lift(KeepsMeanWithMethod().eval(), specs_of(x="float32[batch,seq,3]")).signature
    assert [spec.argument for spec in signature.states] == ["hc", "mean"]


def test_where_no_state_helps_the_reason_of_the_inputs_is_shown():
    """The inputs do not fit the module, whatever state is passed."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 3)
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x, hidden):
            return self.lstm(self.fc(x), hidden)

    with pytest.raises(LiftingError, match=r"mat1 and mat2 .*correct the --input if that is at fault"):
        lift(Net(), [TensorSpec.parse("x:float32[batch,seq,6]")])
    lift(Net(), [TensorSpec.parse("x:float32[batch,seq,5]")])


def test_where_the_state_is_refused_that_is_the_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x, hidden):
            return self.lstm(x, hidden.of_mine)

    with pytest.raises(LiftingError, match=r"none of the usual forms of a state"):
        lift(Net(), [TensorSpec.parse("x:float32[batch,seq,3]")])


class WeighsText(nn.Module):
    """A step that weighs a text anew from its last weights, which are taken and returned, or kept."""

    def __init__(self, *, keeps):
        super().__init__()
        self.keeps, self.state = keeps, None
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x, memory, state=None):
        given = self.state if self.keeps else state
        h, c, weights = given or (x.new_zeros(len(x), 4), x.new_zeros(len(x), 4), x.new_zeros(memory.shape[:2]))
        weights = (memory @ h[:, :3, None]).squeeze(-1) + 0.5 * weights
        h, c = self.cell(x + (weights.softmax(1)[:, :, None] * memory).sum(1), (h, c))
        self.state = (h, c, weights)
        return h, *(() if self.keeps else (self.state,))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_state_whose_size_follows_an_input_is_refused_with_what_helps(keeps):
    def lifted(memory):
        specs = [TensorSpec.parse(text) for text in ("x:float32[batch,3]", f"memory:{memory}")]
        return lift(WeighsText(keeps=keeps).eval(), specs)

    with pytest.raises(LiftingError, match=r"state\[2\] follows text.* as in memory: float32\[batch, 7, 3\]"):
        lifted("float32[batch,text,3]")
    assert len(lifted("float32[batch, 7, 3]").signature.states) == 3


def test_draws_of_python_are_the_reason_and_not_what_a_module_keeps():
    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0] * random.random()

    with pytest.raises(LiftingError, match="it draws numbers at random .* leave that out in evaluation mode"):
        lift(Forces().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])


class WindowWithState(nn.Module):
    """The number of steps is fixed, and the state may be left out."""

    def __init__(self):
        super().__init__()
        self.norm, self.lstm = nn.BatchNorm1d(10), nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, state=None):
        return self.lstm(self.norm(x), state)


def test_a_state_that_may_be_left_out_is_not_required_where_the_number_of_steps_is_fixed():
    lifted = lift(WindowWithState(), [TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3))])
    assert not lifted.convention.missing
    assert [(dim.name, dim.size) for dim in lifted.signature.fixed] == [("seq", 10)]
    assert [spec.argument for spec in lifted.signature.states] == ["state[0]", "state[1]"]
