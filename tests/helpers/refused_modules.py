"""Modules that cannot be lifted, or exported with dynamic sizes, as their authors write them."""

import torch
from modules import OneLSTM
from torch import nn


class Subclassed(nn.Module):
    class Strange(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(-x, hx)

    def __init__(self):
        super().__init__()
        self.lstm = self.Strange(3, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class OfItsBase(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNNBase("GRU", 3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


class Branches(OneLSTM):
    """Control flow that depends on data: no exporter can do that."""

    def forward(self, x):
        out, _ = self.lstm(x)
        if out.sum() > 0:
            return out
        return -out


class BranchesOnRows(OneLSTM):
    """A batch of one is treated in a way of its own."""

    def forward(self, x):
        out, _ = self.lstm(x)
        if x.size(0) == 1:
            out = out * 2
        return out


class BranchesOnSteps(OneLSTM):
    """Long sequences are treated in a way of their own."""

    def forward(self, x):
        out, _ = self.lstm(x)
        if x.shape[1] > 10:
            out = out.flip(1)
        return out


class StartsFromAnInput(OneLSTM):
    """Every call computes the first state from an input."""

    def forward(self, x, past):
        h0 = torch.tanh(past).unsqueeze(0)
        return self.lstm(x, (h0, torch.zeros_like(h0)))[0]


class StartsAsGiven(OneLSTM):
    """Takes the first hidden state, and returns no last one."""

    def forward(self, x, first):
        return self.lstm(x, (first, torch.zeros_like(first)))[0]


class FirstCallApart(OneLSTM):
    """Its first call does something else than later ones, whatever the state."""

    def __init__(self):
        super().__init__()
        self.h = self.c = None
        self.ready = False

    def forward(self, x):
        if self.h is None:
            self.h, self.c = torch.zeros(1, len(x), 4), torch.zeros(1, len(x), 4)
        y, (self.h, self.c) = self.lstm(x, (self.h, self.c))
        if not self.ready:
            y = 2 * y
        self.ready = True
        return y


class Squeezes(OneLSTM):
    """`squeeze()` takes the axis of rows away too where there is one row."""

    def forward(self, x):
        return self.lstm(x)[0][:, -1].squeeze()


class TakesInt(OneLSTM):
    def forward(self, x):
        h0 = torch.zeros(1, int(x.shape[0]), 4)
        return self.lstm(x, (h0, h0))[0].reshape(h0.shape[1], -1, 2, 2)


class LoopsOverTime(OneLSTM):
    def forward(self, x):
        out, _ = self.lstm(x)
        return torch.stack([out[:, step] * 2 for step in range(out.shape[1])], 1)


class MakesWeights(OneLSTM):
    """A network that makes the weights of another from its input."""

    def __init__(self):
        super().__init__()
        self.make = nn.Linear(3, 48)

    def forward(self, x):
        weight = self.make(x.mean((0, 1))).view(16, 3)
        return torch.func.functional_call(self.lstm, {"weight_ih_l0": weight}, (x,))[0]


class TakesItsLSTMApart(OneLSTM):
    """Adds to a weight for the time of a call."""

    def forward(self, x):
        weight = self.lstm.weight_hh_l0
        del self.lstm.weight_hh_l0
        self.lstm.weight_hh_l0 = weight + 1
        out, _ = self.lstm(x)
        del self.lstm.weight_hh_l0
        self.lstm.weight_hh_l0 = weight
        return out


class RunsOnBands(OneLSTM):
    """Each of several bands is a row of its own."""

    def forward(self, x):
        return self.lstm(x.flatten(0, 1))[0].reshape(*x.shape[:3], 4)
