"""A next state that the author computes from the output of a layer, not from its final state, is the author's."""

import pytest
import torch
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift

X, LENGTHS = TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("lengths:int64[batch]")


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 2)


class NormedByName(Layers):
    def forward(self, x, h):
        y, _ = self.gru(x, h)
        last = self.norm(y[:, -1])
        return {"y": self.fc(last), "next_h": last.unsqueeze(0)}


class NormedOptional(Layers):
    def forward(self, x, h=None):
        y, _ = self.gru(x, h)
        return self.fc(y), self.norm(y[:, -1]).unsqueeze(0)


class Scaled(Layers):
    def forward(self, x, h):
        y, _ = self.gru(x, h)
        return self.fc(y), 0.9 * y[:, -1:].transpose(0, 1) + 0.1 * h


class MeanOverTime(Layers):
    def forward(self, x, h):
        y, _ = self.gru(x, h)
        return self.fc(y), y.mean(1)[None]


class LastValid(Layers):
    def forward(self, x, lengths, h):
        y, _ = self.gru(x, h)
        return self.fc(y), y[torch.arange(len(y)), lengths - 1].unsqueeze(0)


class TwoListed(Layers):
    def __init__(self):
        super().__init__()
        self.second = nn.GRU(8, 8, batch_first=True)

    def forward(self, x, states):
        y, _ = self.gru(x, states[0])
        z, _ = self.second(y, states[1])
        return self.fc(z), [self.norm(y[:, -1])[None], torch.tanh(z[:, -1])[None]]


@pytest.mark.parametrize("kind", [NormedByName, NormedOptional, Scaled, MeanOverTime, LastValid, TwoListed])
def test_calls_in_turn_give_what_the_authors_calls_give(kind):
    torch.manual_seed(0)
    module = kind().eval()
    inputs = [X, LENGTHS] if kind is LastValid else [X]
    lifted = lift(module, inputs)
    assert len(lifted.signature.outputs) == 1
    state = [torch.zeros(1, 2, 8) for _ in lifted.signature.state_inputs]
    authors = list(state) if kind is TwoListed else state[0]
    for _ in range(3):
        given = [torch.randn(2, 4, 3), *([torch.tensor([3, 2])] if kind is LastValid else [])]
        y, *state = lifted(*given, *state)
        returned = module(*given, authors)
        expected, authors = returned.values() if isinstance(returned, dict) else returned
        torch.testing.assert_close(y, expected)


class Pooled(Layers):
    """The final state beside an output of its shape that is made of the layer's output."""

    def forward(self, x, h):
        y, h = self.gru(x, h)
        return self.norm(y.mean(1))[None], h


def test_the_final_state_itself_comes_before_what_is_made_of_outputs():
    lifted = lift(Pooled().eval(), [X])
    assert [spec.result for spec in lifted.signature.states] == ["[1]"]
