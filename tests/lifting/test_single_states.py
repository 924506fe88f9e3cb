"""Recurrent modules whose state is one tensor, which looks like any other: held against their authors' own calls."""

import pytest
import single_states
import torch
from kinds import layer
from single_states import SINGLE
from state_chains import CALLS, ROWS, inputs_of, lifted_of, same
from state_forms import FLAGGED
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.lifting import lift

KINDS = [("GRU", "RNN_TANH"), ("GRU", "RNN_RELU")]
FORMS = [(make, kind) for index, make in enumerate(SINGLE) for kind in KINDS[index % 2]]


@pytest.mark.parametrize(("make", "kind"), FORMS)
def test_a_chain_of_calls_is_that_of_the_author(make, kind):
    module, lifted = lifted_of(lambda: make(kind))
    signature, arguments = lifted.signature, module.first(ROWS)
    assert all(spec.argument and spec.result for spec in signature.states)
    assert lifted.author is not None
    states = [torch.from_numpy(value) for value in signature.initial_state(ROWS).values()]
    with torch.no_grad():
        for number in range(CALLS):
            inputs = inputs_of(signature, number)
            results = lifted(*inputs, *states)
            outputs, states = results[: len(signature.outputs)], results[len(signature.outputs) :]
            names = (spec.name for spec in signature.inputs)
            returned = module(**dict(zip(names, inputs, strict=True)), **arguments)
            arguments, leaves = module.following(returned), flatten(returned)
            for position, y in zip(lifted.output_positions, outputs, strict=True):
                assert same(y, leaves[position][1]), (number, position)


def test_where_the_state_is_all_that_is_returned_it_is_the_output_too():
    _, lifted = lifted_of(lambda: single_states.OutputIsState("GRU"))
    assert [str(spec) for spec in (*lifted.signature.outputs, *lifted.signature.state_outputs)] == [
        "y: float32[batch, 5]",
        "h_out: float32[1, batch, 5]",
    ]
    assert lifted.notes == ("what forward returns is also its next h",)


def test_an_output_that_is_made_of_the_state_is_told_from_it_by_what_follows_from_what():
    class StateFirst(single_states.NormsState):
        def forward(self, x, h):
            return super().forward(x, h)[::-1]

    with pytest.raises(LiftingError, match=r"Both \[1\] and \[0\] of what forward returns may be the next h"):
        lifted_of(lambda: StateFirst("GRU"))


@pytest.mark.parametrize("limit", [0.1, 1.0])
def test_an_output_is_no_state_of_a_layer_beside_the_state_of_another(limit):
    """All three have one shape, and the states are given back in another order than they are taken in."""

    class EncoderAndDecoder(single_states.Cell):
        def __init__(self):
            super().__init__("GRU")
            self.decoder = nn.GRUCell(5, 5)

        def forward(self, x, encoder_hidden, decoder_hidden):
            encoded = self.cell(x, encoder_hidden).clamp(-limit, limit)
            decoded = self.decoder(encoded, decoder_hidden).clamp(-limit, limit)
            return self.head(decoded), decoded, encoded

    _, lifted = lifted_of(EncoderAndDecoder)
    places = {spec.argument: spec.result for spec in lifted.signature.states}
    assert places == {"encoder_hidden": "[2]", "decoder_hidden": "[1]"}


def test_an_output_of_the_states_shape_is_not_taken_for_it_where_none_is_needed():
    class OutputAlone(single_states.Cell):
        def forward(self, x, h=None):
            return self.head(self.cell(x, h))

    with pytest.raises(LiftingError, match=r"may be the next h, or an output .*return both, as in \(y, h\)"):
        lifted_of(lambda: OutputAlone("GRU"))


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_what_a_layer_makes_its_start_of_is_no_state_that_it_ends_with(kind):
    """As a decoder begins with the features of an image."""

    class Captions(nn.Module):
        def __init__(self):
            super().__init__()
            self.begin, self.rnn = nn.Linear(8, 8), layer(kind, 3, 8, batch_first=True)

        def forward(self, x, features):
            h = self.begin(features)[None]
            return self.rnn(x, (h, torch.zeros_like(h)) if kind == "LSTM" else h)[0]

    specs = [TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("features:float32[batch,8]")]
    with pytest.raises(LiftingError, match="features and returns nothing that follows from it; .* with an --input"):
        lift(Captions().eval(), specs[:1])


def test_a_masked_state_that_is_not_returned_comes_out_of_the_layer():
    class Masks(single_states.Layer):
        inputs = FLAGGED

        def forward(self, x, done, h=None):
            h = self.zeros(len(x)) if h is None else h
            return super().forward(x, h * (1 - done)[:, None])[0]

    _, lifted = lifted_of(lambda: Masks("GRU"))
    assert [(spec.argument, spec.result) for spec in lifted.signature.states] == [("h", "")]
